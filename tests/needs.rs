//! Tests say what they did not do: what they need is in the table of `CONTRIBUTING.md`, and a test
//! that ends without a check says so through one function, `tests/common/needs.rs`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use regex::Regex;

/// The needs that the page lists.
fn table() -> BTreeSet<String> {
    let page = std::fs::read_to_string("CONTRIBUTING.md").unwrap();
    let rows = page.lines().skip_while(|line| *line != "| needs | what it is |").skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    rows.map(|row| row.split('|').nth(1).unwrap().trim().to_owned()).collect()
}

/// The files that can have tests, but this one.
fn files() -> Vec<(PathBuf, String)> {
    let all = ["src", "tests"].into_iter().flat_map(walkdir::WalkDir::new);
    let paths = all.map(|entry| entry.unwrap().into_path());
    let paths = paths.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let others = paths.filter(|path| path != Path::new("tests/needs.rs"));
    let read = |path: PathBuf| (path.clone(), std::fs::read_to_string(&path).unwrap());
    others.map(read).collect()
}

/// The tests of a file: from the attribute to the brace that ends the function.
fn tests(text: &str) -> Vec<Vec<&str>> {
    let lines: Vec<&str> = text.lines().collect();
    let is_start = |line: &&str| {
        let line = line.trim_start();
        line == "#[test]" || line.starts_with("#[tokio::test")
    };
    let starts = lines.iter().enumerate().filter(|(_, line)| is_start(line));
    let test = |(start, line): (usize, &&str)| {
        let margin = line.len() - line.trim_start().len();
        let end = format!("{}}}", " ".repeat(margin));
        let length = lines[start..].iter().position(|line| *line == end).unwrap();
        lines[start..start + length].iter().map(|line| line.get(margin..).unwrap_or("")).collect()
    };
    starts.map(test).collect()
}

#[test]
fn every_test_that_is_ignored_needs_what_the_page_lists() {
    let table = table();
    assert!(table.contains("Docker"), "{table:?}");
    let reason = Regex::new(r#"^#\[ignore = "needs (.+)"\]$"#).unwrap();
    let mut used = BTreeSet::new();
    for (file, text) in files() {
        for line in text.lines().map(str::trim).filter(|line| line.starts_with("#[ignore")) {
            let reason = reason.captures(line).unwrap_or_else(|| panic!("{file:?}: {line}"));
            for need in reason[1].split(" and ") {
                assert!(table.contains(need), "{file:?}: `{need}` is not in CONTRIBUTING.md");
                used.insert(need.to_owned());
            }
        }
    }
    assert_eq!(table, used, "what CONTRIBUTING.md lists, and what tests need");
}

#[test]
fn no_test_ends_without_a_check_and_does_not_say_so() {
    // What stands deeper is no end of the test: it is in a closure or a loop of it.
    let end = Regex::new(r"^ {0,12}(\S.*\b)?return *[;}]").unwrap();
    for (file, text) in files() {
        for test in tests(&text) {
            for line in test {
                assert!(!end.is_match(line), "{file:?}: {line}");
            }
        }
    }
}

#[test]
fn no_test_asks_whether_it_runs_in_ci_or_says_by_itself_that_it_is_skipped() {
    let banned = Regex::new(r#""CI"|println!\([^;]*\b(skipped|left out|not there|no engine)\b"#);
    let banned = banned.unwrap();
    for (file, text) in files() {
        if file.starts_with("tests") || file.ends_with("tests.rs") {
            let found = banned.find(&text).map(|found| found.as_str().to_owned());
            assert_eq!(found, None, "{file:?}");
        }
    }
}
