//! Signals that end work: Ctrl-C and SIGTERM.
//!
//! From the first question on they are counted for the whole process, so that none is lost between
//! two pieces of work that listen.

use std::future::Future;
use std::sync::OnceLock;

use anyhow::anyhow;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::exec::Interrupt;

use super::Error;

/// How often each signal came.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    interrupts: usize,
    terminations: usize,
}

/// Does work until it is done.
///
/// # Errors
/// Exit code 130 after Ctrl-C or SIGTERM, also where it came before: then the work is dropped.
pub(super) async fn unless_interrupted<T>(work: impl Future<Output = T>) -> Result<T, Error> {
    let Some(mut seen) = signals() else { return Ok(work.await) };
    tokio::select! {
        biased;
        _ = seen.wait_for(|seen| seen.interrupts + seen.terminations > 0) => {}
        done = work => return Ok(done),
    }
    Err(Error::interrupted(anyhow!("interrupted, and nothing of it is kept")))
}

/// Returns what the signals end from now on; see [`watch_signals`].
pub(super) fn watched() -> Interrupt {
    let interrupt = Interrupt::default();
    watch_signals(interrupt.clone());
    interrupt
}

/// The first Ctrl-C stops what has not started, the second drops what runs; SIGTERM does both at
/// once: whoever sends it does not wait for tests, which may be stopped themselves.
fn watch_signals(interrupt: Interrupt) {
    let Some(mut seen) = signals() else { return };
    tokio::spawn(async move {
        let stop = |seen: &Seen| seen.interrupts + seen.terminations > 0;
        let kill = |seen: &Seen| seen.interrupts > 1 || seen.terminations > 0;
        if let Ok(seen) = seen.wait_for(stop).await.map(|seen| *seen) {
            // First, so that whoever sees that the run stops knows how.
            if kill(&seen) {
                interrupt.kill.cancel();
            }
            interrupt.stop.cancel();
        }
        if seen.wait_for(kill).await.is_ok() {
            interrupt.kill.cancel();
        }
    });
}

/// Returns the counts of this process, which begin with the first call; within a runtime.
fn signals() -> Option<watch::Receiver<Seen>> {
    static SIGNALS: OnceLock<Option<watch::Receiver<Seen>>> = OnceLock::new();
    let counted = SIGNALS.get_or_init(|| {
        let mut interrupts = signal(SignalKind::interrupt()).ok()?;
        let mut terminations = signal(SignalKind::terminate()).ok()?;
        let (counts, seen) = watch::channel(Seen::default());
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupts.recv() => counts.send_modify(|seen| seen.interrupts += 1),
                    _ = terminations.recv() => counts.send_modify(|seen| seen.terminations += 1),
                }
            }
        });
        Some(seen)
    });
    counted.clone()
}
