//! Networks: there is no bridge. The members of one share a loopback, and know each other's names.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bollard_stubs::models::{EndpointSettings, NetworkCreateRequest, NetworkingConfig};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::engine::{SandboxNetwork, SharedNetwork};
use crate::key::Digest;

use super::answer::Refusal;

/// The networks that are always there, and their drivers.
pub(super) const OWN: [(&str, &str); 3] =
    [("bridge", "bridge"), ("host", "host"), ("none", "null")];

/// What a container can reach.
#[derive(Debug, Clone)]
pub(super) enum Reach {
    /// A network of its own, or the host's.
    Plain(SandboxNetwork),
    /// One that others are in.
    Shared(Arc<SharedNetwork>),
}

/// What a network knows of a container in it.
#[derive(Debug, Clone, Default)]
pub(super) struct Member {
    /// Its other names there.
    aliases: Vec<String>,
    /// What was asked for of the driver, and is told.
    driver_options: Option<BTreeMap<String, String>>,
    /// The addresses that were asked for, and are told.
    addresses: Value,
    /// The links that were asked for, and are told.
    links: Option<Vec<String>>,
}

impl Member {
    /// Reads what is asked for.
    pub(super) fn of(endpoint: Option<EndpointSettings>) -> Member {
        let endpoint = endpoint.unwrap_or_default();
        Member {
            aliases: endpoint.aliases.unwrap_or_default(),
            driver_options: endpoint.driver_opts.map(|options| options.into_iter().collect()),
            addresses: json!(endpoint.ipam_config),
            links: endpoint.links,
        }
    }
}

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
    pub(super) members: BTreeMap<String, Member>,
    /// What its members share, once there was one.
    pub(super) shared: Option<Arc<SharedNetwork>>,
}

impl Network {
    /// Tells whether it is one of those that are always there.
    pub(super) fn is_own(&self) -> bool {
        OWN.iter().any(|(name, _)| *name == self.name)
    }
}

/// The networks of a server.
pub(super) struct Networks {
    all: Mutex<Vec<Network>>,
    /// Whoever writes the names of their members has this.
    pub(super) hosts: tokio::sync::Mutex<()>,
}

/// Says that there is no network of a name.
pub(super) fn absent(called: &str) -> Refusal {
    Refusal::absent(format!("network {called} not found"))
}

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
            shared: None,
        });
        Networks { all: Mutex::new(own.to_vec()), hosts: tokio::sync::Mutex::default() }
    }

    /// Does something with all of them at once.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Vec<Network>) -> T) -> T {
        work(&mut self.all.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the id of a network.
    pub(super) fn id_of(&self, called: &str) -> Option<String> {
        self.with(|all| Some(all[position(all, called)?].id.clone()))
    }

    /// Returns the id of a network that somebody made; `None` for one that is always there.
    ///
    /// # Errors
    /// Where there is none.
    pub(super) fn custom(&self, called: &str) -> Result<Option<String>, Refusal> {
        self.with(|all| {
            let network = &all[position(all, called).ok_or_else(|| absent(called))?];
            Ok((!network.is_own()).then(|| network.id.clone()))
        })
    }

    /// Tells whether one of some networks, by their ids, has no way out whatever the default is.
    pub(super) fn is_internal(&self, ids: &[String]) -> bool {
        self.with(|all| {
            all.iter().any(|one| ids.contains(&one.id) && one.request.internal == Some(true))
        })
    }

    /// Returns the names of networks, by their ids, and what their members share.
    pub(super) fn held(&self, ids: &[String]) -> Vec<(String, Option<Arc<SharedNetwork>>)> {
        self.with(|all| {
            let found = ids.iter().filter_map(|id| all.iter().find(|one| one.id == *id));
            found.map(|one| (one.name.clone(), one.shared.clone())).collect()
        })
    }

    /// Gives networks whose members share nothing yet what they share from now on.
    pub(super) fn hold(&self, ids: &[String], network: &Arc<SharedNetwork>) {
        self.with(|all| {
            for one in all.iter_mut().filter(|one| ids.contains(&one.id)) {
                one.shared.get_or_insert_with(|| network.clone());
            }
        });
    }

    /// Makes a container a member of one more network.
    pub(super) fn enter(&self, id: &str, container: &str, member: Member) {
        self.with(|all| {
            if let Some(one) = all.iter_mut().find(|one| one.id == id) {
                one.members.insert(container.to_owned(), member);
            }
        });
    }

    /// Takes a container out of one network.
    pub(super) fn exit(&self, id: &str, container: &str) {
        self.with(|all| {
            if let Some(one) = all.iter_mut().find(|one| one.id == id) {
                one.members.remove(container);
            }
        });
    }

    /// Returns the ids of the networks that somebody made and a container is in.
    pub(super) fn of(&self, container: &str) -> Vec<String> {
        self.with(|all| {
            let found = all.iter().filter(|one| !one.is_own());
            let found = found.filter(|one| one.members.contains_key(container));
            found.map(|one| one.id.clone()).collect()
        })
    }

    /// Returns the members of these networks, itself among them, with their other names.
    pub(super) fn neighbours(&self, container: &str) -> Vec<(String, Vec<String>)> {
        self.with(|all| {
            let found = all.iter().filter(|one| !one.is_own());
            let found = found.filter(|one| one.members.contains_key(container));
            let members = found.flat_map(|one| one.members.iter());
            members.map(|(id, member)| (id.clone(), member.aliases.clone())).collect()
        })
    }

    /// Makes a container a member of the networks that it names.
    pub(super) fn join(&self, container: &str, mode: &str, config: Option<&NetworkingConfig>) {
        let mode = if matches!(mode, "" | "default") { "bridge" } else { mode };
        let none = Default::default();
        let named = config.and_then(|config| config.endpoints_config.as_ref()).unwrap_or(&none);
        let member = |name: &str| Member::of(named.get(name).cloned());
        let others = named.keys().map(String::as_str).filter(|name| *name != mode);
        let wanted: Vec<_> = std::iter::once(mode).chain(others).collect();
        self.with(|all| {
            for name in wanted {
                if let Some(at) = position(all, name) {
                    all[at].members.insert(container.to_owned(), member(name));
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
                let Some(member) = network.members.get(container) else { continue };
                let aliases = &member.aliases;
                let endpoint = json!({
                    "NetworkID": network.id,
                    "EndpointID": "",
                    "Gateway": "",
                    "IPAddress": "",
                    "IPPrefixLen": 0,
                    "MacAddress": "",
                    "Aliases": if aliases.is_empty() { Value::Null } else { json!(aliases) },
                    "DriverOpts": member.driver_options,
                    "IPAMConfig": member.addresses,
                    "Links": member.links,
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
