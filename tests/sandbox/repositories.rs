//! Repositories that come in, and patches.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::space::{Space, git, list, said};

/// Runs a command in a repository of the space.
fn inside(space: &Space, repo: &str, commit: &str, words: &[&str]) -> Value {
    let all = [&["--repo", repo, "--commit", commit, "--"], words].concat();
    space.json(0, &all)["command"].clone()
}

#[test]
#[ignore = "needs a base image"]
fn any_commit_comes_in_with_what_came_before_and_nothing_later() {
    let space = Space::new();
    let path = space.path().join("r");
    let mut commits = vec![space.repository("r", &[("a.txt", "0\n")])];
    for number in 1..4 {
        commits.push(space.commit("r", &[("a.txt", &format!("{number}\n"))]));
        git(&path, &["tag", &format!("v{number}")]);
    }
    git(&path, &["gc", "-q"]);
    // One that nothing leads to.
    let lost = space.commit("r", &[("a.txt", "lost\n")]);
    git(&path, &["reset", "-q", "--hard", &commits[3]]);
    let script = "
import subprocess
say = lambda *words: print(subprocess.check_output(['git', *words]).decode().strip())
print(open('a.txt').read().strip(), __import__('os').stat('.git').st_uid)
say('log', '--format=%H'); print('--'); say('tag'); print('--'); say('status', '--porcelain')
print('--'); say('cat-file', '--batch-all-objects', '--batch-check=%(objectname)')
";
    for (number, commit, before, text) in
        [(1, &commits[1], &commits[..2], "1"), (3, &lost, &commits[..], "lost")]
    {
        let ran = inside(&space, "./r", commit, &["python", "-c", script]);
        let printed = ran["stdout"].as_str().unwrap();
        let (first, rest) = printed.split_once('\n').unwrap();
        assert_eq!(first, format!("{text} 1000"));
        let parts: Vec<&str> = rest.split("--\n").map(str::trim).collect();
        let mut expected: Vec<&str> = before.iter().rev().map(String::as_str).collect();
        if text == "lost" {
            expected.insert(0, commit);
        }
        assert_eq!(parts[0].lines().collect::<Vec<_>>(), expected);
        assert_eq!(parts[1].lines().count(), number, "tags: {}", parts[1]);
        assert_eq!(parts[2], "", "status");
        let objects: Vec<&str> = parts[3].lines().collect();
        for one in commits.iter().chain([&lost]) {
            let is_before = expected.contains(&one.as_str());
            assert_eq!(objects.contains(&one.as_str()), is_before, "{one}");
        }
    }
}

#[test]
#[ignore = "needs a base image"]
fn names_lead_to_mirrors_and_urls_to_files() {
    let space = Space::new();
    let commit = space.repository("mirrors/me__it.git", &[("a.txt", "1\n")]);
    let mirror = space.path().join("mirrors/{owner}__{name}.git").display().to_string();
    let words = ["--git-mirror", &mirror, "--repo", "me/it", "--commit", &commit];
    let ran = space.json(0, &[&words[..], &["--", "cat", "a.txt"]].concat());
    assert_eq!(ran["command"]["stdout"], "1\n");
    let place = json!({ "repo": "me/it", "commit": commit, "directory": "/workspace/repo" });
    assert_eq!(ran["repository"], place);
    let url = format!("file://{}", space.path().join("mirrors/me__it.git").display());
    assert_eq!(inside(&space, &url, &commit, &["cat", "a.txt"])["stdout"], "1\n");
    let words = ["--git-mirror", &mirror, "--repo", "me/none", "--commit", &commit, "--", "ls"];
    let output = space.run(&words);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("me__none.git"), "{}", said(&output));
}

#[test]
#[ignore = "needs a base image"]
fn a_commit_that_is_not_there_is_bad_input() {
    let space = Space::new();
    space.repository("r", &[("a.txt", "1\n")]);
    let output = space.run(&["--repo", "./r", "--commit", &"f".repeat(40), "--", "ls"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("does not have the commit"), "{}", said(&output));
}

/// Makes a repository that runs something wherever git lets it.
fn hostile(space: &Space, mark: &Path) -> String {
    let attributes = "* filter=evil diff=evil\n";
    let commit = space.repository("r", &[("a.txt", "1\n"), (".gitattributes", attributes)]);
    let path = space.path().join("r");
    let script = path.join("evil");
    std::fs::write(&script, format!("#!/bin/sh\necho run >> {}\ncat\n", mark.display())).unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let hooks = path.join(".git/hooks");
    std::fs::create_dir_all(&hooks).unwrap();
    for name in ["post-checkout", "pre-commit", "reference-transaction", "post-index-change"] {
        std::fs::copy(&script, hooks.join(name)).unwrap();
    }
    let (script, hooks) = (script.display(), hooks.display());
    let config = path.join(".git/config");
    let text = std::fs::read_to_string(&config).unwrap()
        + &format!(
            "[core]\n\tfsmonitor = {script}\n\thooksPath = {hooks}\n\tpager = {script}\n\
             [filter \"evil\"]\n\tsmudge = {script}\n\tclean = {script}\n\trequired = true\n\
             [diff \"evil\"]\n\ttextconv = {script}\n\texternal = {script}\n\
             [uploadpack]\n\tpackObjectsHook = {script}\n[alias]\n\tstatus = !{script}\n"
        );
    std::fs::write(config, text).unwrap();
    commit
}

#[test]
#[ignore = "needs a base image"]
fn a_hostile_repository_runs_nothing_on_this_machine() {
    let space = Space::new();
    let mark = space.path().join("mark");
    let commit = hostile(&space, &mark);
    // It would, where git reads its settings.
    git(&space.path().join("r"), &["-c", "core.hooksPath=/dev/null", "diff"]);
    assert!(mark.exists());
    std::fs::remove_file(&mark).unwrap();
    let patch = "--- a/a.txt\n+++ b/a.txt\n@@ -1 +1 @@\n-1\n+2\n";
    std::fs::write(space.path().join("p.diff"), patch).unwrap();
    let script = "
import os, subprocess
say = lambda *words: print(subprocess.check_output(['git', *words]).decode().strip())
say('status', '--porcelain'); say('commit', '-qam', 'x')
text = open('.git/config').read()
print('evil' in text, os.path.exists('.git/hooks/post-checkout'))
";
    let words = ["--repo", "./r", "--commit", &commit, "--patch", "p.diff"];
    let ran = space.json(0, &[&words[..], &["--", "python", "-c", script]].concat());
    assert_eq!(ran["command"]["stdout"], "M a.txt\n\nFalse False\n", "{ran:#}");
    assert!(!mark.exists());
}

#[test]
#[ignore = "needs a base image"]
fn links_of_a_repository_bring_nothing_in() {
    let space = Space::new();
    let commit = space.repository("r", &[("a.txt", "1\n")]);
    std::fs::write(space.path().join("secret"), "secret\n").unwrap();
    let inside_git = space.path().join("r/.git");
    std::os::unix::fs::symlink(space.path().join("secret"), inside_git.join("refs/heads/more"))
        .unwrap();
    std::os::unix::fs::symlink(space.path().join("secret"), inside_git.join("packed-refs"))
        .unwrap();
    let output = space.run(&[
        "--repo",
        "./r",
        "--commit",
        &commit,
        "--",
        "grep",
        "-rs",
        "secret",
        "/workspace",
    ]);
    // Nothing is found, or the repository is refused.
    assert!(!said(&output).contains("secret\n"), "{}", said(&output));
    assert_ne!(output.status.code(), Some(0));
}

#[test]
#[ignore = "needs a base image"]
fn patches_keep_their_bytes() {
    let space = Space::new();
    let commit = space.repository("r", &[("a.txt", "1\n")]);
    for text in ["2", "2  ", "2\r", "\u{fc}", "\t"] {
        let patch = format!("--- a/a.txt\n+++ b/a.txt\n@@ -1 +1 @@\n-1\n+{text}\n");
        std::fs::write(space.path().join("p.diff"), patch).unwrap();
        let words = ["--repo", "./r", "--commit", &commit, "--patch", "p.diff"];
        let script = "print(open('a.txt', 'rb').read().hex())";
        let ran = space.json(0, &[&words[..], &["--", "python", "-c", script]].concat());
        assert_eq!(ran["patch"]["success"], true);
        let expected = hex::encode(format!("{text}\n")) + "\n";
        assert_eq!(ran["command"]["stdout"], expected, "{text:?}");
    }
}

#[test]
#[ignore = "needs a base image"]
fn a_patch_that_does_not_apply_runs_nothing() {
    let space = Space::new();
    let commit = space
        .repository("r", &[("a.txt", "1\n"), ("b.txt", "1\n"), ("t.py", "def test_a(): pass\n")]);
    let half = "--- a/a.txt\n+++ b/a.txt\n@@ -1 +1 @@\n-1\n+2\n\
                --- a/b.txt\n+++ b/b.txt\n@@ -1 +1 @@\n-0\n+2\n";
    let outside = "--- a/../../x\n+++ b/../../x\n@@ -0,0 +1 @@\n+x\n";
    let git_dir = "--- /dev/null\n+++ b/.git/hooks/pre-commit\n@@ -0,0 +1 @@\n+x\n";
    for patch in [half, outside, git_dir, "no patch\n"] {
        std::fs::write(space.path().join("p.diff"), patch).unwrap();
        let words = ["--repo", "./r", "--commit", &commit, "--patch", "p.diff"];
        let ran = space.json(125, &[&words[..], &["--", "ls"]].concat());
        assert_eq!((&ran["patch"]["success"], &ran["command"]), (&json!(false), &Value::Null));
        assert_ne!(ran["patch"]["stderr"], "", "{patch}");
        // Tests have not passed where they were not run.
        let ran = space.json(1, &[&words[..], &["--tests", "t.py"]].concat());
        assert_eq!(ran["tests"], Value::Null);
    }
    let output =
        space.run(&["--repo", "./r", "--commit", &commit, "--patch", "p.diff", "--tests", "t.py"]);
    assert!(said(&output).contains("the patch does not apply"), "{}", said(&output));
}

#[test]
#[ignore = "needs a base image"]
fn a_repository_that_is_too_large_is_no_verdict() {
    let space = Space::new();
    let commit = space.repository("r", &[("big", &"0123456789abcdef".repeat(3 << 20))]);
    let words = ["--workspace-size", "32m", "--repo", "./r", "--commit", &commit, "--tests", "big"];
    let output = space.run(&words);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("--workspace-size"), "{}", said(&output));
}

#[test]
#[ignore = "needs a base image"]
fn tests_of_a_repository_decide_about_a_patch() {
    let space = Space::new();
    let files = [
        ("a.py", "def add(a, b):\n    return a - b\n"),
        ("t.py", "from a import add\ndef test_add():\n    assert add(1, 2) == 3\n"),
    ];
    let commit = space.repository("r", &files);
    let words = ["--repo", "./r", "--commit", &commit];
    let ran = space.json(1, &[&words[..], &["--tests", "t.py::test_add"]].concat());
    assert_eq!(list(&ran["tests"]["failed"]), ["t.py::test_add"]);
    let patch = "--- a/a.py\n+++ b/a.py\n@@ -1,2 +1,2 @@\n def add(a, b):\n-    return a - b\n+    return a + b\n";
    std::fs::write(space.path().join("p.diff"), patch).unwrap();
    let words = [&words[..], &["--patch", "p.diff", "--tests", "t.py::test_add"]].concat();
    let ran = space.json(0, &words);
    assert_eq!(ran["tests"]["asked"], json!({ "t.py::test_add": true }));
}
