//! Java: maven, ant, gradle.

use std::collections::VecDeque;

use super::{Form, LineParser, Row, StatusMap, TestStatus, regex, set_by, strip};

pub(super) const ROWS: &[Row] = &[
    (&["parse_log_maven"], Form::Lines(|| Box::<Maven>::default())),
    (&["parse_log_ant"], Form::Line(ant)),
    (&["parse_log_gradle_custom"], Form::Lines(|| Box::<Gradle>::default())),
];

/// maven names no test that passes: each test is a command of its own, and its result is that of
/// the build. Commands and results may come in any order, each in its own.
#[derive(Default)]
struct Maven {
    pending: VecDeque<String>,
    unmatched: VecDeque<TestStatus>,
}

impl LineParser for Maven {
    fn line(&mut self, line: &str, map: &mut StatusMap) {
        let line = strip(line);
        if let Some(found) = regex!(r"^.*-Dtest=(\S+).*$").captures(line) {
            self.pending.push_back(found[1].to_owned());
        }
        let status = match regex!(r"^.*BUILD (SUCCESS|FAILURE)$").captures(line) {
            Some(found) if &found[1] == "SUCCESS" => TestStatus::Passed,
            Some(_) => TestStatus::Failed,
            None => return,
        };
        match self.pending.pop_front() {
            Some(test) => map.set(&test, status),
            None => self.unmatched.push_back(status),
        }
    }

    fn finish(&mut self, map: &mut StatusMap) {
        for (test, status) in self.pending.drain(..).zip(self.unmatched.drain(..)) {
            map.set(&test, status);
        }
    }
}

fn ant(line: &str, map: &mut StatusMap) {
    let found = regex!(r"^\s*\[junit\]\s+\[(PASS|FAIL|ERR)\]\s+(.*)$").captures(strip(line));
    if let Some(found) = found {
        let table = [
            ("PASS", TestStatus::Passed),
            ("FAIL", TestStatus::Failed),
            ("ERR", TestStatus::Failed),
        ];
        set_by(map, &found[2], &found[1], &table);
    }
}

const GRADLE: [(&str, TestStatus); 2] =
    [("PASSED", TestStatus::Passed), ("FAILED", TestStatus::Failed)];

/// gradle with a listener of the benchmark: name and status on a line, or torn apart.
#[derive(Default)]
struct Gradle {
    pending: Option<String>,
}

impl LineParser for Gradle {
    fn line(&mut self, line: &str, map: &mut StatusMap) {
        let line = strip(line);
        if let Some(found) = regex!(r"^([^>].+)\s+(PASSED|FAILED)$").captures(line) {
            set_by(map, &found[1], &found[2], &GRADLE);
            self.pending = None;
        } else if let Some(found) = regex!(r"^([^>]\S*\s+>\s+\S+)$").captures(line) {
            self.pending = Some(found[1].to_owned());
        } else if matches!(line, "PASSED" | "FAILED")
            && let Some(test) = self.pending.take()
        {
            set_by(map, &test, line, &GRADLE);
        }
    }
}
