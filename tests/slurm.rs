//! `ci/slurm/eval.sbatch` on a real Slurm, which `scripts/slurm` brings up: the embedded engine, an array of
//! jobs, one state directory, and a job that joins the shards.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

mod common;

use common::needs::{self, FROM};

/// A directory with a dataset, whose rows run in a base image, so that nothing is built.
struct Space(tempfile::TempDir);

impl Space {
    fn new(rows: &[(&str, &str)]) -> Space {
        needs::slurm();
        let space = Space(tempfile::tempdir().unwrap());
        let row = |(id, tests): &(&str, &str)| {
            let script = format!(
                "#!/bin/bash\n: '>>>>> Start Test Output'\n{tests}\n: '>>>>> End Test Output'\n"
            );
            json!({
                "instance_id": id, "repo": "x/y", "version": "1", "base_commit": "0".repeat(40),
                "patch": "", "test_patch": "", "FAIL_TO_PASS": ["a"], "PASS_TO_PASS": [],
                "log_parser": "parse_log_pytest", "eval_type": "pass_and_fail", "image": FROM,
                "workdir": "/tmp", "eval_script": script,
            })
            .to_string()
        };
        let rows: Vec<String> = rows.iter().map(row).collect();
        std::fs::write(space.path().join("rows.jsonl"), rows.join("\n")).unwrap();
        space
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let imgforge = Path::new(env!("CARGO_BIN_EXE_imgforge")).parent().unwrap();
        let path = std::env::var("PATH").unwrap();
        let mut command = Command::new(program);
        command
            .args(args)
            .current_dir(self.path())
            .env("PATH", format!("{}:{path}", imgforge.display()))
            .envs([
                ("IMGFORGE_DATASET", "rows.jsonl"),
                ("IMGFORGE_PREDICTIONS", "empty"),
                ("IMGFORGE_RUN_ID", "r"),
                ("IMGFORGE_NAMESPACE", "none-is-pulled"),
                ("IMGFORGE_ENGINE", "embedded"),
                ("IMGFORGE_MEMORY", "500m"),
                ("IMGFORGE_NO_RESULT_CACHE", "true"),
            ])
            .env("IMGFORGE_STATE_DIR", needs::base())
            .stdin(Stdio::null());
        command
    }

    /// Runs a program to its end.
    #[track_caller]
    fn run(&self, program: &str, args: &[&str]) -> String {
        let output = self.command(program, args).output().unwrap();
        assert!(output.status.success(), "{program} {args:?}: {}", shown(&output));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Submits the script of the repository, for a small machine; returns the number of the job.
    #[track_caller]
    fn submit(&self, args: &[&str]) -> String {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/ci/slurm/eval.sbatch");
        let small = ["--parsable", "--cpus-per-task=1", "--mem=1000", "--time=5"];
        self.run("sbatch", &[&small[..], args, &[script]].concat())
    }

    /// The same for an array of one, which Slurm may start again: what is finished then counts.
    #[track_caller]
    fn submit_again(&self, args: &[&str]) -> String {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/ci/slurm/eval.sbatch");
        let small = ["--parsable", "--array=1", "--cpus-per-task=2", "--mem=2000", "--time=5"];
        let mut command = self.command("sbatch", &[&small[..], args, &[script]].concat());
        let output = command.env_remove("IMGFORGE_NO_RESULT_CACHE").output().unwrap();
        assert!(output.status.success(), "{}", shown(&output));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// What the jobs printed.
    fn printed(&self) -> String {
        let entries = std::fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().path());
        let logs = entries.filter(|path| path.extension().is_some_and(|end| end == "out"));
        logs.map(|path| std::fs::read_to_string(path).unwrap()).collect()
    }

    /// Waits until something holds.
    #[track_caller]
    fn wait_for(&self, what: &str, seconds: u64, holds: impl Fn() -> bool) {
        let start = Instant::now();
        while !holds() {
            let queue = || self.run("squeue", &["--long"]);
            assert!(
                start.elapsed() < Duration::from_secs(seconds),
                "{what}: {}\n{}",
                queue(),
                self.printed()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn wait_for_end(&self, job: &str) {
        self.wait_for("the job ends", 60, || self.state(job).is_empty());
    }

    /// Returns where a job is and what it does, such as `n1 RUNNING`; nothing where it has ended.
    fn state(&self, job: &str) -> String {
        self.run("squeue", &["--noheader", "--format=%N %T", "-j", job])
    }

    fn has_report(&self, id: &str) -> bool {
        self.path().join(format!("logs/run_evaluation/r/empty/{id}/report.json")).is_file()
    }

    /// Makes a space of two rows, of which the second takes these seconds, and which no other run knows.
    fn of_two(seconds: u32) -> Space {
        let word = format!(": {:x}", rand::random::<u64>());
        let slow = format!("{word}; echo started; sleep {seconds}; echo PASSED a");
        Space::new(&[("x__y-1", &format!("{word}; echo PASSED a")), ("x__y-2", &slow)])
    }

    /// Waits until the first of two rows is finished, and the second runs.
    #[track_caller]
    fn wait_for_half(&self) {
        self.wait_for("one has ended, and one runs", 60, || {
            self.has_report("x__y-1") && self.log("x__y-2").contains("started")
        });
        assert!(!self.has_report("x__y-2"), "{}", self.printed());
    }

    /// Checks that the report counts the second of two rows as one that was not run.
    #[track_caller]
    fn assert_half(&self) {
        assert!(self.has_report("x__y-1") && !self.has_report("x__y-2"), "{}", self.printed());
        let merged = self.command("imgforge", &["report", "r"]).output().unwrap();
        assert_eq!(merged.status.code(), Some(1), "{}", shown(&merged));
        let text = shown(&merged);
        assert!(text.contains("1 of 2 resolved") && text.contains("not run"), "{text}");
    }

    fn log(&self, id: &str) -> String {
        let path = format!("logs/run_evaluation/r/empty/{id}/test_output.txt");
        std::fs::read_to_string(self.path().join(path)).unwrap_or_default()
    }
}

fn shown(output: &Output) -> String {
    format!(
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
#[ignore = "needs Slurm and a base image"]
fn an_array_of_jobs_and_a_job_after_it_report_what_one_run_does() {
    let rows: Vec<(String, &str)> = (1..=5)
        .map(|number| {
            (
                format!("x__y-{number}"),
                if number % 2 == 0 { "echo FAILED a" } else { "echo PASSED a" },
            )
        })
        .collect();
    let rows: Vec<(&str, &str)> = rows.iter().map(|(id, tests)| (id.as_str(), *tests)).collect();
    let space = Space::new(&rows);
    let job = space.submit(&["--array=0-2"]);
    let after = format!("--dependency=afterany:{job}");
    let args =
        ["--wait", &after, "-o", "report.out", "--wrap", "imgforge report \"$IMGFORGE_RUN_ID\""];
    space.run("sbatch", &args);
    let printed = space.printed();
    assert!(printed.contains("3 of 5 resolved"), "{printed}");
    assert!(printed.contains("1 worker"), "{printed}");
    for shard in 1..=3 {
        let report = format!("empty.r.shard-{shard}-of-3.json");
        assert!(space.path().join(&report).is_file(), "{report}: {printed}");
    }
    let joined = std::fs::read_to_string(space.path().join("empty.r.json")).unwrap();
    let joined: Value = serde_json::from_str(&joined).unwrap();
    let output =
        space.command("imgforge", &["--json", "eval", "--run-id", "whole"]).output().unwrap();
    let whole: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    for field in ["resolved_ids", "unresolved_ids", "error_ids", "submitted_ids", "total_instances"]
    {
        assert_eq!(joined[field], whole[field], "{field}: {}", shown(&output));
    }
}

#[test]
#[ignore = "needs Slurm and a base image"]
fn a_job_that_is_taken_away_leaves_no_verdict_and_goes_on_where_it_was() {
    let space = Space::of_two(6);
    let job = space.submit(&["--array=1", "--cpus-per-task=2", "--mem=2000"]);
    space.wait_for_half();
    let began = Instant::now();
    space.run("scancel", &[&job]);
    space.wait_for_end(&job);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    space.assert_half();

    // On a machine that knows nothing of it: what is finished is not run again.
    let mut again = space.command("imgforge", &["eval", "--shard", "1/1"]);
    again.env_remove("IMGFORGE_NO_RESULT_CACHE");
    let again = again.output().unwrap();
    let text = shown(&again);
    assert!(text.contains("1 of 2 results are known"), "{text}");
    assert!(text.contains("2 of 2 resolved"), "{text}");
}

/// Ends all that a node does for a job, as when its power fails.
fn kill_node(node: &str, job: &str) {
    let conf = std::env::var_os("SLURM_CONF").unwrap();
    let pid = Path::new(&conf).with_file_name(format!("run/slurmd.{node}.pid"));
    let kill = |pid: &str| {
        // It may have ended meanwhile.
        let _ = Command::new("kill").args(["-9", pid]).output();
    };
    kill(std::fs::read_to_string(pid).unwrap().trim());
    let step = format!("slurmstepd: \\[{job}\\.");
    let _ = Command::new("pkill").args(["-9", "-f", &step]).output();
    let variable = format!("SLURM_JOB_ID={job}");
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let variables = std::fs::read(process.path().join("environ")).unwrap_or_default();
        if variables.split(|byte| *byte == 0).any(|own| own == variable.as_bytes()) {
            kill(process.file_name().to_str().unwrap());
        }
    }
}

#[test]
#[ignore = "needs Slurm and a base image"]
fn a_time_limit_a_preemption_and_a_lost_node_cost_no_verdict() {
    if !needs::is_root() {
        return needs::not_here(needs::NotHere::PlainUser);
    }
    let limited = Space::of_two(90);
    let limited_job = limited.submit_again(&["--time=1"]);
    let preempted = Space::of_two(4);
    let preempted_job = preempted.submit_again(&["--partition=lent"]);
    preempted.wait_for_half();
    let urgent =
        ["--partition=urgent", "--exclusive", "--wait", "--output=/dev/null", "--wrap=true"];
    preempted.run("sbatch", &urgent);
    let state = preempted.state(&preempted_job);
    assert!(state.contains("PENDING"), "it is requeued: {state}");
    preempted.assert_half();

    let lost = Space::of_two(4);
    let lost_job = lost.submit_again(&["--partition=frail"]);
    lost.wait_for_half();
    let node = lost.state(&lost_job).split(' ').next().unwrap().to_owned();
    kill_node(&node, &lost_job);
    let node = format!("NodeName={node}");
    lost.run("scontrol", &["update", &node, "State=DOWN", "Reason=test"]);
    lost.assert_half();

    // Slurm starts both again.
    for (space, job) in [(&preempted, &preempted_job), (&lost, &lost_job)] {
        space.wait_for_end(job);
        let printed = space.printed();
        assert!(printed.contains("1 of 2 results are known"), "{printed}");
        assert!(printed.contains("2 of 2 resolved"), "{printed}");
    }

    // `--signal=B:TERM@60`: Slurm asks a job to end a minute before its limit.
    limited.wait_for_end(&limited_job);
    limited.assert_half();
}

#[test]
#[ignore = "needs Slurm and a base image"]
fn more_evaluations_than_the_memory_of_a_job_holds_are_refused() {
    let space = Space::new(&[("x__y-1", "echo PASSED a")]);
    let run = |memory: &str, workers: &[&str]| {
        let command = format!("imgforge eval --run-id m --memory {memory} {}", workers.join(" "));
        let args = ["--wait", "--mem=1000", "-o", "memory.out", "--wrap", &command];
        let output = space.command("sbatch", &args).output().unwrap();
        (output.status.code(), space.printed())
    };
    let (code, printed) = run("2g", &[]);
    assert!(code == Some(2) && printed.contains("do not fit in the"), "{code:?} {printed}");
    let (code, printed) = run("400m", &["-j", "3"]);
    assert!(code == Some(2) && printed.contains("-j 2"), "{code:?} {printed}");
    let (code, printed) = run("400m", &["-j", "2"]);
    assert!(code == Some(0), "{code:?} {printed}");
}
