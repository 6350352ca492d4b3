//! Rust: `cargo test`.

use super::{Form, Row, StatusMap, TestStatus, regex, set_by, strip};

pub(super) const ROWS: &[Row] = &[(&["parse_log_cargo"], Form::Line(cargo))];

fn cargo(line: &str, map: &mut StatusMap) {
    if let Some(found) = regex!(r"^test\s+(\S+)\s+\.\.\.\s+(\w+)$").captures(strip(line)) {
        let table = [("ok", TestStatus::Passed), ("FAILED", TestStatus::Failed)];
        set_by(map, &found[1], &found[2], &table);
    }
}
