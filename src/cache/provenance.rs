//! How an image came to be, as a predicate of SLSA (<https://slsa.dev/spec/v1.0/provenance>): the inputs
//! of its key, what it stands on, who built it, and when.
//!
//! It is said of images that were built here, by who signs them; of others nothing is known.

use serde_json::{Value, json};

use crate::engine::{Image, label};
use crate::key::Kind;
use crate::store::BuildRecord;

/// What the predicate is, in a statement.
pub const PROVENANCE: &str = "https://slsa.dev/provenance/v1";

/// What the external parameters are: the kind, the key and the key's inputs, by docs/keys.md.
const BUILD_TYPE: &str = "https://imgforge.dev/build/v1";

/// Who builds, where nobody says otherwise: an imgforge on some machine.
const BUILDER: &str = "https://imgforge.dev/builder/local";

/// Returns the predicate of an image that was built here; none where its labels do not say of what.
/// `builder` is a URI that stands for who built it.
pub fn predicate(image: &Image, build: &BuildRecord, builder: Option<&str>) -> Option<Value> {
    let labels = &image.config.labels;
    let kind = labels.get(label::KIND)?;
    let key = labels.get(label::KEY)?;
    let inputs: Value = serde_json::from_str(labels.get(label::INPUTS)?).ok()?;
    let time = |second: i64| jiff::Timestamp::from_second(second).ok().map(|at| at.to_string());
    Some(json!({
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": { "kind": kind, "key": key, "inputs": inputs },
            "internalParameters": { "platform": image.platform },
            "resolvedDependencies": dependencies(kind, &inputs, labels.get(label::PARENT)),
        },
        "runDetails": {
            "builder": {
                "id": builder.unwrap_or(BUILDER),
                "version": { "imgforge": build.version },
            },
            "metadata": {
                "startedOn": time(build.started),
                "finishedOn": time(build.finished),
            },
        },
    }))
}

/// Lists what went into an image: its parent, the commit of a checkout, the `FROM` images of a base.
fn dependencies(kind: &str, inputs: &Value, parent: Option<&String>) -> Vec<Value> {
    let mut found = Vec::new();
    let at = Kind::IMAGES.iter().position(|known| known.as_str() == kind);
    if let (Some(parent), Some(below)) = (parent, at.and_then(|at| at.checked_sub(1))) {
        found.push(json!({
            "name": "parent",
            "uri": format!("imgforge:{}/{parent}", Kind::IMAGES[below]),
            "digest": { "imgforgeKey": parent },
        }));
    }
    if let (Some(repo), Some(commit)) = (inputs["repo"].as_str(), inputs["base_commit"].as_str()) {
        found.push(json!({
            "name": "source",
            "uri": format!("git+https://github.com/{repo}@{commit}"),
            "digest": { "gitCommit": commit },
        }));
    }
    let from = inputs["from"].as_object().into_iter().flatten();
    found.extend(from.map(|(reference, identity)| {
        json!({
            "name": "from",
            "uri": format!("docker://{reference}"),
            "annotations": { "identity": identity },
        })
    }));
    found
}

#[cfg(test)]
mod tests {
    use crate::platform::Platform;

    use super::*;

    #[test]
    fn a_base_names_what_it_is_from() {
        let inputs = json!({ "from": { "python:3.9": "python 3.9.2" } });
        let found = dependencies("base", &inputs, None);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0]["uri"], "docker://python:3.9");
        assert_eq!(found[0]["annotations"]["identity"], "python 3.9.2");
    }

    #[test]
    fn the_inputs_of_the_key_and_the_times_are_told() {
        let parent = "a".repeat(64);
        let mut image = Image { platform: Platform::written("linux/amd64"), ..Image::default() };
        let inputs = json!({ "base_commit": "c0ffee", "repo": "a/b", "parent": parent });
        let labels = [
            (label::KIND, "checkout".to_owned()),
            (label::KEY, "b".repeat(64)),
            (label::PARENT, parent.clone()),
            (label::INPUTS, inputs.to_string()),
        ];
        image.config.labels = labels.map(|(name, value)| (name.to_owned(), value)).into();
        let build =
            BuildRecord { started: 1_700_000_000, finished: 1_700_000_060, version: "1".into() };
        let told = predicate(&image, &build, None).unwrap();
        assert_eq!(told["buildDefinition"]["externalParameters"]["inputs"], inputs);
        let dependencies = &told["buildDefinition"]["resolvedDependencies"];
        assert_eq!(dependencies[0]["uri"], format!("imgforge:env/{parent}"));
        assert_eq!(dependencies[1]["digest"]["gitCommit"], "c0ffee");
        let run = &told["runDetails"];
        assert_eq!(run["metadata"]["startedOn"], "2023-11-14T22:13:20Z");
        assert_eq!(run["metadata"]["finishedOn"], "2023-11-14T22:14:20Z");
        assert_eq!(run["builder"]["id"], BUILDER);
        let named = predicate(&image, &build, Some("https://ci.example/job")).unwrap();
        assert_eq!(named["runDetails"]["builder"]["id"], "https://ci.example/job");
    }
}
