//! One evaluation as a pod, from its Secret to its deletion.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{DeleteParams, ListParams};
use tokio::time::Instant;

use crate::engine::{
    EngineError, LogQuota, LogSink, Quota, Quotas, Result, SandboxEnd, SandboxNetwork,
    SandboxRequest, label as own,
};
use crate::runner::Tests;

use super::client::{self, Failure, Server, lost, request};
use super::label;
use super::message::FileReport;
use super::pod::{self, PodOrder, Work};
use super::shared::Shared;
use super::state::{self, End, Ours, PodState, Seen};
use super::watch::{Told, Watched};
use super::{fetch, inputs};

const ACTION: &str = "run the tests in a pod";

/// From when on a person is told why a pod does not start, and how often.
const TOLD: Duration = Duration::from_secs(60);

/// How long to wait for room in a quota where nothing tells of any.
const QUOTA_PAUSE: Duration = Duration::from_secs(30);

/// A pod, and its Secrets, that go when this is dropped.
pub(super) struct Placed {
    shared: Arc<Shared>,
    name: String,
    /// How many Secrets it has.
    secrets: usize,
    is_removed: bool,
}

impl Placed {
    /// A pod that is about to be made, with a number of Secrets.
    pub(super) fn of(shared: &Arc<Shared>, name: &str, secrets: usize) -> Placed {
        Placed { shared: shared.clone(), name: name.to_owned(), secrets, is_removed: false }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Leaves all of it for people to look at.
    fn keep(mut self) {
        self.is_removed = true;
        self.shared.kept.lock().expect("no holder panics").push(self.name.clone());
    }

    /// Deletes all of it; the processes of the pod have `grace` seconds to end.
    pub(super) async fn remove(mut self, grace: u32) {
        self.is_removed = true;
        remove(&self.shared, &self.name, self.secrets, grace).await;
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        if self.is_removed {
            return;
        }
        let (shared, name, secrets) = (self.shared.clone(), self.name.clone(), self.secrets);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { remove(&shared, &name, secrets, 0).await });
        }
    }
}

/// Deletes a pod and its Secrets. What stays for a failure goes with the Lease.
async fn remove(shared: &Shared, name: &str, secrets: usize, grace: u32) {
    let server = &shared.server;
    let _one_of_few = server.deletes.acquire().await.expect("it is never closed");
    let soon = DeleteParams { grace_period_seconds: Some(grace), ..DeleteParams::default() };
    let _ = client::delete(&server.pods(), name, &soon).await;
    for number in 0..secrets {
        let secret = inputs::secret_name(name, number);
        let _ = client::delete(&server.secrets(), &secret, &DeleteParams::default()).await;
    }
    server.freed.notify_waiters();
}

/// Makes the request of a command of imgforge's own: without files, without a network, and with no limit
/// but that of time.
pub(super) fn request_of(
    image: String,
    command: String,
    time_limit: Duration,
    labels: BTreeMap<String, String>,
) -> SandboxRequest {
    SandboxRequest {
        image,
        files: Vec::new(),
        command,
        time_limit,
        memory: None,
        milli_cpus: None,
        pids: None,
        quotas: Quotas::default(),
        network: SandboxNetwork::None,
        loopback_names: Vec::new(),
        variables: BTreeMap::new(),
        labels,
    }
}

/// Runs tests in a pod of their own.
pub(super) async fn run(
    shared: &Arc<Shared>,
    tests: &Tests<'_>,
    log: &dyn LogSink,
    control: &dyn LogSink,
) -> Result<SandboxEnd> {
    let request = tests.request;
    let named = |label: &str| request.labels.get(label).map(String::as_str).unwrap_or_default();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let order = PodOrder {
        request,
        work: Work::Tests,
        owner: &shared.lease.owner,
        run_id: named(own::RUN),
        instance: named(own::INSTANCE),
        key: tests.key,
        environment: tests.environment,
        number: shared.next_number(),
        architecture: &shared.architecture,
        now: now.as_secs(),
        more: shared.more(tests.key),
    };
    let pod = pod::pod(&order, &shared.settings)?;
    let secrets = inputs::secrets(&pod, &request.files)?;
    let pod = shared.settings.template.merge(pod);
    let name = pod::name(order.owner, order.key, order.number);
    let mut watched = shared.watch.pod(&name);
    let placed = Placed::of(shared, &name, secrets.len());
    let done = async {
        place(shared, &pod, &secrets, tests).await?;
        watched.created();
        let end = follow(shared, &name, &mut watched, tests).await?;
        fetch(shared, &name, end, tests, log, control).await
    }
    .await;
    match &done {
        Ok(_) => placed.remove(1).await,
        Err(_) if shared.settings.keep_failed => placed.keep(),
        // A pod that was lost may run on where nobody hears of it: its name is free at once.
        Err(_) => placed.remove(0).await,
    }
    done
}

/// Makes the Secrets and then the pod, when the namespace has room for them.
pub(super) async fn place(
    shared: &Shared,
    pod: &Pod,
    secrets: &[Secret],
    tests: &Tests<'_>,
) -> Result<()> {
    let server = &shared.server;
    let began = Instant::now();
    loop {
        shared.check_lease()?;
        let freed = server.freed.notified();
        let full = {
            let _one_of_few = server.creates.acquire().await.expect("it is never closed");
            let made = make(server, secrets, tests).await;
            match made {
                Ok(()) => place_pod(shared, pod, tests).await?,
                Err(failure) if failure.is_quota() => Some(failure.text()),
                Err(failure) => return Err(failure.into_error("create the Secret of a pod")),
            }
        };
        let Some(full) = full else { return Ok(()) };
        if began.elapsed() > shared.settings.start_limit {
            return Err(lost(ACTION, format!("no room for the pod: {full}")));
        }
        (tests.tell)(format!("wait for room: {full}"));
        let _ = tokio::time::timeout(QUOTA_PAUSE, freed).await;
    }
}

/// Makes Secrets; those that are there by their names are ours.
async fn make(
    server: &Server,
    secrets: &[Secret],
    tests: &Tests<'_>,
) -> std::result::Result<(), Failure> {
    for secret in secrets {
        client::create(&server.secrets(), secret, tests.tell).await?;
    }
    Ok(())
}

/// Makes the pod; returns what a full quota says.
async fn place_pod(shared: &Shared, pod: &Pod, tests: &Tests<'_>) -> Result<Option<String>> {
    let pods = shared.server.pods();
    match client::create(&pods, pod, tests.tell).await {
        Ok(true) => Ok(None),
        // It is ours where an answer was lost on its way.
        Ok(false) => {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let asked = request(tests.tell, || pods.get(name)).await;
            let there = client::of_pod("look at a pod", asked)?;
            let is_ours = |key: &str| {
                let of = |pod: &Pod| {
                    pod.metadata.labels.as_ref().and_then(|labels| labels.get(key).cloned())
                };
                of(&there) == of(pod)
            };
            let key = |pod: &Pod| {
                let notes = pod.metadata.annotations.as_ref();
                notes.and_then(|notes| notes.get(label::KEY).cloned())
            };
            match is_ours(label::OWNER) && key(&there) == key(pod) {
                true => Ok(None),
                false => Err(EngineError::Refused {
                    action: "create a pod".to_owned(),
                    reason: format!("somebody else has a pod `{name}`"),
                }),
            }
        }
        Err(failure) if failure.is_quota() => Ok(Some(failure.text())),
        Err(failure) => Err(failure.into_error("create a pod")),
    }
}

/// Waits for the end of the tests.
async fn follow(
    shared: &Shared,
    name: &str,
    watched: &mut Watched,
    tests: &Tests<'_>,
) -> Result<End> {
    let began = Instant::now();
    let mut ours = Ours::new(shared.settings.start_limit, tests.request.time_limit);
    let mut tell_at = TOLD;
    let mut is_running = false;
    loop {
        shared.check_lease()?;
        let now = began.elapsed();
        let told = watched.told.borrow_and_update().clone();
        let seen = match &told {
            Told::Nothing => None,
            Told::Pod(pod) => {
                ours.observe(pod, now);
                Some(Seen::Pod(pod))
            }
            Told::Gone(pod) => Some(Seen::Gone(pod.as_deref())),
        };
        let state = match seen {
            Some(seen) => state::state(seen, now, &ours),
            None if now > ours.start_limit => {
                let why = watched.trouble().unwrap_or_else(|| "nothing is told of it".to_owned());
                return Err(lost(ACTION, why));
            }
            None => PodState::Created,
        };
        match state {
            PodState::Ended(end) => {
                shared.note_success();
                return Ok(end);
            }
            PodState::Lost(loss) => return Err(shared.lost(tests.key, loss)),
            PodState::Refused(reason) => {
                return Err(EngineError::Refused { action: ACTION.to_owned(), reason });
            }
            PodState::NoSuchImage(reason) => {
                shared.forget_offers();
                (tests.tell)(format!("push the image again: {reason}"));
                let reference = tests.request.image.clone();
                return Err(EngineError::NoSuchImage { reference });
            }
            PodState::PullDenied(reason) => {
                return Err(EngineError::Pull { reference: tests.request.image.clone(), reason });
            }
            PodState::Running if !is_running => {
                is_running = true;
                (tests.tell)("run the tests".to_owned());
            }
            PodState::Running if now >= tell_at => {
                tell_at = now + TOLD;
                if let Some(trouble) = watched.trouble() {
                    (tests.tell)(format!("run the tests; the API server is not heard: {trouble}"));
                }
            }
            PodState::Running | PodState::Fetched | PodState::Deleted => {}
            PodState::Created | PodState::Scheduled | PodState::Pulling(_) if now >= tell_at => {
                tell_at = now + TOLD;
                ours.warning = newest_warning(shared, name).await.or(ours.warning.take());
                let why = match &told {
                    Told::Pod(pod) => state::not_started(pod, &ours),
                    _ => watched.trouble().unwrap_or_else(|| "nothing is told of it".to_owned()),
                };
                (tests.tell)(format!("wait for the pod to start: {why}"));
            }
            PodState::Created | PodState::Scheduled | PodState::Pulling(_) => {}
        }
        // The watch tells of changes; the limits of time are looked at now and then.
        let _ = tokio::time::timeout(Duration::from_secs(5), watched.told.changed()).await;
    }
}

/// Asks for the newest warning of a pod: of some troubles its status knows nothing.
pub(super) async fn newest_warning(shared: &Shared, name: &str) -> Option<String> {
    let events = shared.server.events();
    let of_pod = ListParams::default()
        .fields(&format!("involvedObject.kind=Pod,involvedObject.name={name},type=Warning"));
    let listed = tokio::time::timeout(Duration::from_secs(10), events.list(&of_pod)).await;
    let events = listed.ok()?.ok()?.items;
    let newest = events.into_iter().max_by_key(|event| {
        let last = event.last_timestamp.as_ref().map(|time| time.0);
        last.or(event.event_time.as_ref().map(|time| time.0))
    })?;
    Some(format!("{}: {}", newest.reason.unwrap_or_default(), newest.message.unwrap_or_default()))
}

/// Fetches the output, and says how the tests ended.
async fn fetch(
    shared: &Shared,
    name: &str,
    end: End,
    tests: &Tests<'_>,
    log: &dyn LogSink,
    control: &dyn LogSink,
) -> Result<SandboxEnd> {
    (tests.tell)("fetch the output".to_owned());
    let server = &shared.server;
    let (end, log_report, control_report): (SandboxEnd, FileReport, FileReport) = match end {
        End::Reported(report) if report.timed_out => {
            (SandboxEnd::TimedOut, report.log, report.control)
        }
        End::Reported(report) => (SandboxEnd::Exited(report.code), report.log, report.control),
        End::OutOfMemory { code, report: Some(report) } => {
            (SandboxEnd::OutOfMemory(code.into()), report.log, report.control)
        }
        End::OutOfMemory { code, report: None } => {
            let (log, control) = fetch::measure(server, name, tests.tell).await?;
            (SandboxEnd::OutOfMemory(code.into()), log, control)
        }
    };
    let printed = fetch::file(server, name, "log", &log_report, tests.tell).await?;
    let said = fetch::file(server, name, "control", &control_report, tests.tell).await?;
    let written = LogQuota::new(&tests.request.quotas);
    said.write_to(&written.bound(control))?;
    printed.write_to(&written.bound(log))?;
    match written.is_over() {
        true => Ok(SandboxEnd::OverQuota(Quota::Log)),
        false => Ok(end),
    }
}
