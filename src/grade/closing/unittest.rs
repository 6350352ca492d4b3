//! unittest and Django's runner: `Ran 12 tests in 0.3s`, then `OK` or `FAILED (failures=1)`.

use super::{Fault, Finding, Watch};
use crate::grade::text::regex;
use crate::grade::{StatusMap, TestStatus};

/// Follows runs of unittest.
pub(super) struct Unittest {
    runs: u64,
    ran: u64,
    /// `Ran` lines, whose verdict may still come.
    begun: u64,
    awaited: bool,
    closings: u64,
    /// Failures and errors by the closings.
    failed: u64,
    /// Headlines of failures.
    headlines: u64,
    ruled: bool,
    /// Lines of tests that did something else than pass.
    others: u64,
    passed_since: bool,
}

impl Unittest {
    /// Follows as many runs as the script makes: one, where that is not known.
    pub(super) fn new(runs: Option<u64>) -> Self {
        Unittest {
            runs: runs.unwrap_or(1).max(1),
            ran: 0,
            begun: 0,
            awaited: false,
            closings: 0,
            failed: 0,
            headlines: 0,
            ruled: false,
            others: 0,
            passed_since: false,
        }
    }
}

impl Watch for Unittest {
    fn line(&mut self, line: &str, _: &str) {
        let line = line.trim_end();
        if self.awaited && !line.is_empty() {
            let verdict = regex!(r"^(?:OK|FAILED|NO TESTS RAN)(?: \((.*)\))?$");
            if let Some(found) = verdict.captures(line) {
                self.awaited = false;
                self.closings += 1;
                let parts = found.get(1).map_or("", |parts| parts.as_str());
                for part in parts.split(", ") {
                    let Some(("failures" | "errors", count)) = part.split_once('=') else {
                        continue;
                    };
                    self.failed += count.parse::<u64>().unwrap_or(0);
                }
                return;
            }
        }
        if line.starts_with("Ran ")
            && let Some(found) = regex!(r"^Ran (\d+) tests? in [\d.]+s$").captures(line)
        {
            self.ran += found[1].parse::<u64>().unwrap_or(0);
            self.begun += 1;
            self.awaited = true;
            self.passed_since = false;
            return;
        }
        let ruled =
            std::mem::replace(&mut self.ruled, line.len() >= 70 && line.bytes().all(|b| b == b'='));
        if ruled && (line.starts_with("FAIL: ") || line.starts_with("ERROR: ")) {
            self.headlines += 1;
        }
        // What is printed for a class or a module counts as no test.
        if line.starts_with([' ', '\t'])
            || line.starts_with("setUp")
            || line.starts_with("tearDown")
        {
            return;
        }
        let Some((_, status)) = line.rsplit_once(" ... ") else { return };
        match status.trim_start() {
            "ok" | "OK" => self.passed_since = true,
            "FAIL" | "ERROR" | "expected failure" | "unexpected success" => self.others += 1,
            status if status.starts_with("skipped") => self.others += 1,
            _ => {}
        }
    }

    fn finish(self: Box<Self>, map: &StatusMap) -> Finding {
        let passed = map.iter().filter(|(_, status)| **status == TestStatus::Passed).count();
        // Printed by a test of the command line, which the format takes for a test.
        let special = u64::from(map.get("--version is equivalent to version").is_some());
        let seen = (passed as u64 - special.min(passed as u64)) + self.others;
        let fault = if self.closings == 0 {
            (!map.is_empty()).then_some(Fault::Missing)
        } else if self.begun > self.runs || self.closings != self.begun {
            Some(Fault::Twice)
        } else if self.passed_since {
            Some(Fault::After)
        } else if seen > self.ran {
            Some(Fault::Counts { what: "tests", said: self.ran, seen })
        } else if self.headlines != self.failed {
            Some(Fault::Counts { what: "failures", said: self.failed, seen: self.headlines })
        } else {
            None
        };
        Finding { fault, ..Finding::default() }
    }
}
