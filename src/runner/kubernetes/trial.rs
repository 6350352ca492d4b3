//! A pod of the doctor's own: it shows what no question to the API server does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;

use crate::cache::registry::RegistryCache;
use crate::engine::{
    EngineError, LogSink, NoLog, Quotas, Result, SandboxEnd, SandboxRequest, label,
};
use crate::key::{Key, Kind};
use crate::platform::Platform;
use crate::runner::Tests;

use super::config::Settings;
use super::doctor::{Finding, IMAGES, failed, fine, trouble};
use super::shared::Shared;
use super::{canary, run};

/// The name of its run.
const RUN: &str = "doctor";

/// How long its image may take to come, and how long it may run.
const START: Duration = Duration::from_secs(300);
const TIME: Duration = Duration::from_secs(60);

/// How many bytes it prints: more than any buffer on the way holds.
const PRINTED: u64 = 3_000_000;

/// How many images of the registry are looked at for one of the platform.
const LOOKED_AT: usize = 20;

/// From which difference on a clock is told of, in seconds.
const SKEW: i64 = 60;

/// Counts what is printed.
#[derive(Default)]
struct Counted(AtomicU64);

impl LogSink for Counted {
    fn write(&self, bytes: &[u8]) {
        self.0.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }
}

/// Runs a pod from an image that the registry has: whether nodes pull it, whether its output comes whole, and
/// whether a pod without a network has none. Nothing is left of it.
pub async fn look(
    settings: &Settings,
    registry: &RegistryCache,
    platform: &Platform,
) -> Vec<Finding> {
    let (kind, key) = match image(registry).await {
        Ok(Some(found)) => found,
        Ok(None) => {
            let fix = "run it again when something was evaluated in pods";
            let detail = "not tried: the registry has no image yet".to_owned();
            return vec![trouble("pod", false, detail, fix)];
        }
        Err(error) => return vec![no_registry(error)],
    };
    let start_limit = settings.start_limit.min(START);
    let settings = Settings { start_limit, ..settings.clone() };
    let opened = Shared::open(settings, RUN, platform.architecture(), |_| {}).await;
    let shared = match opened {
        Ok(shared) => Arc::new(shared),
        Err(error) => return vec![failed(&error)],
    };
    let mut findings: Vec<Finding> = skew(&shared).into_iter().collect();
    findings.extend(pods(&shared, registry, kind, key).await);
    if let Err(failure) = shared.lease.end(&shared.server).await {
        let fix = "`imgforge clean --runner kubernetes` removes it";
        findings.push(trouble("pod", false, format!("it is left: {}", failure.text()), fix));
    }
    findings
}

/// Chooses an image: a base where there is one, as that is the smallest.
async fn image(registry: &RegistryCache) -> Result<Option<(Kind, Key)>> {
    for (kind, key) in registry.list().await?.into_iter().take(LOOKED_AT) {
        if registry.image(kind, &key).await?.is_some() {
            return Ok(Some((kind, key)));
        }
    }
    Ok(None)
}

async fn pods(
    shared: &Arc<Shared>,
    registry: &RegistryCache,
    kind: Kind,
    key: Key,
) -> Vec<Finding> {
    let image = match registry.digest_reference(kind, &key).await {
        Ok(found) => found.unwrap_or_default(),
        Err(error) => return vec![no_registry(error)],
    };
    let command = format!("head -c {PRINTED} /dev/zero");
    let labels = BTreeMap::from([(label::RUN.to_owned(), RUN.to_owned())]);
    let request = SandboxRequest {
        memory: Some(256 << 20),
        quotas: Quotas { log: Some(PRINTED * 2), ..Quotas::default() },
        ..run::request_of(image, command, TIME, labels)
    };
    let tests = Tests { request: &request, key: &key, environment: None, tell: &|_| {} };
    let (counted, began) = (Counted::default(), Instant::now());
    let ended = run::run(shared, &tests, &counted, &NoLog).await;
    let printed = counted.0.load(Ordering::Relaxed);
    match ended {
        Ok(SandboxEnd::Exited(0)) if printed == PRINTED => {}
        Ok(end) => {
            let detail = format!("{printed} of {PRINTED} bytes came, and it ended so: {end:?}");
            let fix = "`kubectl get events` may say more";
            return vec![trouble("pod", true, detail, fix)];
        }
        Err(error) => return vec![failure("pod", error)],
    }
    let seconds = began.elapsed().as_secs_f64();
    let mut findings = vec![fine(
        "pod",
        format!("pulled, run and gone in {seconds:.1} s; its 3 MB of output came whole"),
    )];
    findings.push(match canary::reached(shared, &tests).await {
        Ok(reached) if reached.is_empty() => {
            fine("pod network", "a pod without a network has none".to_owned())
        }
        Ok(reached) => {
            let detail = format!("a pod without a network reached {reached}");
            let fix = "apply the NetworkPolicy of docs/kubernetes.md on a cluster whose network enforces \
                       it, or evaluate with `--network bridge`";
            trouble("pod network", false, detail, fix)
        }
        Err(error) => failure("pod network", error),
    });
    findings
}

/// Compares the clock of this machine with that of the API server.
fn skew(shared: &Shared) -> Option<Finding> {
    let server = shared.lease.server_time?.as_second();
    let ahead = Timestamp::now().as_second() - server;
    (ahead.abs() > SKEW).then(|| {
        let detail = match ahead > 0 {
            true => format!("this machine is {ahead} s ahead of the API server"),
            false => format!("this machine is {} s behind the API server", -ahead),
        };
        trouble("clock", false, detail, "let both take their time from the network")
    })
}

/// Says that the registry does not answer.
fn no_registry(error: EngineError) -> Finding {
    let hint = error.hint().unwrap_or_else(|| {
        "name a registry with --cache-registry that this machine and the nodes reach".to_owned()
    });
    trouble(IMAGES, true, format!("{:#}", anyhow::Error::from(error)), hint)
}

fn failure(name: &'static str, error: EngineError) -> Finding {
    let hint = error.hint();
    let hint = hint.unwrap_or_else(|| "`kubectl get events` may say more".to_owned());
    trouble(name, true, format!("{:#}", anyhow::Error::from(error)), hint)
}
