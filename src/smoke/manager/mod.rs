//! One run: its stages, one after another, and what follows from how they end.
//!
//! The first stage that fails ends the run: what comes after it is skipped, but for the teardown, which is
//! always done and never hides the first failure. Each stage is done once, in the order of
//! [`Stage::ALL`]; the teardown may be asked for at any time.

mod faults;
mod reuse;
mod stages;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;

use super::artifacts::{ArtifactsError, RunDirectory};
use super::cached::CachedSandboxes;
use super::config::{Origin, RunConfig};
use super::events::Events;
use super::record::Record;
use super::report::{
    RunFacts, RunImage, RunReport, RunRepository, SCHEMA, Stage, StageResult, StageStatus, Versions,
};
use super::repository::{Fetched, Repositories, Repository};
use super::sandbox::{Sandbox, Sandboxes};
use super::secrets::Secrets;
use super::verdict::Fault;
use reuse::Reused;
use stages::Work;

/// How long a stage may take beyond its limit to end what runs.
const GRACE: std::time::Duration = std::time::Duration::from_secs(60);

/// What a run stands on.
#[derive(Clone)]
pub struct Means {
    /// The engine that has the image.
    pub engine: Arc<dyn Engine>,
    /// Who starts the sandbox.
    pub sandboxes: Arc<dyn Sandboxes>,
    /// Where repositories come from.
    pub repositories: Repositories,
    /// The sandboxes of earlier runs after their compat fixes; without it every run makes its own.
    pub cached: Option<CachedSandboxes>,
    /// An existing directory for files on their way.
    pub scratch: PathBuf,
    /// Ends the run when it is cancelled: what runs is killed, and the teardown is done.
    pub stop: CancellationToken,
}

/// How a run is done, beside its configuration.
#[derive(Clone, Default)]
pub struct RunOptions {
    /// The name of the run: no two have the same.
    pub run_id: String,
    /// Its artifacts; a directory that is not there yet, and is made.
    pub artifacts: Option<PathBuf>,
    /// Where its events go.
    pub events: Option<Arc<Events>>,
    /// How much of each output is kept in results, in bytes: half from the beginning and half from the end.
    pub max_output: usize,
    /// Whether compat fixes only say what they would do, and neither setup nor tests are run.
    pub dry_run: bool,
}

/// A stage that was asked for before those that come before it, or twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OutOfOrder {
    /// Another one is next.
    #[error("stage `{asked}` was asked for, and `{next}` is next")]
    Next {
        /// What was asked for.
        asked: Stage,
        /// What is next.
        next: Stage,
    },
    /// All stages are done.
    #[error("stage `{0}` was asked for, and the run is over")]
    Over(Stage),
}

/// One smoke run.
pub struct Manager {
    config: RunConfig,
    means: Means,
    repository: Repository,
    secrets: Secrets,
    max_output: usize,
    record: Record,
    facts: RunFacts,
    sandbox: Option<Sandbox>,
    /// Whom commands of the image run as; empty for root.
    image_user: String,
    fetched: Option<Fetched>,
    /// What the sandbox is after the compat fixes, and whether it was taken from an earlier run.
    reused: Reused,
    stages: Vec<StageResult>,
    began: Instant,
}

impl Manager {
    /// Prepares a run. Nothing is started yet.
    ///
    /// # Errors
    /// The directory of the artifacts cannot be made, or is there.
    pub fn open(
        config: RunConfig,
        means: Means,
        options: RunOptions,
    ) -> Result<Manager, ArtifactsError> {
        let RunOptions { run_id, artifacts, events, max_output, dry_run } = options;
        let secrets = Secrets::of(&config);
        let source = match &config.repo.origin {
            Origin::Url(url) => secrets.mask(url),
            Origin::Path(path) => secrets.mask(&path.to_string_lossy()),
        };
        let facts = RunFacts {
            schema: SCHEMA,
            run_id: run_id.clone(),
            name: config.name.clone(),
            started: Timestamp::now(),
            duration: None,
            expected_fail: config.task.expected_fail,
            dry_run,
            versions: Versions {
                imgforge: env!("CARGO_PKG_VERSION").to_owned(),
                ..Versions::default()
            },
            image: RunImage { reference: secrets.mask(&config.sandbox.image), digest: None },
            repo: RunRepository {
                source,
                reference: secrets.mask(&config.repo.reference),
                commit: None,
            },
            session: None,
        };
        let directory = artifacts.map(RunDirectory::make).transpose()?;
        if let Some(directory) = &directory {
            directory.write_facts(&facts)?;
        }
        Ok(Manager {
            repository: means.repositories.find(&config.repo),
            config,
            means,
            secrets,
            max_output,
            record: Record::new(&run_id, directory, events),
            facts,
            sandbox: None,
            image_user: String::new(),
            fetched: None,
            reused: Reused::No,
            stages: Vec::new(),
            began: Instant::now(),
        })
    }

    /// Starts the sandbox.
    ///
    /// # Errors
    /// As for [`Manager::stage`], and so for the methods that follow.
    pub async fn start(&mut self) -> Result<&StageResult, OutOfOrder> {
        self.stage(Stage::Start).await
    }

    /// Fetches the repository, and writes its files and the patches into the sandbox: the stages `clone`
    /// and `checkout`. Returns the results of both.
    pub async fn prepare_repo(&mut self) -> Result<&[StageResult], OutOfOrder> {
        self.stage(Stage::Clone).await?;
        self.stage(Stage::Checkout).await?;
        Ok(&self.stages[self.stages.len() - 2..])
    }

    /// Makes the compat fixes.
    pub async fn apply_compat(&mut self) -> Result<&StageResult, OutOfOrder> {
        self.stage(Stage::Compat).await
    }

    /// Runs the commands of `task.setup`.
    pub async fn run_setup(&mut self) -> Result<&StageResult, OutOfOrder> {
        self.stage(Stage::Setup).await
    }

    /// Runs the command of `task.test`.
    pub async fn run_tests(&mut self) -> Result<&StageResult, OutOfOrder> {
        self.stage(Stage::Test).await
    }

    /// Ends the sandbox. Stages that were not done are skipped.
    pub async fn teardown(&mut self) -> Result<&StageResult, OutOfOrder> {
        self.stage(Stage::Teardown).await
    }

    /// Does all stages that are left, and returns the report.
    pub async fn run(&mut self) -> RunReport {
        while let Some(stage) = self.next() {
            self.stage(stage).await.expect("it is the next one");
        }
        self.report()
    }

    /// Returns the stage that is next; `None` where the run is over.
    pub fn next(&self) -> Option<Stage> {
        Stage::ALL.get(self.stages.len()).copied()
    }

    /// Returns the report of what was done so far.
    pub fn report(&self) -> RunReport {
        RunReport::of(self.facts.clone(), self.stages.clone())
    }

    /// Returns why artifacts could not be written, once. The report is right all the same.
    pub fn artifacts_failure(&mut self) -> Option<ArtifactsError> {
        self.record.failure()
    }

    /// Does a stage, or skips it where one before it failed. Dropping the future kills what runs; the
    /// stage is not done then, and the run can only be dropped.
    ///
    /// # Errors
    /// It is not the next one, nor the teardown.
    pub async fn stage(&mut self, stage: Stage) -> Result<&StageResult, OutOfOrder> {
        let next = self.next().ok_or(OutOfOrder::Over(stage))?;
        if stage == Stage::Teardown {
            while let Some(between) = self.next().filter(|next| *next != Stage::Teardown) {
                let why = self.ended_in().unwrap_or_else(|| "the run was ended before".to_owned());
                self.skip(between, why);
            }
        } else if stage != next {
            return Err(OutOfOrder::Next { asked: stage, next });
        }
        if stage == Stage::Start {
            (self.facts.started, self.began) = (Timestamp::now(), Instant::now());
            self.record.run_started(&self.facts);
        }
        let why = match (stage, self.facts.dry_run) {
            (Stage::Teardown, _) => None,
            (Stage::Setup | Stage::Test, true) => {
                Some(self.ended_in().unwrap_or_else(|| "a dry run does not run it".to_owned()))
            }
            _ => self.ended_in(),
        };
        match why {
            Some(why) => self.skip(stage, why),
            None => self.perform(stage).await,
        }
        if stage == Stage::Teardown {
            self.facts.duration = Some(self.began.elapsed().as_secs_f64());
            let report = self.report();
            self.record.run_finished(&report);
        }
        Ok(self.stages.last().expect("it was done"))
    }

    /// Says in which stage the run ended, where one failed.
    fn ended_in(&self) -> Option<String> {
        let failed = |result: &&StageResult| {
            matches!(result.status, StageStatus::Failed | StageStatus::InfraError)
        };
        let failed = self.stages.iter().find(failed)?;
        Some(format!("the run ended in stage `{}`", failed.stage))
    }

    fn skip(&mut self, stage: Stage, why: String) {
        let result = StageResult::skipped(stage, why, Timestamp::now());
        self.record.stage_finished(&result);
        self.stages.push(result);
    }

    /// Does a stage.
    async fn perform(&mut self, stage: Stage) {
        let (started, began) = (Timestamp::now(), Instant::now());
        self.record.stage_started(stage, started);
        let limit = self.config.sandbox.timeouts.stage;
        let mut work = Work::new(stage, tokio::time::Instant::now() + limit);
        let stop = match stage {
            // It is done whatever happens.
            Stage::Teardown => CancellationToken::new(),
            _ => self.means.stop.clone(),
        };
        let ended = tokio::select! {
            biased;
            () = stop.cancelled() => Err(Fault::Infra("interrupted".to_owned())),
            ended = tokio::time::timeout(limit + GRACE, self.work(&mut work)) => {
                let late = || format!("the stage took longer than {} s", limit.as_secs_f64());
                ended.unwrap_or_else(|_| Err(Fault::Infra(late())))
            }
        };
        let (status, reason) = match ended {
            Ok(remark) => (StageStatus::Ok, remark),
            Err(Fault::Failed(why)) => (StageStatus::Failed, Some(why)),
            Err(Fault::Infra(why)) => (StageStatus::InfraError, Some(why)),
        };
        let Work { commands, logs, .. } = work;
        let result = StageResult {
            stage,
            status,
            reason: reason.map(|reason| self.secrets.mask(&reason)),
            started,
            duration: began.elapsed().as_secs_f64(),
            commands,
            logs,
        };
        self.record.facts(&self.facts);
        self.record.stage_finished(&result);
        self.stages.push(result);
    }
}
