//! What happens, as clients are told of it: kept for a while, and given on.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::broadcast;

/// How many events are remembered, as Docker does.
const KEPT: usize = 256;

/// How many events a client may be behind.
const BEHIND: usize = 1024;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A container.
    Container,
    /// An image.
    Image,
    /// A network.
    Network,
    /// A volume.
    Volume,
}

impl Kind {
    /// Returns its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Container => "container",
            Kind::Image => "image",
            Kind::Network => "network",
            Kind::Volume => "volume",
        }
    }
}

/// Something that happened.
#[derive(Debug)]
pub(super) struct Event {
    /// What it is about.
    pub(super) kind: Kind,
    /// What happened, such as `start`, or `exec_create: true`.
    pub(super) action: String,
    /// Its id or name.
    pub(super) id: String,
    /// What more is known.
    pub(super) attributes: BTreeMap<String, String>,
    /// When.
    pub(super) time: Timestamp,
}

impl Event {
    /// Returns it as clients know it.
    pub(super) fn described(&self) -> Value {
        let mut value = json!({
            "Type": self.kind.name(),
            "Action": self.action,
            "Actor": { "ID": self.id, "Attributes": self.attributes },
            "scope": "local",
            "time": self.time.as_second(),
            "timeNano": i64::try_from(self.time.as_nanosecond()).unwrap_or(i64::MAX),
        });
        // As before there were other things than containers and images.
        if matches!(self.kind, Kind::Container | Kind::Image) {
            value["status"] = json!(self.action);
            value["id"] = json!(self.id);
        }
        if let Some(image) = self.attributes.get("image").filter(|_| self.kind == Kind::Container) {
            value["from"] = json!(image);
        }
        value
    }
}

/// The events of a server.
pub(super) struct Events {
    kept: Mutex<VecDeque<Arc<Event>>>,
    sender: broadcast::Sender<Arc<Event>>,
}

impl Events {
    /// Those of a server that just begins.
    pub(super) fn new() -> Events {
        Events { kept: Mutex::default(), sender: broadcast::Sender::new(BEHIND) }
    }

    /// Tells what happened just now.
    pub(super) fn tell(&self, kind: Kind, action: &str, id: &str, attributes: &[(&str, &str)]) {
        let attributes = attributes.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        self.tell_all(kind, action, id, attributes.collect());
    }

    /// Tells what happened just now, with what is known.
    pub(super) fn tell_all(
        &self,
        kind: Kind,
        action: &str,
        id: &str,
        attributes: BTreeMap<String, String>,
    ) {
        let (action, id) = (action.to_owned(), id.to_owned());
        let event = Arc::new(Event { kind, action, id, attributes, time: Timestamp::now() });
        // Under the lock, so that nobody gets one twice or not at all.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back(event.clone());
        if kept.len() > KEPT {
            kept.pop_front();
        }
        // Nobody may be listening.
        let _ = self.sender.send(event);
    }

    /// Returns what is remembered, and what follows.
    pub(super) fn listen(&self) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        (kept.iter().cloned().collect(), self.sender.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_are_remembered_and_what_follows_is_given_on_once() {
        let events = Events::new();
        for number in 0..KEPT + 3 {
            events.tell(Kind::Image, "pull", &number.to_string(), &[("name", "x")]);
        }
        let (kept, mut follows) = events.listen();
        assert_eq!((kept.len(), kept[0].id.as_str()), (KEPT, "3"));
        events.tell(Kind::Container, "start", "c", &[("image", "i")]);
        let next = follows.recv().await.unwrap().described();
        assert_eq!((&next["status"], &next["from"]), (&json!("start"), &json!("i")));
        assert!(follows.try_recv().is_err());
    }
}
