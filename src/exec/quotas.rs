//! The quotas of an evaluation: the bytes and files that its container may write.

use std::path::Path;

use crate::disk;
use crate::engine::{Quota, Quotas};
use crate::recipe::RunLimits;

use super::context::RunContext;

/// The bytes that a run may write even where the disk has less: then the guard of the disk ends all.
const LEAST_SHARE: u64 = 64 << 20;

/// Returns the quotas of a run: those of its limits, and never more than its share of the bytes that are
/// free now. So all runs together leave free what must stay so, whatever one of them does.
pub(super) fn quotas(run: &RunContext, limits: &RunLimits) -> Quotas {
    let share = |path: &Path, quarters: u64| {
        let free = disk::free(path).ok()?.saturating_sub(run.settings.min_free);
        let share = free / run.settings.workers.max(1) as u64 / 4 * quarters;
        Some(share.max(LEAST_SHARE))
    };
    // Logs may be on the same disk.
    let root = run.settings.engine_root.as_deref().unwrap_or(run.store.dir());
    let least = |most: Option<u64>, share: Option<u64>| most.into_iter().chain(share).min();
    let own_share = |path| if run.runner.is_here() { share(path, 3) } else { None };
    Quotas {
        disk: limits.disk.and_then(|most| least(Some(most), own_share(root))),
        files: limits.files,
        file: limits.disk,
        log: limits.log_size.and_then(|most| least(Some(most), share(run.store.dir(), 1))),
    }
}

/// Says which quota a run that was killed went over.
pub(super) fn over_quota(quota: Quota, quotas: &Quotas, limits: &RunLimits) -> String {
    let bytes = |most: Option<u64>, wanted: Option<u64>, option: &str, what: &str| {
        let text = disk::bytes_text(most.unwrap_or_default());
        match most == wanted {
            true => format!("{what} came to the {text} of {option}"),
            false => format!("{what} came to {text}, their share of what the disk has free"),
        }
    };
    match quota {
        Quota::Disk => bytes(quotas.disk, limits.disk, "--disk", "the files that it wrote"),
        Quota::Log => bytes(quotas.log, limits.log_size, "--log-size", "its outputs"),
        Quota::Files => {
            format!("it made more than the {} of --files", quotas.files.unwrap_or_default())
        }
    }
}
