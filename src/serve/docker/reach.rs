//! Which network a container is in.

use std::sync::Arc;

use bollard_stubs::models::ContainerCreateBody;

use crate::engine::{SandboxNetwork, SharedNetwork};

use super::answer::Refusal;
use super::container::Container;
use super::networks::Reach;
use super::server::Server;

/// The network of a container that is to be made.
pub(super) struct Place {
    /// What it can reach.
    pub(super) reach: Reach,
    /// The container whose network it has.
    pub(super) of: Option<Arc<Container>>,
}

/// Finds the network that is asked for. Whoever calls has the server's turn for names.
///
/// # Errors
/// Where there is none of the name.
pub(super) async fn find(
    server: &Server,
    body: &ContainerCreateBody,
    warnings: &mut Vec<String>,
) -> Result<Place, Refusal> {
    let mode = body.host_config.as_ref().and_then(|host| host.network_mode.as_deref());
    let mode = mode.unwrap_or_default();
    if let Some(called) = mode.strip_prefix("container:") {
        return of_container(server, body, called).await;
    }
    let plain = |network| Ok(Place { reach: Reach::Plain(network), of: None });
    match mode {
        "none" => return plain(SandboxNetwork::None),
        "host" => return plain(SandboxNetwork::Host),
        _ => {}
    }
    let endpoints =
        body.networking_config.as_ref().and_then(|config| config.endpoints_config.as_ref());
    let mut wanted = vec![mode];
    wanted.extend(endpoints.into_iter().flat_map(|all| all.keys()).map(String::as_str));
    let mut custom = Vec::new();
    for name in wanted.into_iter().filter(|name| !matches!(*name, "" | "default" | "bridge")) {
        let id = server.networks.custom(name)?;
        custom.extend(id.filter(|id| !custom.contains(id)));
    }
    if custom.is_empty() {
        return plain(server.settings.default_network);
    }
    let is_host = server.settings.default_network == SandboxNetwork::Host;
    if is_host && !server.networks.is_internal(&custom) {
        return plain(SandboxNetwork::Host);
    }
    let network = shared(server, &custom, warnings).await?;
    Ok(Place { reach: Reach::Shared(network), of: None })
}

/// Returns the network of another container.
async fn of_container(
    server: &Server,
    body: &ContainerCreateBody,
    called: &str,
) -> Result<Place, Refusal> {
    let target = server.find(called)?;
    let publishes = body.host_config.as_ref().is_some_and(|host| {
        host.publish_all_ports == Some(true)
            || host.port_bindings.as_ref().is_some_and(|ports| !ports.is_empty())
    });
    if publishes {
        return Err(Refusal::bad(
            "conflicting options: port publishing and the container type network mode",
        ));
    }
    Ok(Place { reach: target.reach_for_others().await?, of: Some(target) })
}

/// Returns the one namespace of some networks. Those that nobody was in yet get the same; of others the
/// first counts.
async fn shared(
    server: &Server,
    networks: &[String],
    warnings: &mut Vec<String>,
) -> Result<Arc<SharedNetwork>, Refusal> {
    let held = server.networks.held(networks);
    let network = match held.iter().find_map(|(_, held)| held.clone()) {
        Some(network) => network,
        None => Arc::new(server.engine.make_network().await?),
    };
    for (name, held) in &held {
        if held.as_ref().is_some_and(|held| !held.is(&network)) {
            warnings.push(format!(
                "network {name} is not joined: its containers run already, apart from those of the \
                 others that are asked for"
            ));
        }
    }
    server.networks.hold(networks, &network);
    Ok(network)
}
