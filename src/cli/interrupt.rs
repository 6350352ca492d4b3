//! Work that a signal ends at once: what can be begun again, and leaves nothing when it is dropped.

use std::future::Future;

use anyhow::anyhow;
use tokio::signal::unix::{SignalKind, signal};

use super::{Exit, Failure};

/// Does work until it is done.
///
/// # Errors
/// Exit code 130 after Ctrl-C or SIGTERM: then the work is dropped.
pub async fn unless_interrupted<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let (Ok(mut ints), Ok(mut terms)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return Ok(work.await);
    };
    tokio::select! {
        done = work => return Ok(done),
        _ = ints.recv() => {}
        _ = terms.recv() => {}
    }
    let error = anyhow!("interrupted, and nothing of it is kept");
    Err(Failure { exit: Exit::Interrupted, error, hint: None })
}
