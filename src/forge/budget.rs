//! The budget of `images.toml`, which every build keeps by itself.

use std::time::Duration;

use crate::cache::{Collector, Limits};
use crate::catalog::CacheSettings;
use crate::disk;
use crate::words;

use super::Notices;

/// How often the budget is looked at while a plan runs.
const INTERVAL: Duration = Duration::from_secs(60);

/// Keeps the cache within its budget.
pub(super) struct Budget<'a> {
    collector: Collector<'a>,
    limits: Limits,
    notices: Notices,
}

/// Returns the limits of `[cache]`.
pub(crate) fn limits(settings: &CacheSettings) -> Limits {
    let days = |days: u32| Duration::from_secs(u64::from(days) * 86400);
    Limits { keep_bytes: settings.keep_bytes, keep_for: settings.keep_days.map(days) }
}

impl<'a> Budget<'a> {
    /// Makes the budget of a catalog.
    pub(super) fn new(
        collector: Collector<'a>,
        settings: &CacheSettings,
        notices: &Notices,
    ) -> Self {
        Budget { collector, limits: limits(settings), notices: notices.clone() }
    }

    /// Takes away what is over the budget. A failure is a warning: the images are there.
    pub(super) async fn keep(&self) {
        self.keep_and_say(true).await;
    }

    async fn keep_and_say(&self, say: bool) {
        if self.limits == Limits::default() {
            return;
        }
        let collected = match self.collector.collect(&self.limits, false).await {
            Ok(collected) => collected,
            Err(error) => {
                let error = anyhow::Error::from(error).context("cannot keep the cache's budget");
                return self.notices.warn(format!("{error:#}"));
            }
        };
        if say && !collected.removed.is_empty() {
            let freed = disk::bytes_text(collected.freed.unwrap_or(collected.reclaimable));
            let images = words::count(collected.removed.len(), "image");
            self.notices
                .remark(format!("cache: removed {images} to keep the budget, {freed} freed"));
        }
        if say && collected.retained > 0 {
            let over = collected.plan.after - self.limits.keep_bytes.unwrap_or(0);
            self.notices.advise(format!(
                "the cache is {} over its budget: {} {} in use or pinned",
                disk::bytes_text(over),
                words::count(collected.retained, "image"),
                words::are(collected.retained)
            ));
        }
    }

    /// Keeps it again and again; does not end.
    pub(super) async fn keep_meanwhile(&self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            // Progress is on the terminal.
            self.keep_and_say(false).await;
        }
    }
}
