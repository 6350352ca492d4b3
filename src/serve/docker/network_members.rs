//! Who is in a network: `connect` and `disconnect`.

use std::sync::Arc;

use bollard_stubs::models::{NetworkConnectRequest, NetworkDisconnectRequest};
use hyper::StatusCode;

use crate::engine::SandboxNetwork;

use super::answer::{Answer, Refusal, empty};
use super::call::Call;
use super::events::Kind;
use super::hosts;
use super::networks::{Member, Reach, absent};
use super::server::Server;

/// Makes a container that is there a member of one more network.
pub(super) async fn connect(server: &Server, call: &mut Call, called: &str) -> Answer {
    let request: NetworkConnectRequest = call.document().await?;
    let _names = server.names.lock().await;
    let container = server.find(&request.container)?;
    let Some(network) = server.networks.custom(called)? else {
        return Err(Refusal::bad(format!("{called} is a network that nobody is added to")));
    };
    let mode = container.host_config().network_mode.as_deref().unwrap_or_default();
    if matches!(mode, "host" | "none") || mode.starts_with("container:") {
        return Err(Refusal::bad(format!(
            "container {} cannot be connected to another network: it has the mode `{mode}`",
            container.name()
        )));
    }
    if server.networks.is_in(&container.id, &network) {
        return Err(Refusal::conflict(format!(
            "endpoint with name {} already exists in network {called}",
            container.name()
        )));
    }
    if let Reach::Shared(own) = container.reach_for_others().await? {
        let held = server.networks.held(std::slice::from_ref(&network));
        if held.iter().any(|(_, held)| held.as_ref().is_some_and(|held| !held.is(&own))) {
            return Err(Refusal::unserved(format!(
                "container {} has a network of its own, which cannot be changed: name network \
                 {called} when the container is created",
                container.name()
            )));
        }
        server.networks.hold(std::slice::from_ref(&network), &own);
    } else if server.settings.default_network != SandboxNetwork::Host {
        return Err(Refusal::unserved("a container in the host's network stays there"));
    }
    server.networks.enter(&network, &container.id, Member::of(request.endpoint_config));
    server.events.tell(Kind::Network, "connect", &network, &[("container", &container.id)]);
    hosts::refresh(&server.networks, &server.all(), &[network]).await;
    Ok(empty(StatusCode::OK))
}

/// Takes a container out of a network: its names are forgotten. What it can reach stays.
pub(super) async fn disconnect(server: &Arc<Server>, call: &mut Call, called: &str) -> Answer {
    let request: NetworkDisconnectRequest = call.document().await?;
    let network = server.networks.id_of(called).ok_or_else(|| absent(called))?;
    let container = server.find(&request.container)?;
    if !server.networks.is_in(&container.id, &network) {
        return Err(Refusal::bad(format!(
            "container {} is not connected to network {called}",
            container.name()
        )));
    }
    server.networks.exit(&network, &container.id);
    server.events.tell(Kind::Network, "disconnect", &network, &[("container", &container.id)]);
    let all = server.all();
    hosts::refresh(&server.networks, &all, &[network]).await;
    // Its own names are those that are left.
    let left = server.networks.of(&container.id);
    match left.is_empty() {
        true => drop(container.session.set_hosts(&container.extra_hosts).await),
        false => hosts::refresh(&server.networks, &all, &left).await,
    }
    Ok(empty(StatusCode::OK))
}
