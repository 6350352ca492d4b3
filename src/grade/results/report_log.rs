//! The lines of pytest-reportlog: one report a phase of a test, between a start and an end.

use serde::Deserialize;

use super::{Case, CaseStatus};

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "$report_type")]
    kind: Option<String>,
    #[serde(default)]
    nodeid: String,
    #[serde(default)]
    when: String,
    #[serde(default)]
    outcome: String,
}

/// Reads a file; `None` where it is not whole.
pub(super) fn read(bytes: &[u8]) -> Option<Vec<Case>> {
    let mut cases = Vec::new();
    let mut ended = false;
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
        let line: Line = serde_json::from_slice(line).ok()?;
        ended |= line.kind.as_deref() == Some("SessionFinish");
        if line.kind.as_deref() != Some("TestReport") {
            continue;
        }
        let status = match (line.outcome.as_str(), line.when.as_str()) {
            ("failed", _) => CaseStatus::Failed,
            ("skipped", _) => CaseStatus::Skipped,
            ("passed", "call") => CaseStatus::Passed,
            _ => continue,
        };
        cases.push(Case { short: line.nodeid.clone(), name: line.nodeid, status });
    }
    ended.then_some(cases)
}
