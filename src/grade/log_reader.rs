//! Reading a log: the markers, the output of the tests between them, the recorded exit status.

use std::borrow::Cow;
use std::io::{BufRead, Seek, SeekFrom};
use std::sync::LazyLock;

use memchr::memmem::Finder;
use regex::Regex;
use serde::Serialize;

use super::closing::Fault;
use super::context::Context;
use super::lines::Lines;
use super::logs::{Parser, Reader};
use super::markers::{END, START};
use super::read_error::ReadError;
use super::results;
use super::sentinel::{self, ResultsFiles};
use super::suspicion::{Frames, Suspicion};
use super::{StatusMap, TestStatus};

/// The start of every marker.
const MARK: &str = ">>>>> ";
const EXIT_CODE: &str = ">>>>> Test Exit Code:";

/// The marker of a log whose model patch does not apply.
pub const PATCH_FAILED: &str = ">>>>> Patch Apply Failed";

/// What stands before and after the seconds in the note of a time limit.
const TIME_LIMIT: (&str, &str) = ("\n\nTimeout error: ", " seconds exceeded.");

/// Returns the note that ends the log of tests that were ended at a time limit.
pub fn time_limit_note(seconds: u64) -> String {
    let (before, after) = TIME_LIMIT;
    format!("{before}{seconds}{after}")
}

/// Tells whether the last characters of a log are such a note.
pub fn ends_at_time_limit(end: &str) -> bool {
    let (before, after) = TIME_LIMIT;
    end.rsplit_once(before).is_some_and(|(_, rest)| rest.ends_with(after))
}

/// Markers that say that there are no results.
const BAD: [(&str, NoResult); 4] = [
    (PATCH_FAILED, NoResult::PatchApplyFailed),
    (">>>>> Reset Failed", NoResult::ResetFailed),
    (">>>>> Tests Errored", NoResult::TestsErrored),
    (">>>>> Tests Timed Out", NoResult::TestsTimedOut),
];

/// The content of a log: tests, markers and exit code.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ParsedLog {
    /// Whether it shows results that count.
    pub found: bool,
    /// The reason for which `found` is false.
    pub not_found: Option<NoResult>,
    /// The recorded exit status of the test command.
    pub exit_code: Option<i64>,
    /// What it says of each test; empty where nothing counts.
    pub status_map: StatusMap,
    /// What is wrong with the closing counts of the test runner, whether or not that matters.
    pub closing: Option<Fault>,
    /// Parts of the log that an honest run does not have.
    pub suspicions: Vec<Suspicion>,
}

/// The reason for which a log shows no results that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum NoResult {
    /// The harness's marker.
    #[error("the log says that the patch does not apply")]
    PatchApplyFailed,
    /// The harness's marker.
    #[error("the log says that the reset failed")]
    ResetFailed,
    /// The harness's marker.
    #[error("the log says that the tests could not be run")]
    TestsErrored,
    /// The harness's marker.
    #[error("the log says that the tests timed out")]
    TestsTimedOut,
    /// The script did not come to the tests, or not to their end.
    #[error("the log lacks the markers around the output of the tests")]
    NoMarkers,
    /// No test is named, and nothing says that tests were run.
    #[error("the log names no test")]
    NoResults,
    /// The log does not describe the run that it is of.
    #[error("the test command failed (exit status {0}), and no test did")]
    ExitStatus(i64),
    /// Under the strict rules: the test runner's own counts and the lines do not go together.
    #[error(transparent)]
    Closing(Fault),
}

/// Words by which a test runner shows that it ran: then a log without failures is one.
static SUITE_RAN: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"Executed [1-9]\d* of \d+|TOTAL: [1-9]\d* (?:SUCCESS|FAILED)|[1-9]\d* passing|Tests:\s+[1-9]\d*|Test Suites:\s+(?:\d+ \w+, )*[1-9]\d* total|^# tests [1-9]\d*|[1-9]\d* specs?, \d+ failures?|': ok$",
    )
    .expect("the pattern is constant")
});

/// Words of [`SUITE_RAN`] whose number may stand on the next line.
const WAITING: [&str; 2] = ["Tests:", "Test Suites:"];

/// Reads a log with a parser.
pub fn read_log(
    log: &mut (impl BufRead + Seek),
    parser: &Parser,
    context: &Context<'_>,
) -> Result<ParsedLog, ReadError> {
    let mut scan = Scan::new(parser.reader(context)?);
    let mut lines = Lines::new(log);
    while let Some(piece) = lines.next()? {
        scan.piece(piece.bytes, piece.seen);
    }
    let Scan { start, end, bad, exit_code, reader, frames, results, .. } = scan;
    let mut reading = ParsedLog { not_found: bad, exit_code, ..ParsedLog::default() };
    reading.suspicions = frames.suspicions();
    if bad.is_some() {
        return Ok(reading);
    }
    if !(start && end) {
        reading.not_found = Some(NoResult::NoMarkers);
        return Ok(reading);
    }
    let (mut map, finding) = reader.finish()?;
    reading.closing = finding.fault;
    reading.suspicions.extend(finding.early.then_some(Suspicion::EarlyResults));
    reading.suspicions.extend(finding.fault.map(|fault| Suspicion::Closing { fault }));
    if context.strict {
        if map.is_empty() {
            reading.not_found = Some(NoResult::NoResults);
            return Ok(reading);
        }
        if let Some(fault) = finding.fault {
            reading.not_found = Some(NoResult::Closing(fault));
            return Ok(reading);
        }
        map = finding.summary.unwrap_or(map);
        if let Some(fault) = results::compare(&results.finish(), &map) {
            reading.closing = Some(fault);
            reading.suspicions.push(Suspicion::Closing { fault });
            reading.not_found = Some(NoResult::Closing(fault));
            return Ok(reading);
        }
    }
    if map.is_empty() {
        let whole = read_whole(log, parser.reader(context)?)?;
        if whole.map.is_empty() && !whole.suite_ran {
            reading.not_found = Some(NoResult::NoResults);
            return Ok(reading);
        }
        map = whole.map;
    }
    let failed =
        map.iter().any(|(_, status)| matches!(status, TestStatus::Failed | TestStatus::Error));
    match exit_code {
        Some(code) if code != 0 && !map.is_empty() && !failed => {
            reading.not_found = Some(NoResult::ExitStatus(code));
        }
        _ => {
            reading.found = true;
            reading.status_map = map;
        }
    }
    Ok(reading)
}

struct Whole {
    map: StatusMap,
    suite_ran: bool,
}

/// Some runners print results outside the markers: then the whole log counts.
fn read_whole(log: &mut (impl BufRead + Seek), mut reader: Reader) -> Result<Whole, ReadError> {
    log.seek(SeekFrom::Start(0))?;
    let mut lines = Lines::new(log);
    let mut suite_ran = false;
    let mut waiting = String::new();
    while let Some(piece) = lines.next()? {
        let text = String::from_utf8_lossy(piece.bytes);
        if piece.seen == 0 {
            reader.line(&text);
        }
        if suite_ran {
            continue;
        }
        suite_ran = SUITE_RAN.is_match(&text);
        if !waiting.is_empty() && !text.trim().is_empty() {
            suite_ran |= SUITE_RAN.is_match(&format!("{waiting} {}", text.trim_start()));
            waiting.clear();
        }
        if let Some(word) = WAITING.iter().find(|word| text.trim_end().ends_with(**word)) {
            waiting = (*word).to_owned();
        }
    }
    let (map, _) = reader.finish()?;
    Ok(Whole { map, suite_ran })
}

#[derive(PartialEq)]
enum Part {
    Before,
    Tests,
    After,
    /// In a file of results.
    Results,
}

/// What one pass over a log finds.
struct Scan {
    reader: Reader,
    part: Part,
    start: bool,
    end: bool,
    bad: Option<NoResult>,
    exit_code: Option<i64>,
    exit_code_follows: bool,
    mark: Finder<'static>,
    frames: Frames,
    results: ResultsFiles,
}

impl Scan {
    fn new(reader: Reader) -> Self {
        Scan {
            reader,
            part: Part::Before,
            start: false,
            end: false,
            bad: None,
            exit_code: None,
            exit_code_follows: false,
            mark: Finder::new(MARK),
            frames: Frames::default(),
            results: ResultsFiles::default(),
        }
    }

    /// Takes a line, or a piece of one of which the first `seen` bytes were in the one before.
    fn piece(&mut self, bytes: &[u8], seen: usize) {
        if self.exit_code_follows && seen == 0 {
            let text = bytes.trim_ascii_start();
            if !text.is_empty() {
                self.exit_code = number(text);
                self.exit_code_follows = false;
            }
        }
        // Where the text begins that the parser has not had; a continued line is not handed on.
        let mut from = (seen == 0).then_some(0);
        let marks: Vec<usize> = self.mark.find_iter(bytes).collect();
        for at in marks {
            let here = &bytes[at..];
            let new =
                |marker: &str| here.starts_with(marker.as_bytes()) && at + marker.len() > seen;
            for (marker, why) in BAD {
                if new(marker) {
                    self.bad = self.bad.or(Some(why));
                }
            }
            if new(EXIT_CODE) || new(END) {
                self.frames.end();
            }
            if new(START) {
                self.frames.start(&bytes[..at]);
            }
            if self.exit_code.is_none() && new(EXIT_CODE) {
                let rest = here[EXIT_CODE.len()..].trim_ascii_start();
                self.exit_code = number(rest);
                self.exit_code_follows = rest.is_empty();
            }
            if new(START) {
                self.start = true;
                match self.part {
                    Part::Before => {
                        self.part = Part::Tests;
                        from = Some(at + START.len());
                    }
                    Part::Tests => self.leave(bytes, from, at),
                    Part::After | Part::Results => {}
                }
            } else if new(END) {
                self.end = true;
                if self.part == Part::Tests {
                    self.leave(bytes, from, at);
                }
            }
        }
        match (&self.part, from) {
            (Part::Tests, Some(from)) => self.reader.line(&text(&bytes[from..])),
            (Part::After | Part::Results, _) => self.results(bytes, seen),
            _ => {}
        }
    }

    /// Takes a line after the end of the tests.
    fn results(&mut self, bytes: &[u8], seen: usize) {
        match bytes.strip_prefix(sentinel::RESULTS.as_bytes()) {
            Some(rest) if seen == 0 => {
                self.part = Part::Results;
                self.results.begin(rest);
            }
            _ if self.part == Part::Results => self.results.line(&bytes[seen..], seen == 0),
            _ => {}
        }
    }

    fn leave(&mut self, bytes: &[u8], from: Option<usize>, to: usize) {
        if let Some(from) = from {
            self.reader.line(&text(&bytes[from..to]));
        }
        self.part = Part::After;
    }
}

fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// Reads a whole number at the beginning of `bytes`.
fn number(bytes: &[u8]) -> Option<i64> {
    let negative = bytes.first() == Some(&b'-');
    let digits = &bytes[usize::from(negative)..];
    let count = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if count == 0 {
        return None;
    }
    let text = std::str::from_utf8(&digits[..count]).expect("digits are UTF-8");
    let number = text.parse::<i64>().unwrap_or(i64::MAX);
    Some(if negative { -number } else { number })
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::grade::parser;

    fn read(log: &str) -> ParsedLog {
        let context = Context { instance_id: "a__b-1", version: "1", strict: false, runs: None };
        let parser = parser("parse_log_pytest").unwrap();
        read_log(&mut io::Cursor::new(log.as_bytes()), parser, &context).unwrap()
    }

    fn framed(tests: &str, code: &str) -> String {
        format!(
            "+ : '>>>>> Start Test Output'\n{tests}\n+ : '>>>>> End Test Output'\n\
             + echo '>>>>> Test Exit Code: {code}'\n>>>>> Test Exit Code: {code}\n"
        )
    }

    #[test]
    fn only_what_stands_between_the_markers_counts() {
        let log = format!("PASSED early\n{}PASSED late\n", framed("PASSED a", "0"));
        let reading = read(&log);
        assert!(reading.found);
        assert_eq!(reading.exit_code, Some(0));
        let names: Vec<&str> = reading.status_map.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a"]);
    }

    #[test]
    fn results_outside_the_markers_count_when_there_are_none_inside() {
        let reading = read(&format!("PASSED early\n{}", framed("", "0")));
        assert!(reading.found);
        assert_eq!(reading.status_map.len(), 1);
    }

    #[test]
    fn under_the_strict_rules_a_failure_stays_one_and_nothing_outside_counts() {
        let context = Context { instance_id: "a__b-1", version: "1", strict: true, runs: None };
        let parser = parser("parse_log_pytest").unwrap();
        let log = framed(
            "=== test session starts ===\nFAILED a\nPASSED a\n=== short test summary info ===\n\
             FAILED a\nPASSED b\n=== 1 failed, 1 passed in 0.10s ===",
            "1",
        );
        let reading = read_log(&mut io::Cursor::new(log), parser, &context).unwrap();
        assert_eq!(reading.status_map.get("a"), Some(&TestStatus::Failed), "{reading:?}");
        let reading =
            read_log(&mut io::Cursor::new(framed("PASSED a", "0")), parser, &context).unwrap();
        assert!(matches!(reading.not_found, Some(NoResult::Closing(_))), "{reading:?}");
        let log = format!("PASSED a\n{}", framed("12 passing", "0"));
        let reading = read_log(&mut io::Cursor::new(log), parser, &context).unwrap();
        assert_eq!(reading.not_found, Some(NoResult::NoResults));
    }

    #[test]
    fn a_log_without_markers_or_results_shows_none() {
        assert_eq!(read("PASSED a\n").not_found, Some(NoResult::NoMarkers));
        assert_eq!(read(&framed("nothing", "0")).not_found, Some(NoResult::NoResults));
        let timed_out = format!("{}>>>>> Tests Timed Out\n", framed("PASSED a", "0"));
        assert_eq!(read(&timed_out).not_found, Some(NoResult::TestsTimedOut));
    }

    #[test]
    fn a_suite_that_ran_without_naming_a_test_counts() {
        let reading = read(&framed("12 passing", "0"));
        assert!(reading.found && reading.status_map.is_empty());
        assert!(read(&framed("Tests:\n  3 of 3", "0")).found);
        assert!(!read(&framed("Executed 0 of 0", "0")).found);
    }

    #[test]
    fn results_that_do_not_fit_the_recorded_exit_status_do_not_count() {
        assert_eq!(read(&framed("PASSED a", "1")).not_found, Some(NoResult::ExitStatus(1)));
        assert!(read(&framed("PASSED a\nFAILED b", "1")).found);
    }

    #[test]
    fn a_marker_at_the_end_of_a_line_of_megabytes_is_seen() {
        let long = "x".repeat(3 << 20);
        let log = format!("{long}>>>>> Start Test Output\nPASSED a\n{long}>>>>> End Test Output\n");
        let reading = read(&log);
        assert!(reading.found, "{:?}", reading.not_found);
        assert_eq!(reading.status_map.len(), 1);
    }

    #[test]
    fn carriage_returns_end_lines_and_bytes_that_are_not_text_do_no_harm() {
        let mut log = b">>>>> Start Test Output\r\n\xff\0PASSED no\rPASSED a\r\n".to_vec();
        log.extend_from_slice(b">>>>> End Test Output");
        let context = Context { instance_id: "a__b-1", version: "1", strict: false, runs: None };
        let parser = parser("parse_log_pytest").unwrap();
        let reading = read_log(&mut io::Cursor::new(log), parser, &context).unwrap();
        assert_eq!(reading.status_map.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["a"]);
    }
}
