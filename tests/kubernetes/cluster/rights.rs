//! The rights of whoever asks: those of the Role in `docs/kubernetes.md`, and no others.

use k8s_openapi::api::rbac::v1::{PolicyRule, Role};

use crate::manifests;

/// What the Role allows.
pub(crate) struct Rights(Vec<PolicyRule>);

/// What is asked for.
pub(super) struct Right<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    pub resource: &'a str,
    /// A part of the thing, such as `exec`; empty for the thing itself.
    pub part: &'a str,
}

impl Rights {
    /// Reads the Role of the documentation.
    pub(crate) fn of_documentation() -> Rights {
        let documents = manifests::documents("docs/kubernetes.md");
        let role = documents.into_iter().find(|document| document["kind"] == "Role").unwrap();
        let role: Role = serde_json::from_value(role).unwrap();
        Rights(role.rules.unwrap())
    }

    pub(super) fn allow(&self, right: &Right<'_>) -> bool {
        let name = right.name();
        let lists = |list: &Option<Vec<String>>, wanted: &str| {
            list.iter().flatten().any(|known| known == wanted)
        };
        self.0.iter().any(|rule| {
            lists(&rule.api_groups, right.group)
                && lists(&rule.resources, &name)
                && rule.verbs.iter().any(|verb| verb == right.verb)
        })
    }
}

impl Right<'_> {
    /// The resource, as rules name it.
    pub(super) fn name(&self) -> String {
        match self.part {
            "" => self.resource.to_owned(),
            part => format!("{}/{part}", self.resource),
        }
    }
}
