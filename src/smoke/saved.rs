//! Reports that are made of artifacts: of a run, and of a list of runs.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::artifacts::{ArtifactsError, RUN, RunDirectory, read, write};
use super::report::{RunFacts, RunReport, SCHEMA};

/// The file that lists the runs of a configuration with `runs`.
const RUNS: &str = "runs.json";

/// The reports of a configuration.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Report {
    /// Of the one run.
    One(Box<RunReport>),
    /// Of a list of runs.
    Several(ReportList),
}

/// The reports of a list of runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReportList {
    /// [`super::report::SCHEMA`].
    pub schema: u32,
    /// Whether all of them were a success.
    pub success: bool,
    /// One for each run, in their order.
    pub runs: Vec<RunReport>,
}

impl Report {
    /// Joins the reports of runs.
    pub fn of(mut runs: Vec<RunReport>, is_list: bool) -> Report {
        match runs.len() {
            1 if !is_list => Report::One(Box::new(runs.swap_remove(0))),
            _ => {
                let success = runs.iter().all(|run| run.success);
                Report::Several(ReportList { schema: SCHEMA, success, runs })
            }
        }
    }

    /// Returns the reports of all runs.
    pub fn runs(&self) -> &[RunReport] {
        match self {
            Report::One(run) => std::slice::from_ref(run),
            Report::Several(list) => &list.runs,
        }
    }
}

/// The runs of a list, in their order.
#[derive(Debug, Serialize, Deserialize)]
struct RunList {
    runs: Vec<String>,
}

/// Makes the directory of a list of runs, which are in directories of these names below it.
///
/// # Errors
/// It cannot be made, or is there.
pub fn make_list(path: PathBuf, runs: Vec<String>) -> Result<(), ArtifactsError> {
    let directory = RunDirectory::make(path)?;
    write(&directory.path_of(RUNS), &RunList { runs })
}

/// Makes the report of a directory: of a run, of a list of runs, or of one that runs were given as the
/// directory of their artifacts. Of several runs there the last to begin counts; the second value has the
/// names of the others.
///
/// # Errors
/// There is none, or a file of it cannot be read.
pub fn saved_report(path: &Path) -> Result<(Report, Vec<String>), ArtifactsError> {
    if let Some(list) = read::<RunList>(&path.join(RUNS))? {
        let runs = list.runs.iter().map(|name| RunDirectory::report(&path.join(name)));
        return Ok((Report::of(runs.collect::<Result<_, _>>()?, true), Vec::new()));
    }
    if path.join(RUN).exists() {
        return Ok((Report::of(vec![RunDirectory::report(path)?], false), Vec::new()));
    }
    let file = |source| ArtifactsError::File { path: path.to_owned(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(file)? {
        let entry = entry.map_err(file)?;
        let has = |name: &str| entry.path().join(name).exists();
        if has(RUN) || has(RUNS) {
            let name = entry.file_name().to_string_lossy().into_owned();
            names.push((began(&entry.path())?, name));
        }
    }
    names.sort();
    let (_, last) = names.pop().ok_or_else(|| ArtifactsError::None(path.to_owned()))?;
    let (report, _) = saved_report(&path.join(last))?;
    Ok((report, names.into_iter().map(|(_, name)| name).collect()))
}

/// Returns when the run of a directory began, or the first of its runs.
fn began(path: &Path) -> Result<Option<Timestamp>, ArtifactsError> {
    let list: Option<RunList> = read(&path.join(RUNS))?;
    let first = list.and_then(|list| list.runs.into_iter().next());
    let run = first.map_or_else(|| path.to_owned(), |first| path.join(first));
    Ok(read::<RunFacts>(&run.join(RUN))?.map(|facts| facts.started))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::report::{
        CommandEnd, CommandResult, RunImage, RunRepository, SessionStats, Stage, StageResult,
        StageStatus, Truncated, Versions,
    };
    use super::*;

    fn time() -> impl Strategy<Value = Timestamp> {
        (0..4_000_000_000_i64, 0..1_000_000_000_i32)
            .prop_map(|(seconds, nanos)| Timestamp::new(seconds, nanos).unwrap())
    }

    fn end() -> impl Strategy<Value = CommandEnd> {
        prop_oneof![
            Just(CommandEnd::Exited),
            Just(CommandEnd::Signaled),
            Just(CommandEnd::TimedOut),
            Just(CommandEnd::Idle),
            Just(CommandEnd::OutOfMemory),
            Just(CommandEnd::NotStarted),
            Just(CommandEnd::SessionEnded),
        ]
    }

    fn command() -> impl Strategy<Value = CommandResult> {
        let texts = (prop::collection::vec(".*", 1..3), ".*", "(?s).*", "(?s).*");
        let env = prop::collection::btree_map(".*", ".*", 0..3);
        let codes = (prop::option::of(any::<i32>()), prop::option::of(any::<i32>()), end());
        let numbers = (0.0..1e9_f64, time(), any::<u64>(), any::<u64>());
        (texts, env, codes, numbers).prop_map(|(texts, env, codes, numbers)| {
            let (cmd, cwd, stdout, stderr) = texts;
            let (exit, signal, end) = codes;
            let (duration, timestamp, out, error) = numbers;
            let truncated = Truncated { stdout: out, stderr: error };
            let log = None;
            CommandResult {
                cmd,
                cwd,
                env,
                exit,
                signal,
                end,
                stdout,
                stderr,
                duration,
                timestamp,
                truncated,
                log,
            }
        })
    }

    fn stage(stage: Stage) -> impl Strategy<Value = StageResult> {
        let status = prop_oneof![
            Just(StageStatus::Ok),
            Just(StageStatus::Failed),
            Just(StageStatus::Skipped),
            Just(StageStatus::InfraError),
        ];
        let commands = prop::collection::vec(command(), 0..3);
        let reason = prop::option::of("(?s).*");
        (status, reason, time(), 0.0..1e9_f64, commands).prop_map(
            move |(status, reason, started, duration, commands)| {
                let logs = Vec::new();
                StageResult { stage, status, reason, started, duration, commands, logs }
            },
        )
    }

    fn facts() -> impl Strategy<Value = RunFacts> {
        let texts = (".*", prop::option::of(".*"), ".*", prop::option::of(".*"));
        let numbers = (time(), prop::option::of(0.0..1e9_f64), any::<bool>(), any::<bool>());
        let used = prop::option::of(any::<u64>());
        (texts, numbers, used).prop_map(|(texts, numbers, used)| {
            let (run_id, name, source, commit) = texts;
            let (started, duration, expected_fail, dry_run) = numbers;
            let session = used.map(|number| SessionStats {
                cpu_ms: number,
                system_cpu_ms: 0,
                memory_bytes: number,
                most_memory_bytes: Some(number),
                processes: 1,
                written_bytes: number,
            });
            RunFacts {
                schema: SCHEMA,
                run_id,
                name: name.clone(),
                started,
                duration,
                expected_fail,
                dry_run,
                versions: Versions { python: name, ..Versions::default() },
                image: RunImage { reference: source.clone(), digest: commit.clone() },
                repo: RunRepository { source, reference: "main".to_owned(), commit },
                session,
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_report_of_the_artifacts_is_that_of_the_run(
            facts in facts(),
            stages in Stage::ALL.map(stage),
            length in 0..=Stage::ALL.len(),
        ) {
            let place = tempfile::tempdir().unwrap();
            let path = place.path().join("run");
            let directory = RunDirectory::make(path.clone()).unwrap();
            let mut stages: Vec<StageResult> = stages.into_iter().take(length).collect();
            for result in &mut stages {
                directory.begin(result.stage, result.started).unwrap();
                for (index, command) in result.commands.iter_mut().enumerate() {
                    command.log = Some(RunDirectory::log_name(result.stage, index + 1));
                    let outputs = RunDirectory::output_names(result.stage, index + 1);
                    for name in &outputs {
                        std::fs::write(directory.path_of(name), "").unwrap();
                    }
                    result.logs.extend(outputs);
                    directory.write_command(result.stage, index + 1, command).unwrap();
                }
                directory.end(result).unwrap();
            }
            directory.write_facts(&facts).unwrap();
            let report = RunReport::of(facts, stages);
            prop_assert_eq!(&RunDirectory::report(&path).unwrap(), &report);
            let (saved, others) = saved_report(place.path()).unwrap();
            prop_assert_eq!(saved.runs(), &[report][..]);
            prop_assert!(others.is_empty());
        }
    }

    #[test]
    fn a_file_that_is_not_of_a_run_is_named() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("run");
        RunDirectory::make(path.clone()).unwrap();
        assert!(matches!(saved_report(&path), Err(ArtifactsError::None(_))));
        assert!(RunDirectory::make(path.clone()).is_err(), "it is there");
        std::fs::write(path.join(RUN), "{}").unwrap();
        let error = saved_report(&path).unwrap_err();
        assert!(matches!(&error, ArtifactsError::Form { path, .. } if path.ends_with(RUN)));
    }
}
