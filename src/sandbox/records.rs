//! Reads what the recorder wrote to the channel.

use std::collections::BTreeMap;

use indexmap::{IndexMap, IndexSet};
use serde::Deserialize;

use super::outcome::Outcome;

/// The phases of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Phase {
    Setup,
    Call,
    Teardown,
}

const PHASES: [Phase; 3] = [Phase::Setup, Phase::Call, Phase::Teardown];

/// A line of the recorder.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Record {
    /// What became of a phase of a test.
    Test { id: String, when: Phase, outcome: Outcome },
    /// A file could not be collected.
    Collect { id: String },
    /// The run came to its end.
    End {},
}

/// What the recorder wrote.
#[derive(Debug, Default)]
pub(super) struct Records {
    /// The worst outcome of each phase of each test.
    phases: IndexMap<String, BTreeMap<Phase, Outcome>>,
    /// Files that could not be collected.
    uncollected: IndexSet<String>,
    /// Whether the run came to its end.
    pub ended: bool,
    /// How many lines the recorder did not write, or did not write to their end.
    pub foreign: usize,
}

/// Reads records that begin with the key. What is not the recorder's counts for nothing.
pub(super) fn read(data: &[u8], key: &str) -> Records {
    let mut records = Records::default();
    for line in data.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let own = line.strip_prefix(key.as_bytes()).and_then(|rest| rest.strip_prefix(b" "));
        let record = own.and_then(|text| serde_json::from_slice(text).ok());
        match record {
            // A test is no error by itself: that is made of its phases.
            Some(Record::Test { id, when, outcome }) if outcome != Outcome::Error => {
                let worst = records.phases.entry(id).or_default().entry(when).or_insert(outcome);
                *worst = outcome.max(*worst);
            }
            Some(Record::Collect { id }) => drop(records.uncollected.insert(id)),
            Some(Record::End {}) => records.ended = true,
            Some(Record::Test { .. }) | None => records.foreign += 1,
        }
    }
    records
}

impl Records {
    /// Returns the outcome of each test that ran to its end, and of files that could not be collected.
    pub(super) fn outcomes(&self) -> IndexMap<String, Outcome> {
        let mut outcomes: IndexMap<String, Outcome> =
            self.uncollected.iter().map(|file| (file.clone(), Outcome::Error)).collect();
        for (test, phases) in &self.phases {
            if let Some(outcome) = outcome_of(phases) {
                outcomes.insert(test.clone(), outcome);
            }
        }
        outcomes
    }
}

/// Returns the outcome of a test; `None` where it did not run to its end.
fn outcome_of(phases: &BTreeMap<Phase, Outcome>) -> Option<Outcome> {
    let has = |wanted| phases.values().any(|outcome| *outcome == wanted);
    if phases.get(&Phase::Call) == Some(&Outcome::Failed) {
        return Some(Outcome::Failed);
    }
    if has(Outcome::Failed) {
        return Some(Outcome::Error);
    }
    for outcome in [Outcome::Xfailed, Outcome::Skipped] {
        if has(outcome) {
            return Some(outcome);
        }
    }
    if PHASES.iter().any(|phase| !phases.contains_key(phase)) {
        return None;
    }
    Some(if has(Outcome::Xpassed) { Outcome::Xpassed } else { Outcome::Passed })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const KEY: &str = "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk";

    fn line(record: &Value, key: &str) -> Vec<u8> {
        format!("{key} {record}\n").into_bytes()
    }

    fn phases(test: &str, changed: &[(&str, &str)]) -> Vec<Vec<u8>> {
        let outcome = |phase| {
            let found = changed.iter().find(|(name, _)| *name == phase);
            found.map_or("passed", |(_, outcome)| *outcome)
        };
        let record = |phase| json!({ "event": "test", "id": test, "when": phase, "outcome": outcome(phase) });
        ["setup", "call", "teardown"].map(|phase| line(&record(phase), KEY)).to_vec()
    }

    fn outcome(data: &[Vec<u8>]) -> Option<Outcome> {
        read(&data.concat(), KEY).outcomes().get("a").copied()
    }

    #[test]
    fn the_outcome_of_a_test_is_made_of_its_phases() {
        for (changed, expected) in [
            (&[][..], Outcome::Passed),
            (&[("call", "failed")], Outcome::Failed),
            (&[("call", "failed"), ("teardown", "failed")], Outcome::Failed),
            (&[("setup", "failed")], Outcome::Error),
            (&[("teardown", "failed")], Outcome::Error),
            (&[("setup", "skipped")], Outcome::Skipped),
            (&[("call", "skipped")], Outcome::Skipped),
            (&[("call", "xfailed")], Outcome::Xfailed),
            (&[("call", "xpassed")], Outcome::Xpassed),
            (&[("call", "xpassed"), ("teardown", "failed")], Outcome::Error),
        ] {
            assert_eq!(outcome(&phases("a", changed)), Some(expected), "{changed:?}");
        }
    }

    #[test]
    fn a_test_without_one_of_its_phases_has_no_outcome() {
        for missing in 0..3 {
            let mut data = phases("a", &[]);
            data.remove(missing);
            assert_eq!(outcome(&data), None);
        }
    }

    #[test]
    fn the_worst_of_several_runs_counts() {
        let (good, bad) = (phases("a", &[]), phases("a", &[("call", "failed")]));
        assert_eq!(outcome(&[good.concat(), bad.concat()]), Some(Outcome::Failed));
        assert_eq!(outcome(&[bad.concat(), good.concat()]), Some(Outcome::Failed));
    }

    #[test]
    fn without_the_key_nothing_counts() {
        let mut data = phases("a", &[("call", "failed")]).concat();
        data.extend(line(&json!({ "event": "end", "status": 0 }), "x"));
        data.extend(b"\xff\xfe\n{}\n");
        data.extend(br#"{"event": "test", "id": "b", "when": "call", "outcome": "passed"}"#);
        let records = read(&data, KEY);
        assert_eq!(records.outcomes(), [("a".to_owned(), Outcome::Failed)].into());
        assert_eq!((records.foreign, records.ended), (4, false));
    }

    #[test]
    fn what_is_no_record_is_counted() {
        for text in [
            "{",
            "[]",
            "1",
            "{}",
            r#"{"event": "test", "id": "a", "when": "call", "outcome": "resolved"}"#,
            r#"{"event": "test", "id": "a", "when": "call", "outcome": "error"}"#,
            r#"{"event": "test", "id": "a", "when": "never", "outcome": "passed"}"#,
            r#"{"event": "test", "id": "a"}"#,
            r#"{"event": "what"}"#,
        ] {
            let records = read(format!("{KEY} {text}").as_bytes(), KEY);
            assert_eq!((records.foreign, records.outcomes().len()), (1, 0), "{text}");
        }
    }

    #[test]
    fn the_end_and_what_was_not_collected_are_told() {
        let data = [
            line(&json!({ "event": "collect", "id": "a.py" }), KEY),
            line(&json!({ "event": "end", "status": 1 }), KEY),
        ];
        let records = read(&data.concat(), KEY);
        assert!(records.ended);
        assert_eq!(records.outcomes(), [("a.py".to_owned(), Outcome::Error)].into());
    }
}
