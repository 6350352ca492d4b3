//! Reads what `pytest -v` prints.

use std::sync::LazyLock;

use indexmap::IndexMap;
use regex::Regex;

use super::outcome::Outcome;

fn regex(text: &str) -> Regex {
    Regex::new(text).expect("it is a regular expression")
}

const WORDS: &str = "PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS";
const PERCENT: &str = r"\[ *\d+%\]";

static COLOUR: LazyLock<Regex> = LazyLock::new(|| regex(r"\x1b\[[0-9;]*[A-Za-z]"));

/// `tests/test_a.py::test_b[c d] PASSED [ 50%]`, with a reason behind some words.
static PLAIN: LazyLock<Regex> = LazyLock::new(|| {
    regex(&format!(r"\A(?P<id>\S.*?::.*) (?P<word>{WORDS})(?: \(.*\))?(?: +{PERCENT})?\s*\z"))
});

/// `[gw0] [ 50%] PASSED tests/test_a.py::test_b[c d]`, of workers of xdist.
static WORKER: LazyLock<Regex> = LazyLock::new(|| {
    regex(&format!(r"\A\[gw\d+\](?: +{PERCENT})? (?P<word>{WORDS}) (?P<id>\S.*?::.*?)\s*\z"))
});

/// `ERROR tests/test_a.py - ImportError: …`, of the summary: it could not be collected.
static COLLECT: LazyLock<Regex> =
    LazyLock::new(|| regex(r"\AERROR (?P<id>[^\s:]+\.py)(?: - .*)?\z"));

/// Returns the outcome of each test, by its id as pytest printed it. The worst counts where there are
/// several. Whoever prints such lines in a test is believed.
pub(super) fn read(text: &str) -> IndexMap<String, Outcome> {
    let mut outcomes: IndexMap<String, Outcome> = IndexMap::new();
    for line in COLOUR.replace_all(text, "").split('\n') {
        let line = line.trim_end_matches('\r');
        let of_test = WORKER.captures(line).or_else(|| PLAIN.captures(line));
        let (test, outcome) = match of_test {
            Some(found) => (found["id"].to_owned(), outcome(&found["word"])),
            None => match COLLECT.captures(line) {
                Some(found) => (found["id"].to_owned(), Outcome::Error),
                None => continue,
            },
        };
        let known = outcomes.entry(test).or_insert(outcome);
        *known = outcome.max(*known);
    }
    outcomes
}

fn outcome(word: &str) -> Outcome {
    match word {
        "PASSED" => Outcome::Passed,
        "XPASS" => Outcome::Xpassed,
        "SKIPPED" => Outcome::Skipped,
        "XFAIL" => Outcome::Xfailed,
        "ERROR" => Outcome::Error,
        _ => Outcome::Failed,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(pairs: &[(&str, Outcome)]) -> IndexMap<String, Outcome> {
        pairs.iter().map(|(test, outcome)| ((*test).to_owned(), *outcome)).collect()
    }

    const FORMS: [&str; 6] = ["plain", "percent", "colour", "xdist", "colours", "crlf"];
    const ALL: [(&str, Outcome); 6] = [
        ("PASSED", Outcome::Passed),
        ("FAILED", Outcome::Failed),
        ("ERROR", Outcome::Error),
        ("SKIPPED", Outcome::Skipped),
        ("XFAIL", Outcome::Xfailed),
        ("XPASS", Outcome::Xpassed),
    ];

    proptest! {
        /// What pytest leaves in an id: it escapes what cannot be printed.
        #[test]
        fn ids_round_trip(
            tests in prop::collection::hash_map(
                r"tests/test_a\.py::test_[a-z]{1,8}\[[\p{L}\p{N}\p{P}\p{S} ]{1,30}\]", 0..6usize, 0..8),
            form in prop::sample::select(&FORMS[..]),
        ) {
            let mut lines = Vec::new();
            let mut expected = IndexMap::new();
            for (number, (test, at)) in tests.into_iter().enumerate() {
                let (word, outcome) = ALL[at];
                let reason = if ["SKIPPED", "XFAIL"].contains(&word) { " (because)" } else { "" };
                let percent = format!(" [{number:3}%]");
                lines.push(match form {
                    "plain" => format!("{test} {word}{reason}"),
                    "percent" => format!("{test} {word}{reason}      {percent}"),
                    "colour" => format!(
                        "{test} \x1b[32m{word}\x1b[0m{reason}\x1b[32m    {percent}\x1b[0m"
                    ),
                    "xdist" => format!("[gw{number}]{percent} {word} {test} "),
                    "colours" => format!(
                        "[gw{number}]\x1b[36m{percent} \x1b[0m\x1b[31m{word}\x1b[0m {test} "
                    ),
                    _ => format!("{test} {word}{reason} {percent}\r"),
                });
                expected.insert(test, outcome);
            }
            prop_assert_eq!(read(&lines.join("\n")), expected);
        }
    }

    #[test]
    fn the_worst_counts() {
        let read_one = |text| read(text)["t.py::a"];
        assert_eq!(read_one("t.py::a PASSED\nt.py::a ERROR\n"), Outcome::Error);
        assert_eq!(read_one("t.py::a FAILED\nt.py::a PASSED\n"), Outcome::Failed);
    }

    #[test]
    fn lines_are_not_joined() {
        for text in ["t.py::a\nPASSED\n", "t.py::a \n PASSED [ 50%]\n", "PASSED\n[gw0] PASSED\n"] {
            assert_eq!(read(text), map(&[]), "{text:?}");
        }
    }

    #[test]
    fn what_could_not_be_collected_is_an_error() {
        let text =
            "=== short test summary info ===\nERROR t/a.py - ImportError: no\nERROR t/b.py\n";
        assert_eq!(read(text), map(&[("t/a.py", Outcome::Error), ("t/b.py", Outcome::Error)]));
    }

    #[test]
    fn the_output_of_pytest_8_is_read() {
        let text = "\
tests/test_a.py::test_p[i::j] PASSED                                     [ 26%]
tests/test_a.py::test_p[[k]] PASSED                                      [ 31%]
tests/test_a.py::test_p[x PASSED [ 50%]] PASSED                          [ 42%]
tests/test_a.py::test_sk SKIPPED (unconditional skip)                    [ 63%]
FAILED tests/test_a.py::test_fail - assert 0
=== 2 failed, 10 passed, 3 skipped, 2 xfailed, 1 xpassed, 2 errors in 0.06s ====
";
        let expected = map(&[
            ("tests/test_a.py::test_p[i::j]", Outcome::Passed),
            ("tests/test_a.py::test_p[[k]]", Outcome::Passed),
            ("tests/test_a.py::test_p[x PASSED [ 50%]]", Outcome::Passed),
            ("tests/test_a.py::test_sk", Outcome::Skipped),
        ]);
        assert_eq!(read(text), expected);
    }
}
