//! The objects of the cluster, with versions, and what a watch is told of them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::State;

/// How many changes a watch may be behind before it is told 410.
const KEPT: usize = 5000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Pod,
    Secret,
    Lease,
    Event,
}

impl Kind {
    pub(crate) fn of_path(name: &str) -> Option<Kind> {
        match name {
            "pods" => Some(Kind::Pod),
            "secrets" => Some(Kind::Secret),
            "leases" => Some(Kind::Lease),
            "events" => Some(Kind::Event),
            _ => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Pod => "Pod",
            Kind::Secret => "Secret",
            Kind::Lease => "Lease",
            Kind::Event => "Event",
        }
    }

    pub(crate) fn api_version(self) -> &'static str {
        match self {
            Kind::Lease => "coordination.k8s.io/v1",
            _ => "v1",
        }
    }
}

pub(crate) type Id = (Kind, String, String);

/// A change: its version, what it is of, and the object after it.
#[derive(Clone)]
pub(crate) struct Change {
    pub version: u64,
    pub kind: Kind,
    pub event: &'static str,
    pub object: Value,
}

#[derive(Default)]
pub(crate) struct Objects {
    pub version: u64,
    things: BTreeMap<Id, Value>,
    changes: VecDeque<Change>,
    uids: u64,
}

pub(crate) fn now() -> String {
    format!("{:.0}", jiff::Timestamp::now())
}

impl Objects {
    pub(crate) fn get(&self, id: &Id) -> Option<&Value> {
        self.things.get(id)
    }

    pub(crate) fn names(&self, kind: Kind) -> Vec<String> {
        self.things.keys().filter(|id| id.0 == kind).map(|id| id.2.clone()).collect()
    }

    pub(crate) fn all(&self, kind: Kind) -> Vec<(Id, Value)> {
        let all = self.things.iter().filter(|(id, _)| id.0 == kind);
        all.map(|(id, value)| (id.clone(), value.clone())).collect()
    }

    pub(crate) fn list(&self, kind: Kind, namespace: &str, selector: &str) -> Vec<Value> {
        let of = |id: &Id| id.0 == kind && id.1 == namespace;
        let all = self.things.iter().filter(|(id, _)| of(id)).map(|(_, value)| value.clone());
        all.filter(|value| matches(value, selector)).collect()
    }

    /// Creates an object; `None` where there is one of that name.
    pub(crate) fn create(&mut self, id: Id, mut value: Value) -> Option<Value> {
        if self.things.contains_key(&id) {
            return None;
        }
        self.uids += 1;
        value["apiVersion"] = json!(id.0.api_version());
        value["kind"] = json!(id.0.name());
        let meta = &mut value["metadata"];
        meta["namespace"] = json!(id.1);
        meta["uid"] = json!(format!("{:08x}-0000-4000-8000-000000000000", self.uids));
        meta["creationTimestamp"] = json!(now());
        Some(self.put(id, "ADDED", value))
    }

    /// Replaces an object, and tells of it.
    pub(crate) fn put(&mut self, id: Id, event: &'static str, mut value: Value) -> Value {
        self.version += 1;
        value["metadata"]["resourceVersion"] = json!(self.version.to_string());
        value["metadata"]["managedFields"] =
            json!([{ "manager": "imgforge", "operation": "Update", "time": now() }]);
        let change = Change { version: self.version, kind: id.0, event, object: value.clone() };
        self.changes.push_back(change);
        if self.changes.len() > KEPT {
            self.changes.pop_front();
        }
        self.things.insert(id, value.clone());
        value
    }

    /// Makes all Leases look as if nobody had renewed them for a while.
    pub(crate) fn age_leases(&mut self, age: std::time::Duration) {
        let then = jiff::Timestamp::now() - age;
        for (_, lease) in self.things.iter_mut().filter(|(id, _)| id.0 == Kind::Lease) {
            lease["metadata"]["managedFields"][0]["time"] = json!(format!("{then:.0}"));
            lease["spec"]["renewTime"] = json!(format!("{then:.6}"));
        }
    }

    /// Changes an object that is there.
    pub(crate) fn modify(&mut self, id: &Id, change: impl FnOnce(&mut Value)) -> bool {
        let Some(mut value) = self.things.get(id).cloned() else { return false };
        change(&mut value);
        self.put(id.clone(), "MODIFIED", value);
        true
    }

    pub(crate) fn remove(&mut self, id: &Id) -> Option<Value> {
        let value = self.things.get(id).cloned()?;
        self.put(id.clone(), "DELETED", value.clone());
        self.things.remove(id);
        Some(value)
    }

    /// The changes since a version; `None` where they are no longer known.
    pub(crate) fn since(&self, version: u64, kind: Kind) -> Option<Vec<Change>> {
        let oldest = self.changes.front().map_or(self.version, |change| change.version - 1);
        if version < oldest {
            return None;
        }
        let new = self.changes.iter().filter(|change| change.version > version);
        Some(new.filter(|change| change.kind == kind).cloned().collect())
    }

    /// Everything whose owner is not there.
    fn orphans(&self) -> Vec<Id> {
        let uids: Vec<&str> =
            self.things.values().filter_map(|value| value["metadata"]["uid"].as_str()).collect();
        let is_orphan = |value: &Value| {
            let owners = value["metadata"]["ownerReferences"].as_array();
            owners.is_some_and(|owners| {
                owners
                    .iter()
                    .all(|owner| !uids.contains(&owner["uid"].as_str().unwrap_or_default()))
            })
        };
        self.things.iter().filter(|(_, value)| is_orphan(value)).map(|(id, _)| id.clone()).collect()
    }
}

/// Tells whether an object has the labels of a selector.
pub(crate) fn matches(value: &Value, selector: &str) -> bool {
    selector.split(',').filter(|part| !part.is_empty()).all(|part| {
        let (name, wanted) = part.split_once('=').unwrap_or((part, ""));
        value["metadata"]["labels"][name].as_str() == Some(wanted.trim_start_matches('='))
    })
}

/// What a cluster does with things whose owner is gone.
pub(super) async fn collect_garbage(state: Arc<State>) {
    while !state.ended.load(Ordering::Relaxed) {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        let orphans = state.objects.lock().unwrap().orphans();
        for id in orphans {
            state.change(|objects| objects.remove(&id));
        }
    }
}
