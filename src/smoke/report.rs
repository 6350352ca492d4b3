//! What a smoke run comes to: its commands, its stages, and the report of all of it. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The version of the JSON of a report.
pub const SCHEMA: u32 = 1;

/// A stage of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The sandbox starts.
    Start,
    /// The repository is fetched into its mirror, on the host, and its reference becomes a commit.
    Clone,
    /// The files of the commit come into the sandbox, and the patches on them.
    Checkout,
    /// The compat fixes are made.
    Compat,
    /// The commands of `task.setup`.
    Setup,
    /// The command of `task.test`.
    Test,
    /// The sandbox ends.
    Teardown,
}

/// A text that names no stage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no stage `{0}`")]
pub struct NotAStage(pub String);

impl Stage {
    /// All of them, in their order.
    pub const ALL: [Stage; 7] = [
        Stage::Start,
        Stage::Clone,
        Stage::Checkout,
        Stage::Compat,
        Stage::Setup,
        Stage::Test,
        Stage::Teardown,
    ];

    /// Returns its name in JSON and in names of directories.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Start => "start",
            Stage::Clone => "clone",
            Stage::Checkout => "checkout",
            Stage::Compat => "compat",
            Stage::Setup => "setup",
            Stage::Test => "test",
            Stage::Teardown => "teardown",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Stage {
    type Err = NotAStage;

    fn from_str(text: &str) -> Result<Stage, NotAStage> {
        let known = Stage::ALL.into_iter().find(|stage| stage.as_str() == text);
        known.ok_or_else(|| NotAStage(text.to_owned()))
    }
}

/// How a stage ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageStatus {
    /// All of it was done, and came to what it was to come to.
    Ok,
    /// The repository, the configuration or the tests are at fault.
    Failed,
    /// It was not begun.
    Skipped,
    /// Nothing is known of what the stage was to find out: engine, machine or network are at fault, or
    /// somebody ended it.
    InfraError,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandEnd {
    /// By itself; `exit` has the code.
    Exited,
    /// By a signal; `signal` has its number.
    Signaled,
    /// It was killed at its time limit.
    TimedOut,
    /// It was killed because it printed nothing for too long.
    Idle,
    /// The kernel killed a process at the memory limit while it ran.
    OutOfMemory,
    /// It could not be started; `exit` has the code of a shell for that, 126 or 127.
    NotStarted,
    /// The sandbox ended, and the command with it.
    SessionEnded,
}

/// How many bytes of the outputs are missing in a result, between their heads and their tails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Truncated {
    /// Of the standard output.
    pub stdout: u64,
    /// Of the standard error.
    pub stderr: u64,
}

/// A command that ran in the sandbox, or could not. Secrets are masked in all of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandResult {
    /// Program and arguments.
    pub cmd: Vec<String>,
    /// The directory that it started in.
    pub cwd: String,
    /// The variables that it had beside those of the image.
    pub env: BTreeMap<String, String>,
    /// Its exit code, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<i32>,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// How it ended.
    pub end: CommandEnd,
    /// Head and tail of its standard output; what is not UTF-8 is replaced.
    pub stdout: String,
    /// Head and tail of its standard error.
    pub stderr: String,
    /// From its start to its end, in seconds.
    pub duration: f64,
    /// When it was started.
    pub timestamp: Timestamp,
    /// How much of the outputs is missing here.
    pub truncated: Truncated,
    /// The file of this result below the artifacts of the run; `.stdout` and `.stderr` are beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
}

/// A stage, and how it ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageResult {
    /// Which one.
    pub stage: Stage,
    /// How it ended.
    pub status: StageStatus,
    /// Why it failed, was skipped, or is remarkable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it began, or was skipped.
    pub started: Timestamp,
    /// How long it took, in seconds.
    pub duration: f64,
    /// Its commands, in their order.
    pub commands: Vec<CommandResult>,
    /// The files of their outputs below the artifacts of the run.
    pub logs: Vec<String>,
}

/// What took part in a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Versions {
    /// Of imgforge.
    pub imgforge: String,
    /// Kind and version of the engine; empty where it was not reached.
    pub engine: String,
    /// Of the kernel that the sandbox ran on; empty where that is not known.
    pub kernel: String,
    /// Of the image's Python, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub python: Option<String>,
    /// Of the image's git, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<String>,
}

/// The image of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunImage {
    /// As the configuration names it.
    #[serde(rename = "ref")]
    pub reference: String,
    /// The engine's id of it, a digest; `null` where the engine did not tell.
    pub digest: Option<String>,
}

/// The repository of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRepository {
    /// The URL or directory, without a password.
    pub source: String,
    /// The branch, tag or commit that was asked for.
    #[serde(rename = "ref")]
    pub reference: String,
    /// The commit that it was; `null` where that was not found out.
    pub commit: Option<String>,
}

/// What the sandbox used, where the engine measures it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionStats {
    /// Processor time, in milliseconds.
    pub cpu_ms: u64,
    /// Of that in the kernel.
    pub system_cpu_ms: u64,
    /// Memory at the end, in bytes.
    pub memory_bytes: u64,
    /// The most it was, where that is measured.
    pub most_memory_bytes: Option<u64>,
    /// Processes and threads at the end.
    pub processes: u64,
    /// Bytes on the disk of what differs from the image.
    pub written_bytes: u64,
}

/// What is known of a run beside its stages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunFacts {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The name of the run: no two have the same.
    pub run_id: String,
    /// What the configuration calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When it began.
    pub started: Timestamp,
    /// How long it took, in seconds; `null` where it was not finished.
    pub duration: Option<f64>,
    /// Whether the tests are to fail.
    pub expected_fail: bool,
    /// Whether nothing was to be changed and no test to be run.
    pub dry_run: bool,
    /// What took part.
    pub versions: Versions,
    /// The image.
    pub image: RunImage,
    /// The repository.
    pub repo: RunRepository,
    /// What the sandbox used.
    pub session: Option<SessionStats>,
}

/// The report of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// What is known of the run.
    #[serde(flatten)]
    pub facts: RunFacts,
    /// All stages, in their order.
    pub stages: Vec<StageResult>,
    /// Whether every stage was done and the tests did what they were to do. Never true of a dry run.
    pub success: bool,
    /// The first stage that failed.
    pub failure_stage: Option<Stage>,
    /// Why there is no success.
    pub failure_reason: Option<String>,
}

impl RunReport {
    /// Makes the report of what is known and of the stages that were begun or skipped; those that are
    /// missing were skipped.
    pub fn of(facts: RunFacts, mut stages: Vec<StageResult>) -> RunReport {
        let is_whole = stages.len() == Stage::ALL.len();
        let last = stages.last().map_or(facts.started, |last| last.started);
        let failed = stages
            .iter()
            .find(|stage| matches!(stage.status, StageStatus::Failed | StageStatus::InfraError));
        let failure_stage = failed.map(|stage| stage.stage);
        let mut failure_reason = failed.map(|failed| {
            failed.reason.clone().unwrap_or_else(|| format!("stage `{}` failed", failed.stage))
        });
        for stage in Stage::ALL.into_iter().skip(stages.len()) {
            let why = match failure_stage {
                Some(failed) => format!("the run ended in stage `{failed}`"),
                None => "the run ended before".to_owned(),
            };
            stages.push(StageResult::skipped(stage, why, last));
        }
        let tested = stages
            .iter()
            .any(|stage| stage.stage == Stage::Test && stage.status == StageStatus::Ok);
        if failure_reason.is_none() && facts.dry_run {
            failure_reason = Some("a dry run runs neither setup nor tests".to_owned());
        } else if failure_reason.is_none() && !(is_whole && tested) {
            failure_reason = Some("the run is not finished".to_owned());
        }
        let success = failure_reason.is_none();
        RunReport { facts, stages, success, failure_stage, failure_reason }
    }

    /// Returns how the failed stage ended; `None` where none failed.
    pub fn failure(&self) -> Option<StageStatus> {
        let stage = self.failure_stage?;
        self.stages.iter().find(|result| result.stage == stage).map(|result| result.status)
    }
}

impl StageResult {
    /// A stage that was not begun.
    pub fn skipped(stage: Stage, why: String, at: Timestamp) -> StageResult {
        StageResult {
            stage,
            status: StageStatus::Skipped,
            reason: Some(why),
            started: at,
            duration: 0.0,
            commands: Vec::new(),
            logs: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> RunFacts {
        RunFacts {
            schema: SCHEMA,
            run_id: "one".to_owned(),
            name: None,
            started: Timestamp::UNIX_EPOCH,
            duration: None,
            expected_fail: false,
            dry_run: false,
            versions: Versions::default(),
            image: RunImage::default(),
            repo: RunRepository::default(),
            session: None,
        }
    }

    fn stages(failed: Option<(Stage, StageStatus)>) -> Vec<StageResult> {
        let result = |stage| {
            let mut result = StageResult::skipped(stage, "why".to_owned(), Timestamp::UNIX_EPOCH);
            result.status = match failed {
                Some((failed, status)) if failed == stage => status,
                _ => StageStatus::Ok,
            };
            result
        };
        Stage::ALL.into_iter().map(result).collect()
    }

    #[test]
    fn the_first_failure_counts_and_only_a_whole_run_is_a_success() {
        assert!(RunReport::of(facts(), stages(None)).success);
        let mut two = stages(Some((Stage::Setup, StageStatus::Failed)));
        two[6].status = StageStatus::InfraError;
        let report = RunReport::of(facts(), two);
        assert_eq!(report.failure_stage, Some(Stage::Setup));
        assert_eq!(report.failure(), Some(StageStatus::Failed));
        assert!(!RunReport::of(RunFacts { dry_run: true, ..facts() }, stages(None)).success);
        for length in 0..Stage::ALL.len() {
            let report = RunReport::of(facts(), stages(None)[..length].to_vec());
            assert!(!report.success, "{length}");
            assert_eq!(report.stages.len(), Stage::ALL.len());
            assert_eq!(report.failure_reason.as_deref(), Some("the run is not finished"));
        }
        let report = RunReport::of(facts(), stages(Some((Stage::Test, StageStatus::Skipped))));
        assert!(!report.success);
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let report = RunReport::of(facts(), stages(Some((Stage::Test, StageStatus::Failed))));
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<RunReport>(&text).unwrap(), report);
    }
}
