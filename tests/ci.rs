//! The GitHub Action and the template for GitLab, step by step: a first job builds and saves, a
//! second one, on another machine, is warm. And the workflow of this repository's own tests: what it
//! covers, and that its scripts can be run and do not take one refusal for another.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_yaml_ng::Value;

/// The inputs of an action, or the variables of a job.
type Variables = BTreeMap<String, String>;

fn document(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    serde_yaml_ng::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A runner: a working directory, and what the cache of the service holds.
struct Runner {
    dir: tempfile::TempDir,
    cache: PathBuf,
    engine: &'static str,
}

/// The instances of the demo that are left out: those of two repositories show it all.
const LEFT_OUT: &str =
    "imgforge__ledger-1,imgforge__ledger-2,imgforge__ledger-3,imgforge__abacus-3";

impl Runner {
    fn new(cache: &Path, engine: &'static str) -> Runner {
        Runner { dir: tempfile::tempdir().unwrap(), cache: cache.to_owned(), engine }
    }

    /// Runs a script as the service does; returns what it printed.
    fn script(&self, script: &str, variables: &Variables) -> String {
        let program = Path::new(env!("CARGO_BIN_EXE_imgforge"));
        let path = std::env::var("PATH").unwrap();
        let outputs = self.dir.path().join("outputs");
        std::fs::write(&outputs, "").unwrap();
        let output = Command::new("bash")
            .args(["--noprofile", "--norc", "-e", "-o", "pipefail", "-c", script])
            .current_dir(self.dir.path())
            .env("PATH", format!("{}:{path}", program.parent().unwrap().display()))
            .env("GITHUB_OUTPUT", outputs)
            .env("GITHUB_STEP_SUMMARY", self.dir.path().join("summary.md"))
            .env("GITHUB_ACTION_PATH", env!("CARGO_MANIFEST_DIR"))
            .env("IMGFORGE_ENGINE", self.engine)
            .env("IMGFORGE_EXCLUDE", LEFT_OUT)
            .env("RUST_BACKTRACE", "0")
            .envs(variables)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{script}\n{text}");
        text
    }

    /// What `actions/cache/restore` and `save` do.
    fn cached(&self, action: &str, path: &str) {
        let (here, there) = (self.dir.path().join(path), self.cache.join("images.tar"));
        if action.contains("/restore@") {
            if there.exists() {
                std::fs::create_dir_all(here.parent().unwrap()).unwrap();
                std::fs::copy(&there, &here).unwrap();
            }
        } else {
            assert!(action.contains("/save@"), "{action}");
            std::fs::copy(&here, &there).unwrap();
        }
    }
}

/// What `actions/upload-artifact` and `download-artifact` do; artifacts are beside the cache.
fn artifact(runner: &Runner, uses: &str, with: &Value, inputs: &Variables) {
    let with = |name: &str| with[name].as_str().map(|text| filled(text, inputs));
    let copy = |from: &Path, to: &Path| {
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        let status = Command::new("cp").arg("-r").args([from, to]).status().unwrap();
        assert!(status.success());
    };
    let place = runner.cache.join("artifacts");
    if uses.contains("/upload-artifact@") {
        for path in with("path").unwrap().lines() {
            copy(&runner.dir.path().join(path), &place.join(with("name").unwrap()).join(path));
        }
        return;
    }
    assert!(uses.contains("/download-artifact@"), "{uses}");
    let pattern = with("pattern").unwrap();
    let start = pattern.strip_suffix('*').unwrap();
    for entry in std::fs::read_dir(place).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with(start) {
            copy(&entry.path(), &runner.dir.path().join(with("path").unwrap()).join(name));
        }
    }
}

/// Fills in `${{ … }}`; what steps put out is among the inputs, by its whole name.
fn filled(text: &str, inputs: &Variables) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${{") {
        let (expression, after) = after.split_once("}}").unwrap();
        filled += before;
        filled += match expression.trim() {
            "github.run_id" => "1",
            other => &inputs[other.strip_prefix("inputs.").unwrap_or(other)],
        };
        rest = after;
    }
    filled + rest
}

/// Tells whether the condition of a step holds, while nothing failed.
fn holds(condition: &str, inputs: &Variables) -> bool {
    condition.split("&&").all(|part| match part.split_whitespace().collect::<Vec<_>>().as_slice() {
        ["always()"] => true,
        [name, "==", "''"] => inputs[name.strip_prefix("inputs.").unwrap()].is_empty(),
        [name, "!=", "''"] => !inputs[name.strip_prefix("inputs.").unwrap()].is_empty(),
        other => panic!("{other:?}"),
    })
}

/// Runs the action; returns what its steps printed, by their names.
fn action(runner: &Runner, given: &[(&str, &str)]) -> BTreeMap<String, String> {
    let action = document("action.yml");
    let mut inputs = Variables::new();
    for (name, input) in action["inputs"].as_mapping().unwrap() {
        let name = name.as_str().unwrap();
        let given = given.iter().find(|(given, _)| *given == name).map(|(_, value)| *value);
        let value = given.or(input["default"].as_str()).expect("a required input is given");
        inputs.insert(name.to_owned(), value.to_owned());
    }
    assert_eq!(action["runs"]["using"].as_str(), Some("composite"));
    let mut printed = BTreeMap::new();
    for step in action["runs"]["steps"].as_sequence().unwrap() {
        if step["if"].as_str().is_some_and(|condition| !holds(condition, &inputs)) {
            continue;
        }
        if let Some(uses) = step["uses"].as_str().filter(|uses| uses.contains("-artifact@")) {
            artifact(runner, uses, &step["with"], &inputs);
            continue;
        }
        if let Some(uses) = step["uses"].as_str() {
            runner.cached(uses, &filled(step["with"]["path"].as_str().unwrap(), &inputs));
            continue;
        }
        assert_eq!(step["shell"].as_str(), Some("bash"), "a composite step names its shell");
        let script = step["run"].as_str().unwrap();
        assert!(!script.contains("${{"), "inputs reach scripts as variables only");
        let env = step["env"].as_mapping().cloned().unwrap_or_default();
        let variables = env
            .iter()
            .map(|(name, value)| {
                let value = filled(value.as_str().unwrap(), &inputs);
                (name.as_str().unwrap().to_owned(), value)
            })
            .collect();
        let text = runner.script(script, &variables);
        if let Some(id) = step["id"].as_str() {
            let outputs = std::fs::read_to_string(runner.dir.path().join("outputs")).unwrap();
            for (name, value) in outputs.lines().filter_map(|line| line.split_once('=')) {
                inputs.insert(format!("steps.{id}.outputs.{name}"), value.to_owned());
            }
        }
        printed.insert(step["name"].as_str().unwrap().to_owned(), text);
    }
    printed
}

#[test]
#[ignore = "needs Docker"]
fn the_action_builds_and_saves_and_is_warm_the_next_time() {
    common::needs::docker();
    let cache = tempfile::tempdir().unwrap();
    let given = [("dataset", "demo"), ("predictions", "gold"), ("engine", "docker")];
    let first = Runner::new(cache.path(), "docker");
    let printed = action(&first, &given);
    assert!(printed["Evaluate"].contains("4 of 4 resolved"), "{}", printed["Evaluate"]);
    assert!(cache.path().join("images.tar").exists());
    let summary = std::fs::read_to_string(first.dir.path().join("summary.md")).unwrap();
    assert!(summary.contains("gold") && summary.contains("REPOSITORY"), "{summary}");
    let given = [("dataset", "demo"), ("predictions", "gold"), ("engine", "embedded")];
    let second = Runner::new(cache.path(), "embedded");
    let printed = action(&second, &given);
    // Images with model patches are small, and made of what was restored.
    assert!(printed["Prewarm"].contains("4 built, 7 pulled"), "{}", printed["Prewarm"]);
    assert!(printed["Evaluate"].contains("4 of 4 resolved"), "{}", printed["Evaluate"]);
}

#[test]
#[ignore = "needs Docker"]
fn the_action_evaluates_in_shards_and_joins_them() {
    common::needs::docker();
    let cache = tempfile::tempdir().unwrap();
    let common = [("dataset", "demo"), ("predictions", "gold"), ("engine", "docker")];
    for shard in ["1/2", "2/2"] {
        let runner = Runner::new(cache.path(), "docker");
        let printed = action(&runner, &[&common[..], &[("shard", shard)]].concat());
        assert!(printed["Evaluate"].contains("2 of 2 resolved"), "{}", printed["Evaluate"]);
    }
    let runner = Runner::new(cache.path(), "docker");
    let printed = action(&runner, &[&common[..], &[("merge", "true")]].concat());
    assert!(printed["Merge"].contains("4 of 4 resolved"), "{}", printed["Merge"]);
    assert!(!printed.contains_key("Evaluate") && !printed.contains_key("Prewarm"));
    let summary = std::fs::read_to_string(runner.dir.path().join("summary.md")).unwrap();
    assert!(summary.contains("gold"), "{summary}");
}

#[test]
#[ignore = "needs Docker"]
fn the_template_for_gitlab_builds_and_saves_and_is_warm_the_next_time() {
    common::needs::docker();
    let template = document("ci/gitlab.yml");
    let job = &template[".imgforge"];
    let mut variables: Variables = job["variables"]
        .as_mapping()
        .unwrap()
        .iter()
        .map(|(name, value)| {
            (name.as_str().unwrap().to_owned(), value.as_str().unwrap().to_owned())
        })
        .collect();
    variables.insert("IMGFORGE_DATASET".into(), "demo".into());
    let path = job["cache"]["paths"][0].as_str().unwrap();
    let lines = |name: &str| {
        let lines = job[name].as_sequence().unwrap().iter();
        lines.map(|line| line.as_str().unwrap().to_owned()).collect::<Vec<_>>().join("\n")
    };
    let cache = tempfile::tempdir().unwrap();
    let run = |engine: &'static str, predictions: &str| {
        let mut variables = variables.clone();
        if !predictions.is_empty() {
            variables.insert("IMGFORGE_PREDICTIONS".into(), predictions.into());
        }
        let runner = Runner::new(cache.path(), engine);
        runner.cached("/restore@", path);
        // GitLab runs the lines of a part in one shell.
        let printed = runner.script(&lines("script"), &variables);
        let after = runner.script(&lines("after_script"), &variables);
        runner.cached("/save@", path);
        let junit = runner.dir.path().join(job["artifacts"]["reports"]["junit"].as_str().unwrap());
        (printed, after, junit.exists())
    };
    let (_, after, junit) = run("docker", "");
    // Other tests may have made the rest of the demo on that engine.
    let saved = after.split(" images in").next().unwrap().split_whitespace().last().unwrap();
    assert!(saved.parse::<usize>().unwrap() >= 11, "{after}");
    assert!(!junit);
    let (printed, _, junit) = run("embedded", "gold");
    assert!(printed.contains("4 of 4 resolved"), "{printed}");
    assert!(junit);

    // Two jobs at once, whose artifacts are there in the job that needs them.
    let runner = Runner::new(cache.path(), "docker");
    variables.insert("IMGFORGE_PREDICTIONS".into(), "gold".into());
    for number in ["1", "2"] {
        let mut variables = variables.clone();
        variables.insert("CI_NODE_INDEX".into(), number.into());
        variables.insert("CI_NODE_TOTAL".into(), "2".into());
        let printed = runner.script(&lines("script"), &variables);
        assert!(printed.contains("2 of 2 resolved"), "{printed}");
    }
    let merge = template[".imgforge-merge"]["script"].as_sequence().unwrap().iter();
    let merge: Vec<&str> = merge.map(|line| line.as_str().unwrap()).collect();
    let printed = runner.script(&merge.join("\n"), &variables);
    assert!(printed.contains("4 of 4 resolved"), "{printed}");
}

/// The jobs of the workflow with the scripts of their steps, in order.
fn workflow() -> BTreeMap<String, (Value, Vec<String>)> {
    let workflow = document(".github/workflows/test.yml");
    let jobs = workflow["jobs"].as_mapping().unwrap().iter();
    jobs.map(|(name, job)| {
        let steps = job["steps"].as_sequence().unwrap().iter();
        let scripts = steps.filter_map(|step| step["run"].as_str().map(str::to_owned));
        (name.as_str().unwrap().to_owned(), (job.clone(), scripts.collect()))
    })
    .collect()
}

#[test]
fn the_workflow_tests_both_architectures_both_users_and_every_place() {
    let jobs = workflow();
    for (job, scripts) in jobs.values() {
        let runners = serde_yaml_ng::to_string(&job["strategy"]["matrix"]["runner"]).unwrap();
        assert_eq!(runners, "- ubuntu-24.04\n- ubuntu-24.04-arm\n");
        for script in scripts {
            let parsed = Command::new("bash").args(["-n", "-c", script]).status().unwrap();
            assert!(parsed.success(), "{script}");
            for word in script.split_whitespace().filter(|word| word.starts_with("scripts/")) {
                let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(word);
                let parsed = Command::new("bash").arg("-n").arg(&path).status().unwrap();
                let mode = std::os::unix::fs::PermissionsExt::mode(
                    &path
                        .metadata()
                        .unwrap_or_else(|_| panic!("`{word}` is not there"))
                        .permissions(),
                );
                assert!(parsed.success() && mode & 0o111 == 0o111, "{word}");
            }
        }
    }
    let (suite, _) = &jobs["suite"];
    let users = serde_yaml_ng::to_string(&suite["strategy"]["matrix"]["user"]).unwrap();
    assert_eq!(users, "- plain\n- root\n");
    let places = &jobs["places"].1;
    let at = |words: &str| {
        places.iter().position(|script| script.contains(words)).unwrap_or_else(|| panic!("{words}"))
    };
    let switch = at("kernel.apparmor_restrict_unprivileged_userns=0");
    assert!(at("scripts/place refuses AppArmor") < switch);
    assert!(at("--apparmor-profile") < switch && at("sudo -E") < switch);
    assert_eq!(places[switch + 1], "scripts/place works");
    at("scripts/place-in-docker refuses");
    at("scripts/place-in-docker --privileged works");
}

#[test]
fn the_script_of_the_workflow_takes_no_refusal_for_another() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_imgforge"), dir.path().join("imgforge"))
        .unwrap();
    // The suite is not run where all is refused.
    std::os::unix::fs::symlink("/bin/false", dir.path().join("engines")).unwrap();
    // A namespace of the test's own, in which there can be no more.
    let place = |arguments: &str| {
        let script =
            format!("echo 0 >/proc/sys/user/max_user_namespaces && exec scripts/place {arguments}");
        let output = Command::new("unshare")
            .args(["--user", "--map-root-user", "sh", "-c", &script])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("IMGFORGE_PLACE", dir.path())
            .env("IMGFORGE_TEST_STATE", dir.path().join("state"))
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    };
    let (accepted, said) = place("refuses user.max_user_namespaces");
    assert!(accepted, "{said}");
    let (accepted, said) = place("refuses AppArmor");
    assert!(!accepted && said.contains("does not say `AppArmor`"), "{said}");
    assert!(!place("works").0);
}
