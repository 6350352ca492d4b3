//! `create`: from what a client asks for to a session, and what it does not get.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex};

use bollard_stubs::models::ContainerCreateBody;
use hyper::StatusCode;
use jiff::Timestamp;
use regex::Regex;
use serde_json::json;

use crate::engine::{
    Image, NoLog, Quotas, SandboxNetwork, SandboxSession, SessionRequest, SessionSettings,
};

use super::answer::{Answer, Refusal, document};
use super::call::{Call, not_a_document, words_as_lists};
use super::capabilities;
use super::command::variables;
use super::container::{Container, hostname};
use super::container_volumes;
use super::health::Health;
use super::hosts;
use super::id::new_id;
use super::images;
use super::networks::Reach;
use super::not_given;
use super::output::Output;
use super::ports::Ports;
use super::reach;
use super::restarting::Restarting;
use super::server::Server;
use super::state::Watched;
use super::ulimits;

/// The least memory of a container, in bytes.
pub(super) const LEAST_MEMORY: i64 = 6 << 20;

/// Creates a container: its session starts, and its main command does not.
pub(super) async fn create(server: &Arc<Server>, call: &mut Call) -> Answer {
    let mut value = call.value().await?;
    words_as_lists(&mut value, &["Cmd", "Entrypoint"]);
    let body: ContainerCreateBody =
        serde_json::from_value(value).map_err(|error| not_a_document(&error))?;
    let wanted = call.parameter("name").map(str::to_owned);
    let reference = body.image.clone().unwrap_or_default();
    if reference.is_empty() {
        return Err(Refusal::bad("no image is named"));
    }
    let image = images::needed(server, &reference).await?;
    let command = main_command(&body, &image)?;
    let id = new_id();
    let mut warnings = Vec::new();
    let ports = Ports::of(&body, &mut warnings)?;
    let listed = body.host_config.as_ref().and_then(|host| host.extra_hosts.as_deref());
    let health = Health::of(&body, &image)?;
    let extra_hosts = extra_hosts(listed.unwrap_or_default())?;
    let mut request = session(&body, &image, &id, &mut warnings)?;
    request.settings.hosts.clone_from(&extra_hosts);
    let _names = server.names.lock().await;
    let name = name(server, wanted, &id)?;
    let place = reach::find(server, &body, &mut warnings).await?;
    if let Some(other) = &place.of {
        request.settings.hostname = Some(other.hostname());
    }
    let mut mounts = container_volumes::read(server, &body, &image, &mut warnings)?;
    server.settings.check(&warnings)?;
    let volumes = container_volumes::take(&server.volumes, &mut mounts)?;
    request.settings.binds.clone_from(&mounts.binds);
    request.settings.tmpfs.clone_from(&mounts.tmpfs);
    request.settings.volumes = container_volumes::of_session(&server.volumes, &mounts);
    let session = match start(server, request, &place.reach).await {
        Ok(session) => session,
        Err(refusal) => {
            volumes.release();
            server.remove_anonymous(&mounts).await;
            return Err(refusal);
        }
    };
    let container = Container {
        id: id.clone(),
        name: Mutex::new(name),
        created_at: Timestamp::now(),
        body,
        image,
        command,
        session: session.into(),
        health,
        mounts,
        volumes,
        reach: place.reach,
        network_of: place.of.map(|other| other.in_networks_as().to_owned()),
        extra_hosts,
        state: Watched::new(),
        output: Arc::new(Output::default()),
        ports,
        main: Mutex::default(),
        restarting: Restarting::new(),
        updated: Mutex::default(),
        events: server.events.clone(),
        input: tokio::sync::Mutex::default(),
        turn: tokio::sync::Mutex::default(),
    };
    let host = container.host_config();
    let mode = host.network_mode.as_deref().unwrap_or_default();
    server.networks.join(&id, mode, container.body.networking_config.as_ref());
    let touched = server.networks.of(container.in_networks_as());
    let container = Arc::new(container);
    server.add(container.clone());
    container.tell("create", &[]);
    hosts::refresh(&server.networks, &server.all(), &touched).await;
    Ok(document(StatusCode::CREATED, &json!({ "Id": id, "Warnings": warnings })))
}

/// Starts the session in its network.
async fn start(
    server: &Server,
    mut request: SessionRequest,
    reach: &Reach,
) -> Result<Box<dyn SandboxSession>, Refusal> {
    Ok(match reach {
        Reach::Plain(network) => {
            request.network = *network;
            server.engine.start(&request, &NoLog).await?
        }
        Reach::Shared(network) => server.engine.start_in(&request, network, &NoLog).await?,
    })
}

/// Checks that a name may be one.
///
/// # Errors
/// Where it has other characters than Docker allows.
pub(super) fn check_name(name: &str) -> Result<&str, Refusal> {
    static NAME: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new("^/?[a-zA-Z0-9][a-zA-Z0-9_.-]+$").expect("the expression is valid")
    });
    match NAME.is_match(name) {
        true => Ok(name.strip_prefix('/').unwrap_or(name)),
        false => Err(Refusal::bad(format!(
            "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        ))),
    }
}

/// Returns the name of a container, which no other has.
pub(super) fn name(server: &Server, wanted: Option<String>, id: &str) -> Result<String, Refusal> {
    let Some(wanted) = wanted else { return Ok(format!("session-{}", &id[..12])) };
    let name = check_name(&wanted)?;
    match server.all().iter().find(|other| other.name() == name) {
        Some(other) => Err(Refusal::conflict(format!(
            "Conflict. The container name \"/{name}\" is already in use by container \"{}\". You \
             have to remove (or rename) that container to be able to reuse that name.",
            other.id
        ))),
        None => Ok(name.to_owned()),
    }
}

/// Puts the main command together. An entrypoint of the request takes the place of the image's, and
/// of its command.
fn main_command(body: &ContainerCreateBody, image: &Image) -> Result<Vec<String>, Refusal> {
    let asked = body.cmd.clone().unwrap_or_default();
    let mut words = match &body.entrypoint {
        Some(entrypoint) if !entrypoint.is_empty() => {
            // One empty word is no entrypoint at all.
            entrypoint.iter().filter(|_| *entrypoint != [""]).cloned().collect()
        }
        _ => image.config.entrypoint.clone(),
    };
    let is_own = body.entrypoint.as_ref().is_none_or(Vec::is_empty);
    words.extend(match asked.is_empty() && is_own {
        true => image.config.cmd.clone(),
        false => asked,
    });
    match words.is_empty() {
        true => Err(Refusal::bad("no command specified")),
        false => Ok(words),
    }
}

/// Puts the session together.
fn session(
    body: &ContainerCreateBody,
    image: &Image,
    id: &str,
    warnings: &mut Vec<String>,
) -> Result<SessionRequest, Refusal> {
    let host = body.host_config.clone().unwrap_or_default();
    let text = |value: &Option<String>| value.clone().filter(|text| !text.is_empty());
    let positive = |number: Option<i64>| {
        number.filter(|number| *number > 0).and_then(|number| u64::try_from(number).ok())
    };
    not_given::name(&host, warnings);
    not_given::check_drivers(&host)?;
    if host.memory.is_some_and(|memory| memory > 0 && memory < LEAST_MEMORY) {
        return Err(Refusal::bad("Minimum memory limit allowed is 6MB"));
    }
    let quota = positive(host.cpu_quota)
        .map(|quota| quota.saturating_mul(1000) / positive(host.cpu_period).unwrap_or(100_000));
    let (added, dropped) = (host.cap_add.unwrap_or_default(), host.cap_drop.unwrap_or_default());
    Ok(SessionRequest {
        image: image.id.to_string(),
        user: text(&body.user),
        memory: positive(host.memory),
        milli_cpus: positive(host.nano_cpus).map(|nano| (nano / 1_000_000).max(1)).or(quota),
        pids: positive(host.pids_limit),
        quotas: Quotas::default(),
        network: SandboxNetwork::None,
        loopback_names: Vec::new(),
        variables: variables(body.env.as_deref().unwrap_or_default(), warnings)?,
        labels: BTreeMap::new(),
        settings: SessionSettings {
            hostname: Some(hostname(body, id)),
            working_dir: text(&body.working_dir),
            groups: host.group_add.unwrap_or_default(),
            read_only: host.readonly_rootfs == Some(true),
            dropped_capabilities: capabilities::dropped(&dropped, &added),
            process_limits: ulimits::read(host.ulimits.as_deref().unwrap_or_default(), warnings)?,
            ..SessionSettings::default()
        },
    })
}

/// Reads `NAME:ADDRESS`.
fn extra_hosts(list: &[String]) -> Result<Vec<(String, String)>, Refusal> {
    let read = |text: &String| {
        let wrong = || Refusal::bad(format!("invalid extra host: {text}"));
        let (name, address) = text.split_once([':', '=']).ok_or_else(wrong)?;
        let address = match address.trim_matches(['[', ']']) {
            "host-gateway" => "127.0.0.1".to_owned(),
            address => address.parse::<std::net::IpAddr>().map_err(|_| wrong())?.to_string(),
        };
        match hosts::is_name(name) {
            true => Ok((name.to_owned(), address)),
            false => Err(wrong()),
        }
    };
    list.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ImageConfig;

    fn list(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn the_command_is_put_together_as_docker_does() {
        let image = Image {
            config: ImageConfig {
                entrypoint: list(&["/entry"]),
                cmd: list(&["default"]),
                ..ImageConfig::default()
            },
            ..Image::default()
        };
        let with = |entrypoint: Option<&[&str]>, cmd: Option<&[&str]>| {
            let body = ContainerCreateBody {
                entrypoint: entrypoint.map(list),
                cmd: cmd.map(list),
                ..ContainerCreateBody::default()
            };
            main_command(&body, &image)
        };
        assert_eq!(with(None, None), Ok(list(&["/entry", "default"])));
        assert_eq!(with(None, Some(&["own"])), Ok(list(&["/entry", "own"])));
        assert_eq!(with(Some(&["sleep"]), Some(&["1"])), Ok(list(&["sleep", "1"])));
        assert_eq!(with(Some(&[""]), Some(&["sh"])), Ok(list(&["sh"])));
        assert!(with(Some(&["sleep"]), None).is_ok_and(|words| words == ["sleep"]));
        assert!(with(Some(&[""]), None).is_err());
    }

    #[test]
    fn names_and_hosts_are_checked() {
        assert_eq!(check_name("/a_b.c-1"), Ok("a_b.c-1"));
        for name in ["", "a", "-a", "a b", "a/b", "a\n"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert_eq!(extra_hosts(&list(&["a:10.0.0.1"])).unwrap()[0].1, "10.0.0.1");
        assert_eq!(extra_hosts(&list(&["a:[::1]"])).unwrap()[0].1, "::1");
        for wrong in ["a", "a:b", "a\tb:10.0.0.1", ":10.0.0.1"] {
            assert!(extra_hosts(&list(&[wrong])).is_err(), "{wrong}");
        }
    }
}
