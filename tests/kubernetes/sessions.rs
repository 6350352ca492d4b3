//! Sessions as pods: commands and files in a container of the cluster, and what goes wrong there.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::cluster::{Kind, Knobs};
use super::needs::{NotHere, is_root, not_here};
use super::{Space, said};

/// A session on a cluster; its pod goes with the cluster.
struct Sandbox {
    space: Space,
    /// The name of the session.
    name: String,
}

impl Sandbox {
    fn new(knobs: Knobs) -> Sandbox {
        Sandbox { space: Space::new(knobs), name: format!("s{:x}", rand::random::<u32>()) }
    }

    fn start(knobs: Knobs) -> Sandbox {
        let sandbox = Sandbox::new(knobs);
        let started = sandbox.begin(&[]);
        assert_eq!(started.status.code(), Some(0), "{}", said(&started));
        sandbox
    }

    fn begin(&self, more: &[&str]) -> Output {
        let mut command = self.imgforge(&["--json", "session", "start", "--name", &self.name]);
        command.args(["-d", "demo", "-i", "imgforge__abacus-1", "--bootstrap"]);
        command.args(["--runner", "kubernetes", "--cache-registry", &self.space.registry.name()]);
        command.args(more).output().unwrap()
    }

    fn imgforge(&self, words: &[&str]) -> Command {
        let mut command = self.space.imgforge();
        command.args(words);
        command
    }

    fn session(&self, words: &[&str]) -> Output {
        let mut all = vec!["session", words[0]];
        all.extend(&words[1..]);
        self.imgforge(&all).output().unwrap()
    }

    /// Runs a command; what it prints, and its status.
    fn exec(&self, options: &[&str], command: &[&str]) -> Output {
        let words = [&["exec"], options, &[&self.name, "--"], command].concat();
        self.session(&words)
    }

    fn shell(&self, text: &str) -> String {
        let output = self.exec(&[], &["sh", "-c", text]);
        assert_eq!(output.status.code(), Some(0), "{text}: {}", said(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn give(&self, words: &[&str], input: &[u8]) -> Output {
        let all = [&["session"], words].concat();
        let mut command = self.imgforge(&all);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    }

    fn set(&self, knobs: Knobs) {
        self.space.cluster.set(knobs);
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // The process that keeps it would go on asking for the cluster.
        let _ = self.session(&["stop", &self.name]);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
#[ignore = "needs docker-registry and a base image"]
fn commands_and_files_are_those_of_any_session() {
    if !is_root() {
        return not_here(NotHere::PlainUser);
    }
    let sandbox = Sandbox::start(Knobs::default());
    // How commands end.
    let ran = sandbox.exec(&[], &["sh", "-c", "pwd; id -u; echo e >&2; exit 3"]);
    assert_eq!(ran.status.code(), Some(3), "{}", said(&ran));
    assert_eq!((text(&ran.stdout), text(&ran.stderr)), ("/testbed\n0\n".into(), "e\n".into()));
    assert_eq!(sandbox.exec(&[], &["no-such-program"]).status.code(), Some(127));
    assert_eq!(sandbox.exec(&[], &["/etc/passwd"]).status.code(), Some(126));
    assert_eq!(sandbox.exec(&[], &["sh", "-c", "kill -9 $$"]).status.code(), Some(137));
    let began = Instant::now();
    let late = sandbox.exec(&["--timeout", "1s"], &["sh", "-c", "setsid sleep 77 & sleep 77"]);
    assert_eq!(late.status.code(), Some(124), "{}", said(&late));
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    let left = sandbox.shell("cat /proc/[0-9]*/cmdline | tr '\\0' ' '");
    assert!(!left.contains("sleep 77"), "{left}");
    let user = sandbox.exec(&["--user", "nobody", "-e", "A=b c"], &["sh", "-c", "id -un; echo $A"]);
    assert_eq!(text(&user.stdout), "nobody\nb c\n", "{}", said(&user));
    assert_eq!(sandbox.exec(&["--user", "nobody1"], &["true"]).status.code(), Some(126));
    // A runtime drops the input of what closed its output.
    let bytes = vec![b'x'; 3_000_000];
    let given = sandbox.give(
        &["exec", "-i", &sandbox.name, "--", "sh", "-c", "exec head -c 3000000 >/tmp/f"],
        &bytes,
    );
    assert_eq!(given.status.code(), Some(0), "{}", said(&given));
    assert_eq!(sandbox.shell("wc -c </tmp/f").trim(), "3000000");
    let mut printing = sandbox.imgforge(&["--json", "session", "exec", "--max-output", "64k"]);
    printing.args([&sandbox.name, "--", "sh", "-c", "head -c 1000000 /dev/zero; echo end"]);
    let printed = printing.output().unwrap();
    let document: Value = serde_json::from_slice(&printed.stdout).unwrap();
    assert_eq!(document["end"]["exited"], 0);
    assert_eq!(document["dropped"]["stdout"], 1_000_000 + 4 - (64 << 10));
    // Files.
    let dir = sandbox.space.output.path();
    let place = |path: &str| format!("{}:{path}", sandbox.name);
    std::fs::create_dir_all(dir.join("d")).unwrap();
    std::fs::write(dir.join("d/big"), &bytes).unwrap();
    let copied = sandbox.session(&["cp", dir.join("d").to_str().unwrap(), &place("/opt/d")]);
    assert_eq!(copied.status.code(), Some(0), "{}", said(&copied));
    let back = dir.join("back");
    let copied = sandbox.session(&["cp", &place("/opt/d"), back.to_str().unwrap()]);
    assert_eq!(copied.status.code(), Some(0), "{}", said(&copied));
    assert!(std::fs::read(back.join("big")).unwrap() == bytes);
    let missing = sandbox.session(&["cp", &place("/none"), back.to_str().unwrap()]);
    assert_eq!(missing.status.code(), Some(2), "{}", said(&missing));
    sandbox.shell("echo more >>README.md; git add -A");
    let patch = sandbox.session(&["patch", &sandbox.name]);
    assert!(text(&patch.stdout).contains("+more"), "{}", said(&patch));
    sandbox.shell("git checkout -q HEAD -- . && git diff --quiet HEAD");
    let file = dir.join("patch");
    std::fs::write(&file, &patch.stdout).unwrap();
    let applied = sandbox.session(&["apply", &sandbox.name, file.to_str().unwrap()]);
    assert_eq!(applied.status.code(), Some(0), "{}", said(&applied));
    assert!(sandbox.shell("cat README.md").contains("more"));
    // What was changed is graded as pods, too.
    let mut graded = sandbox.imgforge(&["--json", "session", "grade", &sandbox.name, "--"]);
    graded.args(["--runner", "kubernetes", "--cache-registry", &sandbox.space.registry.name()]);
    graded.args(["--bootstrap", "--no-result-cache", "--run-id", &sandbox.name]).current_dir(dir);
    let graded = graded.output().unwrap();
    let report: Value = serde_json::from_slice(&graded.stdout).unwrap();
    assert_eq!(report["unresolved_ids"][0], "imgforge__abacus-1", "{}", said(&graded));
    // A shell.
    let shell = sandbox.give(&["shell", &sandbox.name], b"cd /tmp; X=1\npwd; echo $X\nexit 4\n");
    assert_eq!((shell.status.code(), text(&shell.stdout)), (Some(4), "/tmp\n1\n".into()));
    // What pods have not.
    for words in [
        &["checkpoint", &sandbox.name][..],
        &["fork", &sandbox.name],
        &["stats", &sandbox.name],
        &["ps", &sandbox.name],
        &["diff", &sandbox.name],
    ] {
        let refused = sandbox.session(words);
        assert_ne!(refused.status.code(), Some(0), "{words:?}");
        assert!(text(&refused.stderr).contains("--runner local"), "{words:?}: {}", said(&refused));
    }
    let listed = sandbox.imgforge(&["--json", "session", "ls"]).output().unwrap();
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let one =
        listed.as_array().unwrap().iter().find(|one| one["name"] == sandbox.name.as_str()).unwrap();
    assert_eq!(one["engine"], "kubernetes");
    assert!(one["expires"].is_string(), "{one}");
    let pods = sandbox.space.cluster.names(Kind::Pod);
    assert_eq!(pods.len(), 1, "{pods:?}");
    let stopped = sandbox.session(&["stop", &sandbox.name]);
    assert_eq!(stopped.status.code(), Some(0), "{}", said(&stopped));
    sandbox.space.cluster.assert_empty();
    // Nothing is started that could not be had.
    for (more, word) in [
        (&["--read-only"][..], "read-only"),
        (&["--tmpfs", "/scratch"], "memory"),
        (&["--publish", "80"], "port"),
        (&["--allow", "pypi.org"], "some hosts"),
        (&["--pids-limit", "100"], "processes"),
        (&["--ttl", "25h"], "24 hours"),
    ] {
        let refused = sandbox.begin(more);
        assert_ne!(refused.status.code(), Some(0), "{more:?}");
        assert!(text(&refused.stderr).contains(word), "{more:?}: {}", said(&refused));
    }
    sandbox.space.cluster.assert_empty();
}

#[test]
#[ignore = "needs docker-registry and a base image"]
fn what_was_cut_or_lost_is_no_result() {
    if !is_root() {
        return not_here(NotHere::PlainUser);
    }
    let sandbox = Sandbox::start(Knobs::default());
    let seven = ["sh", "-c", "echo one; echo two; exit 7"];
    // Both outputs say that all is here; the status of the cluster is not needed for that.
    sandbox.set(Knobs { exec_silent: 1000, ..Knobs::default() });
    let ran = sandbox.exec(&[], &seven);
    assert_eq!((ran.status.code(), text(&ran.stdout)), (Some(7), "one\ntwo\n".into()));
    sandbox.set(Knobs { exec_cut: 1000, ..Knobs::default() });
    let ran = sandbox.exec(&[], &["sh", "-c", "echo one; echo two"]);
    assert_eq!(ran.status.code(), Some(125), "{}", said(&ran));
    assert!(text(&ran.stderr).contains("was lost before its end"), "{}", said(&ran));
    // What can be done again is.
    sandbox.set(Knobs { exec_input: 500, exec_fails: 300, ..Knobs::default() });
    let dir = sandbox.space.output.path();
    let place = |path: &str| format!("{}:{path}", sandbox.name);
    let bytes: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(dir.join("f"), &bytes).unwrap();
    let given = sandbox.session(&["cp", dir.join("f").to_str().unwrap(), &place("/tmp/f")]);
    assert_eq!(given.status.code(), Some(0), "{}", said(&given));
    sandbox.set(Knobs { exec_cut: 300, ..Knobs::default() });
    let back = dir.join("back");
    let taken = sandbox.session(&["cp", &place("/tmp/f"), back.to_str().unwrap()]);
    sandbox.set(Knobs::default());
    match taken.status.code() {
        Some(0) => assert!(std::fs::read(&back).unwrap() == bytes),
        _ => assert!(!back.exists(), "{}", said(&taken)),
    }
    // The node is gone in the middle of a command.
    let mut command = sandbox.imgforge(&["session", "exec", &sandbox.name, "--", "sh", "-c"]);
    command.arg("echo begun; sleep 60; echo ended").stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    sandbox.space.cluster.disrupt("DeletionByTaintManager");
    let ran = child.wait_with_output().unwrap();
    assert_eq!(ran.status.code(), Some(125), "{}", said(&ran));
    assert!(text(&ran.stderr).contains("its pod was lost"), "{}", said(&ran));
    let after = sandbox.exec(&[], &["true"]);
    assert!(!after.status.success() && text(&after.stderr).contains("lost"), "{}", said(&after));
    sandbox.space.cluster.assert_empty();
}

#[test]
#[ignore = "needs docker-registry and a base image"]
fn what_a_killed_keeper_left_goes_with_the_next_clean() {
    if !is_root() {
        return not_here(NotHere::PlainUser);
    }
    let sandbox = Sandbox::new(Knobs::default());
    let started = sandbox.begin(&["--ttl", "1h"]);
    assert_eq!(started.status.code(), Some(0), "{}", said(&started));
    let record: Value = serde_json::from_slice(&started.stdout).unwrap();
    let keeper = i32::try_from(record["host"].as_i64().unwrap()).unwrap();
    let keeper = rustix::process::Pid::from_raw(keeper).unwrap();
    rustix::process::kill_process(keeper, rustix::process::Signal::KILL).unwrap();
    let gone = sandbox.exec(&[], &["true"]);
    assert!(!gone.status.success(), "{}", said(&gone));
    assert_eq!(sandbox.space.cluster.names(Kind::Pod).len(), 1);
    sandbox.space.cluster.age_leases(Duration::from_secs(400));
    let cleaned = sandbox.space.clean(&[]).output().unwrap();
    assert!(said(&cleaned).contains("pods of run `session-"), "{}", said(&cleaned));
    sandbox.space.cluster.assert_empty();
}

#[test]
#[ignore = "needs docker-registry and a base image"]
fn the_python_client_has_them_too() {
    if !is_root() {
        return not_here(NotHere::PlainUser);
    }
    let space = Space::new(Knobs::default());
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let ran = Command::new("python3")
        .arg(root.join("tests/kubernetes/sessions.py"))
        .arg(space.registry.name())
        .arg(&space.state)
        .env("PYTHONPATH", root.join("python"))
        .env("IMGFORGE_BIN", env!("CARGO_BIN_EXE_imgforge"))
        .env("IMGFORGE_BOOTSTRAP", "1")
        .env("KUBECONFIG", space.cluster.kubeconfig("evals"))
        .output()
        .expect("`python3` starts");
    assert_eq!(text(&ran.stdout), "done\n", "{}", said(&ran));
    space.cluster.assert_empty();
}
