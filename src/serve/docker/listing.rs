//! The list of containers.

use std::sync::Arc;

use jiff::Timestamp;
use regex::Regex;
use serde_json::{Value, json};

use super::answer::{Answer, Refusal, found};
use super::call::Call;
use super::container::Container;
use super::description::mount_points;
use super::filters::Filters;
use super::health::{Health, Verdict};
use super::server::Server;
use super::state::{State, Status};

/// The filters that are known.
const KNOWN: [&str; 8] =
    ["name", "id", "label", "status", "ancestor", "exited", "network", "health"];

/// Lists containers, the newest first; without `all` those that run.
pub(super) fn list(server: &Server, call: &Call) -> Answer {
    let filters = Filters::of(call, &KNOWN)?;
    let names = filters.values("name").iter().map(|text| {
        Regex::new(text).map_err(|_| Refusal::bad(format!("invalid filter 'name={text}'")))
    });
    let names = names.collect::<Result<Vec<_>, _>>()?;
    let limit = call.number::<i64>("limit")?;
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
    let all = call.is_set("all")
        || limit.is_some()
        || !filters.values("status").is_empty()
        || !filters.values("exited").is_empty();
    let mut rows = Vec::new();
    for container in server.all().iter().rev() {
        let state = container.state.now();
        if (all || state.status.is_alive())
            && is_named(container, &names)
            && is_wanted(server, container, &state, &filters)
        {
            rows.push(row(server, container, &state));
        }
    }
    rows.truncate(limit.unwrap_or(usize::MAX));
    found(&Value::Array(rows))
}

/// Tells whether one of the expressions is in the name, with or without its slash.
fn is_named(container: &Container, names: &[Regex]) -> bool {
    let name = container.name();
    let slashed = format!("/{name}");
    let holds = |wanted: &Regex| wanted.is_match(&name) || wanted.is_match(&slashed);
    names.is_empty() || names.iter().any(holds)
}

fn is_wanted(server: &Server, container: &Container, state: &State, filters: &Filters) -> bool {
    let labels = container.labels();
    let image = &container.image;
    let is_image = |wanted: &String| {
        image.id.as_str().trim_start_matches("sha256:").starts_with(wanted.as_str())
            || image.id == **wanted
            || image.tags.iter().any(|tag| tag == wanted || *tag == format!("{wanted}:latest"))
    };
    filters.any("id", |id| container.id.starts_with(id.as_str()))
        && filters.any("status", |status| status == state.status.name())
        && filters.any("exited", |code| {
            state.status == Status::Exited && code.parse() == Ok(state.exit_code)
        })
        && filters.any("ancestor", is_image)
        && filters.any("network", |network| server.networks.is_in(&container.id, network))
        && filters.any("health", |health| health == health_of(container))
        && filters.labels(|name| labels.get(name).map(String::as_str))
}

/// Describes a container as the list has it.
pub(super) fn row(server: &Server, container: &Arc<Container>, state: &State) -> Value {
    let mode = container.host_config().network_mode.clone();
    json!({
        "Id": container.id,
        "Names": [format!("/{}", container.name())],
        "Image": container.body.image,
        "ImageID": container.image.id.to_string(),
        "Command": container.command.join(" "),
        "Created": container.created_at.as_second(),
        "Ports": container.ports.listed(),
        "Labels": container.labels(),
        "State": state.status.name(),
        "Status": status(state, container),
        "HostConfig": { "NetworkMode": mode.filter(|mode| !mode.is_empty()).unwrap_or("default".to_owned()) },
        "NetworkSettings": { "Networks": server.networks.endpoints(&container.id) },
        "Mounts": mount_points(server, container),
    })
}

/// Returns what is known of the service of a container.
fn health_of(container: &Container) -> &'static str {
    container.health.as_ref().map_or("none", |health| health.verdict().name())
}

/// Says the state as people read it.
fn status(state: &State, container: &Container) -> String {
    let since = |time: Option<Timestamp>| {
        let seconds = time.map_or(0, |time| Timestamp::now().as_second() - time.as_second());
        words(seconds)
    };
    match state.status {
        Status::Created => "Created".to_owned(),
        Status::Running => {
            let health = match container.health.as_ref().map(Health::verdict) {
                None => "",
                Some(Verdict::Starting) => " (health: starting)",
                Some(Verdict::Healthy) => " (healthy)",
                Some(Verdict::Unhealthy) => " (unhealthy)",
            };
            format!("Up {}{health}", since(state.started_at))
        }
        Status::Paused => format!("Up {} (Paused)", since(state.started_at)),
        Status::Restarting => {
            format!("Restarting ({}) {} ago", state.exit_code, since(state.finished_at))
        }
        Status::Exited => {
            format!("Exited ({}) {} ago", state.exit_code, since(state.finished_at))
        }
    }
}

/// Says a time in its largest unit, as Docker does.
fn words(seconds: i64) -> String {
    match seconds {
        ..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        120..3600 => format!("{} minutes", seconds / 60),
        3600..7200 => "About an hour".to_owned(),
        7200..172_800 => format!("{} hours", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn times_are_said_in_their_largest_unit() {
        let cases = [
            (0, "Less than a second"),
            (59, "59 seconds"),
            (61, "About a minute"),
            (7199, "About an hour"),
            (200_000, "2 days"),
        ];
        for (seconds, right) in cases {
            assert_eq!(words(seconds), right);
        }
    }
}
