//! Pods and Secrets, held against the files of `tests/kubernetes`.

use std::path::Path;

use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

use super::super::testing::{ordered, request};
use super::*;

/// Compares with a file; `BLESS` writes it.
fn check(file: &str, made: &impl serde::Serialize) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubernetes").join(file);
    let made = serde_json::to_value(made).unwrap();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, serde_yaml_ng::to_string(&made).unwrap()).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let expected: Value = serde_yaml_ng::from_str(&text).unwrap();
    assert_eq!(made, expected, "{file}");
}

fn made(request: &SandboxRequest, settings: &Settings) -> (Pod, Secret) {
    ordered(request, |order| {
        let pod = pod(order, settings).unwrap();
        let mut secrets = inputs::secrets(&pod, &request.files).unwrap();
        assert_eq!(secrets.len(), 1);
        (pod, secrets.remove(0))
    })
}

#[test]
fn a_pod_without_a_network_and_its_secret() {
    let (pod, secret) = made(&request(), &Settings::default());
    check("pod.yaml", &pod);
    check("secret.yaml", &secret);
}

#[test]
fn a_pod_with_a_network_and_everything_that_can_be_asked_for() {
    let mut request = request();
    request.network = SandboxNetwork::Bridge;
    request.milli_cpus = Some(500);
    request.memory = Some(1 << 30);
    request.quotas.file = Some(1 << 30);
    request.quotas.disk = Some(1_500_000_000);
    request.loopback_names = vec!["httpbin.org".to_owned()];
    request.files.push(("/tmp/it's.diff".to_owned(), vec![0, 255]));
    let settings = Settings { pull_secret: Some("team".to_owned()), ..Settings::default() };
    let (pod, secret) = made(&request, &settings);
    check("pod-with-network.yaml", &pod);
    check("secret-of-two.yaml", &secret);
}

#[test]
fn what_a_kubelet_expands_is_escaped() {
    let mut request = request();
    request.command = "echo $$ $(PIP_RETRIES) $(PATH)\n".to_owned();
    request.variables.insert("PRICE".to_owned(), "$(PIP_RETRIES)$".to_owned());
    let (pod, _) = made(&request, &Settings::default());
    let spec = pod.spec.unwrap();
    let tests = &spec.containers[0];
    let script = &tests.command.as_ref().unwrap()[2];
    // A dollar that stands alone would begin a reference.
    assert!(!script.replace("$$", "").contains('$'), "{script}");
    assert_eq!(script.replace("$$", "$"), script::of_tests(&request));
    let price = tests.env.iter().flatten().find(|variable| variable.name == "PRICE").unwrap();
    assert_eq!(price.value.as_deref(), Some("$$(PIP_RETRIES)$$"));
}

#[test]
fn networks_that_pods_do_not_have_are_refused() {
    for network in [SandboxNetwork::SilentPeer, SandboxNetwork::Host] {
        let request = SandboxRequest { network, ..request() };
        let refused = ordered(&request, |order| pod(order, &Settings::default()));
        assert!(matches!(refused, Err(EngineError::Refused { .. })), "{network:?}");
    }
}

#[test]
fn files_that_one_secret_does_not_take_are_in_several() {
    let mut request = request();
    request.files.push(("/a.diff".to_owned(), vec![b'a'; 2 * inputs::IN_ONE]));
    let pod = ordered(&request, |order| pod(order, &Settings::default()).unwrap());
    let secrets = inputs::secrets(&pod, &request.files).unwrap();
    let spec = pod.spec.unwrap();
    let volume = &spec.volumes.unwrap()[0];
    let sources = volume.projected.as_ref().unwrap().sources.as_ref().unwrap();
    let named = sources.iter().map(|source| source.secret.as_ref().unwrap().name.clone());
    let made = secrets.iter().map(|secret| secret.metadata.name.clone().unwrap());
    assert_eq!(named.collect::<Vec<_>>(), made.collect::<Vec<_>>());
    assert_eq!(secrets.len(), 3);
    assert!(script::of_tests(&request).contains("cat /imgforge/in/f1 /imgforge/in/f1-1 "));
}

#[test]
fn files_that_no_node_should_hold_are_refused() {
    let files = [("/a".to_owned(), vec![0; inputs::IN_ALL + 1])];
    let pod = ordered(&request(), |order| pod(order, &Settings::default()).unwrap());
    let refused = inputs::secrets(&pod, &files);
    assert!(matches!(refused, Err(EngineError::Refused { .. })));
}

#[test]
fn a_name_stands_for_owner_key_and_number() {
    let (one, key) =
        (super::super::testing::owner(), super::super::testing::key(crate::key::Kind::Env));
    let other = Owner { uid: "other".to_owned(), ..one.clone() };
    assert_eq!(name(&one, &key, 0), name(&one, &key, 0));
    assert_ne!(name(&one, &key, 0), name(&one, &key, 1));
    assert_ne!(name(&one, &key, 0), name(&other, &key, 0));
    assert!(name(&one, &key, 0).len() <= 63);
}

#[test]
fn more_is_asked_for_after_an_eviction_and_the_limits_stay() {
    let request = request();
    let of = |more| {
        ordered(&request, |order| {
            let order = PodOrder { more, ..order.clone() };
            let spec = pod(&order, &Settings::default()).unwrap().spec.unwrap();
            spec.containers[0].resources.clone().unwrap()
        })
    };
    let (first, again, often) = (of(0), of(1), of(9));
    assert_eq!(first.limits, again.limits);
    assert_eq!(first.requests.unwrap()["memory"].0, "2Gi");
    assert_eq!(again.requests.unwrap()["memory"].0, "4Gi");
    assert_eq!(often.requests.unwrap()["memory"].0, "8Gi", "never more than the limit");
}
