//! The pod of an evaluation. Pure: what is given is what is made.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, EmptyDirVolumeSource, EnvVar, HostAlias,
    LocalObjectReference, Pod, PodAffinity, PodAffinityTerm, PodDNSConfig, PodSecurityContext,
    PodSpec, ResourceRequirements, SeccompProfile, SecurityContext, Toleration, Volume,
    VolumeMount, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use sha2::{Digest as _, Sha256};

use crate::engine::{CAPABILITIES, EngineError, Result, SandboxNetwork, SandboxRequest};
use crate::key::Key;

use super::config::Settings;
use super::inputs::{self, INPUTS};
use super::label;
use super::script::{self, OUTPUTS};

/// The container that runs the tests.
pub(super) const TESTS: &str = "tests";

/// The container that lives on when the tests have ended, so that their output can be fetched.
pub(super) const KEEPER: &str = "keeper";

/// How long a pod is there beyond its limits before the cluster ends it, in seconds.
const LEAK_GUARD: u64 = 900;

/// What the volume of the output takes beyond the log, in bytes.
const BESIDE_LOG: u64 = 64 << 20;

/// The resource that everything of a run belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The name of the Lease.
    pub name: String,
    /// The uid that the API server gave it.
    pub uid: String,
}

/// What a pod is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// To run the tests, and to keep their output until it is fetched.
    Tests,
    /// To wait for commands.
    Session,
}

/// What a pod is made of, beside the request.
#[derive(Debug, Clone)]
pub struct PodOrder<'a> {
    /// The script and its limits; its image is a reference by digest.
    pub request: &'a SandboxRequest,
    /// What the pod is for.
    pub work: Work,
    /// The Lease of the run.
    pub owner: &'a Owner,
    /// The name of the run.
    pub run_id: &'a str,
    /// The instance.
    pub instance: &'a str,
    /// The key of the evaluation.
    pub key: &'a Key,
    /// The key of its environment image: pods with an equal one go to a node together.
    pub environment: Option<&'a Key>,
    /// The how many-th pod of the run it is.
    pub number: u64,
    /// The architecture, in Kubernetes's spelling.
    pub architecture: &'a str,
    /// When it is made, in seconds since 1970.
    pub now: u64,
    /// How much more than usual is asked for: doubled after it was evicted.
    pub more: u32,
}

/// Returns the name of a pod: made again it is the same, and the API server says that it is there.
pub fn name(owner: &Owner, key: &Key, number: u64) -> String {
    let text = format!("{} {key} {number}", owner.uid);
    format!("imgforge-{}", &hex::encode(Sha256::digest(text))[..20])
}

/// Returns 16 digits that stand for a text where only 63 characters are allowed.
pub(super) fn short(text: &str) -> String {
    hex::encode(Sha256::digest(text))[..16].to_owned()
}

/// Makes the pod.
///
/// # Errors
/// [`EngineError::Refused`] for a network that pods cannot have.
pub fn pod(order: &PodOrder<'_>, settings: &Settings) -> Result<Pod> {
    let request = order.request;
    let is_closed = match request.network {
        SandboxNetwork::None => true,
        SandboxNetwork::Bridge => false,
        SandboxNetwork::SilentPeer | SandboxNetwork::Host => {
            return Err(EngineError::Refused {
                action: "run the tests in a pod".to_owned(),
                reason: format!(
                    "they need the network `{}`, which pods do not have: use `--runner local`",
                    match request.network {
                        SandboxNetwork::Host => "host",
                        _ => "httpbin",
                    }
                ),
            });
        }
    };
    let name = name(order.owner, order.key, order.number);
    let life = settings.start_limit.as_secs() + request.time_limit.as_secs();
    let names = ["sandbox"].into_iter().chain(request.loopback_names.iter().map(String::as_str));
    let metadata = metadata(order, name.clone(), life, is_closed);
    let spec = PodSpec {
        restart_policy: Some("Never".to_owned()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(1),
        active_deadline_seconds: i64::try_from(life + LEAK_GUARD).ok(),
        hostname: Some("sandbox".to_owned()),
        host_aliases: Some(vec![HostAlias {
            ip: "127.0.0.1".to_owned(),
            hostnames: Some(names.map(str::to_owned).collect()),
        }]),
        dns_policy: Some(if is_closed { "None" } else { "ClusterFirst" }.to_owned()),
        dns_config: is_closed.then(|| PodDNSConfig {
            nameservers: Some(vec!["127.0.0.1".to_owned()]),
            ..PodDNSConfig::default()
        }),
        security_context: Some(PodSecurityContext {
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        tolerations: Some(["not-ready", "unreachable"].map(tolerated).to_vec()),
        node_selector: Some(BTreeMap::from([(
            "kubernetes.io/arch".to_owned(),
            order.architecture.to_owned(),
        )])),
        affinity: order.environment.map(beside),
        image_pull_secrets: settings
            .pull_secret
            .as_ref()
            .map(|name| vec![LocalObjectReference { name: name.clone() }]),
        volumes: Some(volumes(order, &name)),
        containers: match order.work {
            Work::Tests => vec![tests(order, settings), keeper(order, life)],
            Work::Session => vec![tests(order, settings)],
        },
        ..PodSpec::default()
    };
    Ok(Pod { metadata, spec: Some(spec), status: None })
}

fn metadata(order: &PodOrder<'_>, name: String, life: u64, is_closed: bool) -> ObjectMeta {
    let mut labels = BTreeMap::from([
        (label::MANAGED_BY.to_owned(), label::IMGFORGE.to_owned()),
        (label::OWNER.to_owned(), order.owner.uid.clone()),
        (label::RUN.to_owned(), short(order.run_id)),
        (label::DEADLINE.to_owned(), (order.now + life + LEAK_GUARD).to_string()),
    ]);
    if let Some(environment) = order.environment {
        labels.insert(label::ENVIRONMENT.to_owned(), digits(environment));
    }
    if is_closed {
        labels.insert(label::NETWORK.to_owned(), "none".to_owned());
    }
    let annotations = BTreeMap::from([
        (label::RUN.to_owned(), order.run_id.to_owned()),
        (label::INSTANCE.to_owned(), order.instance.to_owned()),
        (label::KEY.to_owned(), order.key.to_string()),
    ]);
    ObjectMeta {
        name: Some(name),
        labels: Some(labels),
        annotations: Some(annotations),
        owner_references: Some(vec![owner_reference(order.owner)]),
        ..ObjectMeta::default()
    }
}

fn owner_reference(owner: &Owner) -> OwnerReference {
    OwnerReference {
        api_version: "coordination.k8s.io/v1".to_owned(),
        kind: "Lease".to_owned(),
        name: owner.name.clone(),
        uid: owner.uid.clone(),
        block_owner_deletion: Some(false),
        ..OwnerReference::default()
    }
}

/// The first 16 digits of a key.
fn digits(key: &Key) -> String {
    key.to_string().chars().take(16).collect()
}

/// A silent node costs a minute and not six.
fn tolerated(trouble: &str) -> Toleration {
    Toleration {
        key: Some(format!("node.kubernetes.io/{trouble}")),
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        toleration_seconds: Some(10),
        ..Toleration::default()
    }
}

/// Prefers nodes where pods of the environment are: its image is there.
fn beside(environment: &Key) -> Affinity {
    let labels = BTreeMap::from([(label::ENVIRONMENT.to_owned(), digits(environment))]);
    let term = PodAffinityTerm {
        topology_key: "kubernetes.io/hostname".to_owned(),
        label_selector: Some(LabelSelector {
            match_labels: Some(labels),
            ..LabelSelector::default()
        }),
        ..PodAffinityTerm::default()
    };
    let term = WeightedPodAffinityTerm { weight: 50, pod_affinity_term: term };
    let preferred = Some(vec![term]);
    let pods = PodAffinity {
        preferred_during_scheduling_ignored_during_execution: preferred,
        ..PodAffinity::default()
    };
    Affinity { pod_affinity: Some(pods), ..Affinity::default() }
}

fn volumes(order: &PodOrder<'_>, name: &str) -> Vec<Volume> {
    let log = order.request.quotas.log.unwrap_or(4 << 30);
    let outputs = Volume {
        name: "out".to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            size_limit: Some(bytes(log * 2 + BESIDE_LOG)),
            ..EmptyDirVolumeSource::default()
        }),
        ..Volume::default()
    };
    match order.work {
        Work::Tests => vec![inputs::volume(name, &order.request.files), outputs],
        Work::Session => vec![outputs],
    }
}

fn tests(order: &PodOrder<'_>, settings: &Settings) -> Container {
    let request = order.request;
    let more = 1u64 << order.more.min(4);
    let memory = settings.request_memory.saturating_mul(more);
    let memory = request.memory.map_or(memory, |limit| memory.min(limit));
    let mut requests = BTreeMap::from([
        ("cpu".to_owned(), cpus(settings.request_milli_cpus)),
        ("memory".to_owned(), bytes(memory)),
        ("ephemeral-storage".to_owned(), bytes((2 << 30) * more)),
    ]);
    let mut limits = BTreeMap::new();
    if let Some(memory) = request.memory {
        limits.insert("memory".to_owned(), bytes(memory));
    }
    if let Some(milli) = request.milli_cpus {
        limits.insert("cpu".to_owned(), cpus(milli));
        requests.insert("cpu".to_owned(), cpus(milli.min(settings.request_milli_cpus)));
    }
    if let Some(disk) = request.quotas.disk {
        limits.insert("ephemeral-storage".to_owned(), bytes(disk));
        requests.insert("ephemeral-storage".to_owned(), bytes(disk.min((2 << 30) * more)));
    }
    let variables = request.variables.iter().map(|(name, value)| EnvVar {
        name: name.clone(),
        value: Some(literal(value)),
        ..EnvVar::default()
    });
    Container {
        name: TESTS.to_owned(),
        image: Some(request.image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(shell(&match order.work {
            Work::Tests => script::of_tests(request),
            Work::Session => script::WAIT.to_owned(),
        })),
        env: Some(variables.collect()),
        working_dir: Some("/".to_owned()),
        resources: Some(ResourceRequirements {
            requests: Some(requests),
            limits: Some(limits),
            ..ResourceRequirements::default()
        }),
        security_context: Some(security(&CAPABILITIES)),
        volume_mounts: Some(match order.work {
            Work::Tests => vec![mount("in", INPUTS, true), mount("out", OUTPUTS, false)],
            Work::Session => vec![mount("out", OUTPUTS, false)],
        }),
        ..Container::default()
    }
}

fn keeper(order: &PodOrder<'_>, life: u64) -> Container {
    let least =
        BTreeMap::from([("cpu".to_owned(), cpus(5)), ("memory".to_owned(), bytes(16 << 20))]);
    Container {
        name: KEEPER.to_owned(),
        image: Some(order.request.image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(shell(&format!("exec sleep {}", life + LEAK_GUARD - 100))),
        working_dir: Some("/".to_owned()),
        resources: Some(ResourceRequirements {
            requests: Some(least),
            limits: Some(BTreeMap::from([("memory".to_owned(), bytes(64 << 20))])),
            ..ResourceRequirements::default()
        }),
        security_context: Some(security(&[])),
        volume_mounts: Some(vec![mount("out", OUTPUTS, true)]),
        ..Container::default()
    }
}

/// Returns the command that runs a script.
fn shell(script: &str) -> Vec<String> {
    vec!["/bin/sh".to_owned(), "-c".to_owned(), literal(script)]
}

/// Returns a text that the kubelet makes this one of: it expands `$(NAME)`, and takes `$$` for `$`, in
/// commands and in variables.
fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

/// As root, with these capabilities and no others.
fn security(capabilities: &[&str]) -> SecurityContext {
    let add = capabilities.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
    SecurityContext {
        privileged: Some(false),
        allow_privilege_escalation: Some(false),
        run_as_user: Some(0),
        run_as_group: Some(0),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            add: (!add.is_empty()).then_some(add),
        }),
        ..SecurityContext::default()
    }
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

/// Bytes, in Kubernetes's spelling.
fn bytes(bytes: u64) -> Quantity {
    let units = [(1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")];
    let unit = units.into_iter().find(|(size, _)| bytes > 0 && bytes.is_multiple_of(*size));
    Quantity(match unit {
        Some((size, name)) => format!("{}{name}", bytes / size),
        None => bytes.to_string(),
    })
}

fn cpus(milli: u64) -> Quantity {
    Quantity(match milli.is_multiple_of(1000) {
        true => (milli / 1000).to_string(),
        false => format!("{milli}m"),
    })
}

#[cfg(test)]
mod tests;
