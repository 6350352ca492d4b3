//! The operator's part of a pod: a file with a partial Pod, merged under what imgforge sets.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value};

use crate::nearest::nearest;

use super::label;

/// The fields that a template may have. Whatever is not here is imgforge's own, or would open the sandbox.
const FIELDS: [&str; 17] = [
    "metadata.annotations",
    "metadata.labels",
    "spec.affinity.nodeAffinity",
    "spec.affinity.podAntiAffinity",
    "spec.hostUsers",
    "spec.imagePullSecrets",
    "spec.nodeSelector",
    "spec.overhead",
    "spec.preemptionPolicy",
    "spec.priority",
    "spec.priorityClassName",
    "spec.runtimeClassName",
    "spec.schedulerName",
    "spec.schedulingGates",
    "spec.serviceAccountName",
    "spec.tolerations",
    "spec.topologySpreadConstraints",
];

/// Entries of maps that imgforge sets itself.
const OWN: [&str; 2] =
    ["metadata.labels.app.kubernetes.io/managed-by", "spec.nodeSelector.kubernetes.io/arch"];

/// The tolerations that imgforge sets itself.
const OWN_TOLERATIONS: [&str; 2] =
    ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// A template that was checked. The default has no field.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Template {
    fields: Map<String, Value>,
}

/// Why a template is refused.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The file cannot be read.
    #[error("cannot read the pod template `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is no YAML, or no Pod.
    #[error("the pod template `{}` is not a Pod: {reason}", path.display())]
    NotAPod {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A field that Kubernetes does not know.
    #[error("pod template `{}`: a Pod has no field `{field}`", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The field, from the root of the Pod.
        field: String,
        /// The known field that resembles it.
        nearest: Option<String>,
    },
    /// A field that imgforge sets itself, or that would open the sandbox.
    #[error("pod template `{}`: `{field}` is not taken: {why}", path.display())]
    NotTaken {
        /// The file.
        path: PathBuf,
        /// The field, from the root of the Pod.
        field: String,
        /// Why.
        why: &'static str,
    },
}

impl TemplateError {
    /// Returns what would help.
    pub fn hint(&self) -> Option<String> {
        match self {
            TemplateError::File { .. } | TemplateError::NotAPod { .. } => None,
            TemplateError::Unknown { nearest: Some(nearest), .. } => {
                Some(format!("did you mean `{nearest}`?"))
            }
            TemplateError::Unknown { .. } | TemplateError::NotTaken { .. } => {
                Some(format!("a template may have {}", FIELDS.join(", ")))
            }
        }
    }
}

impl Template {
    /// Reads a template from a file: YAML or JSON.
    ///
    /// # Errors
    /// The file cannot be read or is no Pod, a field is unknown, or is not taken from a template.
    pub fn read(path: &Path) -> Result<Template, TemplateError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| TemplateError::File { path: path.to_owned(), source })?;
        Template::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Template, TemplateError> {
        let not_a_pod = |reason: String| TemplateError::NotAPod { path: path.to_owned(), reason };
        let value: Value =
            serde_saphyr::from_str(text).map_err(|error| not_a_pod(error.to_string()))?;
        let Value::Object(mut fields) = value else {
            return Err(not_a_pod("it is no mapping".to_owned()));
        };
        for (name, wanted) in [("apiVersion", "v1"), ("kind", "Pod")] {
            match fields.remove(name) {
                None => {}
                Some(Value::String(found)) if found == wanted => {}
                Some(other) => return Err(not_a_pod(format!("`{name}` is {other}, not {wanted}"))),
            }
        }
        check_taken(path, &fields)?;
        check_known(path, &fields)?;
        Ok(Template { fields })
    }

    /// Merges the template under a pod.
    pub fn merge(&self, pod: Pod) -> Pod {
        let mut whole = serde_json::to_value(&pod).expect("a Pod is JSON");
        merge(&mut whole, &Value::Object(self.fields.clone()));
        serde_json::from_value(whole).expect("a checked template keeps a Pod one")
    }
}

/// Puts what `below` has and `above` has not into `above`; lists become one.
fn merge(above: &mut Value, below: &Value) {
    match (above, below) {
        (Value::Object(above), Value::Object(below)) => {
            for (name, value) in below {
                match above.get_mut(name) {
                    Some(there) => merge(there, value),
                    None => {
                        above.insert(name.clone(), value.clone());
                    }
                }
            }
        }
        (Value::Array(above), Value::Array(below)) => above.extend(below.iter().cloned()),
        _ => {}
    }
}

/// Checks that every field may be in a template.
fn check_taken(path: &Path, fields: &Map<String, Value>) -> Result<(), TemplateError> {
    let not_taken =
        |field: String, why| Err(TemplateError::NotTaken { path: path.to_owned(), field, why });
    for field in leaves("", fields) {
        let taken = FIELDS.iter().find(|taken| is_below(&field, taken));
        if taken.is_none() {
            // What Kubernetes does not know is told as that.
            check_known(path, fields)?;
            return not_taken(field, "imgforge sets it itself, or the tests must not have it");
        }
        let key =
            field.strip_prefix("metadata.labels.").or(field.strip_prefix("metadata.annotations."));
        let is_own = key.is_some_and(|key| key.starts_with(label::PREFIX));
        if is_own || OWN.contains(&field.as_str()) {
            return not_taken(field, "imgforge sets it itself");
        }
    }
    let tolerations = fields.get("spec").and_then(|spec| spec.get("tolerations"));
    for (at, one) in tolerations.and_then(Value::as_array).into_iter().flatten().enumerate() {
        let key = one.get("key").and_then(Value::as_str);
        if key.is_some_and(|key| OWN_TOLERATIONS.contains(&key)) {
            return not_taken(format!("spec.tolerations[{at}]"), "imgforge sets it itself");
        }
    }
    Ok(())
}

fn is_below(field: &str, above: &str) -> bool {
    field.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Lists the paths of all values that are no mapping; an empty mapping is a value.
fn leaves(at: &str, fields: &Map<String, Value>) -> Vec<String> {
    let mut found = Vec::new();
    for (name, value) in fields {
        let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        match value {
            Value::Object(below) if !below.is_empty() => found.extend(leaves(&path, below)),
            _ => found.push(path),
        }
    }
    found
}

/// Checks that a Pod has every field: what is read as a Pod and written again has lost none.
fn check_known(path: &Path, fields: &Map<String, Value>) -> Result<(), TemplateError> {
    let mut given = fields.clone();
    // The one field that a Pod of the template cannot be without.
    if let Some(Value::Object(spec)) = given.get_mut("spec") {
        spec.entry("containers").or_insert_with(|| Value::Array(Vec::new()));
    }
    let pod: Pod = serde_json::from_value(Value::Object(given.clone())).map_err(|error| {
        TemplateError::NotAPod { path: path.to_owned(), reason: error.to_string() }
    })?;
    let again = serde_json::to_value(&pod).expect("a Pod is JSON");
    match lost("", &Value::Object(given), &again) {
        None => Ok(()),
        Some(field) => {
            let known = FIELDS.iter().flat_map(|known| {
                known.match_indices('.').map(|(at, _)| &known[..at]).chain([*known])
            });
            let nearest = nearest(&field, known.filter(|known| *known != field));
            Err(TemplateError::Unknown { path: path.to_owned(), field, nearest })
        }
    }
}

/// Finds the first field of `given` that `again` has not.
fn lost(at: &str, given: &Value, again: &Value) -> Option<String> {
    match (given, again) {
        (Value::Object(given), again) => given.iter().find_map(|(name, value)| {
            let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
            match again.get(name) {
                Some(there) => lost(&path, value, there),
                None if value.is_null() => None,
                None => Some(path),
            }
        }),
        (Value::Array(given), Value::Array(again)) => {
            let pairs = given.iter().zip(again).enumerate();
            pairs
                .into_iter()
                .find_map(|(number, (given, again))| lost(&format!("{at}[{number}]"), given, again))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    fn read(text: &str) -> Result<Template, TemplateError> {
        Template::parse(Path::new("pod.yaml"), text)
    }

    #[test]
    fn what_an_operator_needs_is_merged_and_what_imgforge_sets_stays() {
        let template = read(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  labels: {kueue.x-k8s.io/queue-name: team}\n\
             spec:\n  schedulerName: volcano\n  priorityClassName: low\n  runtimeClassName: gvisor\n  \
             nodeSelector: {pool: eval}\n  tolerations: [{key: spot, operator: Exists}]\n  affinity:\n    \
             nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: []}}\n",
        );
        let pod = testing::pod();
        let merged = template.unwrap().merge(pod.clone());
        let (before, spec) = (pod.spec.unwrap(), merged.spec.unwrap());
        let labels = merged.metadata.labels.unwrap();
        assert_eq!(labels["kueue.x-k8s.io/queue-name"], "team");
        assert!(pod.metadata.labels.unwrap().iter().all(|(name, value)| labels[name] == *value));
        assert_eq!(spec.scheduler_name.as_deref(), Some("volcano"));
        let selector = spec.node_selector.unwrap();
        assert_eq!((&*selector["pool"], &*selector["kubernetes.io/arch"]), ("eval", "amd64"));
        let tolerations = spec.tolerations.unwrap();
        assert_eq!(tolerations.len(), 3);
        assert_eq!(tolerations[..2], before.tolerations.unwrap()[..]);
        let affinity = spec.affinity.unwrap();
        assert!(affinity.node_affinity.is_some() && affinity.pod_affinity.is_some());
        assert_eq!(spec.containers, before.containers);
    }

    #[test]
    fn a_conflict_is_told_by_the_name_of_the_field() {
        for (text, field) in [
            ("spec: {hostname: x}", "spec.hostname"),
            ("spec: {hostPID: true}", "spec.hostPID"),
            ("spec: {hostNetwork: true}", "spec.hostNetwork"),
            ("spec: {shareProcessNamespace: true}", "spec.shareProcessNamespace"),
            ("spec: {containers: [{name: tests}]}", "spec.containers"),
            ("spec: {initContainers: []}", "spec.initContainers"),
            ("spec: {volumes: []}", "spec.volumes"),
            ("spec: {securityContext: {}}", "spec.securityContext"),
            ("spec: {dnsPolicy: Default}", "spec.dnsPolicy"),
            ("metadata: {name: x}", "metadata.name"),
            (
                "metadata: {labels: {dev.imgforge.network: bridge}}",
                "metadata.labels.dev.imgforge.network",
            ),
            (
                "spec: {nodeSelector: {kubernetes.io/arch: arm64}}",
                "spec.nodeSelector.kubernetes.io/arch",
            ),
            ("spec: {tolerations: [{key: node.kubernetes.io/unreachable}]}", "spec.tolerations[0]"),
            ("spec: {affinity: {podAffinity: {}}}", "spec.affinity.podAffinity"),
            ("status: {phase: Failed}", "status.phase"),
        ] {
            match read(text) {
                Err(TemplateError::NotTaken { field: found, .. }) => {
                    assert_eq!(found, field, "{text}")
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn an_unknown_field_is_refused_with_the_one_that_was_meant() {
        for (text, field, meant) in [
            ("spec: {nodeselector: {a: b}}", "spec.nodeselector", "spec.nodeSelector"),
            ("spec: {schedularName: x}", "spec.schedularName", "spec.schedulerName"),
            ("spec: {tolerations: [{keys: x}]}", "spec.tolerations[0].keys", "spec.tolerations"),
            ("spek: {}", "spek", "spec"),
        ] {
            match read(text) {
                Err(TemplateError::Unknown { field: found, nearest, .. }) => {
                    assert_eq!(
                        (found.as_str(), nearest.as_deref()),
                        (field, Some(meant)),
                        "{text}"
                    );
                }
                other => panic!("{text}: {other:?}"),
            }
        }
        for text in ["[]", "a: [", "kind: Deployment", "spec: {nodeSelector: 3}"] {
            assert!(matches!(read(text), Err(TemplateError::NotAPod { .. })), "{text}");
        }
    }
}
