//! A session that is served.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tokio_util::task::AbortOnDropHandle;

use crate::engine::{SandboxSession, SessionEnd};
use crate::session::order::SessionOrder;
use crate::session::{Kept, Publish};

use super::fault::{Fault, Kind};
use super::locked::locked;
use super::queue::Queue;
use super::under_way::{Opened, Piece, ShellHandle, Slot};

/// A session, and what is under way in it.
pub(super) struct Served {
    /// Twelve hexadecimal digits.
    pub id: String,
    /// The connection that started it.
    pub connection: u64,
    /// The session.
    pub kept: Arc<Kept>,
    /// How it was started.
    pub order: SessionOrder,
    /// What whoever started it calls it by.
    pub labels: BTreeMap<String, String>,
    /// When it was started.
    pub created: jiff::Timestamp,
    /// Where its ports are reached.
    pub ports: Vec<Publish>,
    /// Its requests.
    pub queue: Queue,
    /// Its commands, by the names that clients gave them.
    pub execs: Mutex<HashMap<String, Slot>>,
    /// Its shells.
    pub shells: Mutex<HashMap<String, ShellHandle>>,
    /// The archives that come.
    pub transfers: Mutex<HashMap<String, mpsc::UnboundedSender<Piece>>>,
    /// Its environment, where it has one.
    pub environment: tokio::sync::Mutex<Option<Opened>>,
    /// Whether it is used.
    pub uses: Uses,
    /// What ends it when its time is over.
    pub watch: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl Served {
    /// Returns the session as it is now.
    pub(super) fn session(&self) -> Arc<dyn SandboxSession> {
        self.kept.now()
    }

    /// Returns what is told of it when it was started.
    pub(super) fn document(&self) -> Value {
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|one| json!({ "address": one.address.to_string(), "port": one.port }))
            .collect();
        let repository = self.order.repository.as_ref();
        json!({
            "session": self.id,
            "image": self.order.request.image,
            "engine": self.session().engine(),
            "instance": self.order.instance,
            "repository": repository.map(|repository| &repository.directory),
            "base": repository.and_then(|repository| repository.base.as_ref()),
            "ports": ports,
        })
    }

    /// Returns what is told of it in a list.
    pub(super) fn listed(&self) -> Value {
        json!({
            "session": self.id,
            "image": self.order.request.image,
            "instance": self.order.instance,
            "created": self.created,
            "labels": self.labels,
        })
    }

    /// Ends it with all that runs in it.
    pub(super) async fn stop(&self) -> Result<SessionEnd, Fault> {
        // Its shells would say that they were killed.
        locked(&self.shells).clear();
        drop(locked(&self.watch).take());
        Ok(self.session().stop().await?)
    }
}

impl From<SessionEnd> for Fault {
    fn from(end: SessionEnd) -> Fault {
        Fault::new(Kind::SessionEnded, format!("the session has ended: {}", end.reason()))
    }
}

/// Counts who uses something.
#[derive(Default)]
pub(super) struct Uses {
    count: AtomicUsize,
    changed: Notify,
}

/// Somebody who uses it.
pub(super) struct Use(Arc<Served>);

impl Use {
    /// Uses a session.
    pub(super) fn of(served: Arc<Served>) -> Use {
        served.uses.count.fetch_add(1, Ordering::AcqRel);
        served.uses.changed.notify_waiters();
        Use(served)
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.0.uses.count.fetch_sub(1, Ordering::AcqRel);
        self.0.uses.changed.notify_waiters();
    }
}

impl Uses {
    /// Waits until nobody used it for so long.
    pub(super) async fn none_for(&self, limit: Duration) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.count.load(Ordering::Acquire) > 0 {
                changed.await;
                continue;
            }
            tokio::select! {
                () = crate::session::sleep(limit) => return,
                () = changed => {}
            }
        }
    }
}
