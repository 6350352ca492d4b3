//! What goes wrong in a cluster: no verdict is wrong for it, and nothing is left.

use std::process::Stdio;
use std::time::{Duration, Instant};

use super::cluster::{Cluster, Kind, Knobs};
use super::needs::{NotHere, is_root, not_here};
use super::{Space, run, said, verdicts};

/// How often each of the eight instances runs among faults; `IMGFORGE_TEST_REPEAT` says otherwise.
fn repeat() -> String {
    std::env::var("IMGFORGE_TEST_REPEAT").unwrap_or_else(|_| "2".to_owned())
}

/// Instances for what three pods show as well as eight.
const FEW: [&str; 2] = ["-i", "imgforge__abacus-1,imgforge__quill-1,imgforge__ledger-2"];

#[test]
#[ignore = "needs docker-registry and a base image"]
fn among_faults_of_every_kind_all_verdicts_are_right() {
    if !is_root() {
        return not_here(NotHere::PlainUser);
    }
    let share = 50;
    let space = Space::new(Knobs {
        lost_answers: share,
        busy: share,
        deleted: share,
        evicted: share,
        killed: share,
        exec_fails: share,
        exec_silent: share,
        exec_cut: share,
        expired: share,
        watch_ends: Some(1000),
        ..Knobs::default()
    });
    let mut command = space.pods("faults", "gold");
    let output = run(command.args(["--repeat", &repeat(), "--attempts", "12"]));
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let found = verdicts(space.output.path(), "faults");
    assert_eq!(found.len(), 8 * repeat().parse::<usize>().unwrap(), "{found:?}");
    assert!(found.values().all(|text| text.starts_with("true")), "{found:?}");
    space.cluster.assert_empty();
    let counts = space.cluster.counts();
    eprintln!("{counts:#?}");
    let faults = counts.iter().filter(|(what, _)| what.starts_with("fault "));
    assert!(faults.map(|(_, count)| count).sum::<u64>() > 1, "{counts:?}");
}

#[test]
#[ignore = "needs docker-registry and a base image"]
fn what_a_killed_driver_left_goes_with_the_next_run() {
    if !is_root() {
        return not_here(NotHere::PlainUser);
    }
    let space = Space::new(Knobs::default());
    let left = kill_a_driver(&space, "killed");
    // A Lease that is young may be that of a process that lives.
    let output = run(space.pods("young", "gold").args(FEW));
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(space.cluster.names(Kind::Lease), left, "{}", said(&output));
    space.cluster.age_leases(Duration::from_secs(400));
    let output = run(space.pods("old", "gold").args(FEW));
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("removed what run `killed` left"), "{}", said(&output));
    space.cluster.assert_empty();
}

#[test]
#[ignore = "needs docker-registry and a base image"]
fn what_a_killed_driver_left_can_be_removed_without_a_run() {
    if !is_root() {
        return not_here(NotHere::PlainUser);
    }
    let space = Space::new(Knobs::default());
    let left = kill_a_driver(&space, "killed");
    let output = run(&mut space.clean(&[]));
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("nothing was left behind"), "{}", said(&output));
    let output = run(&mut space.clean(&["--run-id", "other"]));
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(space.cluster.names(Kind::Lease), left, "{}", said(&output));
    let output = run(&mut space.clean(&["--run-id", "killed"]));
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("pods of run `killed`"), "{}", said(&output));
    space.cluster.assert_empty();
}

/// Kills a run in the middle; returns the Leases that it left.
fn kill_a_driver(space: &Space, run_id: &str) -> Vec<String> {
    let mut command = space.pods(run_id, "gold");
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for_pods(&space.cluster);
    child.kill().unwrap();
    child.wait().unwrap();
    let left = space.cluster.names(Kind::Lease);
    assert_eq!(left.len(), 1, "a Lease is left");
    assert!(!space.cluster.names(Kind::Pod).is_empty(), "and pods");
    left
}

#[test]
#[ignore = "needs docker-registry and a base image"]
fn two_drivers_in_one_namespace_do_not_touch_each_other() {
    if !is_root() {
        return not_here(NotHere::PlainUser);
    }
    let space = Space::new(Knobs { quota: Some(3), ..Knobs::default() });
    let start = |name: &str| {
        let mut command = space.pods(name, "gold");
        command.args(FEW).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let (one, other) = (start("one"), start("other"));
    for (child, name) in [(one, "one"), (other, "other")] {
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        let found = verdicts(space.output.path(), name);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found.values().all(|text| text.starts_with("true")), "{found:?}");
    }
    space.cluster.assert_empty();
}

#[test]
#[ignore = "needs docker-registry and a base image"]
fn a_run_that_is_ended_leaves_nothing() {
    if !is_root() {
        return not_here(NotHere::PlainUser);
    }
    let space = Space::new(Knobs::default());
    let mut command = space.pods("ended", "gold");
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_pods(&space.cluster);
    let pid = rustix::process::Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    space.cluster.assert_empty();
}

#[test]
#[ignore = "needs docker-registry and a base image"]
fn a_network_that_is_open_ends_the_run_before_any_verdict() {
    if !is_root() {
        return not_here(NotHere::PlainUser);
    }
    let space = Space::new(Knobs { open_network: true, ..Knobs::default() });
    let output = run(&mut space.pods("open", "gold"));
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("network none is not enforced"), "{}", said(&output));
    assert!(said(&output).contains("imgforge-none"), "{}", said(&output));
    assert!(verdicts(space.output.path(), "open").is_empty());
    space.cluster.assert_empty();
    let output = run(space.pods("known", "gold").args(FEW).args(["--network", "bridge"]));
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}

#[test]
#[ignore = "needs docker-registry and a base image"]
fn an_image_that_the_node_cannot_have_is_an_error_and_no_verdict() {
    if !is_root() {
        return not_here(NotHere::PlainUser);
    }
    let space = Space::new(Knobs { no_image: true, ..Knobs::default() });
    let mut command = space.pods("absent", "gold");
    let output = run(command.args(["--attempts", "1", "-i", "imgforge__abacus-1"]));
    assert_ne!(output.status.code(), Some(0), "{}", said(&output));
    assert!(verdicts(space.output.path(), "absent").is_empty(), "{}", said(&output));
    space.cluster.assert_empty();
}

#[test]
#[ignore = "needs docker-registry and a base image"]
fn pods_of_a_trouble_are_kept_where_somebody_wants_to_look_at_them() {
    if !is_root() {
        return not_here(NotHere::PlainUser);
    }
    let space = Space::new(Knobs { no_image: true, ..Knobs::default() });
    let catalog = space.output.path().join("images.local.toml");
    std::fs::write(&catalog, "[kubernetes]\nkeep-failed = true\n").unwrap();
    let mut command = space.pods("looked-at", "gold");
    let one = ["--attempts", "1", "-i", "imgforge__abacus-1", "--network", "bridge"];
    let output = run(command.args(one));
    assert_ne!(output.status.code(), Some(0), "{}", said(&output));
    let kept = space.cluster.names(Kind::Pod);
    assert!(!kept.is_empty(), "{}", said(&output));
    assert!(kept.iter().all(|name| said(&output).contains(name)), "{kept:?}\n{}", said(&output));
    // Old as it is, only its name removes it.
    space.cluster.age_leases(Duration::from_secs(400));
    let output = run(&mut space.clean(&[]));
    assert_eq!(space.cluster.names(Kind::Pod), kept, "{}", said(&output));
    let output = run(&mut space.clean(&["--run-id", "looked-at"]));
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    space.cluster.assert_empty();
}

#[test]
#[ignore = "needs docker-registry and a base image"]
fn memory_that_is_not_enough_is_a_verdict_of_its_own() {
    if !is_root() {
        return not_here(NotHere::PlainUser);
    }
    let space = Space::new(Knobs { oom: true, ..Knobs::default() });
    // A patch that applies and mends nothing.
    let predictions = space.output.path().join("preds.jsonl");
    let patch = "diff --git a/none.txt b/none.txt\nnew file mode 100644\n--- /dev/null\n\
        +++ b/none.txt\n@@ -0,0 +1 @@\n+none\n";
    let row = serde_json::json!({ "instance_id": "imgforge__abacus-1",
        "model_name_or_path": "none", "model_patch": patch });
    std::fs::write(&predictions, format!("{row}\n")).unwrap();
    let mut command = space.pods("oom", predictions.to_str().unwrap());
    let output = run(command.args(["--network", "bridge"]));
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("out_of_memory"), "{}", said(&output));
    space.cluster.assert_empty();
}

#[test]
#[ignore = "needs docker-registry and a base image"]
fn what_is_wrong_before_the_first_pod_is_told_with_its_status() {
    if !is_root() {
        return not_here(NotHere::PlainUser);
    }
    let space = Space::new(Knobs::default());
    let denied = space.cluster.kubeconfig_with("evals", "wrong");
    let output = run(space.pods("denied", "gold").env("KUBECONFIG", denied));
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("Role of docs/kubernetes.md"), "{}", said(&output));
    let output = run(space.pods("nowhere", "gold").env("KUBECONFIG", "/nowhere"));
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    let mut command = space.local("unnamed", "gold");
    let output = run(command.args(["--runner", "kubernetes"]));
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("--cache-registry"), "{}", said(&output));
    let template = space.output.path().join("pod.yaml");
    std::fs::write(&template, "spec: {hostPID: true}\n").unwrap();
    let output = run(space.pods("template", "gold").arg("--pod-template").arg(&template));
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("spec.hostPID"), "{}", said(&output));
    assert!(space.cluster.names(Kind::Lease).is_empty());
}

fn wait_for_pods(cluster: &Cluster) {
    let end = Instant::now() + Duration::from_secs(300);
    // The first is the one that tries the network.
    while cluster.counts().get("POST Pod").is_none_or(|count| *count < 3) {
        assert!(Instant::now() < end, "no pod was made");
        std::thread::sleep(Duration::from_millis(20));
    }
}
