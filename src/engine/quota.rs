//! Quotas of a sandbox: what it may write, so that one of many never takes the disk of all.
//!
//! The log is counted where it is received; files are counted by a [`Meter`](super::meter::Meter).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::LogSink;

/// The most that a sandbox may write; `None` is no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Quotas {
    /// Bytes of files, as blocks of the disk.
    pub disk: Option<u64>,
    /// Files and directories.
    pub files: Option<u64>,
    /// Bytes of a single file, holes included: the kernel refuses more. A test can see it, so that it
    /// must not depend on the machine.
    pub file: Option<u64>,
    /// Bytes of output.
    pub log: Option<u64>,
}

/// A quota that a sandbox went over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Quota {
    /// [`Quotas::disk`].
    Disk,
    /// [`Quotas::files`].
    Files,
    /// [`Quotas::log`].
    Log,
}

/// What the outputs of a sandbox may still be, together.
pub(crate) struct LogQuota {
    left: AtomicU64,
    is_over: AtomicBool,
    over: Notify,
}

impl LogQuota {
    pub(crate) fn new(quotas: &Quotas) -> LogQuota {
        let left = AtomicU64::new(quotas.log.unwrap_or(u64::MAX));
        LogQuota { left, is_over: AtomicBool::new(false), over: Notify::new() }
    }

    /// Waits until more was written than may be.
    pub(crate) async fn over(&self) {
        self.over.notified().await;
    }

    /// Tells whether more was written than may be.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Passes on to `sink` what may be written.
    pub(crate) fn bound<'a>(&'a self, sink: &'a dyn LogSink) -> Bounded<'a> {
        Bounded { quota: self, sink }
    }
}

/// A sink whose bytes count.
pub(crate) struct Bounded<'a> {
    quota: &'a LogQuota,
    sink: &'a dyn LogSink,
}

impl LogSink for Bounded<'_> {
    fn write(&self, bytes: &[u8]) {
        let wanted = bytes.len() as u64;
        let take = |left: u64| Some(left.saturating_sub(wanted));
        let left = self.quota.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        let left = left.unwrap_or_else(|left| left);
        let fits = usize::try_from(left.min(wanted)).unwrap_or(bytes.len());
        if fits > 0 {
            self.sink.write(&bytes[..fits]);
        }
        if fits < bytes.len() {
            self.quota.is_over.store(true, Ordering::Relaxed);
            self.quota.over.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Kept;
    use super::*;

    #[tokio::test]
    async fn outputs_that_share_a_quota_are_cut_at_its_byte_and_it_is_told() {
        let quota = LogQuota::new(&Quotas { log: Some(10), ..Quotas::default() });
        let (log, control) = (Kept::default(), Kept::default());
        quota.bound(&log).write(b"123456");
        quota.bound(&control).write(b"1234");
        let told = tokio::time::timeout(std::time::Duration::from_millis(50), quota.over()).await;
        assert!(told.is_err(), "what fits is not over");
        quota.bound(&log).write(b"7");
        quota.over().await;
        assert!(quota.is_over());
        assert_eq!(*log.0.lock().unwrap(), b"123456");
        assert_eq!(*control.0.lock().unwrap(), b"1234");
    }
}
