//! Reports: what a run came to, in the forms that people and programs read.
//!
//! [`RunReport`] holds all of it; [`harness`] renders the files of `swebench`, the other modules
//! one form each. Pure: no clock, no files, no engine.

pub mod compare;
pub mod durations;
pub mod harness;
pub mod html;
pub mod junit;
pub mod markdown;
mod score;
#[cfg(test)]
pub(crate) mod testing;
pub mod text;
mod verdict;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::grade::{Grader, Resolution, TestsStatus};
use crate::key::{ImageId, Key};
use crate::platform::Platform;
use crate::run_id::RunId;
use crate::shard::Shard;
use crate::tree::TreeNotes;

pub use score::{RepositoryScore, Score};
pub use verdict::Verdict;

/// A whole run.
#[derive(Debug, Clone)]
pub struct RunReport {
    /// The run.
    pub run_id: RunId,
    /// Which part of the run it is the report of; `None` where it is that of all of it.
    pub shard: Option<Shard>,
    /// The dataset as it was asked for.
    pub dataset: String,
    /// The split.
    pub split: String,
    /// When the run began, RFC 3339.
    pub created_at: String,
    /// Seconds that it took; 0 where nothing was run.
    pub seconds: f64,
    /// The engine, for people; empty where none was asked.
    pub engine: String,
    /// Such as `linux/amd64`.
    pub platform: Platform,
    /// What ran programs of the platform, where the engine does not by itself.
    pub emulator: Option<String>,
    /// How many ran at once.
    pub workers: usize,
    /// Who graded.
    pub grader: Grader,
    /// Whether the stricter rules were asked for.
    pub strict: bool,
    /// The chosen instances, in the order of the dataset.
    pub instances: Vec<String>,
    /// The repositories of the chosen instances, by instance id.
    pub repos: BTreeMap<String, String>,
    /// A result for each prediction of a chosen instance: models as they come, instances in the
    /// order of the dataset.
    pub results: Vec<InstanceResult>,
    /// The predictions that each model submitted, chosen or not, by instance id.
    pub submitted: BTreeMap<String, Vec<String>>,
    /// Predictions for instances that the dataset does not have.
    pub unknown_ids: Vec<String>,
    /// When each worker did what.
    pub timeline: Vec<Span>,
}

/// What one prediction came to. Fields that the files of the instance hold are not kept with it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InstanceResult {
    /// The instance.
    pub instance_id: String,
    /// The model.
    pub model: String,
    /// `owner/name`.
    pub repo: String,
    /// The verdict.
    pub verdict: Verdict,
    /// Full, partial or no; where tests were read.
    #[serde(skip)]
    pub resolution: Option<Resolution>,
    /// Which expected tests did what; where tests were read.
    #[serde(skip)]
    pub tests: Option<TestsStatus>,
    /// Why there is no better verdict, in a sentence; hunks that failed, one a line.
    pub reason: Option<String>,
    /// The harness's classification of a failure: its reason, and whether the environment is at
    /// fault (otherwise it may be the patch).
    pub failure: Option<(String, bool)>,
    /// Whether an earlier run's log was graded.
    pub cached: bool,
    /// The key of the run of its tests.
    pub key: Option<Key>,
    /// The engine's id of the image that they ran in.
    pub image_id: Option<ImageId>,
    /// What ran its tests, where the engine does not run the platform by itself.
    #[serde(default)]
    pub emulator: Option<String>,
    /// Seconds of making the images that only this instance needs, in this run.
    pub build_seconds: f64,
    /// Seconds of running its tests, whenever that was.
    pub test_seconds: f64,
    /// The model patch.
    #[serde(skip)]
    pub patch: Option<String>,
    /// The log, relative to the directory of the run report.
    #[serde(skip)]
    pub log: Option<String>,
    /// The last lines of the log.
    #[serde(skip)]
    pub log_tail: Vec<String>,
    /// Paths of the model patch that reach for the run of the tests, with what each does.
    pub reaches: Vec<String>,
    /// What an honest run's log does not have, one sentence each, its code in front.
    pub suspicions: Vec<String>,
    /// What is known of the tree of the repository.
    pub tree: TreeNotes,
    /// What the stricter rules changed, one sentence each.
    pub strict: Vec<String>,
    /// The verdict of every run, the first included, where there were several.
    pub runs: Vec<Verdict>,
    /// Tests that did not do the same in every run.
    pub flaky: Vec<String>,
}

/// Rounds seconds to three places, so that what is written is what is read again.
pub fn milliseconds(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

/// A time in which a worker did something.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// The slot, from 0.
    pub worker: usize,
    /// The node's id in the plan.
    pub node: String,
    /// `base`, `env`, `checkout`, `instance` or `evaluation`.
    pub kind: String,
    /// Seconds from the start of the run.
    pub start: f64,
    /// Seconds from the start of the run.
    pub end: f64,
    /// `built`, `pulled`, `fresh`, `failed`, `cancelled`, or the name of a verdict.
    pub outcome: String,
}

impl InstanceResult {
    /// Lists the expected tests that did not do what they should.
    pub fn failing_tests(&self) -> Vec<&str> {
        let Some(tests) = &self.tests else { return Vec::new() };
        let failing = tests.fail_to_pass.failure.iter().chain(&tests.pass_to_pass.failure);
        failing.map(String::as_str).collect()
    }

    /// Returns how many of the expected tests did what they should, and how many there are.
    pub fn counts(&self) -> Option<(usize, usize)> {
        let tests = self.tests.as_ref()?;
        let good = tests.fail_to_pass.success.len() + tests.pass_to_pass.success.len();
        Some((good, good + self.failing_tests().len()))
    }

    /// Returns why it is not resolved, in a line.
    pub fn why(&self) -> String {
        if let Some(reason) = self.reason.as_deref().and_then(|reason| reason.lines().next()) {
            return reason.to_owned();
        }
        match (self.failing_tests().as_slice(), &self.failure) {
            ([], Some((failure, _))) => failure.clone(),
            ([], None) => String::new(),
            ([one], _) => format!("{one} fails"),
            ([first, rest @ ..], _) => format!("{first} and {} more fail", rest.len()),
        }
    }

    /// Returns what a person can do about it.
    pub fn advice(&self) -> Option<&'static str> {
        self.verdict.advice()
    }
}

impl RunReport {
    /// Lists the models, in the order in which they come.
    pub fn models(&self) -> Vec<&str> {
        let mut models: Vec<&str> = Vec::new();
        let all = self.results.iter().map(|result| result.model.as_str());
        for model in all.chain(self.submitted.keys().map(String::as_str)) {
            if !models.contains(&model) {
                models.push(model);
            }
        }
        models
    }

    /// Lists the results of a model.
    pub fn of<'a>(&'a self, model: &str) -> impl Iterator<Item = &'a InstanceResult> {
        self.results.iter().filter(move |result| result.model == model)
    }
}
