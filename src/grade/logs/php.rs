//! PHP: phpunit with `--testdox`.

use super::{Form, LineParser, Row, StatusMap, TestStatus, regex, set_by};

pub(super) const ROWS: &[Row] =
    &[(&["parse_log_phpunit"], Form::Lines(|| Box::<Phpunit>::default()))];

#[derive(Default)]
struct Phpunit {
    suite: Option<String>,
}

impl LineParser for Phpunit {
    fn line(&mut self, line: &str, map: &mut StatusMap) {
        if let Some(found) = regex!(r"^(\w.+) \(.+\)$").captures(line) {
            self.suite = Some(found[1].to_owned());
        } else if let Some(found) = regex!(r"^\s*([✔✘↩])\s*(.*)$").captures(line) {
            // Without a suite the harness has Python's word for nothing.
            let suite = self.suite.as_deref().unwrap_or("None");
            let table =
                [("✔", TestStatus::Passed), ("✘", TestStatus::Failed), ("↩", TestStatus::Skipped)];
            set_by(map, &format!("{suite} > {}", &found[2]), &found[1], &table);
        }
    }
}
