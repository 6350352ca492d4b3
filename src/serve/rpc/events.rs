//! What goes on while a request is done, for a client that wants to know: notifications `event`.

use std::pin::pin;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::lines::Lines;

/// Takes what goes on while a request is done. Where no client wants to know, it takes nothing.
#[derive(Debug, Clone, Default)]
pub struct EventSink(Option<mpsc::UnboundedSender<Value>>);

impl EventSink {
    /// Tells whether a client wants to know.
    pub fn is_heard(&self) -> bool {
        self.0.is_some()
    }

    /// Sends an event: an object that has its kind in `event`. It never blocks.
    pub fn send(&self, event: Value) {
        if let Some(sender) = &self.0 {
            // Whoever asked for the work may have gone.
            let _ = sender.send(event);
        }
    }
}

/// Does work that tells what goes on, to a client that wants to know it by the name `events`. Every event
/// has been sent when this returns, so that the answer comes after them. A client that does not read
/// holds the work up.
pub(super) async fn told<T>(
    lines: &Lines,
    events: Option<String>,
    work: impl AsyncFnOnce(EventSink) -> T,
) -> T {
    let Some(name) = events else { return work(EventSink::default()).await };
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let notify = async |event: Value| {
        lines.notify("event", &json!({ "events": name, "event": event })).await;
    };
    let mut work = pin!(work(EventSink(Some(sender))));
    let done = loop {
        tokio::select! {
            biased;
            Some(event) = receiver.recv() => notify(event).await,
            done = &mut work => break done,
        }
    };
    while let Ok(event) = receiver.try_recv() {
        notify(event).await;
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_events_come_before_the_answer_and_none_where_nobody_wants_them() {
        let (sender, mut lines) = mpsc::channel(64);
        let lines_of_client = Lines(sender);
        let work = async |events: EventSink| {
            events.send(json!({ "event": "a" }));
            tokio::task::yield_now().await;
            events.send(json!({ "event": "b" }));
            // One that lives on holds nothing up.
            (events.is_heard(), events)
        };
        let (is_heard, kept) = told(&lines_of_client, Some("mine".into()), work).await;
        kept.send(json!({ "event": "too late" }));
        assert!(is_heard);
        for kind in ["a", "b"] {
            let line: Value = serde_json::from_str(&lines.try_recv().unwrap()).unwrap();
            assert_eq!(line["params"], json!({ "events": "mine", "event": { "event": kind } }));
            assert_eq!(line["method"], "event");
        }
        assert!(lines.try_recv().is_err());
        assert!(!told(&lines_of_client, None, work).await.0);
        assert!(lines.try_recv().is_err());
    }
}
