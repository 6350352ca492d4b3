//! Failures that are likely not the patch's: words in a log that the environment writes.
//!
//! As in `swebench` 5.x this explains and never changes a verdict.

use std::io::{self, BufRead};
use std::sync::LazyLock;

use memchr::memmem::Finder;
use regex::bytes::RegexSet;
use serde::Serialize;

use super::lines::Lines;

/// The party at fault for a failure that is not the patch's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// No patch of a repository can cause it.
    Environment,
    /// The environment or the patch.
    Ambiguous,
}

/// A likely cause of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct InfraFailure {
    /// Its name, as the harness has it.
    pub reason: &'static str,
    /// The party at fault.
    pub tier: Tier,
}

/// Why a log has no start of tests: the directory of the repository was not there.
pub(super) const TREE_VANISHED: &str = "work_tree_vanished";

/// What programs say whose working directory is gone.
const VANISHED: &str = r"Unable to read current working directory|getcwd: cannot access parent directories|error retrieving current directory|uv_cwd|: cd: .*: No such file or directory";

/// The first that occurs anywhere counts, in this order.
const SIGNATURES: [(&str, Tier, &str); 9] = [
    ("browser_launch_failed", Tier::Environment, "Failed to launch|Failed to connect to the bus"),
    (
        "display_unavailable",
        Tier::Environment,
        "cannot open display|Missing X server|unable to open X display",
    ),
    ("out_of_memory", Tier::Environment, "Cannot allocate memory|OutOfMemoryError|^Killed$"),
    (
        "container_unavailable",
        Tier::Environment,
        "Error response from daemon|Cannot connect to the Docker daemon",
    ),
    (
        "network_unreachable",
        Tier::Environment,
        "Could not resolve host|Temporary failure in name resolution",
    ),
    ("work_tree_lost", Tier::Environment, VANISHED),
    ("missing_module", Tier::Ambiguous, "Cannot find module|MODULE_NOT_FOUND|ModuleNotFoundError"),
    ("no_tests_collected", Tier::Ambiguous, "no tests ran|collected 0 items"),
    ("tests_timed_out", Tier::Ambiguous, r"Timeout error: \d+ seconds exceeded"),
];

static SET: LazyLock<RegexSet> = LazyLock::new(|| {
    RegexSet::new(SIGNATURES.map(|(_, _, words)| words)).expect("the signatures are constant")
});

/// Looks for the signatures in a log. A tree that is gone before the tests begin comes first: no
/// test had a part in it.
pub fn classify(log: &mut impl BufRead) -> io::Result<Option<InfraFailure>> {
    static START: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(super::markers::START));
    let lost = SIGNATURES.iter().position(|(_, _, words)| *words == VANISHED);
    let mut best: Option<usize> = None;
    let (mut started, mut vanished) = (false, false);
    let mut lines = Lines::new(log);
    while let Some(piece) = lines.next()? {
        let found = SET.matches(piece.bytes);
        vanished |= lost.is_some_and(|lost| found.matched(lost));
        started = started || START.find(piece.bytes).is_some();
        if let Some(found) = found.iter().next() {
            best = Some(best.map_or(found, |best| best.min(found)));
        }
    }
    if vanished && !started {
        return Ok(Some(InfraFailure { reason: TREE_VANISHED, tier: Tier::Environment }));
    }
    Ok(best.map(|at| {
        let (reason, tier, _) = SIGNATURES[at];
        InfraFailure { reason, tier }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_that_is_gone_before_the_tests_is_told_from_one_that_the_tests_removed() {
        let git = "fatal: Unable to read current working directory: No such file or directory\n";
        let start = ">>>>> Start Test Output\n";
        assert_eq!(reason(&format!("+ git status\n{git}")), Some(TREE_VANISHED));
        assert_eq!(reason(&format!("{start}tests\n{git}")), Some("work_tree_lost"));
        assert_eq!(
            reason(&format!("{git}+ : '>>>>> Start Test Output'\n")),
            Some("work_tree_lost")
        );
        let cd = "/eval.sh: line 3: cd: /testbed: No such file or directory\n";
        assert_eq!(reason(cd), Some(TREE_VANISHED));
        assert_eq!(reason("cat: /testbed/x: No such file or directory\n"), None);
    }

    fn reason(log: &str) -> Option<&'static str> {
        classify(&mut log.as_bytes()).unwrap().map(|failure| failure.reason)
    }

    #[test]
    fn the_first_signature_of_the_table_counts_wherever_it_stands() {
        assert_eq!(reason("ModuleNotFoundError\nKilled\n"), Some("out_of_memory"));
        assert_eq!(reason("was Killed\n"), None);
        assert_eq!(reason("x\r\nKilled\r\n"), Some("out_of_memory"));
        assert_eq!(reason("Timeout error: 60 seconds exceeded."), Some("tests_timed_out"));
    }
}
