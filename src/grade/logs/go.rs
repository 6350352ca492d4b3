//! Go: `go test -v`.

use super::{Form, Row, StatusMap, TestStatus, regex, set_by, strip};

pub(super) const ROWS: &[Row] = &[(&["parse_log_gotest"], Form::Line(gotest))];

fn gotest(line: &str, map: &mut StatusMap) {
    if !line.contains("---") {
        return;
    }
    if let Some(found) = regex!(r"^--- (PASS|FAIL|SKIP): (.+) \((.+)\)$").captures(strip(line)) {
        let table = [
            ("PASS", TestStatus::Passed),
            ("FAIL", TestStatus::Failed),
            ("SKIP", TestStatus::Skipped),
        ];
        set_by(map, &found[2], &found[1], &table);
    }
}
