//! Networks, by name: there is no bridge, so they say what belongs together.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use bollard_stubs::models::{NetworkCreateRequest, NetworkingConfig};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::key::Digest;

/// The networks that are always there, and their drivers.
pub(super) const OWN: [(&str, &str); 3] =
    [("bridge", "bridge"), ("host", "host"), ("none", "null")];

/// A network.
#[derive(Debug, Clone)]
pub(super) struct Network {
    /// Its id, 64 hexadecimal digits.
    pub(super) id: String,
    /// Its name.
    pub(super) name: String,
    /// Its driver.
    pub(super) driver: String,
    /// When it was made.
    pub(super) created_at: Timestamp,
    /// What was asked for.
    pub(super) request: NetworkCreateRequest,
    /// The ids of its containers, with their other names in it.
    pub(super) members: BTreeMap<String, Vec<String>>,
}

/// The networks of a server.
pub(super) struct Networks(Mutex<Vec<Network>>);

impl Networks {
    /// Makes those that are always there.
    pub(super) fn new() -> Networks {
        let own = OWN.map(|(name, driver)| Network {
            id: Digest::of(format!("network {name}")).to_string(),
            name: name.to_owned(),
            driver: driver.to_owned(),
            created_at: Timestamp::now(),
            request: NetworkCreateRequest::default(),
            members: BTreeMap::new(),
        });
        Networks(Mutex::new(own.to_vec()))
    }

    /// Does something with all of them at once.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Vec<Network>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells whether there is a network of a name or an id.
    pub(super) fn has(&self, called: &str) -> bool {
        self.with(|all| position(all, called).is_some())
    }

    /// Makes a container a member of the networks that it names.
    pub(super) fn join(&self, container: &str, mode: &str, config: Option<&NetworkingConfig>) {
        let mode = if matches!(mode, "" | "default") { "bridge" } else { mode };
        let none = Default::default();
        let named = config.and_then(|config| config.endpoints_config.as_ref()).unwrap_or(&none);
        let endpoint = |name: &str| named.get(name).and_then(|one| one.aliases.clone());
        let others = named.keys().map(String::as_str).filter(|name| *name != mode);
        let wanted: Vec<_> = std::iter::once(mode).chain(others).collect();
        self.with(|all| {
            for name in wanted {
                if let Some(at) = position(all, name) {
                    let aliases = endpoint(name).unwrap_or_default();
                    all[at].members.insert(container.to_owned(), aliases);
                }
            }
        });
    }

    /// Takes a container out of all networks.
    pub(super) fn leave(&self, container: &str) {
        self.with(|all| {
            for network in all {
                network.members.remove(container);
            }
        });
    }

    /// Tells whether a container is a member of a network.
    pub(super) fn is_in(&self, container: &str, called: &str) -> bool {
        self.with(|all| {
            position(all, called).is_some_and(|at| all[at].members.contains_key(container))
        })
    }

    /// Returns the networks of a container, as `inspect` has them.
    pub(super) fn endpoints(&self, container: &str) -> Value {
        self.with(|all| {
            let mut endpoints = serde_json::Map::new();
            for network in all.iter() {
                let Some(aliases) = network.members.get(container) else { continue };
                let endpoint = json!({
                    "NetworkID": network.id,
                    "EndpointID": "",
                    "Gateway": "",
                    "IPAddress": "",
                    "IPPrefixLen": 0,
                    "MacAddress": "",
                    "Aliases": if aliases.is_empty() { Value::Null } else { json!(aliases) },
                    "DriverOpts": Value::Null,
                });
                endpoints.insert(network.name.clone(), endpoint);
            }
            Value::Object(endpoints)
        })
    }
}

/// Finds a network by its name, its id, or the beginning of its id.
pub(super) fn position(all: &[Network], called: &str) -> Option<usize> {
    let exact = all.iter().position(|one| one.name == called || one.id == called);
    let begins = || all.iter().position(|one| called.len() >= 4 && one.id.starts_with(called));
    exact.or_else(begins)
}
