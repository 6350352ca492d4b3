//! Networks, by name: there is no bridge, so they say what belongs together.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use bollard_stubs::models::{NetworkCreateRequest, NetworkingConfig};
use hyper::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::key::Digest;

use super::answer::{Answer, Refusal, document, done, found};
use super::call::Call;
use super::filters::Filters;
use super::server::{Server, new_id};

/// The networks that are always there, and their drivers.
const OWN: [(&str, &str); 3] = [("bridge", "bridge"), ("host", "host"), ("none", "null")];

/// The filters that are known.
const KNOWN: [&str; 7] = ["name", "id", "label", "driver", "type", "scope", "dangling"];

#[derive(Debug, Clone)]
struct Network {
    id: String,
    name: String,
    driver: String,
    created_at: Timestamp,
    request: NetworkCreateRequest,
    /// The ids of its containers, with their other names in it.
    members: BTreeMap<String, Vec<String>>,
}

/// The networks of a server.
pub struct Networks(Mutex<Vec<Network>>);

impl Networks {
    /// Makes those that are always there.
    pub fn new() -> Networks {
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

    fn with<T>(&self, work: impl FnOnce(&mut Vec<Network>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells whether there is a network of a name or an id.
    pub fn has(&self, called: &str) -> bool {
        self.with(|all| position(all, called).is_some())
    }

    /// Makes a container a member of the networks that it names.
    pub fn join(&self, container: &str, mode: &str, config: Option<&NetworkingConfig>) {
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
    pub fn leave(&self, container: &str) {
        self.with(|all| {
            for network in all {
                network.members.remove(container);
            }
        });
    }

    /// Tells whether a container is a member of a network.
    pub fn is_in(&self, container: &str, called: &str) -> bool {
        self.with(|all| {
            position(all, called).is_some_and(|at| all[at].members.contains_key(container))
        })
    }

    /// Returns the networks of a container, as `inspect` has them.
    pub fn endpoints(&self, container: &str) -> Value {
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
                    "Aliases": aliases,
                });
                endpoints.insert(network.name.clone(), endpoint);
            }
            Value::Object(endpoints)
        })
    }
}

/// Finds a network by its name, its id, or the beginning of its id.
fn position(all: &[Network], called: &str) -> Option<usize> {
    let exact = all.iter().position(|one| one.name == called || one.id == called);
    let begins = || all.iter().position(|one| called.len() >= 4 && one.id.starts_with(called));
    exact.or_else(begins)
}

fn absent(called: &str) -> Refusal {
    Refusal::absent(format!("network {called} not found"))
}

/// Lists networks.
pub fn list(server: &Server, call: &Call) -> Answer {
    let filters = Filters::of(call, &KNOWN)?;
    let all = server.networks.with(|all| all.clone());
    let is_own = |network: &Network| OWN.iter().any(|(name, _)| *name == network.name);
    let rows = all.iter().filter(|network| {
        let labels = network.request.labels.clone().unwrap_or_default();
        let kind = if is_own(network) { "builtin" } else { "custom" };
        filters.any("name", |name| network.name.contains(name.as_str()))
            && filters.any("id", |id| network.id.starts_with(id.as_str()))
            && filters.any("driver", |driver| *driver == network.driver)
            && filters.any("type", |wanted| wanted == kind)
            && filters.any("scope", |scope| scope == "local")
            && filters.any("dangling", |wanted| {
                (network.members.is_empty() && !is_own(network)) == (wanted == "true")
            })
            && filters.labels(|name| labels.get(name).map(String::as_str))
    });
    found(&Value::Array(rows.map(|network| description(server, network)).collect()))
}

/// Describes a network.
pub fn inspect(server: &Server, called: &str) -> Answer {
    let network = server.networks.with(|all| Some(all[position(all, called)?].clone()));
    let network = network.ok_or_else(|| absent(called))?;
    found(&description(server, &network))
}

fn description(server: &Server, network: &Network) -> Value {
    let members = network.members.keys().filter_map(|id| {
        let container = server.find(id).ok()?;
        let member = json!({
            "Name": container.name(),
            "EndpointID": "",
            "MacAddress": "",
            "IPv4Address": "",
            "IPv6Address": "",
        });
        Some((id.clone(), member))
    });
    let request = &network.request;
    json!({
        "Name": network.name,
        "Id": network.id,
        "Created": network.created_at.to_string(),
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv6": request.enable_ipv6 == Some(true),
        "IPAM": { "Driver": "default", "Options": Value::Null, "Config": [] },
        "Internal": request.internal == Some(true),
        "Attachable": request.attachable == Some(true),
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": members.collect::<serde_json::Map<_, _>>(),
        "Options": request.options.clone().unwrap_or_default(),
        "Labels": request.labels.clone().unwrap_or_default(),
    })
}

/// Makes a network.
pub async fn create(server: &Server, call: &mut Call) -> Answer {
    let request: NetworkCreateRequest = call.document().await?;
    let name = request.name.clone();
    if name.is_empty() || name.contains(['/', ' ']) {
        return Err(Refusal::bad(format!("invalid network name: {name:?}")));
    }
    let driver = request.driver.clone().filter(|driver| !driver.is_empty());
    let driver = driver.unwrap_or_else(|| "bridge".to_owned());
    if driver != "bridge" {
        return Err(Refusal::unserved(format!("network driver {driver} is not served")));
    }
    let id = new_id();
    let made = server.networks.with(|all| {
        if all.iter().any(|one| one.name == name) {
            return Err(Refusal::conflict(format!("network with name {name} already exists")));
        }
        all.push(Network {
            id: id.clone(),
            name,
            driver,
            created_at: Timestamp::now(),
            request,
            members: BTreeMap::new(),
        });
        Ok(())
    });
    made?;
    Ok(document(StatusCode::CREATED, &json!({ "Id": id, "Warning": "" })))
}

/// Removes a network that nothing is in.
pub fn remove(server: &Server, called: &str) -> Answer {
    server.networks.with(|all| {
        let at = position(all, called).ok_or_else(|| absent(called))?;
        let network = &all[at];
        if OWN.iter().any(|(name, _)| *name == network.name) {
            return Err(Refusal::conflict(format!("{called} is a pre-defined network")));
        }
        if !network.members.is_empty() {
            return Err(Refusal::conflict(format!(
                "error while removing network: network {} id {} has active endpoints",
                network.name, network.id
            )));
        }
        all.remove(at);
        Ok(())
    })?;
    done()
}
