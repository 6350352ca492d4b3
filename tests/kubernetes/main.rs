//! Evaluations as pods, on an API server and a node of this process (`cluster`). Images come from Debian's
//! `docker-registry`; the containers are real. Only root can make them.

mod bad_days;
mod by_hand;
mod cluster;
mod images;
mod manifests;
#[path = "../common/needs.rs"]
mod needs;
mod registry;
mod sessions;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cluster::{Cluster, Knobs};
use needs::{NotHere, not_here};
use registry::Registry;
use serde_json::Value;

/// A cluster with its registry, and a directory for what runs leave.
struct Space {
    registry: Registry,
    cluster: Cluster,
    output: tempfile::TempDir,
    state: PathBuf,
}

impl Space {
    fn new(knobs: Knobs) -> Space {
        let state = needs::base();
        // What one test pushed and unpacked, no other one has to.
        let shared = PathBuf::from(format!("{}-kubernetes", state.display()));
        let registry = Registry::start(&shared.join("registry"));
        let cluster = Cluster::start(registry.port, &shared.join("layers"), knobs);
        Space { registry, cluster, output: tempfile::tempdir().unwrap(), state }
    }

    /// The command line of a run on the engine.
    fn local(&self, run_id: &str, predictions: &str) -> Command {
        self.eval(&self.state, run_id, "demo", predictions)
    }

    fn eval(&self, state: &Path, run_id: &str, dataset: &str, predictions: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_imgforge"));
        command
            .current_dir(self.output.path())
            .args(["--engine", "embedded", "--json", "--progress", "plain", "--state-dir"])
            .arg(state)
            .args(["eval", "-d", dataset, "-p", predictions, "--run-id", run_id])
            .args(["--bootstrap", "--no-result-cache"]);
        command
    }

    /// The beginning of a command line in the namespace.
    fn imgforge(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_imgforge"));
        command
            .env("KUBECONFIG", self.cluster.kubeconfig("evals"))
            .args(["--engine", "embedded", "--state-dir"])
            .arg(&self.state);
        command
    }

    /// What the doctor says of the namespace, by the name of each check.
    fn doctor(&self, registry: Option<&str>) -> BTreeMap<String, Value> {
        let mut command = self.imgforge();
        command.args(["--json", "doctor", "--runner", "kubernetes"]);
        let output = run(command.args(registry.iter().flat_map(|name| ["--cache-registry", name])));
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        let checks = document["checks"].as_array().unwrap().clone().into_iter();
        checks.map(|check| (check["name"].as_str().unwrap().to_owned(), check)).collect()
    }

    /// The command line of `clean` in the namespace.
    fn clean(&self, more: &[&str]) -> Command {
        let mut command = self.imgforge();
        command.args(["clean", "--runner", "kubernetes"]).args(more);
        command
    }

    /// The command line of a run in pods, which takes images from this machine.
    fn pods(&self, run_id: &str, predictions: &str) -> Command {
        let mut command = self.in_pods(self.local(run_id, predictions));
        command.args(["--cache-mode", "write"]);
        command
    }

    /// Lets an evaluation run in pods.
    fn in_pods(&self, mut eval: Command) -> Command {
        eval.env("KUBECONFIG", self.cluster.kubeconfig("evals"))
            .args(["--runner", "kubernetes", "--cache-registry", &self.registry.name()])
            .args(["-j", "4"]);
        eval
    }
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    let (out, error) = (&output.stdout, &output.stderr);
    format!(
        "{:?}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(error)
    )
}

/// What each run of each instance came to, with its tests, by the path of its report.
fn verdicts(dir: &Path, run_id: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in walkdir::WalkDir::new(dir.join("logs/run_evaluation").join(run_id)) {
        let entry = entry.unwrap();
        if entry.file_name() != "report.json" {
            continue;
        }
        let report: Value =
            serde_json::from_str(&std::fs::read_to_string(entry.path()).unwrap()).unwrap();
        for result in report.as_object().unwrap().values() {
            let text = format!("{} {}", result["resolved"], result["tests_status"]);
            let place = entry.path().strip_prefix(dir.join("logs/run_evaluation").join(run_id));
            found.insert(place.unwrap().display().to_string(), text);
        }
    }
    found
}

#[test]
#[ignore = "needs docker-registry and a base image"]
fn verdicts_are_those_of_the_embedded_engine_and_nothing_is_left() {
    if !needs::is_root() {
        return not_here(NotHere::PlainUser);
    }
    let space = Space::new(Knobs::default());
    for predictions in ["gold", "empty"] {
        let (here, there) = (format!("here-{predictions}"), format!("there-{predictions}"));
        let local = run(&mut space.local(&here, predictions));
        let pods = run(&mut space.pods(&there, predictions));
        assert_eq!(local.status.code(), pods.status.code(), "{}\n{}", said(&local), said(&pods));
        let dir = space.output.path();
        let expected = verdicts(dir, &here);
        assert_eq!(verdicts(dir, &there), expected, "{}", said(&pods));
        if predictions == "gold" {
            assert_eq!(expected.len(), 8, "{}", said(&local));
            assert!(expected.values().all(|text| text.starts_with("true")), "{expected:?}");
        }
    }
    space.cluster.assert_empty();
    let counts = space.cluster.counts();
    assert!(counts["POST Pod"] >= 9, "each evaluation was a pod: {counts:?}");
    assert!(counts["WATCH Pod"] <= 4, "one watch a run: {counts:?}");
}

#[test]
#[ignore = "needs docker-registry and a base image"]
fn the_doctor_sees_what_a_cluster_lets_us_do() {
    if !needs::is_root() {
        return not_here(NotHere::PlainUser);
    }
    let space = Space::new(Knobs::default());
    let seen = space.doctor(Some(&space.registry.name()));
    for name in ["cluster", "namespace", "rights", "pod images"] {
        assert_eq!(seen[name]["status"], "ok", "{}", seen[name]);
    }
    assert!(seen["cluster"]["detail"].as_str().unwrap().contains("v1.34.2"), "{seen:?}");
    space.cluster.set(Knobs { denied: Some("deletecollection secrets"), ..Knobs::default() });
    let seen = space.doctor(None);
    assert_eq!(seen["rights"]["detail"], "missing: deletecollection secrets");
    assert_eq!(
        (&seen["rights"]["status"], &seen["pod images"]["status"]),
        (&"fail".into(), &"fail".into())
    );
}
