//! The life of a pod: one closed list of states, and one pure function that finds the state.
//!
//! A verdict may come of [`PodState::Ended`] alone. Whatever else ends a pod says nothing of the tests: it
//! is [`PodState::Lost`] and tried again under another name, or [`PodState::Refused`].

use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};

use super::message::{Message, Report};
use super::pod::TESTS;

/// How long an image may fail to be pulled for a reason that may pass.
const PULL_LIMIT: Duration = Duration::from_secs(90);

/// How often an image may fail to be pulled for such a reason.
const PULL_ROUNDS: u32 = 3;

/// How long the tests may run beyond their time limit, by the clock of this machine.
const OVERDUE: Duration = Duration::from_secs(120);

/// What the status of a pod says as its reason where the node or the cluster ended it.
const DISRUPTED: [&str; 8] = [
    "Evicted",
    "NodeAffinity",
    "NodeLost",
    "NodeShutdown",
    "Preempting",
    "Shutdown",
    "Terminated",
    "UnexpectedAdmissionError",
];

/// Why a container waits that no time will start.
const NEVER_STARTS: [&str; 5] = [
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "InvalidImageName",
    "RunContainerError",
];

/// The state of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodState {
    /// The API server has it; no node does.
    Created,
    /// A node has it.
    Scheduled,
    /// The node makes its containers; the reason where they wait for the image.
    Pulling(Option<String>),
    /// The tests run.
    Running,
    /// The tests ended, and nothing else ended them.
    Ended(End),
    /// Its output is here.
    Fetched,
    /// It was deleted by this process.
    Deleted,
    /// It ended, and that says nothing of the tests.
    Lost(Loss),
    /// It will never run, for this reason.
    Refused(String),
    /// The registry does not have its image.
    NoSuchImage(String),
    /// The registry does not let the cluster have its image.
    PullDenied(String),
}

/// How tests ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The script that runs them said so.
    Reported(Report),
    /// The kernel killed a process of them at the memory limit; what the script said where it lived.
    OutOfMemory {
        /// The exit code of the container.
        code: i32,
        /// What the script said of the output.
        report: Option<Report>,
    },
}

/// Why a pod was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// What happened.
    pub kind: LossKind,
    /// The words of the cluster, with the name of the node.
    pub reason: String,
}

/// What happened to a pod that was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossKind {
    /// Somebody deleted it.
    Deleted,
    /// The node or the cluster ended it.
    Disrupted,
    /// It wrote more than the node has room for: another try will, too.
    Disk,
    /// It was there longer than any pod may be.
    Deadline,
    /// Its tests ended without a word from the script that runs them.
    Silent,
    /// Its image could not be pulled in time.
    Pull,
    /// It did not start in time.
    NotStarted,
    /// Its tests did not end in time.
    Overdue,
}

impl LossKind {
    /// Tells whether another pod would fare the same.
    pub fn is_final(self) -> bool {
        self == LossKind::Disk
    }
}

/// What is known of a pod from the API server.
#[derive(Debug, Clone, Copy)]
pub enum Seen<'a> {
    /// The pod, as it was last told of.
    Pod(&'a Pod),
    /// It is gone: the watch or an answer said so. With it the pod as it was before.
    Gone(Option<&'a Pod>),
}

/// What this process did with a pod, and remembers of it. Times are counted from its creation, by the
/// clock of this machine.
#[derive(Debug, Clone, Default)]
pub struct Ours {
    /// How long it may take until its tests run.
    pub start_limit: Duration,
    /// How long its tests may run.
    pub time_limit: Duration,
    /// When its tests were first seen to run.
    pub running_since: Option<Duration>,
    /// When its image was first seen to be missing.
    pub pull_failed_since: Option<Duration>,
    /// How often its image failed to be pulled.
    pub pull_failures: u32,
    /// Whether the last that was seen is such a failure.
    pull_fails: bool,
    /// The newest warning among its events.
    pub warning: Option<String>,
    /// Whether its output was fetched.
    pub fetched: bool,
    /// Whether this process deleted it.
    pub deleted: bool,
}

impl Ours {
    /// Makes the memory of a pod that was just created.
    pub fn new(start_limit: Duration, time_limit: Duration) -> Ours {
        Ours { start_limit, time_limit, ..Ours::default() }
    }

    /// Takes note of what is seen of the pod. An event that comes twice counts once.
    pub fn observe(&mut self, pod: &Pod, now: Duration) {
        let Some(tests) = tests(pod) else { return };
        let state = tests.state.as_ref();
        if self.running_since.is_none()
            && state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
        {
            self.running_since = Some(now);
        }
        let fails = waiting(tests).is_some_and(|(reason, _)| reason == "ErrImagePull");
        if fails && !self.pull_fails {
            self.pull_failures += 1;
            self.pull_failed_since.get_or_insert(now);
        }
        self.pull_fails = fails;
    }
}

/// Finds the state of a pod. The rules are asked in this order: what ended the pod from outside, how the
/// tests ended, what keeps the container from starting, the image, the limits of time.
pub fn state(seen: Seen<'_>, now: Duration, ours: &Ours) -> PodState {
    if ours.deleted {
        return PodState::Deleted;
    }
    if ours.fetched {
        return PodState::Fetched;
    }
    let pod = match seen {
        Seen::Pod(pod) => pod,
        Seen::Gone(before) => {
            let why = before.and_then(ended_from_outside);
            return PodState::Lost(why.unwrap_or_else(|| Loss {
                kind: LossKind::Deleted,
                reason: "the pod is gone".to_owned(),
            }));
        }
    };
    if let Some(loss) = ended_from_outside(pod) {
        return PodState::Lost(loss);
    }
    if let Some(ended) = ended(pod) {
        return ended;
    }
    let tests = tests(pod);
    if let Some((reason, message)) = tests.and_then(waiting) {
        if NEVER_STARTS.contains(&reason) {
            return PodState::Refused(format!("{reason}: {message}"));
        }
        if matches!(reason, "ErrImagePull" | "ImagePullBackOff") {
            return image_fails(pod, message, now, ours);
        }
    }
    let is_running = tests.is_some_and(|one| is(one, |state| state.running.is_some()));
    if !is_running && now > ours.start_limit {
        return lost(pod, LossKind::NotStarted, &not_started(pod, ours));
    }
    if is_running {
        let since = ours.running_since.unwrap_or(now);
        if now.saturating_sub(since) > ours.time_limit + OVERDUE {
            return lost(pod, LossKind::Overdue, "its tests did not end at their time limit");
        }
        return PodState::Running;
    }
    match (tests, pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref())) {
        (Some(_), _) => PodState::Pulling(None),
        (None, Some(_)) => PodState::Scheduled,
        (None, None) => PodState::Created,
    }
}

/// Returns what a person is told of a pod that does not start.
pub fn not_started(pod: &Pod, ours: &Ours) -> String {
    let scheduled = condition(pod, "PodScheduled").filter(|one| one.status == "False");
    let scheduled = scheduled.and_then(|one| one.message.clone());
    let waits = tests(pod).and_then(waiting).map(|(reason, message)| match message {
        "" => reason.to_owned(),
        message => format!("{reason}: {message}"),
    });
    let told = scheduled.or_else(|| ours.warning.clone()).or(waits);
    told.unwrap_or_else(|| "no node takes it".to_owned())
}

/// Returns what ended a pod, or is ending it, that is not its tests.
fn ended_from_outside(pod: &Pod) -> Option<Loss> {
    let status = pod.status.as_ref();
    let reason = status.and_then(|status| status.reason.as_deref()).unwrap_or_default();
    let message = status.and_then(|status| status.message.as_deref()).unwrap_or_default();
    let loss = |kind, text: String| Loss { kind, reason: with_node(pod, text) };
    if reason == "DeadlineExceeded" {
        return Some(loss(LossKind::Deadline, format!("{reason}: {message}")));
    }
    if DISRUPTED.contains(&reason) || reason.starts_with("OutOf") {
        let is_disk = reason == "Evicted"
            && ["ephemeral", "emptydir"].iter().any(|word| message.to_lowercase().contains(word));
        let kind = if is_disk { LossKind::Disk } else { LossKind::Disrupted };
        return Some(loss(kind, format!("{reason}: {message}")));
    }
    let disrupted = condition(pod, "DisruptionTarget").filter(|one| one.status == "True");
    if let Some(one) = disrupted {
        let reason = one.reason.as_deref().unwrap_or("DisruptionTarget");
        let message = one.message.as_deref().unwrap_or_default();
        return Some(loss(LossKind::Disrupted, format!("{reason}: {message}")));
    }
    pod.metadata.deletion_timestamp.as_ref()?;
    Some(loss(LossKind::Deleted, "somebody deletes the pod".to_owned()))
}

/// Returns how the tests ended, or that the pod ended without them.
fn ended(pod: &Pod) -> Option<PodState> {
    let terminated = tests(pod).and_then(|one| one.state.as_ref()?.terminated.as_ref());
    let Some(end) = terminated else {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        return matches!(phase, Some("Failed" | "Succeeded")).then(|| {
            lost(pod, LossKind::Disrupted, "the pod ended, and its tests are not told of")
        });
    };
    let message = end.message.as_deref().unwrap_or_default();
    let said = Message::read(message);
    match end.reason.as_deref().unwrap_or_default() {
        "OOMKilled" => {
            let report = match said {
                Some(Message::Report(report)) if report.code == i64::from(end.exit_code) => {
                    Some(report)
                }
                _ => None,
            };
            return Some(PodState::Ended(End::OutOfMemory { code: end.exit_code, report }));
        }
        reason @ ("StartError" | "ContainerCannotRun") => {
            return Some(PodState::Refused(format!("{reason}: {message}")));
        }
        _ => {}
    }
    Some(match said {
        Some(Message::Report(report)) if i64::from(end.exit_code) == report.code => {
            PodState::Ended(End::Reported(report))
        }
        Some(Message::Refusal(why)) => PodState::Refused(why),
        _ => {
            let reason = end.reason.as_deref().unwrap_or("it ended");
            let code = end.exit_code;
            let text = format!("{reason}, exit code {code}, without a word from its script");
            lost(pod, LossKind::Silent, &text)
        }
    })
}

/// Returns the state of a pod whose image is not there.
fn image_fails(pod: &Pod, message: &str, now: Duration, ours: &Ours) -> PodState {
    let lower = message.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if says(&["not found", "notfound", "manifest unknown"]) {
        return PodState::NoSuchImage(message.to_owned());
    }
    if says(&["unauthorized", "denied", "forbidden"]) {
        return PodState::PullDenied(message.to_owned());
    }
    let since = ours.pull_failed_since.unwrap_or(now);
    if ours.pull_failures >= PULL_ROUNDS || now.saturating_sub(since) > PULL_LIMIT {
        return lost(pod, LossKind::Pull, message);
    }
    PodState::Pulling(Some(message.to_owned()))
}

fn lost(pod: &Pod, kind: LossKind, text: &str) -> PodState {
    PodState::Lost(Loss { kind, reason: with_node(pod, text.to_owned()) })
}

fn with_node(pod: &Pod, text: String) -> String {
    let text = text.trim().trim_end_matches(':').to_owned();
    match pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) {
        Some(node) => format!("{text} (node `{node}`)"),
        None => text,
    }
}

fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|one| one.type_ == kind)
}

/// Returns the status of the container with the tests.
fn tests(pod: &Pod) -> Option<&ContainerStatus> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find(|one| one.name == TESTS)
}

fn is(
    status: &ContainerStatus,
    what: impl Fn(&k8s_openapi::api::core::v1::ContainerState) -> bool,
) -> bool {
    status.state.as_ref().is_some_and(what)
}

/// Returns why a container waits: reason and message.
fn waiting(status: &ContainerStatus) -> Option<(&str, &str)> {
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    Some((waiting.reason.as_deref()?, waiting.message.as_deref().unwrap_or_default()))
}

#[cfg(test)]
mod tests;
