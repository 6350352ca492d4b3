//! Python: pytest and its relatives, Django's runner, seaborn's and sympy's.

use super::{Form, LineParser, Row, StatusMap, TestStatus, regex, strip, words};

pub(super) const ROWS: &[Row] = &[
    (
        &[
            "parse_log_pytest",
            "parse_log_astroid",
            "parse_log_flask",
            "parse_log_marshmallow",
            "parse_log_pvlib",
            "parse_log_pyvista",
            "parse_log_sqlfluff",
            "parse_log_xarray",
        ],
        Form::Line(pytest),
    ),
    (
        &[
            "parse_log_pytest_options",
            "parse_log_pydicom",
            "parse_log_requests",
            "parse_log_pylint",
        ],
        Form::Line(pytest_options),
    ),
    (
        &["parse_log_pytest_v2", "parse_log_astropy", "parse_log_scikit", "parse_log_sphinx"],
        Form::Line(pytest_v2),
    ),
    (&["parse_log_matplotlib"], Form::Line(matplotlib)),
    (&["parse_log_seaborn"], Form::Line(seaborn)),
    (&["parse_log_django"], Form::Lines(|| Box::<Django>::default())),
    (&["parse_log_sympy"], Form::Lines(|| Box::<Sympy>::default())),
];

fn begins_with_status(line: &str) -> bool {
    // Cheap, for the many lines that do not.
    matches!(line.as_bytes().first(), Some(b'F' | b'P' | b'S' | b'E' | b'X'))
        && TestStatus::WORDS.iter().any(|word| line.starts_with(word))
}

/// `SKIPPED [3] path:line: reason` counts skips and names no test.
fn counts_skips(status: &str, test: &str) -> bool {
    status == "SKIPPED"
        && test
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .is_some_and(|digits| !digits.is_empty() && digits.chars().all(char::is_numeric))
}

/// Reads status and test of a line of pytest's short summary.
fn summary_line(line: &str, mut then: impl FnMut(&str, TestStatus)) {
    if !begins_with_status(line) {
        return;
    }
    let shortened;
    let line = if line.starts_with("FAILED") && line.contains(" - ") {
        shortened = line.replace(" - ", " ");
        &shortened
    } else {
        line
    };
    let mut words = words(line);
    let (Some(status), Some(test)) = (words.next(), words.next()) else { return };
    if !counts_skips(status, test) {
        then(test, TestStatus::of(status));
    }
}

fn pytest(line: &str, map: &mut StatusMap) {
    summary_line(line, |test, status| map.set(test, status));
}

fn pytest_options(line: &str, map: &mut StatusMap) {
    summary_line(line, |test, status| {
        let Some(found) = regex!(r"(.*?)\[(.*)\]").captures(test) else {
            return map.set(test, status);
        };
        let (main, option) = (&found[1], &found[2]);
        if option.starts_with('/') && !option.starts_with("//") && !option.contains('*') {
            let last = option.rsplit('/').next().unwrap_or(option);
            map.set(&format!("{main}[/{last}]"), status);
        } else {
            map.set(&format!("{main}[{option}]"), status);
        }
    });
}

fn matplotlib(line: &str, map: &mut StatusMap) {
    if line.contains("MouseButton.") {
        let line = line.replace("MouseButton.LEFT", "1").replace("MouseButton.RIGHT", "3");
        return pytest(&line, map);
    }
    pytest(line, map);
}

fn pytest_v2(line: &str, map: &mut StatusMap) {
    let colour = regex!(r"\[(\d+)m");
    let mut text = std::borrow::Cow::Borrowed(line);
    if line.contains('[') {
        text = colour.replace_all(line, "");
    }
    if text.chars().any(|c| ('\x01'..='\x1f').contains(&c)) {
        text = text.chars().filter(|c| !('\x01'..='\x1f').contains(c)).collect::<String>().into();
    }
    let line = &*text;
    if begins_with_status(line) {
        let line = match line.starts_with("FAILED") {
            // An assertion's message is no part of the id.
            true => line.split(" - ").next().unwrap_or(line),
            false => line,
        };
        let words: Vec<&str> = words(line).collect();
        if words.len() >= 2 && !counts_skips(words[0], words[1]) {
            map.set(&words[1..].join(" "), TestStatus::of(words[0]));
        }
    } else if TestStatus::WORDS.iter().any(|word| line.ends_with(word)) {
        // Older versions of pytest have the status last.
        let words: Vec<&str> = words(line).collect();
        if let [test @ .., status] = words.as_slice()
            && !test.is_empty()
        {
            map.set(&test.join(" "), TestStatus::of(status));
        }
    }
}

fn seaborn(line: &str, map: &mut StatusMap) {
    let mut parts = words(line);
    let (Some(first), Some(second)) = (parts.next(), parts.next()) else { return };
    if line.starts_with("FAILED") {
        map.set(second, TestStatus::Failed);
    } else if line.contains(" PASSED ") {
        if second == "PASSED" {
            map.set(first, TestStatus::Passed);
        }
    } else if line.starts_with("PASSED") {
        map.set(second, TestStatus::Passed);
    }
}

/// Django's runner prints a test's name, and its status when it ends; what is printed in between
/// tears them apart.
#[derive(Default)]
struct Django {
    previous: Option<String>,
    /// The test whose line is torn by the banner, until `silenced).` and `ok` follow.
    banner: Option<String>,
    /// The last line ended the banner's text.
    banner_ends: bool,
    /// The test of the last line, if that was torn in one of the other two ways.
    torn: Option<String>,
    /// What the torn lines say holds over all that lines say.
    passed: Vec<String>,
}

impl LineParser for Django {
    fn line(&mut self, raw: &str, map: &mut StatusMap) {
        self.torn_lines(raw);
        let mut line = strip(raw);
        if line.contains("--version is equivalent to version") {
            map.set("--version is equivalent to version", TestStatus::Passed);
        }
        if let Some((test, _)) = line.split_once(" ... ") {
            self.previous = Some(test.to_owned());
        }
        for suffix in [" ... ok", " ... OK", " ...  OK"] {
            if line.ends_with(suffix) {
                // One instance's output (django-7188).
                if line.starts_with("Applying sites.0002_alter_domain_unique...test_no_migrations")
                    && let Some((_, rest)) = line.split_once("...")
                {
                    line = strip(rest);
                }
                let test = line.rsplit_once(suffix).map_or(line, |(test, _)| test);
                map.set(test, TestStatus::Passed);
                break;
            }
        }
        if let Some((test, _)) = line.split_once(" ... skipped") {
            map.set(test, TestStatus::Skipped);
        }
        for (suffix, prefix, status) in [
            (" ... FAIL", "FAIL:", TestStatus::Failed),
            (" ... ERROR", "ERROR:", TestStatus::Error),
        ] {
            if line.ends_with(suffix)
                && let Some((test, _)) = line.split_once(suffix)
            {
                map.set(test, status.clone());
            }
            if line.starts_with(prefix)
                && let Some(test) = words(line).nth(1)
            {
                map.set(test, status);
            }
        }
        if line.starts_with("ok")
            && let Some(test) = &self.previous
        {
            map.set(test, TestStatus::Passed);
        }
    }

    fn finish(&mut self, map: &mut StatusMap) {
        for test in self.passed.drain(..) {
            map.set(&test, TestStatus::Passed);
        }
    }
}

impl Django {
    fn torn_lines(&mut self, line: &str) {
        if line == "ok" {
            self.passed.extend(self.torn.take());
            if self.banner_ends {
                self.passed.extend(self.banner.take());
            }
            self.banner_ends = false;
            return;
        }
        self.torn = None;
        if line.contains("...") {
            let error = regex!(r"^(.*?)\s\.\.\.\sInternal\ Server\ Error:\ /.*/$");
            let check =
                regex!(r"^(.*?)\s\.\.\.\sSystem check identified no issues \(0 silenced\)$");
            let found = error.captures(line).or_else(|| check.captures(line));
            self.torn = found.map(|found| found[1].to_owned());
            let banner = regex!(r"^(.*?)\s\.\.\.\sTesting\ against\ Django\ installed\ in\ ");
            if self.banner.is_none() {
                self.banner = banner.captures(line).map(|found| found[1].to_owned());
            }
        }
        self.banner_ends = self.banner.is_some() && line.ends_with(" silenced).");
    }
}

/// sympy's runner: a line a test, and a headline for each failure, which lines may overrule.
#[derive(Default)]
struct Sympy {
    failed: Vec<String>,
    lines: StatusMap,
}

impl LineParser for Sympy {
    fn line(&mut self, line: &str, _: &mut StatusMap) {
        if line.contains(".py:") {
            for found in regex!(r"(_*) (.*)\.py:(.*) (_*)").captures_iter(line) {
                self.failed.push(format!("{}.py:{}", &found[2], &found[3]));
            }
        }
        let line = strip(line);
        if !line.starts_with("test_") {
            return;
        }
        let Some(test) = words(line).next() else { return };
        for (end, status) in
            [(" E", TestStatus::Error), (" F", TestStatus::Failed), (" ok", TestStatus::Passed)]
        {
            if line.ends_with(end) {
                self.lines.set(test, status);
            }
        }
    }

    fn finish(&mut self, map: &mut StatusMap) {
        for test in self.failed.drain(..) {
            map.set(&test, TestStatus::Failed);
        }
        for (test, status) in self.lines.iter() {
            map.set(test, status.clone());
        }
    }
}
