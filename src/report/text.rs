//! What a run came to, for the terminal.

use std::fmt::Write as _;

use console::style;

use super::{InstanceResult, RunReport, Verdict};

/// Renders a run: every model's score, and below it what there is to say of its predictions.
pub fn summary(report: &RunReport) -> String {
    let mut text = String::new();
    for score in report.scores() {
        let results: Vec<&InstanceResult> = report.of(&score.model).collect();
        let _ = writeln!(
            text,
            "\n{}: {}\n  {}",
            style(&score.model).bold().for_stderr(),
            style(score.headline()).green().for_stderr(),
            score.beside()
        );
        let mut line = |count: usize, what: &str| {
            if count > 0 {
                let _ = writeln!(text, "  {count:>5} {what}");
            }
        };
        for verdict in Verdict::ALL.into_iter().skip(1) {
            let count = results.iter().filter(|one| one.verdict == verdict).count();
            line(count, verdict.words());
        }
        line(score.reused, "reused from earlier runs with the same inputs");
        line(score.missing, "without a prediction");
        let reaching = results.iter().filter(|one| !one.reaches.is_empty()).count();
        line(reaching, "whose patch reaches for the run of the tests");
        let suspicious = results.iter().filter(|one| !one.suspicions.is_empty()).count();
        line(suspicious, "whose log is suspicious");
        let flaky = results.iter().filter(|one| !one.flaky.is_empty()).count();
        line(flaky, "with tests that did not do the same in every run");
    }
    text
}
