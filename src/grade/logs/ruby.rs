//! Ruby: minitest, cucumber, test-unit, rspec.

use super::{Context, Form, Row, StatusMap, TestStatus, regex, set_by, strip};

pub(super) const ROWS: &[Row] = &[
    (&["parse_log_minitest"], Form::Line(minitest)),
    (&["parse_log_cucumber"], Form::Line(cucumber)),
    (&["parse_log_ruby_unit"], Form::Line(ruby_unit)),
    (&["parse_log_rspec_transformed_json"], Form::Line(rspec)),
    (&["parse_log_jekyll"], Form::Chosen(jekyll)),
];

const DOTS: [(&str, TestStatus); 4] = [
    (".", TestStatus::Passed),
    ("F", TestStatus::Failed),
    ("E", TestStatus::Failed),
    ("O", TestStatus::Skipped),
];

fn minitest(line: &str, map: &mut StatusMap) {
    if let Some(found) = regex!(r"^(.+)\. .*=.*(\.|F|E).*$").captures(strip(line)) {
        set_by(map, &found[1], &found[2], &DOTS);
    }
}

fn cucumber(line: &str, map: &mut StatusMap) {
    if let Some(found) = regex!(r"^(.*) \.+(\.|F)").captures(strip(line)) {
        set_by(map, &found[1], &found[2], &DOTS);
    }
}

fn ruby_unit(line: &str, map: &mut StatusMap) {
    let found = regex!(r"^\s*(?:test: )?(.+):\s+(\.|E\b|F\b|O\b)").captures(strip(line));
    if let Some(found) = found {
        set_by(map, &found[1], &found[2], &DOTS);
    }
}

/// rspec's JSON, which the script turns into lines.
fn rspec(line: &str, map: &mut StatusMap) {
    if let Some(found) = regex!(r"^(.+) - (passed|failed)").captures(strip(line)) {
        let table = [("passed", TestStatus::Passed), ("failed", TestStatus::Failed)];
        set_by(map, &found[1], &found[2], &table);
    }
}

/// jekyll has another runner in each of its instances.
fn jekyll(context: &Context<'_>) -> Option<&'static str> {
    match context.instance_id.split('-').nth(1)? {
        "9141" | "8047" | "8167" => Some("parse_log_minitest"),
        "8761" | "8771" => Some("parse_log_cucumber"),
        _ => None,
    }
}
