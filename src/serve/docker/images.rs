//! Images, as the engine has them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::engine::{Image, ImageConfig};

use super::answer::{Answer, Refusal, found};
use super::call::Call;
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
pub async fn needed(server: &Server, reference: &str) -> Result<Image, Refusal> {
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
pub async fn list(server: &Server, call: &Call) -> Answer {
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
        rows.push(json!({
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
        }));
    }
    found(&Value::Array(rows))
}

/// Tells whether a name is what a pattern of a filter means: with its tag, or without one.
fn is_reference(tag: &str, pattern: &str) -> bool {
    let Ok(glob) = glob::Pattern::new(pattern) else { return false };
    let options = glob::MatchOptions { require_literal_separator: true, ..Default::default() };
    let (repository, _) = crate::engine::reference::split_tag(tag);
    glob.matches_with(tag, options) || glob.matches_with(repository, options)
}

/// Describes an image.
pub async fn inspect(server: &Server, reference: &str) -> Answer {
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
    json!({
        "Env": config.env,
        "Cmd": list(&config.cmd),
        "Entrypoint": list(&config.entrypoint),
        "WorkingDir": config.working_dir,
        "User": config.user,
        "Labels": labels,
        "Shell": list(&config.shell),
    })
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
