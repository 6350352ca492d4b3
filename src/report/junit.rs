//! JUnit XML, as GitLab, Jenkins and GitHub's readers take it: a suite for each model, a case for
//! each instance.

use std::time::Duration;

use quick_junit::{
    NonSuccessKind, Property, Report, TestCase, TestCaseStatus, TestSuite, XmlString,
};

use super::{InstanceResult, RunReport, Verdict};

/// Renders a run.
pub fn junit(report: &RunReport) -> String {
    let mut document = Report::new(report.run_id.as_str());
    document.set_time(Duration::from_secs_f64(report.seconds.max(0.0)));
    for model in report.models() {
        let mut suite = TestSuite::new(model);
        let score = report.score(model);
        for (name, value) in [
            ("score", score.headline()),
            ("instances", score.instances.to_string()),
            ("resolved", score.resolved.to_string()),
            ("submitted", score.submitted.to_string()),
            ("completed", score.completed.to_string()),
            ("missing", score.missing.to_string()),
        ] {
            suite.add_property(Property::new(name, value));
        }
        let mut seconds = 0.0;
        for result in report.of(model) {
            seconds += result.test_seconds;
            suite.add_test_case(case(result));
        }
        for id in
            report.instances.iter().filter(|id| report.of(model).all(|r| r.instance_id != **id))
        {
            let mut status = TestCaseStatus::skipped();
            status.set_message("no prediction");
            suite.add_test_case(TestCase::new(id.as_str(), status));
        }
        suite.set_time(Duration::from_secs_f64(seconds.max(0.0)));
        document.add_test_suite(suite);
    }
    document.to_string().expect("a report in memory can be written")
}

fn case(result: &InstanceResult) -> TestCase {
    let mut status = match result.verdict {
        Verdict::Resolved => TestCaseStatus::success(),
        Verdict::Unresolved | Verdict::PatchRefused => {
            TestCaseStatus::non_success(NonSuccessKind::Failure)
        }
        Verdict::EmptyPatch => TestCaseStatus::skipped(),
        Verdict::TimedOut
        | Verdict::OutOfMemory
        | Verdict::OverQuota
        | Verdict::Error
        | Verdict::NotRun => TestCaseStatus::non_success(NonSuccessKind::Error),
    };
    if result.verdict != Verdict::Resolved {
        status.set_message(text(&message(result)));
    }
    if !matches!(result.verdict, Verdict::Resolved | Verdict::EmptyPatch) {
        status.set_type(result.verdict.as_str());
        status.set_description(text(&description(result)));
    }
    let mut case = TestCase::new(text(&result.instance_id), status);
    case.set_classname(result.repo.as_str());
    case.set_time(Duration::from_secs_f64(result.test_seconds.max(0.0)));
    if let Some(emulator) = &result.emulator {
        case.add_property(("emulator", emulator.as_str()));
    }
    if !result.log_tail.is_empty() {
        case.set_system_out(text(&result.log_tail.join("\n")));
    }
    case
}

/// Makes text that XML 1.0 may hold. What the library strips with the escapes of a terminal, and
/// what it leaves, is dealt with before.
fn text(text: &str) -> XmlString {
    let kept: String = text
        .replace('\t', "    ")
        .chars()
        .map(|c| if matches!(c, '\u{fffe}' | '\u{ffff}') { '\u{fffd}' } else { c })
        .collect();
    XmlString::new(kept)
}

fn message(result: &InstanceResult) -> String {
    match (result.counts(), result.reason.as_deref().and_then(|reason| reason.lines().next())) {
        (Some((good, all)), _) => {
            format!("{}: {good} of {all} expected tests", result.verdict.words())
        }
        (None, Some(reason)) => format!("{}: {reason}", result.verdict.words()),
        (None, None) => result.verdict.words().to_owned(),
    }
}

fn description(result: &InstanceResult) -> String {
    let mut lines: Vec<String> = Vec::new();
    lines.extend(result.reason.clone());
    lines.extend(result.advice().map(|advice| format!("hint: {advice}")));
    lines.extend(result.failing_tests().into_iter().map(|test| format!("failing: {test}")));
    lines.extend(
        result.reaches.iter().map(|reach| format!("the patch reaches for the run: {reach}")),
    );
    lines.extend(result.suspicions.iter().map(|what| format!("suspicious: {what}")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{report, result};
    use super::*;

    /// Counts elements with a real parser.
    fn count(xml: &str, name: &str) -> usize {
        let mut reader = quick_xml::Reader::from_str(xml);
        let mut count = 0;
        loop {
            match reader.read_event().expect("well-formed XML") {
                quick_xml::events::Event::Start(tag) | quick_xml::events::Event::Empty(tag)
                    if tag.name().as_ref() == name.as_bytes() =>
                {
                    count += 1;
                }
                quick_xml::events::Event::Eof => return count,
                _ => {}
            }
        }
    }

    #[test]
    fn every_verdict_is_a_case_of_its_kind() {
        let xml = junit(&report());
        assert_eq!(count(&xml, "testsuite"), 1);
        assert_eq!(count(&xml, "testcase"), 10, "nine verdicts and one without a prediction");
        assert_eq!(count(&xml, "failure"), 2);
        assert_eq!(count(&xml, "error"), 5);
        assert_eq!(count(&xml, "skipped"), 2);
        assert!(xml.contains(r#"message="unresolved: 1 of 2 expected tests""#), "{xml}");
    }

    #[test]
    fn what_xml_cannot_hold_does_no_harm() {
        let mut report = report();
        let mut hostile = result("x__y-<&\"1", Verdict::Unresolved);
        hostile.reason = Some("]]> \0 \u{1b}[31m </failure>".into());
        hostile.log_tail = vec!["\0\u{8}\u{fffe}\u{ffff}]]><x>\tend".into()];
        report.results.push(hostile);
        let xml = junit(&report);
        assert_eq!(count(&xml, "testcase"), 11);
        for c in ['\0', '\u{8}', '\u{1b}', '\u{fffe}', '\u{ffff}'] {
            assert!(!xml.contains(c), "{c:?}");
        }
        assert!(xml.contains("    end"), "{xml}");
    }
}
