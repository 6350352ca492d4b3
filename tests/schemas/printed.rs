//! What the commands print with `--json`, and the files that runs leave. Most of it needs no base
//! image: a build that fails prints a document, too. The rest stands on the base in the state directory
//! of the engine tests, `IMGFORGE_TEST_STATE`, and on a registry.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use imgforge::bundle::{self, BundleManifest};
use imgforge::cache::archive;
use serde_json::{Value, json};

use crate::common::needs::{self, FROM};
use crate::common::schema::{all, check};
use crate::form::OF_FILES;
use crate::machine::{Machine, command, text};
use crate::registry::Registry;

const ID: &str = "imgforge__abacus-1";

/// What was printed, by the names of the schemas.
#[derive(Default)]
struct Printed(BTreeSet<String>);

impl Printed {
    /// Runs a command: it ends with `status`, and prints one document, which follows the schema.
    fn run(&mut self, name: &str, status: i32, mut command: Command) -> Value {
        let output = command.arg("--json").output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{command:?}: {}", text(&output));
        let document = serde_json::from_slice(&output.stdout);
        let document = document.unwrap_or_else(|error| {
            panic!("{command:?} prints no JSON document: {error}\n{}", text(&output))
        });
        self.see(name, &document);
        document
    }

    fn see(&mut self, name: &str, document: &Value) {
        check(name, document);
        self.0.insert(name.to_owned());
    }

    /// Checks a file of JSON.
    fn file(&mut self, name: &str, path: &Path) -> Value {
        let text = std::fs::read(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let document = serde_json::from_slice(&text).unwrap();
        self.see(name, &document);
        document
    }

    /// Checks a file of events; returns their kinds, with the outcomes of nodes.
    fn events(&mut self, path: &Path) -> BTreeSet<String> {
        let lines = std::fs::read_to_string(path).unwrap();
        let mut kinds = BTreeSet::new();
        for line in lines.lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            let kind = [&event["event"], &event["outcome"]].map(|one| one.as_str().unwrap_or(""));
            if kinds.insert(kind.join(" ").trim().to_owned()) {
                self.see("events", &event);
            }
        }
        kinds
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_commands_print_and_runs_leave_follows_the_schemas() {
    let mut printed = Printed::default();
    let machine = Machine::new().await;
    plain(&mut printed, machine.path());
    refused(&mut printed, machine.path());
    failing(&mut printed, &machine).await;
    bundles(&mut printed).await;
    cached(&mut printed).await;
    let expected: BTreeSet<String> = all().into_iter().map(|(name, _)| name).collect();
    // Those of what is read, of the protocol for programs and of smoke runs have tests of their own.
    let own = ["dataset-row", "predictions", "protocol", "smoke-config", "smoke-events"];
    let elsewhere = [&ON_A_BASE[..], &WITH_A_REGISTRY, &own].concat();
    let seen = printed.0.iter().map(String::as_str).chain(elsewhere).map(str::to_owned);
    assert_eq!(seen.collect::<BTreeSet<String>>(), expected);
    assert!(OF_FILES.iter().all(|name| expected.contains(*name)));
}

/// The schemas of what only commands print that have a base.
const ON_A_BASE: [&str; 17] = [
    "base-bootstrap",
    "instance-report",
    "sandbox",
    "session-checkpoint",
    "session-diff",
    "session-exec",
    "session-fork",
    "session-network",
    "session-patch",
    "session-ps",
    "session-reset",
    "session-rm",
    "session-start",
    "session-stats",
    "session-stop",
    "smoke",
    "smoke-report",
];

#[test]
#[ignore = "needs a base image"]
fn what_builds_and_runs_print_and_leave_follows_the_schemas() {
    let mut printed = Printed::default();
    on_a_base(&mut printed, &needs::base());
    assert!(ON_A_BASE.iter().all(|name| printed.0.contains(*name)), "{:?}", printed.0);
}

/// The schemas of what only commands print that have a registry.
const WITH_A_REGISTRY: [&str; 2] = ["cache-push", "cache-pull"];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry"]
async fn what_commands_print_that_have_a_registry_follows_the_schemas() {
    let mut printed = Printed::default();
    let registry = Registry::start();
    let machine = Machine::new().await;
    machine.tree(1, 1000).await;
    let name = registry.name();
    printed.run("cache-push", 0, machine.command(&["cache", "push", &name]));
    let other = Machine::new().await;
    printed.run("cache-pull", 0, other.command(&["cache", "pull", &name]));
    assert!(WITH_A_REGISTRY.iter().all(|name| printed.0.contains(*name)), "{:?}", printed.0);
}

/// Commands that need no engine, or only ask one.
fn plain(printed: &mut Printed, dir: &Path) {
    let imgforge = |line: &str| command(dir, &line.split(' ').collect::<Vec<_>>());
    printed.run("parsers", 0, imgforge("parsers"));
    printed.run("schema", 0, imgforge("schema"));
    printed.run("schema", 0, imgforge("schema cache-ls"));
    printed.run("config-show", 0, imgforge("config show --all"));
    let shown = printed.run("cache-dir", 0, imgforge("cache dir"));
    assert_eq!(shown["dir"], dir.to_str().unwrap());
    let mut key = imgforge("cache key --output-key-prefix mine");
    key.env("COSIGN_PASSWORD", "");
    printed.run("cache-key", 0, key);
    printed.run("clean", 0, imgforge("clean"));
    assert_eq!(printed.run("session-ls", 0, imgforge("session ls")), json!([]));
    let profile = printed.run("doctor", 0, imgforge("doctor --apparmor-profile"));
    assert!(profile["apparmor_profile"].as_str().unwrap().contains("userns,"), "{profile}");
    // Whether all is well on this machine is another matter.
    let output = imgforge("doctor --offline --json").output().unwrap();
    printed.see("doctor", &serde_json::from_slice(&output.stdout).unwrap());

    let log = "+ : '>>>>> Start Test Output'\nPASSED tests/test_a.py::b\nFAILED tests/test_a.py::c\n\
               + : '>>>>> End Test Output'\n";
    std::fs::write(dir.join("a.log"), log).unwrap();
    let graded = printed.run("grade", 0, imgforge("grade --log a.log --parser parse_log_pytest"));
    assert_eq!(graded["status_map"]["tests/test_a.py::c"], "FAILED");
    let graded = printed.run("grade", 0, imgforge(&format!("grade --log a.log -d demo -i {ID}")));
    assert_eq!(graded["resolution"], "RESOLVED_NO");
    std::fs::write(dir.join("b.log"), "Cannot allocate memory\n").unwrap();
    let graded = printed.run("grade", 0, imgforge(&format!("grade --log b.log -d demo -i {ID}")));
    assert_eq!((&graded["found"], &graded["tests_status"]), (&json!(false), &Value::Null));

    printed.run("dataset-ls", 0, imgforge("dataset ls -d demo"));
    printed.run("dataset-show", 0, imgforge(&format!("dataset show {ID} -d demo")));
    printed.run("dataset-check", 0, imgforge("dataset check -d demo"));
    let mut rows = demo_rows();
    rows[1]["version"] = json!("99");
    rows[2]["install_config"] = json!({ "python": "3.9", "pip_packages": ["pytest"] });
    rows[2]["expected_output_json"] = json!({ "a": "PASSED" });
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    std::fs::write(dir.join("rows.jsonl"), lines.join("\n")).unwrap();
    let listed = printed.run("dataset-ls", 0, imgforge("dataset ls -d rows.jsonl"));
    assert!(listed[2]["install_config"].is_object(), "{listed:#}");
    let found = printed.run("dataset-check", 2, imgforge("dataset check -d rows.jsonl"));
    assert_eq!(found[0]["instance_id"], "imgforge__abacus-2");
    printed.run("plan", 0, imgforge("plan -d demo"));
    let planned = printed.run("plan", 1, imgforge("plan -d rows.jsonl"));
    assert_eq!(planned["refused"][0]["instance_id"], "imgforge__abacus-2");
    let planned = printed.run("build", 1, imgforge("build -d rows.jsonl --dry-run"));
    assert_eq!(planned["refused"][0]["instance_id"], "imgforge__abacus-2");
}

/// Commands that have nothing to print but why they do not go on.
fn refused(printed: &mut Printed, dir: &Path) {
    let imgforge = |line: &str| command(dir, &line.split(' ').collect::<Vec<_>>());
    for line in ["plan -d lit", "report nope", "cache rm abc", "grade --log no.txt --parser x"] {
        let refused = printed.run("error", 2, imgforge(line));
        assert_ne!(refused["error"]["message"], "", "{line}: {refused}");
    }
    let refused = printed.run("error", 2, imgforge("plan -d demo --config no.toml"));
    assert!(refused["error"]["causes"][0].as_str().unwrap().contains("No such file"), "{refused}");
    let mut unreached = imgforge("build -d demo --engine docker");
    unreached.env("DOCKER_HOST", "tcp://127.0.0.1:1");
    let refused = printed.run("error", 3, unreached);
    assert!(refused["error"]["hint"].as_str().unwrap().contains("DOCKER_HOST"), "{refused}");
}

fn demo_rows() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/test.jsonl");
    let rows = std::fs::read_to_string(path).unwrap();
    rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Builds and runs on a base that holds nothing, so that they fail.
async fn failing(printed: &mut Printed, machine: &Machine) {
    let catalog = machine.catalog().await;
    let dir = machine.path();
    let imgforge = |line: &str| {
        let mut command = command(dir, &line.split(' ').collect::<Vec<_>>());
        command.arg("--config").arg(&catalog);
        command
    };
    let chosen = format!("-d demo -i {ID}");
    let built = printed.run("build", 1, imgforge(&format!("build {chosen} --events build.ndjson")));
    assert_eq!((&built["built"], &built["failed"]), (&json!(1), &json!(1)), "{built:#}");
    let kinds = printed.events(&dir.join("build.ndjson"));
    for kind in ["run_started", "node_started", "node_finished built", "node_finished failed"] {
        assert!(kinds.contains(kind), "{kind} in {kinds:?}");
    }
    printed.run("prewarm", 1, imgforge(&format!("prewarm {chosen}")));
    let made = printed.run("bundle-create", 1, imgforge(&format!("bundle create b {chosen}")));
    assert_eq!(made["file"], Value::Null);
    assert_eq!(made["failed"][0]["id"], "env:imgforge/abacus@1.0", "{made:#}");
    let run = format!("eval {chosen} -p gold --run-id broken");
    let report = printed.run("eval", 1, imgforge(&run));
    assert_eq!(report["error_ids"], json!([ID]));
    printed.file("run-report", &dir.join("gold.broken.json"));
    printed.file("run-settings", &dir.join("logs/run_evaluation/broken/run.json"));
    printed.run("report", 1, imgforge("report broken"));
    let same = printed.run("report", 1, imgforge("report broken --against broken"));
    assert_eq!(same["same"], 1);

    // What uv says is not what is tested.
    let uv = dir.join("uv");
    let pins =
        "#!/bin/sh\nprintf 'iniconfig==2.0.0 \\\\\\n    --hash=sha256:aa\\npytest==8.3.3\\n'\n";
    std::fs::write(&uv, pins).unwrap();
    std::fs::set_permissions(&uv, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let line = format!("lock imgforge/abacus 1.0 --uv {}", uv.display());
    let locked = printed.run("lock", 0, imgforge(&line));
    assert_eq!((&locked["path"], &locked["date"]), (&Value::Null, &json!("2024-10-15")));
    let pin = json!({
        "name": "iniconfig", "version": "2.0.0", "requirement": "iniconfig==2.0.0",
        "hashes": ["sha256:aa"],
    });
    assert_eq!((&locked["pins"][0], &locked["pins"][1]["name"]), (&pin, &json!("pytest")));
    let locked = printed.run("lock", 0, imgforge(&format!("{line} -o lock.txt")));
    assert_eq!(locked["path"], "lock.txt");
    assert_eq!(locked["text"], std::fs::read_to_string(dir.join("lock.txt")).unwrap());
}

/// A bundle without repositories and packages.
async fn bundles(printed: &mut Printed) {
    let machine = Machine::new().await;
    let base = &machine.tree(0, 1000).await[0];
    let inside = machine.path().join("inside");
    std::fs::create_dir_all(inside.join(bundle::CATALOG)).unwrap();
    std::fs::write(inside.join(bundle::ROWS), demo_rows()[0].to_string() + "\n").unwrap();
    let catalog = machine.catalog().await;
    std::fs::copy(catalog, inside.join(bundle::CATALOG).join("images.toml")).unwrap();
    let images = std::iter::once((base.kind, base.key));
    let path = inside.join(bundle::IMAGES);
    archive::export(&*machine.engine, &path, images, None).await.unwrap();
    let contents = BundleManifest {
        version: bundle::VERSION,
        imgforge: env!("CARGO_PKG_VERSION").to_owned(),
        dataset: "demo".to_owned(),
        split: "test".to_owned(),
        platform: machine.engine.info().await.unwrap().platform,
        instances: vec![ID.to_owned()],
        overlays: Vec::new(),
        files: Default::default(),
    };
    bundle::pack(&inside, contents, &machine.path().join("b.bundle")).unwrap();
    let other = Machine::new().await;
    let file = machine.path().join("b.bundle");
    let used =
        printed.run("bundle-use", 0, other.command(&["bundle", "use", file.to_str().unwrap()]));
    assert_eq!(used, json!({ "dataset": "demo", "instances": [ID], "bases": 1 }));
}

/// The commands of the cache, on small images.
async fn cached(printed: &mut Printed) {
    let machine = Machine::new().await;
    let made = machine.tree(1, 10_000).await;
    let dir = machine.path();
    let imgforge = |line: &str| command(dir, &line.split(' ').collect::<Vec<_>>());
    let rows = printed.run("cache-ls", 0, imgforge("cache ls"));
    assert_eq!(rows.as_array().unwrap().len(), made.len());
    printed.run("cache-du", 0, imgforge("cache du"));
    let leaf = made.last().unwrap().key;
    let why = printed.run("cache-why", 0, imgforge(&format!("cache why {leaf}")));
    assert!(why["inputs"].is_object(), "{why:#}");
    let pinned = printed.run("cache-pin", 0, imgforge(&format!("cache pin {leaf}")));
    assert_eq!(pinned[0]["pin"], json!({ "kind": "key", "name": leaf }));
    // Also what is not here can be pinned.
    let more = printed.run("cache-pin", 0, imgforge(&format!("cache pin -d demo -i {ID}")));
    assert_eq!(more.as_array().unwrap().len(), 1, "{more:#}");
    let pins = printed.run("cache-pin", 0, imgforge("cache pin"));
    assert_eq!(pins.as_array().unwrap().len(), 2, "{pins:#}");
    let gone = printed.run("cache-unpin", 0, imgforge(&format!("cache unpin {leaf}")));
    assert_eq!(gone, pinned);
    printed.run("cache-unpin", 0, imgforge(&format!("cache unpin -i {ID}")));
    printed.run("cache-verify", 0, imgforge("cache verify"));
    let exported = printed.run("cache-export", 0, imgforge("cache export all.tar"));
    assert_eq!(exported["images"], made.len());
    let other = Machine::new().await;
    let archive = dir.join("all.tar");
    let import = ["cache", "import", archive.to_str().unwrap()];
    let brought = printed.run("cache-import", 0, other.command(&import));
    assert_eq!(brought["imported"], made.len());
    let removed = printed.run("cache-rm", 0, imgforge(&format!("cache rm {leaf}")));
    assert_eq!(removed["removed"].as_array().unwrap().len(), 1);
    for line in ["cache gc --keep-bytes 0 --dry-run", "cache gc --keep-bytes 0"] {
        let gone = printed.run("cache-gc", 0, imgforge(line));
        assert_eq!(gone["removed"].as_array().unwrap().len(), made.len() - 1, "{gone:#}");
    }
}

/// Builds and runs that come to their end.
fn on_a_base(printed: &mut Printed, state: &Path) {
    let space = tempfile::tempdir().unwrap();
    let dir = space.path();
    let imgforge = |line: &str| {
        let mut command = command(state, &line.split(' ').collect::<Vec<_>>());
        command.current_dir(dir);
        command
    };
    let made = printed.run("base-bootstrap", 0, imgforge(&format!("base bootstrap {FROM}")));
    assert_eq!(made["images"][0]["image"], FROM);
    let built = printed.run("build", 0, imgforge(&format!("build -d demo -i {ID}")));
    assert_eq!(built["failed"], 0, "{built:#}");
    let warm = printed.run("prewarm", 0, imgforge(&format!("prewarm -d demo -i {ID}")));
    assert_eq!(warm["failed"], 0, "{warm:#}");
    let gold = format!("eval -d demo -i {ID} -p gold --run-id one --no-result-cache");
    let report = printed.run("eval", 0, imgforge(&format!("{gold} --events eval.ndjson")));
    assert_eq!(report["resolved_ids"], json!([ID]), "{report:#}");
    let kinds = printed.events(&dir.join("eval.ndjson"));
    assert!(kinds.contains("node_finished evaluated"), "{kinds:?}");
    let run = dir.join("logs/run_evaluation/one");
    printed.file("run-settings", &run.join("run.json"));
    printed.file("run-report", &dir.join("gold.one.json"));
    let graded = printed.file("instance-report", &run.join(format!("gold/{ID}/report.json")));
    assert_eq!(graded[ID]["resolved"], true);

    // Several models, a patch that does not apply, an empty one, and every run twice.
    let patch = "diff --git a/no b/no\n--- a/no\n+++ b/no\n@@ -1 +1 @@\n-a\n+b\n";
    let predictions = json!([
        { "instance_id": ID, "model_name_or_path": "me/mine", "model_patch": patch },
        { "instance_id": ID, "model_name_or_path": "silent", "model_patch": "" },
        { "instance_id": "no__such-1", "model_name_or_path": "silent", "model_patch": "" },
    ]);
    std::fs::write(dir.join("p.json"), predictions.to_string()).unwrap();
    let run = format!("eval -d demo -p gold -p p.json --run-id two --repeat 2 --strict -i {ID}");
    let report = printed.run("eval", 0, imgforge(&run));
    assert_eq!(report["models"]["me/mine"]["imgforge"]["patch_refused_ids"], json!([ID]));
    let run = dir.join("logs/run_evaluation/two");
    printed.file("run-settings", &run.join("run.json"));
    printed.file("instance-report", &run.join(format!("gold/{ID}/report.json")));
    printed.file("instance-report", &run.join(format!("me__mine/{ID}/report.json")));
    printed.file("run-report", &dir.join("me__mine.two.json"));
    printed.run("report", 0, imgforge("report two"));
    printed.run("report", 0, imgforge("report one"));
    printed.run("report", 0, imgforge("report two --against one"));
    in_a_session(printed, &imgforge);
    smoke(printed, dir, &imgforge);
}

/// Smoke runs, of a list and of one.
fn smoke(printed: &mut Printed, dir: &Path, imgforge: &dyn Fn(&str) -> Command) {
    let repo = dir.join("smoke");
    std::fs::create_dir(&repo).unwrap();
    std::fs::write(repo.join("file"), "text\n").unwrap();
    for args in [
        &["init", "--quiet", "--initial-branch", "main"][..],
        &["add", "."],
        &["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "one"],
    ] {
        let git = Command::new("git").args(args).current_dir(&repo).status().unwrap();
        assert!(git.success());
    }
    let shared = json!({ "image": FROM, "timeouts": { "command": 60 } });
    let repo = json!({ "path": "smoke", "ref": "main" });
    let task = json!({ "setup": ["cat file"], "test": "exit 3", "expected_fail": true });
    let one = json!({ "sandbox": shared, "repo": repo, "task": task });
    check("smoke-config", &one);
    std::fs::write(dir.join("one.json"), one.to_string()).unwrap();
    let run = imgforge("smoke --config one.json --artifacts out --events smoke.ndjson");
    let report = printed.run("smoke", 0, run);
    assert_eq!(report["success"], true, "{report:#}");
    assert_eq!(printed.run("smoke-report", 0, imgforge("smoke report out")), report);
    for line in std::fs::read_to_string(dir.join("smoke.ndjson")).unwrap().lines() {
        check("smoke-events", &serde_json::from_str(line).unwrap());
    }
    let pass = json!({ "test": "true", "expected_fail": true });
    let runs = json!([{ "name": "first", "task": task }, { "task": pass }]);
    let list = json!({ "sandbox": shared, "repo": repo, "runs": runs });
    check("smoke-config", &list);
    std::fs::write(dir.join("list.json"), list.to_string()).unwrap();
    let run = imgforge("smoke --config list.json --artifacts out --report report.json");
    let reports = printed.run("smoke", 1, run);
    assert_eq!(reports["runs"][1]["failure_stage"], "test", "{reports:#}");
    assert_eq!(printed.file("smoke", &dir.join("report.json")), reports);
    assert_eq!(printed.run("smoke-report", 1, imgforge("smoke report out")), reports);
}

/// The commands of a session.
fn in_a_session(printed: &mut Printed, imgforge: &dyn Fn(&str) -> Command) {
    let start = imgforge(&format!("session start -d demo -i {ID} --ttl 10m"));
    let started = printed.run("session-start", 0, start);
    assert_eq!(started["swerex"], Value::Null);
    let id = started["id"].as_str().unwrap();
    let start = imgforge(&format!("session start -d demo -i {ID} --swerex"));
    let served = printed.run("session-start", 0, start);
    printed.run(
        "session-stop",
        0,
        imgforge(&format!("session stop {}", served["id"].as_str().unwrap())),
    );
    assert!(imgforge("serve stop --swerex").status().unwrap().success());
    // The option that is added stands behind the command, and is the command's.
    in_a_sandbox(printed, imgforge, started["image"].as_str().unwrap());
    let exec = |command: &str| {
        let mut exec = imgforge(&format!("session exec {id} {command}"));
        exec.env("IMGFORGE_JSON", "1");
        exec
    };
    let ran = printed.run("session-exec", 0, exec("echo"));
    assert_eq!((&ran["end"], &ran["stdout"]), (&json!({ "exited": 0 }), &json!("--json\n")));
    let ran = printed.run("session-exec", 127, exec("no-such-program"));
    assert_eq!(ran["end"]["not_started"]["program_missing"], true, "{ran:#}");
    let mut background = imgforge(&format!("session exec {id} sh -c"));
    background.arg("echo more > more.txt; sleep 600 >/dev/null 2>&1 &");
    assert!(background.output().unwrap().status.success());
    let processes = printed.run("session-ps", 0, imgforge(&format!("session ps {id}")));
    assert_eq!(processes.as_array().unwrap().len(), 1, "{processes:#}");
    let used = printed.run("session-stats", 0, imgforge(&format!("session stats {id}")));
    assert!(
        used["processes"].as_u64() >= Some(1) && used["memory_bytes"].as_u64() > Some(0),
        "{used:#}"
    );
    let patch = printed.run("session-patch", 0, imgforge(&format!("session patch {id}")));
    assert!(patch["patch"].as_str().unwrap().contains("+more\n"), "{patch:#}");
    let changes = printed.run("session-diff", 0, imgforge(&format!("session diff {id}")));
    let added = json!({ "path": "/testbed/more.txt", "kind": "added" });
    assert!(changes.as_array().unwrap().contains(&added), "{changes:#}");
    let listed = printed.run("session-ls", 0, imgforge("session ls"));
    assert!(listed.as_array().unwrap().iter().any(|one| one["id"] == *id), "{listed:#}");
    from_checkpoints(printed, imgforge, id);
    let stopped = printed.run("session-stop", 0, imgforge(&format!("session stop {id}")));
    assert_eq!(stopped, json!([id]));
    let listed = printed.run("session-ls", 0, imgforge("session ls --all"));
    assert!(listed.as_array().unwrap().iter().all(|one| one["id"] != *id), "{listed:#}");
}

/// A command and tests in a sandbox.
fn in_a_sandbox(printed: &mut Printed, imgforge: &dyn Fn(&str) -> Command, image: &str) {
    let git = |line: &str| {
        let mut git = imgforge("");
        let directory = git.get_current_dir().unwrap().to_owned();
        git = Command::new("git");
        git.args(["-c", "user.name=a", "-c", "user.email=a@b"]).args(line.split(' '));
        let output = git.current_dir(directory).output().unwrap();
        assert!(output.status.success(), "git {line}: {}", text(&output));
        text(&output).trim().to_owned()
    };
    let directory = imgforge("").get_current_dir().unwrap().to_owned();
    git("init -q checked");
    let test = "import pytest\ndef test_a(): pass\n@pytest.mark.skip\ndef test_b(): pass\n";
    std::fs::write(directory.join("checked/t.py"), test).unwrap();
    git("-C checked add t.py");
    git("-C checked commit -q -m c");
    let commit = git("-C checked rev-parse HEAD");
    let patch = "--- a/t.py\n+++ b/t.py\n@@ -1,2 +1,3 @@\n import pytest\n+import os\n def test_a(): pass\n";
    std::fs::write(directory.join("good.diff"), patch).unwrap();
    std::fs::write(directory.join("bad.diff"), patch.replace("test_a", "test_c")).unwrap();
    let sandbox = format!("sandbox --image {image} --unenforced -m 512m");
    let repo = format!("{sandbox} --repo ./checked --commit {commit}");
    let mut plain = imgforge(&format!("{sandbox} -- python -c print(1)"));
    plain.env("IMGFORGE_JSON", "1");
    // The option that is added stands behind the command, and is an argument of it.
    let ran = printed.run("sandbox", 0, plain);
    assert_eq!((&ran["command"]["stdout"], &ran["tests"]), (&json!("1\n"), &Value::Null));
    let ids = "--tests t.py::test_a t.py::test_b t.py::no";
    let ran = printed.run("sandbox", 1, imgforge(&format!("{repo} --patch good.diff {ids}")));
    assert_eq!(ran["tests"]["missing"], json!(["t.py::no"]), "{ran:#}");
    let ran = printed.run("sandbox", 1, imgforge(&format!("{repo} --patch bad.diff {ids}")));
    assert_eq!((&ran["patch"]["success"], &ran["tests"]), (&json!(false), &Value::Null));
}

/// The commands of checkpoints, and of what a session may reach.
fn from_checkpoints(printed: &mut Printed, imgforge: &dyn Fn(&str) -> Command, id: &str) {
    let made = imgforge(&format!("session checkpoint {id}"));
    let made = printed.run("session-checkpoint", 0, made);
    let checkpoint = made["id"].as_str().unwrap();
    let listed = printed.run("session-ls", 0, imgforge("session ls --checkpoints"));
    assert!(listed.as_array().unwrap().iter().any(|one| one["id"] == *checkpoint), "{listed:#}");
    let forked = imgforge(&format!("session fork {checkpoint} -n 2"));
    let forked = printed.run("session-fork", 0, forked);
    for session in forked["sessions"].as_array().unwrap() {
        let id = session["id"].as_str().unwrap();
        let reset = imgforge(&format!("session reset {id} --to {checkpoint}"));
        assert_eq!(printed.run("session-reset", 0, reset)["to"], made["image"]);
        printed.run("session-stop", 0, imgforge(&format!("session stop {id}")));
    }
    let removed = printed.run("session-rm", 0, imgforge(&format!("session rm {checkpoint}")));
    assert_eq!(removed, json!([checkpoint]));
    let start = imgforge(&format!("session start -d demo -i {ID} --allow pypi.org"));
    let open = printed.run("session-start", 0, start);
    assert_eq!(open["allowed"], json!(["pypi.org"]));
    let open = open["id"].as_str().unwrap();
    let network = imgforge(&format!("session network {open} --allow *.a --allow b:81"));
    let network = printed.run("session-network", 0, network);
    assert_eq!(network, json!({ "allowed": ["*.a", "b:81"], "denied": {} }));
    printed.run("session-stop", 0, imgforge(&format!("session stop {open}")));
}
