//! Patches that reach for the run of the tests itself.
//!
//! Five lines of `conftest.py` turn a failing suite into `2 passed` with exit status 0, so a patch
//! that touches what configures the test runner or the interpreter is named in the report.

use crate::patch::touched;

/// File names, and what they do to a run.
const NAMES: [(&str, &str); 14] = [
    ("conftest.py", "changes how pytest collects and reports tests"),
    ("pytest.ini", "configures pytest"),
    (".pytest.ini", "configures pytest"),
    ("pytest.toml", "configures pytest"),
    ("setup.cfg", "may configure pytest"),
    ("tox.ini", "may configure pytest and tox"),
    ("pyproject.toml", "may configure pytest"),
    ("noxfile.py", "configures nox"),
    ("sitecustomize.py", "runs at every start of Python"),
    ("usercustomize.py", "runs at every start of Python"),
    ("jest.config.js", "configures jest"),
    ("vitest.config.ts", "configures vitest"),
    ("karma.conf.js", "configures karma"),
    (".mocharc.js", "configures mocha"),
];

/// Returns what the file at `path` does to a run of tests, when it does something.
fn reach(path: &str) -> Option<&'static str> {
    let name = path.rsplit('/').next().unwrap_or(path);
    if let Some((_, what)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Some(what);
    }
    if name.ends_with(".pth") {
        return Some("runs at every start of Python");
    }
    let plugin = name.starts_with("pytest_") || name.starts_with("_pytest");
    plugin.then_some("may be a plugin of pytest")
}

/// Lists the paths of a patch that reach for the run of the tests.
pub fn reached_paths(patch: &[u8]) -> Vec<(String, &'static str)> {
    let paths = touched(patch).paths;
    let paths = paths.iter().map(|path| String::from_utf8_lossy(path).into_owned());
    paths.filter_map(|path| reach(&path).map(|what| (path, what))).collect()
}

/// Lists what a patch reaches for, for people.
pub fn reaches(patch: &[u8]) -> Vec<String> {
    reached_paths(patch).into_iter().map(|(path, what)| format!("`{path}` {what}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_of_the_runner_is_named_and_ordinary_files_are_not() {
        let patch = "diff --git a/src/a.py b/src/a.py\n--- a/src/a.py\n+++ b/src/a.py\n\
                     @@ -1 +1 @@\n-a\n+b\n\
                     diff --git a/tests/conftest.py b/tests/conftest.py\nnew file mode 100644\n\
                     --- /dev/null\n+++ b/tests/conftest.py\n@@ -0,0 +1 @@\n+x\n\
                     diff --git a/evil.pth b/evil.pth\n--- /dev/null\n+++ b/evil.pth\n\
                     @@ -0,0 +1 @@\n+import os\n";
        assert_eq!(
            reaches(patch.as_bytes()),
            [
                "`evil.pth` runs at every start of Python",
                "`tests/conftest.py` changes how pytest collects and reports tests"
            ]
        );
    }
}
