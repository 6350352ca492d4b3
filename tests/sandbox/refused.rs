//! What never starts: bad input, and places where there is no sandbox. Nothing is run instead.

use std::process::{Command, Output, Stdio};

use crate::common::needs::{self, NotHere, is_root, not_here};
use crate::space::{Space, said};

/// Runs imgforge without an engine.
fn alone(directory: &std::path::Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_imgforge"))
        .args(["--engine", "docker", "--state-dir"])
        .arg(directory.join("state"))
        .args(words)
        .current_dir(directory)
        .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn bad_input_is_told_before_anything_starts() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("r")).unwrap();
    std::fs::write(directory.path().join("empty"), "\n").unwrap();
    let commit = "a".repeat(40);
    let repo = ["--repo", "./r", "--commit", &commit];
    let of_repo = |more: &[&'static str]| -> Vec<String> {
        repo.iter().chain(more).map(|word| (*word).to_owned()).collect()
    };
    let words =
        |words: &[&str]| -> Vec<String> { words.iter().map(|word| (*word).into()).collect() };
    for (words, expected) in [
        (words(&["--", "bash", "-c", "true"]), "Command 'bash' is not in the allowed"),
        (words(&["--", "/workspace/evil/rm"]), "not in the allowed command whitelist"),
        (words(&["--", ""]), "Empty command"),
        (words(&[]), "there is nothing to run"),
        (words(&["--tests", "t.py"]), "--repo"),
        (of_repo(&["--tests", "t.py", "--", "ls"]), "cannot be used with"),
        (of_repo(&["--tests"]), "--tests"),
        (of_repo(&["--tests", "../t.py"]), "`../t.py` is no id of a test"),
        (of_repo(&["--tests", "/t.py"]), "is no id of a test"),
        (of_repo(&["--patch", "empty", "--", "ls"]), "`empty` holds no patch"),
        (of_repo(&["--patch", "none", "--", "ls"]), "cannot read `none`"),
        (words(&["--repo", "./r", "--commit", "main", "--", "ls"]), "is not a commit id of 40"),
        (words(&["--repo", "./r", "--", "ls"]), "--commit"),
        (words(&["--repo", "./no", "--commit", &commit, "--", "ls"]), "no repository `./no`"),
        (words(&["--repo", "name", "--commit", &commit, "--", "ls"]), "write OWNER/NAME"),
        (words(&["--repo=-x/y", "--commit", &commit, "--", "ls"]), "write OWNER/NAME"),
        (words(&["-e", "LD_PRELOAD=/workspace/x.so", "--", "ls"]), "LD_PRELOAD"),
        (words(&["-m", "7m", "--", "ls"]), "too few for the memory"),
        (words(&["-m", "much", "--", "ls"]), "not an amount of bytes"),
        (
            words(&["-m", "512m", "--workspace-size", "400m", "--", "ls"]),
            "not less than the memory",
        ),
        (words(&["--timeout", "0", "--", "ls"]), "is no time"),
        (words(&["--cpus", "0", "--", "ls"]), "at least 0.01"),
        (words(&["--network", "host", "--allow", "pypi.org", "--", "ls"]), "--allow is for"),
        (words(&["--allow", "10.0.0.1", "--", "ls"]), "is an address"),
    ] {
        let all: Vec<&str> = ["sandbox", "--image", "i"]
            .into_iter()
            .chain(words.iter().map(String::as_str))
            .collect();
        let output = alone(directory.path(), &all);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {}", said(&output));
        assert!(said(&output).contains(expected), "{words:?}: {}", said(&output));
        assert!(!directory.path().join("state").exists(), "{words:?}");
    }
}

#[test]
fn without_an_engine_nothing_is_run() {
    let directory = tempfile::tempdir().unwrap();
    let text = "open('mark', 'w')";
    let output = alone(directory.path(), &["sandbox", "--image", "i", "--", "python3", "-c", text]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("hint: "), "{}", said(&output));
    assert!(!directory.path().join("mark").exists());
}

#[test]
#[ignore = "needs a base image"]
fn without_the_right_to_make_namespaces_nothing_is_run() {
    let space = Space::new();
    // Neither Docker nor namespaces: what is left is this machine.
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && \
        exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs \"$@\"";
    for engine in ["auto", "embedded"] {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "sh", "-c", script, "sh"]);
        command.args([env!("CARGO_BIN_EXE_imgforge"), "--engine", engine, "--state-dir"]);
        command.arg(needs::state()).args(["sandbox", "--image", &space.image, "--unenforced"]);
        command.args(["--", "python3", "-c", "open('mark', 'w')"]).current_dir(space.path());
        command.env("DOCKER_HOST", "unix:///nowhere/docker.sock").stdin(Stdio::null());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{engine}: {}", said(&output));
        assert!(said(&output).contains("error: "), "{engine}: {}", said(&output));
        assert!(!space.path().join("mark").exists(), "{engine}");
    }
}

#[test]
#[ignore = "needs a base image"]
fn an_image_that_is_not_there_is_named() {
    let space = Space::new();
    let output = space.command(&["sandbox", "--image", "no/such:1", "--", "ls"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("no/such:1"), "{}", said(&output));
    assert!(said(&output).contains("hint: `imgforge build`"), "{}", said(&output));
}

#[test]
#[ignore = "needs a base image and root"]
fn limits_that_are_not_enforced_are_refused() {
    if !is_root() {
        return not_here(NotHere::PlainUser);
    }
    let space = Space::new();
    // In a place without control groups.
    let run = |more: &[&str]| {
        let script = "mount -t tmpfs none /sys/fs/cgroup && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_imgforge")]);
        command.args(["--engine", "embedded", "--state-dir"]).arg(needs::state());
        command.args(["sandbox", "--image", &space.image, "-m", "256m"]).args(more);
        command.current_dir(space.path()).stdin(Stdio::null()).output().unwrap()
    };
    let output = run(&["--", "ls", "/"]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    for name in ["memory", "cpu", "pids"] {
        let expected = format!("the limit of {name} is not enforced");
        assert!(said(&output).contains(&expected), "{}", said(&output));
    }
    assert!(said(&output).contains("--unenforced"), "{}", said(&output));
    assert!(!String::from_utf8_lossy(&output.stdout).contains("workspace"));
    let output = run(&["--unenforced", "--", "ls", "/"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("the limit of memory is not enforced"), "{}", said(&output));
}
