//! What is written while a run goes on: its events and its artifacts. What cannot be written is told at the
//! end; it does not end the run.

use std::sync::Arc;

use super::artifacts::{ArtifactsError, RunDirectory};
use super::events::{Events, SmokeEvent};
use super::report::{CommandResult, RunFacts, RunReport, Stage, StageResult};

/// Writes down what happens in one run.
#[derive(Default)]
pub(super) struct Record {
    run_id: String,
    directory: Option<RunDirectory>,
    events: Option<Arc<Events>>,
    seq: u64,
    failure: Option<ArtifactsError>,
}

impl Record {
    /// Begins the record of a run.
    pub(super) fn new(
        run_id: &str,
        directory: Option<RunDirectory>,
        events: Option<Arc<Events>>,
    ) -> Record {
        Record { run_id: run_id.to_owned(), directory, events, seq: 0, failure: None }
    }

    fn tell(&mut self, event: &SmokeEvent<'_>) {
        if let Some(events) = &self.events {
            events.tell(&self.run_id, self.seq, event);
            self.seq += 1;
        }
    }

    fn keep(&mut self, write: impl FnOnce(&RunDirectory) -> Result<(), ArtifactsError>) {
        let written = self.directory.as_ref().map_or(Ok(()), write);
        if let Err(error) = written {
            self.fail(error);
        }
    }

    /// Notes that something cannot be written.
    pub(super) fn fail(&mut self, error: ArtifactsError) {
        self.failure.get_or_insert(error);
    }

    /// Returns what could not be written first, once.
    pub(super) fn failure(&mut self) -> Option<ArtifactsError> {
        self.failure.take()
    }

    /// Returns where artifacts are, if there are any.
    pub(super) fn directory(&self) -> Option<&RunDirectory> {
        self.directory.as_ref()
    }

    /// Writes what is known of the run.
    pub(super) fn facts(&mut self, facts: &RunFacts) {
        self.keep(|directory| directory.write_facts(facts));
    }

    /// The run begins.
    pub(super) fn run_started(&mut self, facts: &RunFacts) {
        self.facts(facts);
        self.tell(&SmokeEvent::RunStarted {
            name: facts.name.as_deref(),
            image: &facts.image.reference,
            source: &facts.repo.source,
            reference: &facts.repo.reference,
            expected_fail: facts.expected_fail,
            dry_run: facts.dry_run,
        });
    }

    /// A stage begins.
    pub(super) fn stage_started(&mut self, stage: Stage, at: jiff::Timestamp) {
        self.keep(|directory| directory.begin(stage, at));
        self.tell(&SmokeEvent::StageStarted { stage });
    }

    /// A command ended.
    pub(super) fn command(&mut self, stage: Stage, number: usize, result: &CommandResult) {
        self.keep(|directory| directory.write_command(stage, number, result));
        self.tell(&SmokeEvent::Command {
            stage,
            number,
            cmd: &result.cmd,
            end: result.end,
            exit: result.exit,
            signal: result.signal,
            duration: result.duration,
            truncated: result.truncated,
            log: result.log.as_deref(),
        });
    }

    /// A stage ended, or was skipped.
    pub(super) fn stage_finished(&mut self, result: &StageResult) {
        self.keep(|directory| directory.end(result));
        self.tell(&SmokeEvent::StageFinished {
            stage: result.stage,
            status: result.status,
            reason: result.reason.as_deref(),
            duration: result.duration,
        });
    }

    /// The run is over.
    pub(super) fn run_finished(&mut self, report: &RunReport) {
        self.facts(&report.facts);
        self.tell(&SmokeEvent::RunFinished {
            success: report.success,
            failure_stage: report.failure_stage,
            failure_reason: report.failure_reason.as_deref(),
            duration: report.facts.duration,
        });
    }
}
