//! What is done one after another.

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

/// Work that is done in the order in which it comes, in a task of its own. What waits when this is dropped
/// is still done.
#[derive(Clone)]
pub(super) struct Queue(mpsc::UnboundedSender<BoxFuture<'static, ()>>);

impl Queue {
    /// Makes a queue in which nothing waits.
    pub(super) fn new() -> Queue {
        let (sender, mut waiting) = mpsc::unbounded_channel::<BoxFuture<'static, ()>>();
        tokio::spawn(async move {
            while let Some(work) = waiting.recv().await {
                work.await;
            }
        });
        Queue(sender)
    }

    /// Puts work at the end.
    pub(super) fn add(&self, work: BoxFuture<'static, ()>) {
        // Its task lives as long as this does.
        let _ = self.0.send(work);
    }
}
