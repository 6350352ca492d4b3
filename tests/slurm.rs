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
        self.wait_for("the job ends", 60, || {
            self.run("squeue", &["--noheader", "-j", job]).is_empty()
        });
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
    // No other run has these results: the state outlives the test.
    let word = format!(": {:x}", rand::random::<u64>());
    let (fast, slow) =
        (format!("{word}; echo PASSED a"), format!("{word}; echo started; sleep 6; echo PASSED a"));
    let space = Space::new(&[("x__y-1", &fast), ("x__y-2", &slow)]);
    let report = |id: &str| {
        let path = format!("logs/run_evaluation/r/empty/{id}/report.json");
        space.path().join(path).is_file()
    };
    let job = space.submit(&["--array=1", "--cpus-per-task=2", "--mem=2000"]);
    space.wait_for("one has ended, and one runs", 60, || {
        report("x__y-1") && space.log("x__y-2").contains("started")
    });
    let began = Instant::now();
    space.run("scancel", &[&job]);
    space.wait_for_end(&job);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(report("x__y-1") && !report("x__y-2"), "{}", space.printed());
    let merged = space.command("imgforge", &["report", "r"]).output().unwrap();
    assert_eq!(merged.status.code(), Some(1), "{}", shown(&merged));
    let text = shown(&merged);
    assert!(text.contains("1 of 2 resolved") && text.contains("not run"), "{text}");

    // As after `scontrol requeue`, on a machine that knows nothing of it: what is finished is not run again.
    let mut again = space.command("imgforge", &["eval", "--shard", "1/1"]);
    again.env_remove("IMGFORGE_NO_RESULT_CACHE");
    let again = again.output().unwrap();
    let text = shown(&again);
    assert!(text.contains("1 of 2 results are known"), "{text}");
    assert!(text.contains("2 of 2 resolved"), "{text}");
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
