//! Runners whose lines can each be understood alone: cargo, go, sympy, jest, vitest, phpunit, and so
//! on. A table row says what a line means.

use super::{Fault, Finding, Watch};
use crate::grade::StatusMap;
use crate::grade::text::regex;

/// What a line means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// Nothing here.
    None,
    /// A run begins.
    Open,
    /// A test passed.
    Passed,
    /// A test failed.
    Failed,
    /// A run ends. The counts are what it says, where it says any.
    Close { passed: Option<u64>, failed: Option<u64> },
}

/// How many closings there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closings {
    /// As many as there are beginnings.
    AsOpened,
    /// One for each run of the script.
    OneARun,
    /// One for each package, directory or library.
    Any,
}

/// A kind of runner.
pub(super) struct Runner {
    /// The first name of the parser.
    pub format: &'static str,
    /// Whether every run that names tests ends with a closing.
    required: bool,
    closings: Closings,
    pub read: fn(&str) -> Event,
}

const fn runner(
    format: &'static str,
    required: bool,
    closings: Closings,
    read: fn(&str) -> Event,
) -> Runner {
    Runner { format, required, closings, read }
}

/// All of them.
pub(super) const RUNNERS: [Runner; 18] = [
    runner("parse_log_sympy", true, Closings::AsOpened, sympy),
    runner("parse_log_cargo", true, Closings::AsOpened, cargo),
    runner("parse_log_gotest", true, Closings::Any, go),
    runner("parse_log_googletest", true, Closings::AsOpened, googletest),
    runner("parse_log_micropython_test", true, Closings::OneARun, micropython),
    runner("parse_log_redis", true, Closings::Any, redis),
    runner("parse_log_jq", true, Closings::Any, automake),
    runner("parse_log_phpunit", true, Closings::OneARun, phpunit),
    runner("parse_log_minitest", true, Closings::Any, minitest),
    runner("parse_log_ruby_unit", true, Closings::Any, test_unit),
    runner("parse_log_cucumber", true, Closings::OneARun, cucumber),
    runner("parse_log_vitest", true, Closings::OneARun, vitest),
    runner("parse_log_jest", true, Closings::OneARun, jest),
    runner("parse_log_highlightjs", true, Closings::OneARun, mocha),
    runner("parse_log_karma", false, Closings::OneARun, karma),
    runner("parse_log_tap", false, Closings::Any, tap),
    runner("parse_log_ant", false, Closings::Any, ant),
    runner("parse_log_gradle_custom", false, Closings::Any, gradle),
];

fn number(text: &str) -> u64 {
    text.parse().unwrap_or(u64::MAX)
}

/// Finds `12 passed` in a list of counts.
fn count(text: &str, what: &str) -> u64 {
    let parts = text.split([',', '|', '(', ')', ';']).map(str::trim);
    let found = parts.filter_map(|part| part.split_once(' ')).find(|(_, of)| *of == what);
    found.map_or(0, |(count, _)| number(count))
}

fn closes(passed: u64, failed: u64) -> Event {
    Event::Close { passed: Some(passed), failed: Some(failed) }
}

const ENDS: Event = Event::Close { passed: None, failed: None };

fn sympy(line: &str) -> Event {
    let text = line.trim();
    if text.contains("tests finished: ") {
        // A long list goes on in the next line, after what passed.
        let (_, list) = text.split_once("tests finished: ").unwrap_or_default();
        return Event::Close { passed: Some(count(list, "passed")), failed: None };
    }
    if text.starts_with('=') && text.contains(" test process starts ") {
        return Event::Open;
    }
    if text.starts_with("test_") {
        if regex!(r" ok(?:\s+\[(?:OK|FAIL)\])?$").is_match(text) {
            return Event::Passed;
        }
        if regex!(r" [FE](?:\s+\[FAIL\])?$").is_match(text) {
            return Event::Failed;
        }
    }
    Event::None
}

fn cargo(line: &str) -> Event {
    let text = line.trim();
    if let Some(rest) = text.strip_prefix("test ") {
        if let Some(rest) = rest.strip_prefix("result: ")
            && let Some((_, list)) = rest.split_once(". ")
        {
            return closes(count(list, "passed"), count(list, "failed"));
        }
        return match rest.rsplit_once(" ... ") {
            Some((_, "ok")) => Event::Passed,
            Some((_, "FAILED")) => Event::Failed,
            _ => Event::None,
        };
    }
    match regex!(r"^running \d+ tests?$").is_match(text) {
        true => Event::Open,
        false => Event::None,
    }
}

fn go(line: &str) -> Event {
    if regex!(r"^(?:ok  |FAIL)\t\S+(?:\s|$)").is_match(line) {
        return ENDS;
    }
    match line.trim() {
        text if text.starts_with("--- PASS: ") => Event::Passed,
        text if text.starts_with("--- FAIL: ") => Event::Failed,
        _ => Event::None,
    }
}

fn googletest(line: &str) -> Event {
    // ctest puts a number before each line.
    let text = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ':' || c == ' ');
    if let Some(rest) = text.strip_prefix("[  PASSED  ] ") {
        let (count, _) = rest.split_once(' ').unwrap_or_default();
        return Event::Close { passed: Some(number(count)), failed: None };
    }
    if text.starts_with("[==========] Running ") {
        return Event::Open;
    }
    match regex!(r"\[\s*(OK|FAILED)\s*\] .* \(\d+ ms\)$").captures(text) {
        Some(found) if &found[1] == "OK" => Event::Passed,
        Some(_) => Event::Failed,
        None => Event::None,
    }
}

fn micropython(line: &str) -> Event {
    if let Some(found) = regex!(r"^(\d+) tests passed$").captures(line.trim()) {
        return Event::Close { passed: Some(number(&found[1])), failed: None };
    }
    match line.split_once("  ") {
        Some(("pass", _)) => Event::Passed,
        Some(("FAIL", _)) => Event::Failed,
        _ => Event::None,
    }
}

fn redis(line: &str) -> Event {
    let text = line.trim();
    if text.contains("All tests passed without errors!")
        || text.starts_with("!!! WARNING The following tests failed:")
    {
        return ENDS;
    }
    match text.split_once("]: ") {
        Some(("[ok", _)) => Event::Passed,
        Some(("[err", _)) => Event::Failed,
        _ => Event::None,
    }
}

fn automake(line: &str) -> Event {
    let text = line.trim();
    if let Some(count) = text.strip_prefix("# PASS:") {
        return Event::Close { passed: Some(number(count.trim())), failed: None };
    }
    match text.split_once(": ") {
        Some(("PASS", _)) => Event::Passed,
        Some(("FAIL", _)) => Event::Failed,
        _ => Event::None,
    }
}

fn phpunit(line: &str) -> Event {
    let text = line.trim();
    if let Some(found) = regex!(r"^OK \((\d+) tests?, ").captures(text) {
        return closes(number(&found[1]), 0);
    }
    if let Some(found) = regex!(r"^Tests: (\d+), Assertions: \d+(.*)\.$").captures(text) {
        let failed = regex!(r"(?:Errors|Failures): (\d+)");
        let failed = failed.captures_iter(&found[2]).map(|one| number(&one[1])).sum::<u64>();
        return closes(number(&found[1]).saturating_sub(failed), failed);
    }
    match text.chars().next() {
        Some('✔') => Event::Passed,
        Some('✘') => Event::Failed,
        _ => Event::None,
    }
}

fn units(text: &str) -> Option<Event> {
    let form =
        regex!(r"^(\d+) (?:tests|runs), \d+ assertions, (\d+) failures, (\d+) errors, (.*)$");
    let found = form.captures(text)?;
    let failed = number(&found[2]) + number(&found[3]);
    let idle: u64 = found[4]
        .split(", ")
        .filter_map(|part| part.split_once(' '))
        .filter(|(_, what)| matches!(*what, "skips" | "pendings" | "omissions"))
        .map(|(count, _)| number(count))
        .sum();
    Some(closes(number(&found[1]).saturating_sub(failed).saturating_sub(idle), failed))
}

fn minitest(line: &str) -> Event {
    let text = line.trim();
    if let Some(closing) = units(text) {
        return closing;
    }
    match regex!(r"^.+ = [\d.]+ s = (\.|F|E)$").captures(text) {
        Some(found) if &found[1] == "." => Event::Passed,
        Some(_) => Event::Failed,
        None => Event::None,
    }
}

fn test_unit(line: &str) -> Event {
    let text = line.trim();
    if let Some(Event::Close { passed, failed }) = units(text) {
        // An error may be that of a class's start, beside tests that passed.
        let errors = regex!(r", (\d+) errors").captures(text).map_or(0, |found| number(&found[1]));
        return Event::Close { passed: passed.map(|passed| passed.saturating_add(errors)), failed };
    }
    match regex!(r"^.+:\s+(\.|E\b|F\b)(?:: \([\d.]+\))?").captures(text) {
        Some(found) if &found[1] == "." => Event::Passed,
        Some(_) => Event::Failed,
        None => Event::None,
    }
}

fn cucumber(line: &str) -> Event {
    match regex!(r"^\d+ scenarios? \((.*)\)$").captures(line.trim()) {
        Some(found) => closes(count(&found[1], "passed"), count(&found[1], "failed")),
        None => Event::None,
    }
}

fn vitest(line: &str) -> Event {
    let text = line.trim();
    if let Some(found) = regex!(r"^Tests\s+(.*) \(\d+\)$").captures(text) {
        return closes(count(&found[1], "passed"), count(&found[1], "failed"));
    }
    match text.chars().next() {
        Some('✓') => Event::Passed,
        Some('×') => Event::Failed,
        _ => Event::None,
    }
}

fn jest(line: &str) -> Event {
    let text = line.trim();
    if let Some(found) = regex!(r"^Tests:\s+(.*\d+ total)$").captures(text) {
        return closes(count(&found[1], "passed"), count(&found[1], "failed"));
    }
    match text.chars().next() {
        Some('✓') => Event::Passed,
        Some('✕') => Event::Failed,
        _ => Event::None,
    }
}

fn mocha(line: &str) -> Event {
    let text = line.trim();
    if let Some(found) = regex!(r"^(\d+) passing(?: \(.*\))?$").captures(text) {
        return Event::Close { passed: Some(number(&found[1])), failed: None };
    }
    match text.chars().next() {
        Some('✓' | '✔') => Event::Passed,
        _ => Event::None,
    }
}

fn karma(line: &str) -> Event {
    let text = line.trim();
    if let Some(found) = regex!(r"^✔ (\d+) tests? completed$").captures(text) {
        return Event::Close { passed: Some(number(&found[1])), failed: None };
    }
    match text.chars().next() {
        Some('✔') => Event::Passed,
        _ => Event::None,
    }
}

fn tap(line: &str) -> Event {
    let text = line.trim();
    if let Some(found) = regex!(r"^# pass\s+(\d+)$").captures(text) {
        return Event::Close { passed: Some(number(&found[1])), failed: None };
    }
    // Nested tests are indented, and counted by the one around them.
    match line {
        line if line.starts_with("ok ") => Event::Passed,
        line if line.starts_with("not ok ") => Event::Failed,
        _ => Event::None,
    }
}

fn ant(line: &str) -> Event {
    match line.trim() {
        "BUILD SUCCESSFUL" | "BUILD FAILED" => ENDS,
        text if text.contains("[PASS]") => Event::Passed,
        _ => Event::None,
    }
}

fn gradle(line: &str) -> Event {
    let text = line.trim();
    if text.starts_with("BUILD SUCCESSFUL") || text.starts_with("BUILD FAILED") {
        return ENDS;
    }
    match text.ends_with(" PASSED") {
        true => Event::Passed,
        false => Event::None,
    }
}

/// Follows runs of such a runner.
pub(super) struct Tally {
    runner: &'static Runner,
    runs: Option<u64>,
    opened: u64,
    closings: u64,
    said_passed: Option<u64>,
    said_failed: Option<u64>,
    passed: u64,
    passed_since: bool,
}

impl Tally {
    pub(super) fn new(runner: &'static Runner, runs: Option<u64>) -> Self {
        Tally {
            runner,
            runs,
            opened: 0,
            closings: 0,
            said_passed: None,
            said_failed: None,
            passed: 0,
            passed_since: false,
        }
    }
}

impl Watch for Tally {
    fn line(&mut self, line: &str, _: &str) {
        match (self.runner.read)(line) {
            Event::None | Event::Failed => {}
            Event::Open => self.opened += 1,
            Event::Passed => {
                self.passed += 1;
                self.passed_since = true;
            }
            Event::Close { passed, failed } => {
                self.closings += 1;
                self.passed_since = false;
                let add = |sum: &mut Option<u64>, more: Option<u64>| {
                    if let Some(more) = more {
                        *sum = Some(sum.unwrap_or(0).saturating_add(more));
                    }
                };
                add(&mut self.said_passed, passed);
                add(&mut self.said_failed, failed);
            }
        }
    }

    fn finish(self: Box<Self>, map: &StatusMap) -> Finding {
        let many = match self.runner.closings {
            Closings::AsOpened => self.opened != self.closings,
            Closings::OneARun => self.runs.is_some_and(|runs| self.closings > runs),
            Closings::Any => false,
        };
        let fault = match self.said_passed {
            _ if self.closings == 0 => {
                (self.runner.required && !map.is_empty()).then_some(Fault::Missing)
            }
            _ if many => Some(Fault::Twice),
            _ if self.passed_since => Some(Fault::After),
            Some(said) if self.passed > said => {
                Some(Fault::Counts { what: "passed", said, seen: self.passed })
            }
            _ => None,
        };
        Finding { fault, ..Finding::default() }
    }
}
