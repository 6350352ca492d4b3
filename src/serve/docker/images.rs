//! Images, as the engine has them.

use std::collections::BTreeMap;

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::engine::reference::Reference;
use crate::engine::{Image, ImageConfig, ListedImage};

use super::answer::{Answer, Refusal, empty, found};
use super::call::Call;
use super::events::Kind;
use super::filters::Filters;
use super::server::Server;

/// When images were made: the engine's carry no date, so that equal inputs give equal images.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// The filters that are known.
const KNOWN: [&str; 3] = ["reference", "label", "dangling"];

/// Finds an image by a name, an id, or the beginning of an id.
///
/// # Errors
/// Where there is none.
pub(super) async fn needed(server: &Server, reference: &str) -> Result<Image, Refusal> {
    if let Some(image) = server.engine.inspect(reference).await? {
        return Ok(image);
    }
    let digits = reference.strip_prefix("sha256:").unwrap_or(reference);
    let is_beginning = digits.len() >= 4 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_beginning {
        let all = server.engine.images().await?;
        let mut begins = all.iter().filter(|image| hex_of(image.id.as_str()).starts_with(digits));
        if let (Some(found), None) = (begins.next(), begins.next())
            && let Some(image) = server.engine.inspect(found.id.as_str()).await?
        {
            return Ok(image);
        }
    }
    let named = reference.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
    let tag = if named { "" } else { ":latest" };
    Err(Refusal::absent(format!("No such image: {reference}{tag}")))
}

fn hex_of(id: &str) -> &str {
    id.strip_prefix("sha256:").unwrap_or(id)
}

/// Lists images.
pub(super) async fn list(server: &Server, call: &Call) -> Answer {
    let filters = Filters::of(call, &KNOWN)?;
    let all = server.engine.images().await?;
    let mut rows = Vec::new();
    for image in &all {
        let is_named = filters
            .any("reference", |pattern| image.tags.iter().any(|tag| is_reference(tag, pattern)));
        let dangles = image.tags.is_empty();
        let is_dangling =
            filters.any("dangling", |wanted| dangles == matches!(wanted.as_str(), "true" | "1"));
        if !is_named
            || !is_dangling
            || !filters.labels(|name| image.labels.get(name).map(String::as_str))
        {
            continue;
        }
        rows.push(row(image));
    }
    found(&Value::Array(rows))
}

/// Describes an image as the list has it.
pub(super) fn row(image: &ListedImage) -> Value {
    json!({
        "Id": image.id.to_string(),
        "ParentId": "",
        "RepoTags": image.tags,
        "RepoDigests": [],
        "Created": 0,
        "Size": image.size,
        "SharedSize": -1,
        "VirtualSize": image.size,
        "Labels": image.labels,
        "Containers": -1,
    })
}

/// Tells whether a name is what a pattern of a filter means: with its tag, or without one.
fn is_reference(tag: &str, pattern: &str) -> bool {
    let Ok(glob) = glob::Pattern::new(pattern) else { return false };
    let options = glob::MatchOptions { require_literal_separator: true, ..Default::default() };
    let (repository, _) = crate::engine::reference::split_tag(tag);
    glob.matches_with(tag, options) || glob.matches_with(repository, options)
}

/// Reads the name of an image.
///
/// # Errors
/// Where it is none.
pub(super) fn reference_of(name: &str) -> Result<Reference, Refusal> {
    let wrong = |_| Refusal::bad(format!("invalid reference format: {name}"));
    name.parse().map_err(wrong)
}

/// Gives an image one more name.
pub(super) async fn tag(server: &Server, call: &Call, reference: &str) -> Answer {
    let image = needed(server, reference).await?;
    let repository = call.parameter("repo").ok_or_else(|| Refusal::bad("a `repo` is needed"))?;
    let name = match call.parameter("tag") {
        Some(tag) => format!("{repository}:{tag}"),
        None => repository.to_owned(),
    };
    server.engine.tag(image.id.as_str(), &reference_of(&name)?).await?;
    server.events.tell(Kind::Image, "tag", image.id.as_str(), &[("name", &name)]);
    Ok(empty(StatusCode::CREATED))
}

/// Takes a name from an image, and the image away with its last name.
pub(super) async fn remove(server: &Server, call: &Call, reference: &str) -> Answer {
    let image = needed(server, reference).await?;
    let is_id = hex_of(image.id.as_str()).starts_with(hex_of(reference));
    let force = call.is_set("force");
    if is_id && image.tags.len() > 1 && !force {
        return Err(Refusal::conflict(format!(
            "conflict: unable to delete {reference} (must be forced) - image is referenced in \
             multiple repositories"
        )));
    }
    let is_last = is_id || image.tags.len() < 2;
    let user = server.all().into_iter().find(|container| container.image.id == image.id);
    if let Some(container) = user.filter(|_| is_last && !force) {
        return Err(Refusal::conflict(format!(
            "conflict: unable to remove repository reference \"{reference}\" (must force) - \
             container {} is using its referenced image {}",
            &container.id[..12],
            image.id
        )));
    }
    let (untagged, name) = match is_id {
        true => (image.tags.clone(), image.id.as_str()),
        false => {
            (image.tags.iter().filter(|tag| is_named(tag, reference)).cloned().collect(), reference)
        }
    };
    server.engine.remove(name).await?;
    let mut rows: Vec<Value> = untagged.iter().map(|tag| json!({ "Untagged": tag })).collect();
    for tag in &untagged {
        server.events.tell(Kind::Image, "untag", image.id.as_str(), &[("name", tag)]);
    }
    if is_last {
        server.events.tell(Kind::Image, "delete", image.id.as_str(), &[("name", image.name())]);
        rows.push(json!({ "Deleted": image.id.to_string() }));
    }
    found(&Value::Array(rows))
}

/// Tells whether a name of an image is what a reference means.
fn is_named(tag: &str, reference: &str) -> bool {
    let (repository, version) = crate::engine::reference::split_tag(reference);
    let repository = repository.strip_prefix("docker.io/").unwrap_or(repository);
    let repository = repository.strip_prefix("library/").unwrap_or(repository);
    crate::engine::reference::split_tag(tag) == (repository, version)
}

/// Lists the layers of an image, the highest first. How they were made is not kept.
pub(super) async fn history(server: &Server, reference: &str) -> Answer {
    let image = needed(server, reference).await?;
    let names = server.engine.layer_storage_ids(&image.diff_ids);
    let sizes = server.engine.layer_disk_usage(&names).await?;
    let mut rows = Vec::new();
    for size in sizes.into_iter().rev() {
        let is_top = rows.is_empty();
        rows.push(json!({
            "Id": if is_top { image.id.as_str() } else { "<missing>" },
            "Created": 0,
            "CreatedBy": "",
            "Tags": if is_top { json!(image.tags) } else { Value::Null },
            "Size": size.unwrap_or(0),
            "Comment": "",
        }));
    }
    found(&Value::Array(rows))
}

/// Describes an image.
pub(super) async fn inspect(server: &Server, reference: &str) -> Answer {
    let image = needed(server, reference).await?;
    let layers: Vec<String> = image.diff_ids.iter().map(ToString::to_string).collect();
    let platform = image.platform.to_string();
    let mut parts = platform.split('/');
    let (system, architecture) = (parts.next(), parts.next());
    found(&json!({
        "Id": image.id.to_string(),
        "RepoTags": image.tags,
        "RepoDigests": image.repo_digests,
        "Parent": "",
        "Comment": "",
        "Created": CREATED,
        "DockerVersion": "",
        "Author": "",
        "Config": config(&image.config),
        "Architecture": architecture,
        "Os": system,
        "Size": image.size,
        "VirtualSize": image.size,
        "GraphDriver": { "Name": "imgforge", "Data": {} },
        "RootFS": { "Type": "layers", "Layers": layers },
        "Metadata": { "LastTagTime": CREATED },
    }))
}

fn config(config: &ImageConfig) -> Value {
    let list = |words: &[String]| match words {
        [] => Value::Null,
        words => json!(words),
    };
    let labels: &BTreeMap<_, _> = &config.labels;
    let mut value = json!({
        "Env": config.env,
        "Cmd": list(&config.cmd),
        "Entrypoint": list(&config.entrypoint),
        "WorkingDir": config.working_dir,
        "User": config.user,
        "Labels": labels,
        "Shell": list(&config.shell),
    });
    let service = &config.service;
    let names = |list: &[String]| -> serde_json::Map<String, Value> {
        list.iter().map(|name| (name.clone(), json!({}))).collect()
    };
    if !service.exposed_ports.is_empty() {
        value["ExposedPorts"] = Value::Object(names(&service.exposed_ports));
    }
    if !service.volumes.is_empty() {
        value["Volumes"] = Value::Object(names(&service.volumes));
    }
    if !service.stop_signal.is_empty() {
        value["StopSignal"] = json!(service.stop_signal);
    }
    if let Some(check) = &service.health_check {
        value["Healthcheck"] = json!(check);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::is_reference;

    #[test]
    fn a_filter_matches_with_and_without_a_tag() {
        for pattern in ["sess/task", "sess/task:1", "sess/*", "sess/task:*"] {
            assert!(is_reference("sess/task:1", pattern), "{pattern}");
        }
        for pattern in ["task", "sess/task:2", "*"] {
            assert!(!is_reference("sess/task:1", pattern), "{pattern}");
        }
    }
}
