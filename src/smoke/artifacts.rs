//! The files of a run: what is known of it, its stages, and what its commands printed.
//!
//! ```text
//! run.json                 what is known of the run: RunFacts
//! <stage>/stage.json       when the stage began; from its end on, how it ended
//! <stage>/<n>.json         the result of its nth command
//! <stage>/<n>.stdout       all that the command printed, and .stderr
//! ```
//!
//! Each `.json` is whole or not there. The report of a run is made of these files alone; where the run was
//! killed, they say how far it came.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::atomic;

use super::report::{CommandResult, RunFacts, RunReport, Stage, StageResult, StageStatus};

/// The file of what is known of a run.
pub(super) const RUN: &str = "run.json";

/// The file of a stage.
const STAGE: &str = "stage.json";

/// The directory of a run.
#[derive(Debug, Clone)]
pub(super) struct RunDirectory {
    path: PathBuf,
}

/// What a stage's file says.
#[derive(Debug, Serialize, Deserialize)]
struct StageFile {
    stage: Stage,
    started: Timestamp,
    /// `None` as long as the stage is under way.
    ended: Option<StageEnded>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StageEnded {
    status: StageStatus,
    reason: Option<String>,
    duration: f64,
}

/// Why the artifacts of a run cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactsError {
    /// Nothing of a run is there.
    #[error("`{0}` has no run in it")]
    None(PathBuf),
    /// A file cannot be read or written.
    #[error("cannot use `{path}`")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not what imgforge wrote.
    #[error("`{path}` is not of a smoke run")]
    Form {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// Writes a file of JSON.
pub(super) fn write(path: &Path, value: &impl Serialize) -> Result<(), ArtifactsError> {
    let mut text = serde_json::to_vec_pretty(value).expect("plain values");
    text.push(b'\n');
    let path = path.to_owned();
    atomic::write(&path, &text, false).map_err(|source| ArtifactsError::File { path, source })
}

/// Reads a file of JSON; `None` where it is not there.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ArtifactsError> {
    let path = path.to_owned();
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ArtifactsError::File { path, source }),
    };
    serde_json::from_slice(&text).map(Some).map_err(|source| ArtifactsError::Form { path, source })
}

impl RunDirectory {
    /// Makes the directory of a run, which is not there yet.
    ///
    /// # Errors
    /// It cannot be made, or is there.
    pub(super) fn make(path: PathBuf) -> Result<RunDirectory, ArtifactsError> {
        let file = |source| ArtifactsError::File { path: path.clone(), source };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(file)?;
        }
        std::fs::create_dir(&path).map_err(file)?;
        Ok(RunDirectory { path })
    }

    /// Writes what is known of the run.
    pub(super) fn write_facts(&self, facts: &RunFacts) -> Result<(), ArtifactsError> {
        write(&self.path.join(RUN), facts)
    }

    /// Writes that a stage began.
    pub(super) fn begin(&self, stage: Stage, started: Timestamp) -> Result<(), ArtifactsError> {
        let file = StageFile { stage, started, ended: None };
        write(&self.path.join(stage.as_str()).join(STAGE), &file)
    }

    /// Writes how a stage ended. Its commands are written already.
    pub(super) fn end(&self, result: &StageResult) -> Result<(), ArtifactsError> {
        let StageResult { stage, status, reason, started, duration, .. } = result.clone();
        let ended = Some(StageEnded { status, reason, duration });
        write(&self.path.join(stage.as_str()).join(STAGE), &StageFile { stage, started, ended })
    }

    /// Names the result of a command, below the directory.
    pub(super) fn log_name(stage: Stage, number: usize) -> String {
        format!("{stage}/{number}.json")
    }

    /// Names the files of a command's outputs, below the directory.
    pub(super) fn output_names(stage: Stage, number: usize) -> [String; 2] {
        ["stdout", "stderr"].map(|end| format!("{stage}/{number}.{end}"))
    }

    /// Returns where a file of a run is.
    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes the result of a command.
    pub(super) fn write_command(
        &self,
        stage: Stage,
        number: usize,
        result: &CommandResult,
    ) -> Result<(), ArtifactsError> {
        write(&self.path.join(RunDirectory::log_name(stage, number)), result)
    }

    /// Makes the report of what is in the directory: the one that the run gave, or of what was done of it
    /// until it was killed.
    pub(super) fn report(path: &Path) -> Result<RunReport, ArtifactsError> {
        let facts: Option<RunFacts> = read(&path.join(RUN))?;
        let facts = facts.ok_or_else(|| ArtifactsError::None(path.to_owned()))?;
        let mut stages = Vec::new();
        for stage in Stage::ALL {
            match stage_of(path, stage)? {
                Some(result) => stages.push(result),
                None => break,
            }
        }
        Ok(RunReport::of(facts, stages))
    }
}

/// Reads a stage; `None` where it was not begun.
fn stage_of(run: &Path, stage: Stage) -> Result<Option<StageResult>, ArtifactsError> {
    let directory = run.join(stage.as_str());
    let Some(file) = read::<StageFile>(&directory.join(STAGE))? else { return Ok(None) };
    let (mut commands, mut logs) = (Vec::new(), Vec::new());
    for number in 1.. {
        let result: Option<CommandResult> = read(&run.join(RunDirectory::log_name(stage, number)))?;
        let outputs = RunDirectory::output_names(stage, number);
        let is_there = |name: &String| run.join(name).exists();
        logs.extend(outputs.into_iter().filter(is_there));
        match result {
            Some(result) => commands.push(result),
            None => break,
        }
    }
    let ended = file.ended.unwrap_or_else(|| StageEnded {
        status: StageStatus::InfraError,
        reason: Some("imgforge was killed before the stage was over".to_owned()),
        duration: 0.0,
    });
    Ok(Some(StageResult {
        stage,
        status: ended.status,
        reason: ended.reason,
        started: file.started,
        duration: ended.duration,
        commands,
        logs,
    }))
}
