//! How many runs of a test runner a script makes between its markers.

use crate::dataset::Instance;
use crate::grade::markers::{END, START};

/// Programs that run tests by themselves, each with one closing.
const RUNNERS: [&str; 14] = [
    "pytest",
    "py.test",
    "runtests.py",
    "bin/test",
    "unittest",
    "cargo test",
    "go test",
    "vitest",
    "jest",
    "mocha",
    "phpunit",
    "rspec",
    "ctest",
    "runtest",
];

/// What a line may begin with that runs no tests.
const QUIET: [&str; 9] =
    ["cd ", "export ", "source ", ". ", ": ", ":", "set ", "conda activate", "echo "];

/// Returns how many runs the test command of a row makes; `None` where its text does not say so:
/// where another program starts the runner, or pipes, loops and conditions are in the way.
pub(in crate::grade) fn of(instance: &Instance) -> Option<u64> {
    if let Some(script) = &instance.eval_script {
        let lines = script.lines().skip_while(|line| !line.contains(START)).skip(1);
        return count(lines.take_while(|line| !line.contains(END)));
    }
    let command = instance.install_config.as_ref().and_then(|config| config.test_cmd.as_deref());
    match command {
        Some(command) => count(command.lines()),
        // The environments of the catalog have one command each.
        None => Some(1),
    }
}

fn count<'a>(lines: impl Iterator<Item = &'a str>) -> Option<u64> {
    let mut runs = 0;
    for command in lines.flat_map(|line| line.split("&&")).map(str::trim) {
        if command.is_empty() || command.starts_with('#') {
            continue;
        }
        if QUIET.iter().any(|quiet| command == quiet.trim() || command.starts_with(quiet)) {
            continue;
        }
        let plain = !command.contains(['|', ';', '`', '<', '>', '&']) && !command.ends_with('\\');
        if !plain || !RUNNERS.iter().any(|runner| command.contains(runner)) {
            return None;
        }
        runs += 1;
    }
    (runs > 0).then_some(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_counted_only_where_the_text_says_all() {
        let count = |text: &str| count(text.lines());
        assert_eq!(count("pytest -rA tests"), Some(1));
        assert_eq!(count("source x\ncd a && pytest a\n# more\npython -m pytest b"), Some(2));
        assert_eq!(count("make check"), None);
        assert_eq!(count("pytest a | tee log"), None);
        assert_eq!(count("for i in 1 2; do pytest; done"), None);
        assert_eq!(count("cd a"), None);
        let script = "git diff\n: '>>>>> Start Test Output'\npytest a\npytest b\n\
                      : '>>>>> End Test Output'\npytest c\n";
        let row = Instance { eval_script: Some(script.to_owned()), ..Instance::default() };
        assert_eq!(of(&row), Some(2));
        assert_eq!(of(&Instance::default()), Some(1));
    }
}
