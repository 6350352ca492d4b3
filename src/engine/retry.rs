//! Trying transfers of images again, with a line in the log for each try.

use super::{EngineError, LogSink, Result};
use crate::retry::{self, Passing, Tries};

impl Passing for EngineError {
    fn may_pass(&self) -> bool {
        self.is_transient()
    }

    fn asked_pause(&self) -> Option<std::time::Duration> {
        match self {
            EngineError::Busy { wait, .. } => *wait,
            _ => None,
        }
    }
}

/// Tries a transfer again while its failures may pass, with growing pauses. What fails to the end is
/// [`EngineError::GaveUp`]: nobody above tries it again.
pub(crate) async fn retried<T, F>(
    log: &dyn LogSink,
    tries: Tries,
    transfer: impl FnMut() -> F,
) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let told = |error: &EngineError, pause: std::time::Duration| {
        let line = format!("{error}; again in {:.1} s\n", pause.as_secs_f64());
        log.write(line.as_bytes());
    };
    let ended = retry::retried(tries, told, transfer).await;
    ended.map_err(|error| match error.is_transient() {
        true => EngineError::GaveUp { source: Box::new(error) },
        false => error,
    })
}
