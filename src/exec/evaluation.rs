//! What an evaluation is run for, and what it came to.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use petgraph::graph::NodeIndex;

use crate::dataset::{Instance, Patch};
use crate::grade::{self, Rules};
use crate::key::{ImageId, Key};
use crate::report::{InstanceResult, Verdict, milliseconds};
use crate::run::RunDir;
use crate::runner::TestRunner;
use crate::tree::{Change, TreeNotes};

/// The targets of a plan's evaluations, and the rules for all of them.
pub struct EvaluationContext {
    /// The directory of the run, below which each target has its own.
    pub dir: RunDir,
    /// What each evaluation is run for; the first has its log written as it comes.
    pub targets: HashMap<NodeIndex, Vec<RunTarget>>,
    /// Whether results of earlier runs count.
    pub use_results: bool,
    /// What runs the tests, and how many images are made at once meanwhile; without it the engine runs
    /// them.
    pub elsewhere: Option<Elsewhere>,
}

/// What runs tests elsewhere than on the engine.
pub struct Elsewhere {
    /// The runner.
    pub runner: Arc<dyn TestRunner>,
    /// How many images are made at once on this machine.
    pub builds: usize,
}

/// One prediction that an evaluation is run for.
#[derive(Debug, Clone)]
pub struct RunTarget {
    /// The directory of the instance.
    pub dir: PathBuf,
    /// The row of the dataset, with the tests that decide.
    pub instance: Arc<Instance>,
    /// `model_name_or_path`.
    pub model: String,
    /// The model patch; it is written beside the log, as `patch.diff`.
    pub patch: Patch,
    /// The parser and the rules for the log.
    pub rules: Rules,
    /// The emulator that ran the tests; `None` where the engine's own processors did.
    pub emulator: Option<String>,
}

/// The result of an evaluation: its verdict, and the facts that led to it.
#[derive(Debug, Clone)]
pub struct EvaluationResult {
    /// The verdict; never one that needs tests where `graded` is absent.
    pub verdict: Verdict,
    /// What the log says; absent when there is none to grade.
    pub graded: Option<grade::Graded>,
    /// The reason for a verdict without results of tests.
    pub reason: Option<String>,
    /// Wall time of the script, in seconds; that of the earlier run where `cached`.
    pub seconds: f64,
    /// Whether it is the result of an earlier run.
    pub cached: bool,
    /// The engine's id of the image.
    pub image_id: ImageId,
    /// What its result is kept under, where that is known.
    pub key: Option<Key>,
    /// The changes of the work tree: by the model patch, and those that the strict rules undid.
    pub notes: TreeNotes,
}

/// The facts of a run, whatever its verdict.
pub(super) struct RunFacts {
    pub seconds: f64,
    /// Whether it is an earlier run.
    pub cached: bool,
    pub image_id: ImageId,
    /// The key that the result is recorded by.
    pub key: Key,
    pub notes: TreeNotes,
}

impl RunFacts {
    /// Makes the result of a run whose log was graded.
    pub(super) fn graded(self, graded: grade::Graded) -> EvaluationResult {
        let verdict = if graded.resolved() { Verdict::Resolved } else { Verdict::Unresolved };
        let reason = graded.not_found.as_ref().map(ToString::to_string);
        self.result(verdict, Some(graded), reason)
    }

    /// Makes the result of a run that has no log to grade.
    pub(super) fn ungraded(self, verdict: Verdict, reason: String) -> EvaluationResult {
        self.result(verdict, None, Some(reason))
    }

    fn result(
        self,
        verdict: Verdict,
        graded: Option<grade::Graded>,
        reason: Option<String>,
    ) -> EvaluationResult {
        let RunFacts { seconds, cached, image_id, key, notes } = self;
        let key = Some(key);
        EvaluationResult { verdict, graded, reason, seconds, cached, image_id, key, notes }
    }
}

impl RunTarget {
    /// Says what the strict rules changed.
    fn strict_notes(&self, notes: &TreeNotes, graded: Option<&grade::Graded>) -> Vec<String> {
        let mut said = Vec::new();
        if !self.rules.strict {
            return said;
        }
        for (changes, what) in [
            (&notes.restored, "as it was before the patch"),
            (&notes.removed, "removed: a command of the script had made it"),
        ] {
            let paths = changes.iter().filter_map(|text| Change::parse(text));
            said.extend(paths.map(|change| {
                format!("{} {what}", String::from_utf8_lossy(&change.path).escape_debug())
            }));
        }
        let Some(graded) = graded else { return said };
        if graded.forged > 0 {
            said.push(format!("{} markers ignored that are not the frame's", graded.forged));
        }
        if graded.lenient && !graded.resolved() {
            said.push("the default rules would call this log resolved".to_owned());
        }
        said
    }

    /// Joins what is known of the prediction with what its evaluation came to.
    pub fn result(&self, evaluated: &EvaluationResult) -> InstanceResult {
        let graded = evaluated.graded.as_ref();
        let failure = match evaluated.verdict {
            Verdict::OutOfMemory => Some(("out_of_memory".to_owned(), true)),
            Verdict::OverQuota => Some(("over_quota".to_owned(), false)),
            Verdict::TimedOut => Some(("tests_timed_out".to_owned(), false)),
            _ => graded
                .and_then(|graded| graded.infra.as_ref())
                .map(|infra| (infra.reason.to_owned(), infra.tier == grade::Tier::Environment)),
        };
        InstanceResult {
            instance_id: self.instance.instance_id.clone(),
            model: self.model.clone(),
            repo: self.instance.repo.clone(),
            verdict: evaluated.verdict,
            resolution: graded.and_then(|graded| graded.resolution),
            tests: graded.and_then(|graded| graded.tests.clone()),
            reason: evaluated.reason.clone(),
            failure,
            cached: evaluated.cached,
            key: evaluated.key,
            emulator: self.emulator.clone(),
            image_id: Some(evaluated.image_id.clone()).filter(|id| !id.is_empty()),
            build_seconds: 0.0,
            test_seconds: milliseconds(evaluated.seconds),
            patch: Some(self.patch.to_string_lossy().into_owned()),
            log: None,
            log_tail: Vec::new(),
            reaches: grade::test_config::reaches(&evaluated.notes.changes()),
            suspicions: graded
                .iter()
                .flat_map(|graded| &graded.suspicions)
                .map(ToString::to_string)
                .collect(),
            tree: evaluated.notes.clone(),
            strict: self.strict_notes(&evaluated.notes, graded),
            runs: Vec::new(),
            flaky: Vec::new(),
        }
    }
}
