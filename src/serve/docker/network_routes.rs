//! What clients do with networks.

use std::collections::BTreeMap;

use bollard_stubs::models::NetworkCreateRequest;
use hyper::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::answer::{Answer, Refusal, document, done, found};
use super::call::Call;
use super::events::Kind;
use super::filters::Filters;
use super::id::new_id;
use super::networks::{Network, absent, position};
use super::server::Server;

/// The filters that are known.
const KNOWN: [&str; 7] = ["name", "id", "label", "driver", "type", "scope", "dangling"];

/// Lists networks.
pub(super) fn list(server: &Server, call: &Call) -> Answer {
    let filters = Filters::of(call, &KNOWN)?;
    let all = server.networks.with(|all| all.clone());
    let rows = all.iter().filter(|network| {
        let labels = network.request.labels.clone().unwrap_or_default();
        let kind = if network.is_own() { "builtin" } else { "custom" };
        filters.any("name", |name| network.name.contains(name.as_str()))
            && filters.any("id", |id| network.id.starts_with(id.as_str()))
            && filters.any("driver", |driver| *driver == network.driver)
            && filters.any("type", |wanted| wanted == kind)
            && filters.any("scope", |scope| scope == "local")
            && filters.any("dangling", |wanted| {
                (network.members.is_empty() && !network.is_own()) == (wanted == "true")
            })
            && filters.labels(|name| labels.get(name).map(String::as_str))
    });
    found(&Value::Array(rows.map(|network| description(server, network)).collect()))
}

/// Describes a network.
pub(super) fn inspect(server: &Server, called: &str) -> Answer {
    let network = server.networks.with(|all| Some(all[position(all, called)?].clone()));
    let network = network.ok_or_else(|| absent(called))?;
    found(&description(server, &network))
}

fn description(server: &Server, network: &Network) -> Value {
    let members = network.members.keys().filter_map(|id| {
        let container = server.find(id).ok()?;
        // As in Docker those that do not run are not there.
        container.state.now().status.is_alive().then_some(())?;
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
        // As it was asked for: there are no addresses.
        "IPAM": request.ipam.as_ref().map_or(
            json!({ "Driver": "default", "Options": Value::Null, "Config": [] }),
            |asked| json!(asked),
        ),
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
pub(super) async fn create(server: &Server, call: &mut Call) -> Answer {
    let request: NetworkCreateRequest = call.document().await?;
    let name = request.name.clone();
    if name.trim().is_empty() || name.contains('/') {
        return Err(Refusal::bad(format!("invalid network name: {name:?}")));
    }
    let driver = request.driver.clone().filter(|driver| !driver.is_empty());
    let driver = driver.unwrap_or_else(|| "bridge".to_owned());
    if driver != "bridge" {
        return Err(Refusal::unserved(format!("network driver {driver} is not served")));
    }
    let (id, told) = (new_id(), name.clone());
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
            shared: None,
        });
        Ok(())
    });
    made?;
    server.events.tell(Kind::Network, "create", &id, &[("name", &told), ("type", "bridge")]);
    Ok(document(StatusCode::CREATED, &json!({ "Id": id, "Warning": "" })))
}

/// Removes a network in which nothing runs.
pub(super) fn remove(server: &Server, called: &str) -> Answer {
    let removed = server.networks.with(|all| {
        let at = position(all, called).ok_or_else(|| absent(called))?;
        let network = &all[at];
        if network.is_own() {
            return Err(Refusal::forbidden(format!("{called} is a pre-defined network")));
        }
        if is_used(server, network) {
            return Err(Refusal::forbidden(format!(
                "error while removing network: network {} id {} has active endpoints",
                network.name, network.id
            )));
        }
        Ok(all.remove(at))
    })?;
    let attributes = [("name", removed.name.as_str()), ("type", removed.driver.as_str())];
    server.events.tell(Kind::Network, "destroy", &removed.id, &attributes);
    done()
}

/// Tells whether a container of a network runs.
fn is_used(server: &Server, network: &Network) -> bool {
    let runs = |id: &String| server.find(id).is_ok_and(|one| one.state.now().status.is_alive());
    network.members.keys().any(runs)
}

/// Removes the networks that no container is in.
pub(super) fn prune(server: &Server, call: &Call) -> Answer {
    let filters = Filters::of(call, &["label", "until"])?;
    let until = filters.until()?;
    let mut removed = Vec::new();
    server.networks.with(|all| {
        all.retain(|network| {
            let labels = network.request.labels.clone().unwrap_or_default();
            let goes = !network.is_own()
                && network.members.is_empty()
                && until.is_none_or(|until| network.created_at < until)
                && filters.labels(|name| labels.get(name).map(String::as_str));
            removed.extend(goes.then(|| network.name.clone()));
            !goes
        });
    });
    found(&json!({ "NetworksDeleted": removed }))
}
