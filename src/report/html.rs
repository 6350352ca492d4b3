//! `index.html`: a run on one page that needs nothing else.
//!
//! The page is a constant; the run stands in it as JSON, which its script puts into the document as
//! text and never as markup, so that no patch and no log can run anything.

use serde_json::{Value, json};

use super::{InstanceResult, RunReport, Score};

const PAGE: &str = include_str!("index.html");

/// Where the page takes its data.
const PLACE: &str = "{{DATA}}";

/// The most of a patch that the page shows.
const MOST_PATCH: usize = 200 << 10;

/// The most failing tests of an instance that the page shows.
const MOST_TESTS: usize = 500;

/// Renders a run.
pub fn page(report: &RunReport) -> String {
    PAGE.replacen(PLACE, &embed(&data(report)), 1)
}

/// Returns what the page shows.
pub(super) fn data(report: &RunReport) -> Value {
    let score = |score: Score| {
        let mut value = json!(score);
        value["headline"] = json!(score.headline());
        value["beside"] = json!(score.beside());
        value
    };
    json!({
        "run_id": report.run_id,
        "dataset": report.dataset,
        "split": report.split,
        "created_at": report.created_at,
        "seconds": report.seconds,
        "engine": report.engine,
        "platform": report.platform,
        "emulator": report.emulator,
        "workers": report.workers,
        "grader": report.grader,
        "strict": report.strict,
        "instances": report.instances.len(),
        "unknown_ids": report.unknown_ids,
        "models": report.models(),
        "results": report.results.iter().map(row).collect::<Vec<_>>(),
        "scores": report.scores().into_iter().map(score).collect::<Vec<_>>(),
        "repositories": report.by_repository(),
        "timeline": report.timeline,
    })
}

/// Renders JSON that nothing in an HTML document ends.
fn embed(data: &Value) -> String {
    let mut text = String::new();
    for c in data.to_string().chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                text.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => text.push(c),
        }
    }
    text
}

fn row(result: &InstanceResult) -> Value {
    let failing = |list: Option<&Vec<String>>| {
        let list = list.map_or(&[][..], Vec::as_slice);
        let shown: Vec<&String> = list.iter().take(MOST_TESTS).collect();
        json!({ "shown": shown, "all": list.len() })
    };
    let tests = result.tests.as_ref();
    let patch = result.patch.as_deref().unwrap_or_default();
    let end = (0..=MOST_PATCH.min(patch.len())).rev().find(|at| patch.is_char_boundary(*at));
    json!({
        "id": result.instance_id,
        "model": result.model,
        "repo": result.repo,
        "verdict": result.verdict,
        "words": result.verdict.words(),
        "counts": result.counts(),
        "f2p": failing(tests.map(|tests| &tests.fail_to_pass.failure)),
        "p2p": failing(tests.map(|tests| &tests.pass_to_pass.failure)),
        "reason": result.reason,
        "why": result.why(),
        "failure": result.failure.as_ref().map(|(reason, _)| reason),
        "advice": result.advice(),
        "cached": result.cached,
        "key": result.key,
        "image": result.image_id,
        "build": result.build_seconds,
        "test": result.test_seconds,
        "patch": &patch[..end.unwrap_or(0)],
        "patch_bytes": patch.len(),
        "log": result.log,
        "tail": result.log_tail,
        "reaches": result.reaches,
        "suspicions": result.suspicions,
        "strict": result.strict,
        "runs": result.runs.iter().map(|verdict| verdict.words()).collect::<Vec<_>>(),
        "flaky": result.flaky,
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::report;
    use super::*;

    #[test]
    fn what_a_patch_or_a_log_holds_cannot_end_the_data() {
        let mut report = report();
        let hostile = "</script><img src=x onerror=alert(1)><!--\u{2028}".to_owned();
        report.results[0].patch = Some(hostile.clone());
        report.results[0].log_tail = vec![hostile.clone()];
        report.results[0].instance_id = hostile.clone();
        let page = page(&report);
        assert!(!page.contains("<img"));
        let start = page.find(r#"<script type="application/json" id="data">"#).unwrap();
        let data = &page[start..];
        let data = &data[data.find('>').unwrap() + 1..data.find("</script>").unwrap()];
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["results"][0]["patch"], hostile);
        assert!(!page.contains("http://") && !page.contains("https://"), "it asks for nothing");
    }
}
