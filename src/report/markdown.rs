//! `summary.md`: a run for people who read pull requests and job summaries.

use std::fmt::Write as _;

use super::{InstanceResult, RunReport, Verdict};

/// How many instances a list names; a job summary may have a mebibyte.
const MOST: usize = 200;

/// Renders a run in GitHub's Markdown.
pub fn summary(report: &RunReport) -> String {
    let mut text = format!("# Run {}\n\n", escape(report.run_id.as_str()));
    let _ = writeln!(
        text,
        "{} ({}), {} instances\n",
        escape(&report.dataset),
        escape(&report.split),
        report.instances.len()
    );
    text.push_str(
        "| model | resolved | of | submitted | completed | missing | unresolved | patch refused \
         | empty | errors | not run | reused |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for score in report.scores() {
        let _ = writeln!(
            text,
            "| {} | **{}** ({}) | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            escape(&score.model),
            score.resolved,
            score.percent,
            score.instances,
            score.submitted,
            score.completed,
            score.missing,
            score.unresolved - score.patch_refused,
            score.patch_refused,
            score.empty,
            score.errors,
            score.not_run,
            score.reused,
        );
    }
    by_repository(&mut text, report);
    not_resolved(&mut text, report);
    notes(&mut text, report);
    let _ = write!(
        text,
        "\n{} {}, rules of {}{}",
        report.grader.name,
        report.grader.version,
        report.grader.rules,
        if report.strict { ", strict" } else { "" }
    );
    let emulated = report.emulator.as_ref().map(|emulator| format!("emulated by {emulator}"));
    for fact in
        [report.engine.as_str(), report.platform.as_str()].into_iter().chain(emulated.as_deref())
    {
        if !fact.is_empty() {
            let _ = write!(text, "; {}", escape(fact));
        }
    }
    text.push('\n');
    text
}

/// Keeps Markdown and HTML from reading `text`.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let mut last = ' ';
    for c in text.chars() {
        match c {
            // Within a word it is no emphasis.
            '_' if last.is_alphanumeric() || last == '_' => escaped.push('_'),
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\n' | '\r' => escaped.push_str("<br>"),
            '|' | '`' | '*' | '_' | '[' | ']' | '\\' | '#' | '~' | '@' => {
                escaped.push('\\');
                escaped.push(c);
            }
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
        last = c;
    }
    escaped
}

fn by_repository(text: &mut String, report: &RunReport) {
    let repositories = report.by_repository();
    if repositories.len() < 2 {
        return;
    }
    text.push_str("\n| repository | of |");
    for model in report.models() {
        let _ = write!(text, " {} |", escape(model));
    }
    let _ = writeln!(text, "\n|---|---:|{}", "---:|".repeat(report.models().len()));
    for one in repositories {
        let _ = write!(text, "| {} | {} |", escape(&one.repo), one.instances);
        for resolved in one.resolved {
            let _ = write!(text, " {resolved} |");
        }
        text.push('\n');
    }
}

fn not_resolved(text: &mut String, report: &RunReport) {
    let open: Vec<&InstanceResult> =
        report.results.iter().filter(|one| one.verdict != Verdict::Resolved).collect();
    if open.is_empty() {
        return;
    }
    let _ = write!(
        text,
        "\n<details><summary>{} not resolved</summary>\n\n\
         | instance | model | verdict | tests | why |\n|---|---|---|---:|---|\n",
        open.len()
    );
    for result in open.iter().take(MOST) {
        let tests = result.counts().map_or(String::new(), |(good, all)| format!("{good}/{all}"));
        let why: String = result.why().chars().take(300).collect();
        let advice = result.advice().map_or(String::new(), |advice| format!(" ({advice})"));
        let _ = writeln!(
            text,
            "| {} | {} | {} | {tests} | {}{} |",
            escape(&result.instance_id),
            escape(&result.model),
            result.verdict.words(),
            escape(&why),
            escape(&advice),
        );
    }
    text.push_str("\n</details>\n");
    if open.len() > MOST {
        let _ = writeln!(text, "\nand {} more", open.len() - MOST);
    }
}

fn notes(text: &mut String, report: &RunReport) {
    let mut notes: Vec<String> = Vec::new();
    if !report.unknown_ids.is_empty() {
        notes.push(format!(
            "predictions for instances that the dataset does not have: {}",
            list(report.unknown_ids.iter().map(String::as_str))
        ));
    }
    let mut named = |what: &str, of: &dyn Fn(&InstanceResult) -> String| {
        for result in &report.results {
            let value = of(result);
            if !value.is_empty() {
                notes.push(format!("{} {what} {}", escape(&result.instance_id), value));
            }
        }
    };
    named("is flaky:", &|result| list(result.flaky.iter().map(String::as_str)));
    named("reaches for the run of the tests:", &|result| {
        list(result.reaches.iter().map(String::as_str))
    });
    named("has a suspicious log:", &|result| list(result.suspicions.iter().map(String::as_str)));
    named("under the strict rules:", &|result| list(result.strict.iter().map(String::as_str)));
    if notes.is_empty() {
        return;
    }
    text.push('\n');
    for note in notes.iter().take(MOST) {
        let _ = writeln!(text, "- {note}");
    }
    if notes.len() > MOST {
        let _ = writeln!(text, "- and {} more", notes.len() - MOST);
    }
}

fn list<'a>(items: impl Iterator<Item = &'a str>) -> String {
    let items: Vec<String> = items.map(escape).collect();
    match items.len() {
        0..=10 => items.join(", "),
        more => format!("{} and {} more", items[..10].join(", "), more - 10),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::report;
    use super::*;

    #[test]
    fn a_run_is_summed_up_in_a_table_a_list_and_notes() {
        insta::assert_snapshot!(summary(&report()), @r"
        # Run run-1

        lite (test), 10 instances

        | model | resolved | of | submitted | completed | missing | unresolved | patch refused | empty | errors | not run | reused |
        |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|
        | org/model | **1** (10.0%) | 10 | 9 | 3 | 1 | 1 | 1 | 1 | 4 | 1 | 1 |

        <details><summary>8 not resolved</summary>

        | instance | model | verdict | tests | why |
        |---|---|---|---:|---|
        | x__y-2 | org/model | unresolved | 1/2 | t::a fails |
        | x__y-3 | org/model | patch refused |  | a reason (run_instance.log has what every attempt said) |
        | x__y-4 | org/model | empty patch |  | a reason |
        | x__y-5 | org/model | timed out |  | a reason (raise --timeout, or lower --max-workers so that each run has more of the machine) |
        | x__y-6 | org/model | out of memory |  | a reason (raise --memory, or lower --max-workers when the host itself has too little) |
        | x__y-7 | org/model | over quota |  | a reason (raise --disk, --files or --log-size, or lower --max-workers when the disk has little free, if the tests need it) |
        | x__y-8 | org/model | error |  | a reason (nothing was scored; run the same command again once it is repaired) |
        | x__y-9 | org/model | not run |  | a reason (run the same command again: what was finished is reused) |

        </details>

        - predictions for instances that the dataset does not have: z__z-1

        imgforge 0.1.0, rules of swebench 5.0.2; docker 20.10.24 (overlay2); linux/amd64
        ");
    }

    #[test]
    fn names_cannot_leave_their_cell() {
        let mut report = report();
        report.results[1].instance_id = "a|b</details><img src=x>`c`".to_owned();
        let text = summary(&report);
        assert!(text.contains(r"| a\|b&lt;/details&gt;&lt;img src=x&gt;\`c\` |"), "{text}");
    }
}
