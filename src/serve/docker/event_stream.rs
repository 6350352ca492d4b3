//! `events`: what happened since a time, and what happens until another one.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use jiff::Timestamp;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::answer::{Answer, Refusal, streamed};
use super::call::Call;
use super::events::{Event, Kind};
use super::filters::Filters;
use super::server::Server;
use super::times;

/// The filters that are known.
const KNOWN: [&str; 10] = [
    "type",
    "event",
    "container",
    "image",
    "network",
    "volume",
    "label",
    "scope",
    "daemon",
    "node",
];

/// Tells a client what happens.
pub(super) fn events(server: &Server, call: &Call) -> Answer {
    let filters = Filters::of(call, &KNOWN)?;
    let time = |name: &str| -> Result<Option<Timestamp>, Refusal> {
        let Some(text) = call.parameter(name) else { return Ok(None) };
        let wrong = || Refusal::bad(format!("invalid value for {name}: {text:?}"));
        times::read(text).map(Some).ok_or_else(wrong)
    };
    let (since, until) = (time("since")?, time("until")?);
    let (kept, follows) = server.events.listen();
    // Without a time only what is new counts.
    let kept = kept.into_iter().filter(|event| since.is_some_and(|since| event.time >= since));
    let told = Told { kept: kept.collect(), follows, filters, until };
    let lines = stream::unfold(told, |mut told| async {
        let event = told.next().await?;
        Some((Ok::<_, io::Error>(Bytes::from(format!("{}\n", event.described()))), told))
    });
    Ok(streamed("application/json", lines))
}

struct Told {
    kept: VecDeque<Arc<Event>>,
    follows: Receiver<Arc<Event>>,
    filters: Filters,
    until: Option<Timestamp>,
}

impl Told {
    /// Returns the next event that is wanted; `None` at the end.
    async fn next(&mut self) -> Option<Arc<Event>> {
        loop {
            let event = match self.kept.pop_front() {
                Some(event) => event,
                None => self.follow().await?,
            };
            if self.until.is_some_and(|until| event.time > until) {
                return None;
            }
            if is_wanted(&event, &self.filters) {
                return Some(event);
            }
        }
    }

    /// Waits for the next event, until the time is over.
    async fn follow(&mut self) -> Option<Arc<Event>> {
        let over = async {
            match self.until {
                Some(until) => {
                    let left = until.duration_since(Timestamp::now());
                    tokio::time::sleep(left.try_into().unwrap_or_default()).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::pin!(over);
        loop {
            tokio::select! {
                event = self.follows.recv() => match event {
                    Ok(event) => return Some(event),
                    // It was too far behind: some are lost to it.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                },
                () = &mut over => return None,
            }
        }
    }
}

fn is_wanted(event: &Event, filters: &Filters) -> bool {
    let attribute = |name: &str| event.attributes.get(name).map_or("", String::as_str);
    let is_it = |kind: Kind, named: &str, wanted: &String| {
        let is_id =
            event.id == *wanted || (wanted.len() >= 4 && event.id.starts_with(wanted.as_str()));
        match event.kind == kind {
            true => is_id || attribute("name") == wanted,
            false => !named.is_empty() && attribute(named) == wanted,
        }
    };
    filters.any("type", |kind| kind == event.kind.name())
        && filters.any("event", |action| {
            // `exec_create` is that of every command.
            event.action == *action || event.action.split(':').next() == Some(action.as_str())
        })
        && filters.any("container", |wanted| is_it(Kind::Container, "container", wanted))
        && filters.any("image", |wanted| is_it(Kind::Image, "image", wanted))
        && filters.any("network", |wanted| is_it(Kind::Network, "", wanted))
        && filters.any("volume", |wanted| is_it(Kind::Volume, "", wanted))
        && filters.any("scope", |scope| scope == "local")
        && filters.labels(|name| event.attributes.get(name).map(String::as_str))
}
