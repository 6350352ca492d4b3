//! Fixes that let an old repository run on a newer Python, in a sandbox.
//!
//! A [`Fix`] is data: it gives commands, which whoever has the sandbox runs before the repository is
//! set up, and variables for the tests. The work is done by small Python scripts. They are a part of
//! this program, come to the sandbox as the input of a command, and run there on the Python that
//! `python` names. They need Python 3.6 and no packages.
//!
//! Each script prints one line of JSON that says what it did (`scripts/common.py` has the fields),
//! and errors to its error output. It does nothing where nothing is to do, and changes nothing
//! where it is asked what it would do. Nothing in the repository is changed, but by
//! [`Fix::CollectionsAbcRewrite`].

use std::collections::BTreeMap;
use std::path::Path;

use crate::key::Digest;

mod fix;

pub use fix::{Fix, FixError, Release};

/// Finds the interpreter, and gives it the script that is the input.
const FIND_PYTHON: &str = include_str!("scripts/find_python.sh");

/// What the scripts share: it stands before each of them.
const COMMON: &str = include_str!("scripts/common.py");

/// The variable whose options pytest takes before those of its command line.
const PYTEST_ADDOPTS: &str = "PYTEST_ADDOPTS";

/// A command to run in the sandbox. It ends with 0 when the fix is made, or is not needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// The whole input of the command.
    pub stdin: Vec<u8>,
    /// Variables beside those of the sandbox.
    pub env: BTreeMap<String, String>,
}

impl Fix {
    /// Returns the commands that make the fix, in order. With `dry_run` they change nothing, and say
    /// what they would do.
    ///
    /// `tree` is the absolute path of the working tree of the repository in the sandbox. There are
    /// no commands where the variables of [`Fix::test_env`] are all of the fix.
    pub fn commands(&self, tree: &Path, dry_run: bool) -> Vec<Command> {
        let parts = self.script();
        if parts.is_empty() {
            return Vec::new();
        }
        let id = self.to_string();
        let tree = tree.to_string_lossy().into_owned();
        let mut argv: Vec<String> =
            ["/bin/sh", "-c", FIND_PYTHON, "imgforge"].map(str::to_owned).into();
        argv.extend([id, tree]);
        argv.extend(dry_run.then(|| "--dry-run".to_owned()));
        let stdin = [&[COMMON], parts].concat().join("\n\n").into_bytes();
        vec![Command { argv, stdin, env: BTreeMap::new() }]
    }

    /// Returns the variables that the tests need. [`Fix::add_test_env`] adds them to others.
    pub fn test_env(&self) -> BTreeMap<String, String> {
        let mut env = BTreeMap::new();
        self.add_test_env(&mut env);
        env
    }

    /// Adds the variables that the tests need. Options that a variable has already stay in it.
    pub fn add_test_env(&self, env: &mut BTreeMap<String, String>) {
        if *self != Fix::NoWarnings {
            return;
        }
        env.insert("PYTHONWARNINGS".to_owned(), "ignore".to_owned());
        let options = env.entry(PYTEST_ADDOPTS.to_owned()).or_default();
        *options = format!("{options} -W ignore").trim_start().to_owned();
    }

    /// Returns what identifies the fix: its id, its script and its variables. Equal digests do the
    /// same in equal sandboxes.
    pub fn digest(&self) -> Digest {
        let parts = (self.to_string(), FIND_PYTHON, COMMON, self.script(), self.test_env());
        Digest::of(serde_json::to_vec(&parts).expect("texts are always JSON"))
    }

    /// Returns the parts of the script, in order; none where the fix is made without one.
    fn script(&self) -> &'static [&'static str] {
        match self {
            Fix::CollectionsAbc => &[include_str!("scripts/collections_abc.py")],
            Fix::CollectionsAbcRewrite => &[
                include_str!("scripts/abc_names.py"),
                include_str!("scripts/abc_edits.py"),
                include_str!("scripts/collections_abc_rewrite.py"),
            ],
            Fix::SetuptoolsCap(_) => &[include_str!("scripts/setuptools_cap.py")],
            Fix::PytestMin(_) => &[include_str!("scripts/pytest_min.py")],
            Fix::NoWarnings => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_pytest_that_are_there_stay() {
        let mut env = BTreeMap::from([(PYTEST_ADDOPTS.to_owned(), "-x".to_owned())]);
        Fix::NoWarnings.add_test_env(&mut env);
        assert_eq!(env[PYTEST_ADDOPTS], "-x -W ignore");
        assert_eq!(Fix::NoWarnings.test_env()[PYTEST_ADDOPTS], "-W ignore");
        assert_eq!(Fix::CollectionsAbc.test_env(), BTreeMap::new());
    }

    #[test]
    fn a_command_has_the_id_the_tree_and_the_script() {
        let fix: Fix = "pytest-min=6.2.5".parse().unwrap();
        let [command] = &fix.commands(Path::new("/testbed"), true)[..] else { panic!() };
        assert_eq!(command.argv[4..], ["pytest-min=6.2.5", "/testbed", "--dry-run"]);
        let [command] = &fix.commands(Path::new("/testbed"), false)[..] else { panic!() };
        assert_eq!(command.argv[4..], ["pytest-min=6.2.5", "/testbed"]);
        assert!(command.stdin.starts_with(COMMON.as_bytes()));
        assert!(command.stdin.len() > COMMON.len() + 1000);
    }

    #[test]
    fn digests_differ_by_the_value() {
        let fixes = ["setuptools-cap=58", "setuptools-cap=59", "pytest-min=59", "no-warnings"];
        let digests = fixes.map(|id| id.parse::<Fix>().unwrap().digest());
        let different: std::collections::BTreeSet<_> = digests.into_iter().collect();
        assert_eq!(different.len(), fixes.len());
    }
}
