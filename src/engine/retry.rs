//! Trying again what may go better the next time.

use std::time::Duration;

use super::{LogSink, Result};

/// How often a transfer is tried that fails for a reason which may pass.
const ATTEMPTS: u32 = 5;

/// Tries a transfer again while its failures may pass, with growing pauses.
pub(super) async fn retried<T, F>(log: &dyn LogSink, mut transfer: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut attempt = 1;
    loop {
        match transfer().await {
            Err(error) if error.is_transient() && attempt < ATTEMPTS => {
                let pause = 2f64.powi(attempt as i32 - 1) * rand::random_range(0.5..1.0);
                log.write(format!("{error}; again in {pause:.1} s\n").as_bytes());
                tokio::time::sleep(Duration::from_secs_f64(pause)).await;
                attempt += 1;
            }
            ended => return ended,
        }
    }
}
