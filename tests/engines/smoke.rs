//! `imgforge smoke`: the binary, on every engine.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use imgforge::key::Digest;
use serde_json::{Value, json};

use crate::common::{Bench, helper, is_running, on_every_engine};
use crate::scratch::Scratch;

/// A directory with a repository, and the command line of one engine.
struct Space {
    engine: &'static str,
    host: Option<String>,
    state: PathBuf,
    image: String,
    dir: Scratch,
}

impl Space {
    fn of(bench: &Bench) -> Space {
        let dir = Scratch::new();
        let state = bench.state().map_or(dir.path().join("state"), Path::to_owned);
        let host = bench.address().map(str::to_owned);
        let engine = if host.is_some() { "docker" } else { "embedded" };
        let space = Space { engine, host, state, image: bench.from().to_owned(), dir };
        space.write("repo/calc.py", "def add(a, b):\n    return a - b\n");
        space.write("repo/old.txt", "old\n");
        let test = "import unittest\nfrom calc import add\n\n\nclass Add(unittest.TestCase):\n    \
                    def test_add(self):\n        self.assertEqual(add(1, 2), 3)\n";
        space.write("repo/test_calc.py", test);
        space.git(&["init", "--quiet", "--initial-branch", "main"]);
        space.git(&["add", "."]);
        space.git(&["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "one"]);
        let patch = "--- a/calc.py\n+++ b/calc.py\n@@ -1,2 +1,2 @@\n def add(a, b):\n\
                     -    return a - b\n+    return a + b\n\
                     diff --git a/old.txt b/old.txt\ndeleted file mode 100644\n\
                     --- a/old.txt\n+++ /dev/null\n@@ -1 +0,0 @@\n-old\n";
        space.write("fix.patch", patch);
        space
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn git(&self, args: &[&str]) -> String {
        let mut git = Command::new("git");
        let output = git.args(args).current_dir(self.dir.path().join("repo")).output().unwrap();
        assert!(output.status.success(), "{args:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(helper());
        command.args(["--engine", self.engine, "--state-dir"]).arg(&self.state);
        command.args(words).current_dir(self.dir.path());
        if let Some(host) = &self.host {
            command.env("DOCKER_HOST", host);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Writes a configuration: `more` of it goes over what all have.
    fn config(&self, more: &Value) {
        let mut config = json!({
            "sandbox": { "image": self.image, "env": { "API_TOKEN": "hunter22" } },
            "repo": { "path": "repo", "ref": "main" },
            "task": { "test": "python -m unittest" },
        });
        for (section, fields) in more.as_object().unwrap() {
            for (name, value) in fields.as_object().unwrap() {
                config[section][name] = value.clone();
            }
        }
        self.write("smoke.json", &config.to_string());
    }

    /// Does a run; returns its report.
    fn smoke(&self, more: &Value, options: &[&str], status: i32) -> Value {
        self.config(more);
        let words = [&["smoke", "--config", "smoke.json", "--json"], options].concat();
        let output = self.command(&words).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{more}: {said}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

impl Space {
    /// Removes the checkpoint that a run made; returns what was written down of it.
    fn forget(&self, report: &Value) -> String {
        let session = Digest::of(report["run_id"].as_str().unwrap()).to_string();
        let listed = self.command(&["session", "ls", "--checkpoints", "--json"]).output().unwrap();
        let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
        let mut listed = listed.as_array().unwrap().iter();
        let made = listed.find(|one| one["session"] == session[..12]).unwrap();
        let id = made["id"].as_str().unwrap();
        let record = self.state.join(format!("checkpoints/{id}.json"));
        let record = std::fs::read_to_string(record).unwrap();
        assert!(self.command(&["session", "rm", id]).output().unwrap().status.success());
        record
    }
}

fn with_space(case: impl Fn(&Space) + Copy + Send + Sync + 'static) {
    on_every_engine(move |bench: Arc<Bench>| async move {
        tokio::task::spawn_blocking(move || case(&Space::of(&bench))).await.unwrap();
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_smoke_run_does_all_of_its_stages() {
    with_space(|space| {
        let patched = json!({
            "sandbox": { "resources": { "memory": "256m", "pids": 100 } },
            "repo": { "patches": ["fix.patch"], "compat": ["collections-abc"] },
            "task": { "setup": ["echo $API_TOKEN; ls -a", ["python", "-c",
                "import collections; assert collections.Mapping"]] },
        });
        let report = space.smoke(&patched, &["--artifacts", "out"], 0);
        assert_eq!(report["success"], true, "{report:#}");
        assert_eq!(report["repo"]["commit"], space.git(&["rev-parse", "HEAD"]));
        assert!(report["versions"]["python"].as_str().unwrap().starts_with("3."), "{report:#}");
        assert!(report["image"]["digest"].as_str().unwrap().starts_with("sha256:"));
        let stages = report["stages"].as_array().unwrap();
        assert!(stages.iter().all(|stage| stage["status"] == "ok"), "{report:#}");
        let listed = stages[4]["commands"][0]["stdout"].as_str().unwrap();
        assert!(listed.starts_with("***\n") && listed.contains("calc.py\n"), "{listed}");
        assert!(!listed.contains("old.txt"), "{listed}");
        let again = space.command(&["smoke", "report", "out", "--json"]).output().unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&again.stdout).unwrap(), report);

        if stages[3]["reason"] == Value::Null {
            space.forget(&report);
        }
        let of_github = json!({
            "repo": { "path": null, "url": "https://github.com/me/repo" },
            "task": { "expected_fail": true },
        });
        let mirror = format!("{}/{{name}}", space.dir.path().display());
        let of_mirror = space.smoke(&of_github, &["--git-mirror", &mirror], 0);
        assert_eq!(of_mirror["repo"]["commit"], report["repo"]["commit"], "{of_mirror:#}");

        let plain = space.smoke(&json!({}), &[], 1);
        assert_eq!(plain["failure_reason"], "1 test failed (exit status 1)", "{plain:#}");
        let expected = space.smoke(&json!({ "task": { "expected_fail": true } }), &[], 0);
        assert_eq!(expected["success"], true, "{expected:#}");
        let pass =
            json!({ "repo": { "patches": ["fix.patch"] }, "task": { "expected_fail": true } });
        let pass = space.smoke(&pass, &[], 1);
        assert!(pass["failure_reason"].as_str().unwrap().starts_with("unexpected pass"));
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_smoke_run_that_cannot_be_done_says_whose_fault_it_is() {
    with_space(|space| {
        let none = json!({ "sandbox": { "image": "imgforge.invalid/none:1" } });
        let none = space.smoke(&none, &["--offline"], 3);
        assert_eq!(
            (&none["failure_stage"], &none["stages"][0]["status"]),
            (&json!("start"), &json!("infra_error")),
            "{none:#}"
        );
        let missing = space.smoke(&json!({ "repo": { "ref": "none" } }), &[], 1);
        assert_eq!(missing["failure_stage"], "clone", "{missing:#}");
        let full = space.smoke(&json!({ "sandbox": { "workdir": "/etc" } }), &[], 1);
        assert!(full["failure_reason"].as_str().unwrap().contains("not empty"), "{full:#}");
        let memory = json!({
            "sandbox": { "resources": { "memory": "64m" } },
            "task": { "test": ["python", "-c", "x = b'1' * (1 << 30)"], "expected_fail": true },
        });
        let memory = space.smoke(&memory, &[], 1);
        assert_eq!(memory["failure_stage"], "test", "{memory:#}");
        let slow = json!({
            "sandbox": { "timeouts": { "command": "1s" } },
            "task": { "test": "sleep 60", "expected_fail": true },
        });
        let slow = space.smoke(&slow, &[], 1);
        assert_eq!(slow["stages"][5]["commands"][0]["end"], "timed_out", "{slow:#}");
    });
}

/// Returns the reasons of the stages `clone`, `checkout` and `compat`.
fn reasons(report: &Value) -> Vec<Option<String>> {
    let stages = report["stages"].as_array().unwrap()[1..4].iter();
    stages.map(|stage| stage["reason"].as_str().map(str::to_owned)).collect()
}

#[test]
#[ignore = "needs an engine"]
fn a_run_with_equal_fixes_goes_on_where_an_earlier_one_had_made_them() {
    with_space(|space| {
        // Equal to no other run of these tests.
        let fixed = |tag: &str| {
            let test = "python -c 'import collections, calc; collections.Mapping'; ls -a";
            json!({
                "sandbox": { "env": { "API_TOKEN": "hunter22", "TAG": tag } },
                "repo": { "compat": ["collections-abc"] },
                "task": { "test": test },
            })
        };
        let tag = format!("{:016x}", rand::random::<u64>());
        let first = space.smoke(&fixed(&tag), &["--artifacts", "out"], 0);
        assert_eq!(reasons(&first), [None, None, None], "{first:#}");
        let second = space.smoke(&fixed(&tag), &["--artifacts", "out"], 0);
        let [clone, checkout, compat] = &reasons(&second)[..] else { panic!() };
        assert!(clone.as_ref().unwrap().starts_with("cached: "), "{second:#}");
        assert!(clone == checkout && clone == compat, "{second:#}");
        let printed = |report: &Value| report["stages"][5]["commands"][0]["stdout"].clone();
        assert_eq!(printed(&second), printed(&first));
        assert_eq!(second["repo"]["commit"], first["repo"]["commit"]);
        let again = space.command(&["smoke", "report", "out", "--json"]).output().unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&again.stdout).unwrap(), second);
        let other = space.smoke(&fixed(&format!("{tag}-2")), &[], 0);
        assert_eq!(reasons(&other), [None, None, None], "{other:#}");

        // What was kept has no secret, and is not needed.
        for record in [&first, &other].map(|report| space.forget(report)) {
            assert!(record.contains(&tag) && !record.contains("hunter22"), "{record}");
        }
        let third = space.smoke(&fixed(&tag), &[], 0);
        assert_eq!(reasons(&third), [None, None, None], "{third:#}");
        space.forget(&third);
    });
}

#[test]
#[ignore = "needs an engine"]
fn an_interrupt_ends_a_smoke_run_and_its_sandbox() {
    with_space(|space| {
        let marker = format!("7{:09}", rand::random::<u32>());
        space.config(&json!({ "task": { "setup": [format!("sleep {marker}")] } }));
        let words = ["smoke", "--config", "smoke.json", "--artifacts", "out", "--json"];
        let child = space.command(&words).spawn().unwrap();
        let began = Instant::now();
        while !is_running(&marker) {
            assert!(began.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(20));
        }
        let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130));
        assert!(!is_running(&marker));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["failure_reason"], "interrupted", "{report:#}");
        assert_eq!(report["stages"][6]["status"], "ok", "{report:#}");
    });
}

#[test]
#[ignore = "needs an engine"]
fn the_sandbox_of_a_smoke_run_can_be_kept() {
    with_space(|space| {
        let kept =
            space.smoke(&json!({ "task": { "setup": ["echo made >made"] } }), &["--keep"], 1);
        assert_eq!(kept["failure_stage"], "test", "{kept:#}");
        let reason = kept["stages"][6]["reason"].as_str().unwrap();
        let id = reason.split('`').nth(1).unwrap();
        let made = space.command(&["session", "exec", id, "cat", "made"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&made.stdout), "made\n");
        let stop = space.command(&["session", "stop", id]).output().unwrap();
        assert!(stop.status.success());
    });
}
