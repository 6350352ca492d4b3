//! What the tests of pods share.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use crate::engine::{Quotas, SandboxNetwork, SandboxRequest};
use crate::key::{Key, KeyDocument, Kind};

use super::config::Settings;
use super::pod::{self, Owner, PodOrder, Work};

/// A request as an evaluation makes it.
pub(super) fn request() -> SandboxRequest {
    SandboxRequest {
        image: format!("registry.example/team/imgforge/instance@sha256:{}", "5".repeat(64)),
        files: vec![("/eval.sh".to_owned(), b"echo hi\n".to_vec())],
        command: "exec 4>&-\ncd /\nexec /bin/bash /eval.sh\n".to_owned(),
        time_limit: Duration::from_secs(1800),
        memory: Some(8 << 30),
        milli_cpus: None,
        pids: Some(4096),
        quotas: Quotas {
            disk: Some(20 << 30),
            files: Some(1_000_000),
            file: None,
            log: Some(1 << 30),
        },
        network: SandboxNetwork::None,
        loopback_names: Vec::new(),
        variables: BTreeMap::from([("PIP_RETRIES".to_owned(), "0".to_owned())]),
        labels: BTreeMap::new(),
    }
}

/// A key.
pub(super) fn key(kind: Kind) -> Key {
    KeyDocument::new(kind).with("test", "pod").key()
}

/// The Lease of a run.
pub(super) fn owner() -> Owner {
    Owner {
        name: "imgforge-0123456789abcdef".to_owned(),
        uid: "2068cfe4-769f-453f-b4de-dff2bc8fa167".to_owned(),
    }
}

/// Calls `with` with the order of a request.
pub(super) fn ordered<T>(request: &SandboxRequest, with: impl FnOnce(&PodOrder<'_>) -> T) -> T {
    let (owner, key, environment) = (owner(), key(Kind::Evaluation), key(Kind::Env));
    with(&PodOrder {
        request,
        work: Work::Tests,
        owner: &owner,
        run_id: "first run",
        instance: "demo__abacus-1",
        key: &key,
        environment: Some(&environment),
        number: 0,
        architecture: "amd64",
        now: 1_800_000_000,
        more: 0,
    })
}

/// The pod of [`request`].
pub(super) fn pod() -> Pod {
    ordered(&request(), |order| pod::pod(order, &Settings::default())).unwrap()
}
