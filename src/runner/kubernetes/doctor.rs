//! What can be seen of a cluster beforehand, with the rights of the Role of `docs/kubernetes.md`.

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::api::{Api, ListParams, PostParams};

use super::client::{ClusterError, Server, request};
use super::config::Settings;

/// The oldest version that imgforge is for: its minor number.
const OLDEST: u64 = 31;

/// What imgforge asks of a cluster: group, resource, the part of it, and the verbs.
const RIGHTS: [(&str, &str, &str, &[&str]); 5] = [
    ("", "pods", "", &["create", "get", "list", "watch", "delete", "deletecollection"]),
    ("", "pods", "exec", &["create", "get"]),
    ("", "secrets", "", &["create", "delete", "deletecollection"]),
    ("", "events", "", &["list"]),
    ("coordination.k8s.io", "leases", "", &["create", "get", "list", "update", "delete"]),
];

/// The name of what is found of the registry that pods get their images from.
pub const IMAGES: &str = "pod images";

const ROLE: &str = "give the user the Role of docs/kubernetes.md in this namespace";

/// What was seen of one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub name: &'static str,
    /// What was seen.
    pub detail: String,
    /// How bad that is, and what would help.
    pub trouble: Option<Trouble>,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Whether no pod can be run.
    pub is_fatal: bool,
    /// What would help.
    pub fix: String,
}

impl Finding {
    /// Tells whether no pod can be run for it.
    pub fn is_fatal(&self) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| trouble.is_fatal)
    }
}

pub(super) fn fine(name: &'static str, detail: String) -> Finding {
    Finding { name, detail, trouble: None }
}

pub(super) fn trouble(
    name: &'static str,
    is_fatal: bool,
    detail: String,
    fix: impl Into<String>,
) -> Finding {
    Finding { name, detail, trouble: Some(Trouble { is_fatal, fix: fix.into() }) }
}

/// Looks at a cluster: its server, the rights that imgforge has there, and its quota. Nothing is made.
pub async fn look(settings: &Settings) -> Vec<Finding> {
    let server = match Server::connect(settings).await {
        Ok(server) => server,
        Err(error) => return vec![failed(&error)],
    };
    let version = request(&|_| {}, || server.client.apiserver_version()).await;
    let mut findings = vec![match version {
        Ok(version) => {
            let text = format!("{} (Kubernetes {})", server.address, version.git_version);
            // A provider may write `31+`.
            let digits: String =
                version.minor.chars().take_while(|digit| digit.is_ascii_digit()).collect();
            match digits.parse::<u64>() {
                Ok(minor) if version.major == "1" && minor < OLDEST => {
                    let fix = format!("pods need Kubernetes 1.{OLDEST} or newer");
                    trouble("cluster", false, text, fix)
                }
                _ => fine("cluster", text),
            }
        }
        Err(failure) => {
            let error = super::client::cluster_error(&server, "tell its version", failure);
            return vec![failed(&error)];
        }
    }];
    findings.push(fine("namespace", server.namespace.clone()));
    findings.push(rights(&server).await);
    findings.extend(quota(&server).await);
    findings
}

pub(super) fn failed(error: &ClusterError) -> Finding {
    trouble("cluster", true, error.to_string(), error.hint())
}

/// Asks for each right.
async fn rights(server: &Server) -> Finding {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(server.client.clone());
    let mut missing = Vec::new();
    for (group, resource, part, verbs) in RIGHTS {
        for verb in verbs {
            let asked = ResourceAttributes {
                namespace: Some(server.namespace.clone()),
                group: Some(group.to_owned()),
                resource: Some(resource.to_owned()),
                subresource: (!part.is_empty()).then(|| part.to_owned()),
                verb: Some((*verb).to_owned()),
                ..ResourceAttributes::default()
            };
            let spec = SelfSubjectAccessReviewSpec {
                resource_attributes: Some(asked),
                ..SelfSubjectAccessReviewSpec::default()
            };
            let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
            let params = PostParams::default();
            match request(&|_| {}, || reviews.create(&params, &review)).await {
                Ok(answer) if answer.status.as_ref().is_some_and(|status| status.allowed) => {}
                Ok(_) if part.is_empty() => missing.push(format!("{verb} {resource}")),
                Ok(_) => missing.push(format!("{verb} {resource}/{part}")),
                Err(failure) => {
                    let detail = format!("they cannot be asked for: {}", failure.text());
                    let fix = "`kubectl auth can-i --list` may say more";
                    return trouble("rights", false, detail, fix);
                }
            }
        }
    }
    match missing.is_empty() {
        true => fine("rights", "all that pods need".to_owned()),
        false => trouble("rights", true, format!("missing: {}", missing.join(", ")), ROLE),
    }
}

/// Tells what is left of the quotas; nothing where they may not be seen.
async fn quota(server: &Server) -> Vec<Finding> {
    let quotas: Api<ResourceQuota> = Api::namespaced(server.client.clone(), &server.namespace);
    let all = ListParams::default();
    let Ok(listed) = request(&|_| {}, || quotas.list(&all)).await else { return Vec::new() };
    let texts = listed.items.into_iter().filter_map(|quota| {
        let status = quota.status?;
        let (hard, used) = (status.hard?, status.used.unwrap_or_default());
        let of =
            |(name, hard): (&String, &k8s_openapi::apimachinery::pkg::api::resource::Quantity)| {
                let used = used.get(name).map_or("0", |used| used.0.as_str());
                format!("{name} {used} of {}", hard.0)
            };
        Some(hard.iter().map(of).collect::<Vec<_>>().join(", "))
    });
    texts.map(|text| fine("quota", text)).collect()
}
