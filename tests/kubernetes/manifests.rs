//! The manifests in the documentation are what an API server takes: every field of them is known.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::Role;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Lists the paths of all values.
fn paths(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| paths(value, &format!("{path}.{name}"), found));
        }
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(at, item)| paths(item, &format!("{path}[{at}]"), found)),
        _ => found.push(path.to_owned()),
    }
}

/// Checks that a type has every field of a document.
fn has_all<T: Serialize + DeserializeOwned>(document: &Value) {
    let typed: T = serde_json::from_value(document.clone()).unwrap();
    let (mut written, mut known) = (Vec::new(), Vec::new());
    paths(document, "", &mut written);
    paths(&serde_json::to_value(typed).unwrap(), "", &mut known);
    for path in written {
        assert!(known.contains(&path), "`{path}` is no field");
    }
}

/// Reads the YAML documents of a page.
pub(crate) fn documents(page: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(page).unwrap();
    let margin = |line: &str| line.len() - line.trim_start().len();
    let mut documents = Vec::new();
    for block in text.split("```yaml\n").skip(1) {
        let block = block.split("```").next().unwrap();
        let least = block.lines().filter(|line| !line.trim().is_empty()).map(margin).min();
        let lines = block.lines().map(|line| line.get(least.unwrap_or(0)..).unwrap_or(""));
        let block = lines.collect::<Vec<_>>().join("\n");
        documents.extend(
            block.split("\n---\n").map(|text| serde_yaml_ng::from_str::<Value>(text).unwrap()),
        );
    }
    documents
}

#[test]
fn every_field_of_the_manifests_of_the_documentation_is_known() {
    let mut kinds = Vec::new();
    for page in ["docs/kubernetes.md", "docs/shards.md"] {
        for document in documents(page) {
            let kind = document["kind"].as_str().unwrap_or("none").to_owned();
            match kind.as_str() {
                "Namespace" => has_all::<Namespace>(&document),
                "NetworkPolicy" => has_all::<NetworkPolicy>(&document),
                "Role" => has_all::<Role>(&document),
                "Job" => has_all::<Job>(&document),
                // A template of pods has no kind; what is of a CI service has none either.
                "none" if document.get("spec").is_some() => has_all::<Pod>(&document),
                "none" => continue,
                other => panic!("{page}: what is `{other}`?"),
            }
            kinds.push(kind);
        }
    }
    assert_eq!(kinds, ["Namespace", "NetworkPolicy", "Role", "none", "Job"]);
}
