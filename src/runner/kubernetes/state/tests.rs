//! The watch streams of a real cluster, as they were recorded, and what becomes of them where they are cut,
//! doubled or out of order.

use std::path::Path;

use super::*;

/// An event of a stream.
#[derive(Clone)]
struct Event {
    deleted: bool,
    pod: Pod,
}

/// A recorded stream.
fn recorded(name: &str) -> Vec<Event> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubernetes/streams");
    let text = std::fs::read_to_string(dir.join(format!("{name}.watch.json"))).unwrap();
    let events = serde_json::Deserializer::from_str(&text).into_iter::<serde_json::Value>();
    events
        .map(|event| {
            let mut event = event.unwrap();
            let pod = serde_json::from_value(event["object"].take()).unwrap();
            Event { deleted: event["type"] == "DELETED", pod }
        })
        .collect()
}

const STREAMS: [&str; 20] = [
    "apievict",
    "badcmd",
    "badname",
    "deadline",
    "deleted",
    "evict-disk",
    "exit3",
    "never",
    "nodeloss",
    "nosecret",
    "nosecretenv",
    "ok",
    "oom-child",
    "oom-pid1",
    "oom-swallow",
    "pullfail",
    "pullnohost",
    "selfkill",
    "toobig",
    "unsched",
];

/// What a state comes to, without its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Waits,
    Runs,
    Exited(i64),
    TimedOut,
    OutOfMemory(i32),
    Lost(LossKind),
    Refused,
    NoImage,
    PullDenied,
}

impl Kind {
    fn of(state: &PodState) -> Kind {
        match state {
            PodState::Created | PodState::Scheduled | PodState::Pulling(_) => Kind::Waits,
            PodState::Running => Kind::Runs,
            PodState::Ended(End::Reported(report)) if report.timed_out => Kind::TimedOut,
            PodState::Ended(End::Reported(report)) => Kind::Exited(report.code),
            PodState::Ended(End::OutOfMemory { code, .. }) => Kind::OutOfMemory(*code),
            PodState::Lost(loss) => Kind::Lost(loss.kind),
            PodState::Refused(_) => Kind::Refused,
            PodState::NoSuchImage(_) => Kind::NoImage,
            PodState::PullDenied(_) => Kind::PullDenied,
            PodState::Fetched | PodState::Deleted => panic!("this process did nothing"),
        }
    }

    fn is_verdict(self) -> bool {
        matches!(self, Kind::Exited(_) | Kind::TimedOut | Kind::OutOfMemory(_))
    }

    fn is_end(self) -> bool {
        !matches!(self, Kind::Waits | Kind::Runs)
    }
}

/// How a stream ends for who watches it, event by event: at the first state that is an end; where there is
/// none, after hours without a further event.
fn follow(events: &[Event]) -> Kind {
    let mut ours = Ours::new(Duration::from_secs(1800), Duration::from_secs(60));
    let mut last = None;
    for (second, event) in events.iter().enumerate() {
        let now = Duration::from_secs(second as u64);
        ours.observe(&event.pod, now);
        let seen = match event.deleted {
            true => Seen::Gone(Some(&event.pod)),
            false => Seen::Pod(&event.pod),
        };
        last = Some(seen);
        let kind = Kind::of(&state(seen, now, &ours));
        if kind.is_end() {
            return kind;
        }
    }
    let hours = Duration::from_secs(7200);
    last.map_or(Kind::Waits, |seen| Kind::of(&state(seen, hours, &ours)))
}

/// The same stream, with the message that the script of a pod would have written at its end.
fn with_report(events: &[Event], end: &str) -> Vec<Event> {
    let sum = "ab".repeat(32);
    let mut events = events.to_vec();
    for event in &mut events {
        let statuses = event.pod.status.as_mut().unwrap().container_statuses.as_mut();
        for status in statuses.into_iter().flatten() {
            let Some(ended) = status.state.as_mut().and_then(|state| state.terminated.as_mut())
            else {
                continue;
            };
            let code = ended.exit_code;
            ended.message = Some(format!("imgforge1 {code} 12 {end} 3 {sum} 0 {sum}"));
        }
    }
    events
}

/// Every change of a stream that a watch may see: cut, doubled, out of order.
fn mutations(events: &[Event]) -> Vec<Vec<Event>> {
    let mut all = Vec::new();
    for at in 0..events.len() {
        all.push(events[..at].to_vec());
        let mut doubled = events.to_vec();
        doubled.insert(at, events[at].clone());
        all.push(doubled);
        let mut absent = events.to_vec();
        absent.remove(at);
        all.push(absent);
        if at + 1 < events.len() {
            let mut swapped = events.to_vec();
            swapped.swap(at, at + 1);
            all.push(swapped);
        }
    }
    all
}

/// What each recorded stream comes to: as it is, and with the message of the script.
const EXPECTED: [(&str, Kind, Kind); 20] = [
    ("apievict", Kind::Lost(LossKind::Disrupted), Kind::Lost(LossKind::Disrupted)),
    ("badcmd", Kind::Refused, Kind::Refused),
    ("badname", Kind::Refused, Kind::Refused),
    ("deadline", Kind::Lost(LossKind::Deadline), Kind::Lost(LossKind::Deadline)),
    ("deleted", Kind::Lost(LossKind::Deleted), Kind::Lost(LossKind::Deleted)),
    ("evict-disk", Kind::Lost(LossKind::Disk), Kind::Lost(LossKind::Disk)),
    ("exit3", Kind::Lost(LossKind::Silent), Kind::Exited(3)),
    ("never", Kind::Refused, Kind::Refused),
    ("nodeloss", Kind::Lost(LossKind::Disrupted), Kind::Lost(LossKind::Disrupted)),
    ("nosecret", Kind::Lost(LossKind::NotStarted), Kind::Lost(LossKind::NotStarted)),
    ("nosecretenv", Kind::Refused, Kind::Refused),
    ("ok", Kind::Lost(LossKind::Silent), Kind::Exited(0)),
    ("oom-child", Kind::OutOfMemory(0), Kind::OutOfMemory(0)),
    ("oom-pid1", Kind::OutOfMemory(137), Kind::OutOfMemory(137)),
    ("oom-swallow", Kind::OutOfMemory(5), Kind::OutOfMemory(5)),
    ("pullfail", Kind::NoImage, Kind::NoImage),
    ("pullnohost", Kind::Lost(LossKind::Pull), Kind::Lost(LossKind::Pull)),
    ("selfkill", Kind::Lost(LossKind::Silent), Kind::Exited(9)),
    ("toobig", Kind::Lost(LossKind::NotStarted), Kind::Lost(LossKind::NotStarted)),
    ("unsched", Kind::Lost(LossKind::NotStarted), Kind::Lost(LossKind::NotStarted)),
];

#[test]
fn every_recorded_stream_ends_as_it_ended() {
    assert_eq!(EXPECTED.map(|(name, ..)| name), STREAMS);
    for (name, silent, told) in EXPECTED {
        let events = recorded(name);
        assert_eq!(follow(&events), silent, "{name}");
        assert_eq!(follow(&with_report(&events, "-")), told, "{name} with the message");
        let late = follow(&with_report(&events, "timeout"));
        match told {
            Kind::Exited(_) => assert_eq!(late, Kind::TimedOut, "{name}"),
            told => assert_eq!(late, told, "{name}"),
        }
    }
}

#[test]
fn no_change_of_a_stream_makes_a_verdict_that_the_whole_stream_does_not_allow() {
    let mut tried = 0;
    for (name, silent, told) in EXPECTED {
        let events = recorded(name);
        for (events, whole) in [(events.clone(), silent), (with_report(&events, "-"), told)] {
            for changed in mutations(&events) {
                let found = follow(&changed);
                if found.is_verdict() {
                    assert_eq!(found, whole, "{name}");
                }
                tried += 1;
            }
        }
    }
    assert!(tried > 500, "{tried}");
}

#[test]
fn what_comes_twice_changes_nothing() {
    for (name, silent, _) in EXPECTED {
        let events = recorded(name);
        for at in 0..events.len() {
            let mut doubled = events.clone();
            doubled.insert(at, events[at].clone());
            assert_eq!(follow(&doubled), silent, "{name} with event {at} twice");
        }
    }
}

#[test]
fn a_pod_that_is_gone_is_lost_whatever_was_seen_of_it_before() {
    let ours = Ours::new(Duration::from_secs(1800), Duration::from_secs(60));
    for (name, ..) in EXPECTED {
        for event in with_report(&recorded(name), "-") {
            let gone = state(Seen::Gone(Some(&event.pod)), Duration::ZERO, &ours);
            assert!(matches!(gone, PodState::Lost(_)), "{name}: {gone:?}");
        }
    }
    assert!(matches!(state(Seen::Gone(None), Duration::ZERO, &ours), PodState::Lost(_)));
}

#[test]
fn tests_that_run_beyond_their_limit_are_lost_and_never_timed_out() {
    let events = recorded("ok");
    let running = &events[3].pod;
    let mut ours = Ours::new(Duration::from_secs(1800), Duration::from_secs(60));
    ours.observe(running, Duration::from_secs(1000));
    let at = |seconds| Kind::of(&state(Seen::Pod(running), Duration::from_secs(seconds), &ours));
    assert_eq!(at(1180), Kind::Runs);
    assert_eq!(at(1181), Kind::Lost(LossKind::Overdue));
}

#[test]
fn what_this_process_did_comes_first() {
    for (name, ..) in EXPECTED {
        for event in recorded(name) {
            let seen = Seen::Pod(&event.pod);
            let fetched = Ours { fetched: true, ..Ours::default() };
            assert_eq!(state(seen, Duration::ZERO, &fetched), PodState::Fetched, "{name}");
            let deleted = Ours { deleted: true, ..fetched };
            assert_eq!(state(seen, Duration::ZERO, &deleted), PodState::Deleted, "{name}");
        }
    }
}

#[test]
fn a_report_with_another_code_than_the_containers_is_none() {
    let mut events = with_report(&recorded("exit3"), "-");
    for event in &mut events {
        let statuses = event.pod.status.as_mut().unwrap().container_statuses.as_mut();
        for status in statuses.into_iter().flatten() {
            if let Some(ended) = status.state.as_mut().and_then(|state| state.terminated.as_mut()) {
                ended.exit_code = 0;
            }
        }
    }
    assert_eq!(follow(&events), Kind::Lost(LossKind::Silent));
}

#[test]
fn why_a_pod_does_not_start_is_told_in_the_clusters_words() {
    let ours = Ours::new(Duration::from_secs(60), Duration::from_secs(60));
    let last = |name: &str| recorded(name).pop().unwrap().pod;
    let told = not_started(&last("toobig"), &ours);
    assert!(told.contains("Insufficient memory"), "{told}");
    let warned = Ours { warning: Some("FailedMount: no secret".to_owned()), ..ours.clone() };
    assert_eq!(not_started(&last("nosecret"), &warned), "FailedMount: no secret");
    assert_eq!(not_started(&last("nosecret"), &ours), "ContainerCreating");
    let PodState::Lost(loss) = state(Seen::Pod(&last("evict-disk")), Duration::ZERO, &ours) else {
        panic!("an evicted pod is lost")
    };
    assert!(loss.reason.contains("EmptyDir") && loss.reason.contains("node `"), "{}", loss.reason);
}
