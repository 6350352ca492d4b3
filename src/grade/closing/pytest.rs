//! pytest: `=== 3 failed, 10 passed in 0.12s ===`, and the short summary above it.
//!
//! With `-rA` the summary has a line a test, so each count of the closing has as many lines. Runs may
//! follow each other; runs inside of runs are taken only from the repositories whose tests make them.

use super::{Fault, Finding, Parse, Watch};
use crate::grade::context::Context;
use crate::grade::text::regex;
use crate::grade::{StatusMap, TestStatus};

/// Counts by what tests did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub passed: u64,
    pub failed: u64,
    pub errors: u64,
    pub xfailed: u64,
}

/// The part that begins with `short test summary info`.
#[derive(Default)]
struct Summary {
    counts: Counts,
    map: StatusMap,
}

/// Follows runs of pytest.
pub(super) struct Pytest {
    parse: Parse,
    strict: bool,
    runs: Option<u64>,
    nested: bool,
    headers: u64,
    closings: u64,
    open: bool,
    lost: bool,
    in_summary: bool,
    summary: Option<Summary>,
    /// Lines outside of the summary that say that a test passed, in the run that is open.
    loose: u64,
    /// Tests that passed since the last closing.
    after: StatusMap,
    early: bool,
    /// A closing that comes in lines of its own, as pytest-sugar and pytest-pretty have it.
    listed: Option<Counts>,
    said: u64,
    agreed: StatusMap,
    /// Some run had no summary that names what passed.
    unnamed: bool,
    fault: Option<Fault>,
}

impl Pytest {
    /// Follows the lines that `parse` reads.
    pub(super) fn new(parse: Parse, context: &Context<'_>) -> Self {
        let strict = context.strict;
        let map = || if strict { StatusMap::strict() } else { StatusMap::default() };
        Pytest {
            parse,
            strict,
            runs: context.runs,
            nested: context.nested(),
            headers: 0,
            closings: 0,
            open: false,
            lost: false,
            in_summary: false,
            summary: None,
            loose: 0,
            after: StatusMap::default(),
            early: false,
            listed: None,
            said: 0,
            agreed: map(),
            unnamed: false,
            fault: None,
        }
    }

    fn header(&mut self) {
        self.results_since_closing();
        self.headers += 1;
        self.lost |= self.open;
        self.open = true;
        self.in_summary = false;
        if !self.nested {
            self.summary = None;
            self.loose = 0;
        }
    }

    fn close(&mut self, said: Counts) {
        if self.nested {
            // The last run is the one around all others.
            self.fault = None;
            self.agreed = StatusMap::strict();
            self.unnamed = false;
            self.said = 0;
        } else if self.headers > 0 && !self.open {
            self.fault.get_or_insert(Fault::Twice);
        }
        self.closings += 1;
        self.said += said.failed + said.errors;
        let summary = self.summary.as_ref();
        let seen = summary.map_or_else(Counts::default, |summary| summary.counts);
        if let Some(fault) = disagreement(said, seen, self.loose) {
            self.fault.get_or_insert(fault);
        }
        if seen.passed == said.passed {
            for (test, status) in summary.iter().flat_map(|summary| summary.map.iter()) {
                self.agreed.set(test, status.clone());
            }
        } else {
            self.unnamed = true;
        }
        if !self.nested {
            self.summary = None;
            self.loose = 0;
        }
        self.open = false;
        self.in_summary = false;
        self.after = StatusMap::default();
    }

    fn results_since_closing(&mut self) {
        if self.closings > 0 && !self.open && succeeds(&self.after) {
            self.fault.get_or_insert(Fault::After);
        }
    }
}

/// Compares what a closing says with the lines of its run.
fn disagreement(said: Counts, seen: Counts, loose: u64) -> Option<Fault> {
    let counts = |what, said, seen| Some(Fault::Counts { what, said, seen });
    match seen.passed {
        // Nothing names them in the summary (no `-rA`): then the lines of the run itself do.
        0 if loose > said.passed => return counts("passed", said.passed, loose),
        0 => {}
        passed if passed != said.passed => return counts("passed", said.passed, passed),
        _ => {}
    }
    for (what, said, seen) in [
        ("failed", said.failed, seen.failed),
        ("errors", said.errors, seen.errors),
        ("xfailed", said.xfailed, seen.xfailed),
    ] {
        if seen > 0 && seen != said {
            return counts(what, said, seen);
        }
    }
    None
}

fn succeeds(map: &StatusMap) -> bool {
    map.iter().any(|(_, status)| matches!(status, TestStatus::Passed | TestStatus::XFail))
}

impl Watch for Pytest {
    fn line(&mut self, line: &str, raw: &str) {
        let line = line.trim_end();
        if let Some(mut counts) = self.listed.take() {
            if add_listed(line, &mut counts) || line.is_empty() {
                self.listed = Some(counts);
                return;
            }
            self.close(counts);
        }
        if line.starts_with("Results (") && line.ends_with(':') {
            self.listed = Some(Counts::default());
            return;
        }
        if let Some(said) = closing(line, self.headers == 0) {
            return self.close(said);
        }
        if line.starts_with('=') {
            if line.ends_with('=') {
                match line.trim_matches(|c| c == '=' || c == ' ') {
                    "test session starts" => return self.header(),
                    "short test summary info" => {
                        self.in_summary = true;
                        self.summary = Some(Summary::default());
                        return;
                    }
                    "" => {}
                    _ => self.in_summary = false,
                }
            }
            return;
        }
        let word = line.split([' ', '[', '(']).next().unwrap_or_default();
        if self.in_summary
            && let Some(summary) = &mut self.summary
        {
            match word {
                "PASSED" => summary.counts.passed += 1,
                "FAILED" | "SUBFAIL" | "SUBFAILED" => summary.counts.failed += 1,
                "ERROR" => summary.counts.errors += 1,
                "XFAIL" => summary.counts.xfailed += 1,
                _ => {}
            }
            return (self.parse)(raw, &mut summary.map);
        }
        if word == "PASSED" || line.contains(" PASSED") {
            let mut one = StatusMap::default();
            (self.parse)(raw, &mut one);
            if succeeds(&one) {
                self.loose += 1;
                self.early |= self.headers == 0;
                if !self.open {
                    (self.parse)(raw, &mut self.after);
                }
            }
        }
    }

    fn finish(mut self: Box<Self>, map: &StatusMap) -> Finding {
        if let Some(counts) = self.listed.take() {
            self.close(counts);
        }
        self.results_since_closing();
        if self.closings == 0 && !map.is_empty() || !self.nested && (self.open || self.lost) {
            self.fault.get_or_insert(Fault::Missing);
        }
        if !self.nested && self.runs.is_some_and(|runs| self.closings > runs) {
            self.fault.get_or_insert(Fault::Twice);
        }
        let early = self.early && self.headers > 0;
        let named = self.strict && self.fault.is_none() && !self.unnamed && self.closings > 0;
        let mut counted = StatusMap::default();
        if self.nested {
            // Lists of expected tests hold names from runs inside of runs too.
            for (test, status) in map.iter() {
                counted.set(test, status.clone());
            }
        }
        for (test, status) in self.agreed.iter() {
            counted.set(test, status.clone());
        }
        Finding { fault: self.fault, summary: named.then_some(counted), early }
    }
}

/// Reads a closing line; `bare` takes the form without `=` too, which `-q` prints.
pub(super) fn closing(line: &str, bare: bool) -> Option<Counts> {
    let framed = line.starts_with('=');
    if !(framed || bare) || !line.contains(" in ") {
        return None;
    }
    let form = regex!(
        r"^=* ?((?:\d+ [a-z][a-z -]*(?:, )?)+|no tests (?:ran|collected)[^=]*|[\d/]+ tests collected[^=]*) in [\d.]+ ?s(?:econds?)?(?: \([^)]*\))? ?=*$"
    );
    let found = form.captures(line)?;
    let mut counts = Counts::default();
    for part in found[1].split(", ") {
        add(part, &mut counts);
    }
    Some(counts)
}

/// Returns how many tests of a closing line ran and count neither as passed nor as failed.
pub(super) fn others(line: &str) -> u64 {
    let counted = regex!(r"(\d+) (?:xfailed|xpassed)\b").captures_iter(line);
    counted.filter_map(|found| found[1].parse::<u64>().ok()).sum()
}

/// Adds `3 failed`; tells whether it was one.
fn add(part: &str, counts: &mut Counts) -> bool {
    let Some((number, what)) = part.split_once(' ') else { return false };
    let Ok(number) = number.parse::<u64>() else { return false };
    match what.trim() {
        "passed" => counts.passed += number,
        "failed" => counts.failed += number,
        "error" | "errors" => counts.errors += number,
        "xfailed" => counts.xfailed += number,
        "skipped" | "xpassed" | "deselected" | "warnings" | "warning" | "rerun" | "reruns" => {}
        _ => return false,
    }
    true
}

fn add_listed(line: &str, counts: &mut Counts) -> bool {
    line.starts_with(' ') && add(line.trim_start_matches([' ', '-']), counts)
}
