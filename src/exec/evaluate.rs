//! Running an evaluation: the script in its sandbox, the log on disk as it comes, the verdict.
//!
//! Everything that a run leaves is in the directory of its instance. The result is recorded by its
//! key when the script came to its end; what was killed from outside is never recorded and never
//! scored.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use petgraph::graph::NodeIndex;

use crate::disk;
use crate::engine::{
    Image, LogSink, Quota, Quotas, SandboxEnd, SandboxNetwork, SandboxRequest, label,
};
use crate::grade;
use crate::key::Key;
use crate::progress::NodeLog;
use crate::recipe::evaluation::{NO_SERVICE, NOT_READY, PATCH_REFUSED};
use crate::recipe::{EvaluationRecipe, Recipe, RunLimits, RunNetwork, strict as strict_script};
use crate::report::Verdict;
use crate::run::{file, write_whole};
use crate::store::RunRecord;
use crate::tree::{self, Change, TreeNotes};

use super::control::Control;
use super::evaluation::{EvaluationResult, RunTarget, of_graded};
use super::evaluation_files::{
    Output, append, grade_file, not_ready, prepare, reuse, share, write_reports,
};
use super::strict_log::put_together;
use super::worker::{AttemptOk, PatchRejection, Worker};
use super::{NodeError, Outcome};

fn network(network: RunNetwork) -> SandboxNetwork {
    match network {
        RunNetwork::None => SandboxNetwork::None,
        RunNetwork::Bridge => SandboxNetwork::Bridge,
        RunNetwork::Host => SandboxNetwork::Host,
        RunNetwork::Httpbin => SandboxNetwork::SilentPeer,
    }
}

impl Worker {
    /// Returns where the output of an evaluation is.
    pub(super) fn output_path(&self, index: NodeIndex) -> PathBuf {
        self.targets(index)[0].dir.join(file::OUTPUT)
    }

    /// Returns the log of an evaluation.
    pub(super) fn run_log(&self, index: NodeIndex) -> std::io::Result<NodeLog> {
        NodeLog::at(&self.targets(index)[0].dir.join(file::LOG))
    }

    fn targets(&self, index: NodeIndex) -> &[RunTarget] {
        let runs = self.runs.as_ref().expect("a plan with evaluations is run with their targets");
        &runs.targets[&index]
    }

    /// Runs an evaluation, unless its result came to be meanwhile.
    pub(super) async fn evaluate(
        &self,
        index: NodeIndex,
        recipe: &EvaluationRecipe,
        log: &Arc<NodeLog>,
    ) -> Result<AttemptOk, NodeError> {
        let runs = self.runs.as_ref().expect("a plan with evaluations is run with their targets");
        self.guard_disk()?;
        let node = &self.plan.graph[index];
        let _lock = match self.store.try_lock_key(&node.key)? {
            Some(lock) => lock,
            None => {
                self.step(index, "wait for another process that runs it");
                let lock = self.store.lock_key(&node.key).await?;
                if runs.use_results
                    && let Some(evaluated) =
                        reuse(&self.store, node.key, recipe, self.targets(index))?
                {
                    return Ok(self.evaluated(index, evaluated));
                }
                lock
            }
        };
        for target in self.targets(index) {
            prepare(target, recipe)?;
        }
        let image = self.image_of(node).await?;
        let key = self.result_key(index, recipe, &image.id);
        if key != node.key
            && runs.use_results
            && let Some(evaluated) = reuse(&self.store, key, recipe, self.targets(index))?
        {
            return Ok(self.evaluated(index, evaluated));
        }
        note(log, &format!("image {} ({})", node.image, image.id));
        note(log, &format!("key {key}"));
        if let Some(emulator) = &recipe.emulator {
            note(log, &format!("{} under {emulator}", recipe.platform));
        }
        let limits = serde_json::to_string(&recipe.limits).expect("plain values");
        note(log, &format!("limits {limits}, network {:?}", recipe.network));
        let quotas = self.quotas(&recipe.limits);
        self.step(index, "run the tests");
        let built = !matches!(
            self.plan.parent(index).map(|parent| &self.plan.graph[parent].recipe),
            Some(Recipe::Published(_))
        );
        let mut files = recipe.files();
        let mut notes = TreeNotes::default();
        if built {
            let changes = changes_of(&image)?;
            if recipe.strict.is_some() {
                let file = strict_script::changes_file(&changes);
                files.push((strict_script::CHANGES.to_owned(), file));
            }
            notes.changed = changes.iter().map(ToString::to_string).collect();
        }
        let word = format!("imgforge-tests-{:032x}\n", rand::random::<u128>());
        let request = SandboxRequest {
            image: node.image.clone(),
            files,
            command: recipe.command(&word),
            time_limit: Duration::from_secs(recipe.limits.timeout),
            memory: recipe.limits.memory,
            milli_cpus: recipe.limits.milli_cpus,
            pids: recipe.limits.pids,
            quotas,
            network: network(recipe.network),
            loopback_names: recipe.loopback_names(),
            variables: recipe.variables(),
            labels: BTreeMap::from([
                (label::RUN.to_owned(), runs.dir.run_id().to_owned()),
                (label::INSTANCE.to_owned(), recipe.instance_id.clone()),
            ]),
        };
        let path = self.targets(index)[0].dir.join(file::OUTPUT);
        let output = Output::create(&path, log.watcher().cloned())
            .map_err(|source| NodeError::File { path: path.clone(), source })?;
        let aside = path.with_extension("tests");
        let file = |source| NodeError::File { path: aside.clone(), source };
        let tests = match recipe.strict {
            Some(_) => Some((word, File::create(&aside).map_err(file)?)),
            None => None,
        };
        let control = Control::new(log, tests);
        let began = Instant::now();
        let end = tokio::select! {
            end = self.runner.run_sandboxed(&request, &output, &control) => end?,
            source = output.failure() => return Err(NodeError::File { path, source }),
            source = control.failure() => return Err(file(source)),
            error = self.disk_fills() => return Err(error),
        };
        if let Some(source) = output.into_failure() {
            return Err(NodeError::File { path, source });
        }
        let (said, tests_began) = control.finish().map_err(file)?;
        notes.restored = said.restored;
        notes.removed = said.removed;
        if !built {
            notes.changed = said.changed;
        }
        if let Some(separated) = &recipe.strict {
            let code = match end {
                SandboxEnd::Exited(code) | SandboxEnd::OutOfMemory(code) => Some(code),
                SandboxEnd::TimedOut | SandboxEnd::Killed(_) | SandboxEnd::OverQuota(_) => None,
            };
            let results = code.is_some() && separated.writes_results();
            put_together(&path, &aside, tests_began.then_some(code), results).await?;
        }
        let seconds = began.elapsed().as_secs_f64();
        note(log, &format!("ended after {seconds:.2} s: {end:?}"));
        if let SandboxEnd::Exited(NOT_READY) = end
            && !tests_began
            && let Some(what) = not_ready(&path)?
        {
            return Err(NodeError::NotReady { image: node.image.clone(), what });
        }
        let evaluated = match end {
            SandboxEnd::Killed(code) => return Err(NodeError::Lost { code }),
            SandboxEnd::TimedOut => {
                let text =
                    format!("\n\nTimeout error: {} seconds exceeded.", recipe.limits.timeout);
                append(&path, &text)?;
                EvaluationResult {
                    verdict: Verdict::TimedOut,
                    graded: None,
                    reason: Some(format!("killed after {} s", recipe.limits.timeout)),
                    seconds,
                    cached: false,
                    image_id: image.id,
                    key: Some(key),
                    notes,
                }
            }
            SandboxEnd::OverQuota(quota) => EvaluationResult {
                verdict: Verdict::OverQuota,
                graded: None,
                reason: Some(over_quota(quota, &quotas, &recipe.limits)),
                seconds,
                cached: false,
                image_id: image.id,
                key: Some(key),
                notes,
            },
            SandboxEnd::Exited(NO_SERVICE)
                if recipe.network == RunNetwork::Httpbin && !tests_began =>
            {
                return Err(NodeError::NoService { said: log.tail().pop().unwrap_or_default() });
            }
            SandboxEnd::Exited(PATCH_REFUSED) if recipe.patch.is_some() && !tests_began => {
                EvaluationResult {
                    verdict: Verdict::PatchRefused,
                    graded: None,
                    reason: Some(log.tail().join("\n")),
                    seconds,
                    cached: false,
                    image_id: image.id,
                    key: Some(key),
                    notes,
                }
            }
            SandboxEnd::Exited(code) | SandboxEnd::OutOfMemory(code) => {
                self.step(index, "grade");
                let out_of_memory = matches!(end, SandboxEnd::OutOfMemory(_));
                let ended = ScriptExit {
                    exit_code: code,
                    out_of_memory,
                    seconds,
                    image_id: image.id,
                    key,
                    notes,
                };
                self.grade(index, &path, ended).await?
            }
        };
        write_reports(self.targets(index), &evaluated)?;
        note(log, &format!("verdict {}", evaluated.verdict));
        share(self.targets(index))?;
        Ok(self.evaluated(index, evaluated))
    }

    /// Says of an evaluation that the model patch does not apply: a result, not an error.
    pub(super) fn refused(
        &self,
        index: NodeIndex,
        refusal: &PatchRejection,
    ) -> Result<Outcome, NodeError> {
        let node = &self.plan.graph[index];
        let Recipe::Evaluation(recipe) = &node.recipe else {
            unreachable!("only evaluations stand on an instance image")
        };
        for target in self.targets(index) {
            prepare(target, recipe)?;
            let text = format!(">>>>> Patch Apply Failed:\n{}", refusal.text);
            write_whole(&target.dir.join(file::LOG), text.as_bytes())?;
        }
        let evaluated = EvaluationResult {
            verdict: Verdict::PatchRefused,
            graded: None,
            reason: Some(refusal.failures.join("\n")),
            seconds: 0.0,
            cached: false,
            image_id: String::new(),
            key: Some(node.key),
            notes: TreeNotes::default(),
        };
        write_reports(self.targets(index), &evaluated)?;
        Ok(self.evaluated(index, evaluated).outcome)
    }

    /// Returns what a run may write: what its limits say, and never more than its share of what is
    /// free now. So all runs together leave free what must stay so, whatever one of them does.
    fn quotas(&self, limits: &RunLimits) -> Quotas {
        let share = |path: &Path, quarters: u64| {
            let free = disk::free(path).ok()?.saturating_sub(self.settings.min_free);
            let share = free / self.settings.workers.max(1) as u64 / 4 * quarters;
            Some(share.max(LEAST_SHARE))
        };
        // Logs may be on the same disk.
        let root = self.settings.engine_root.as_deref().unwrap_or(self.store.dir());
        let least = |most: Option<u64>, share: Option<u64>| most.into_iter().chain(share).min();
        Quotas {
            disk: limits.disk.and_then(|most| least(Some(most), share(root, 3))),
            files: limits.files,
            file: limits.disk,
            log: limits.log_size.and_then(|most| least(Some(most), share(self.store.dir(), 1))),
        }
    }

    /// Waits until a disk has less free than must stay so: what quotas do not hold, and what others
    /// write.
    async fn disk_fills(&self) -> NodeError {
        loop {
            tokio::time::sleep(Duration::from_secs(2)).await;
            if let Err(error) = self.guard_disk() {
                return error;
            }
        }
    }

    /// Returns what a result is kept under: the node's key, but where the published image came only
    /// after the plan was made.
    fn result_key(&self, index: NodeIndex, recipe: &EvaluationRecipe, image_id: &str) -> Key {
        let parent = self.plan.parent(index).map(|parent| &self.plan.graph[parent].recipe);
        match parent {
            Some(Recipe::Published(_)) if recipe.image_id.as_deref() != Some(image_id) => {
                let image_id = Some(image_id.to_owned());
                EvaluationRecipe { image_id, ..recipe.clone() }.key()
            }
            _ => self.plan.graph[index].key,
        }
    }

    /// Grades a log and records the result, unless the environment is at fault.
    async fn grade(
        &self,
        index: NodeIndex,
        path: &Path,
        ended: ScriptExit,
    ) -> Result<EvaluationResult, NodeError> {
        let (target, store) = (self.targets(index)[0].clone(), self.store.clone());
        let path = path.to_owned();
        let work = move || -> Result<EvaluationResult, NodeError> {
            let graded = grade_file(&path, &target)?;
            let ScriptExit { exit_code, out_of_memory, seconds, image_id, key, notes } = ended;
            if out_of_memory && !graded.resolved() {
                let reason = "the kernel killed processes of the tests at the memory limit";
                return Ok(EvaluationResult {
                    verdict: Verdict::OutOfMemory,
                    graded: None,
                    reason: Some(reason.to_owned()),
                    seconds,
                    cached: false,
                    image_id,
                    key: Some(key),
                    notes,
                });
            }
            if graded.tree_vanished() {
                return Err(NodeError::TreeVanished);
            }
            if !graded.environment_at_fault() {
                let (log, log_bytes) = store.put_log(&path)?;
                let record = RunRecord {
                    instance_id: target.instance.instance_id.clone(),
                    image_id: image_id.clone(),
                    exit_code,
                    seconds,
                    log,
                    log_bytes,
                    finished_at: jiff::Timestamp::now().as_second(),
                    notes: notes.clone(),
                };
                store.record_result(&key, &record)?;
            }
            Ok(of_graded(graded, seconds, false, image_id, key, notes))
        };
        tokio::task::spawn_blocking(work).await.expect("grading does not panic")
    }

    fn evaluated(&self, index: NodeIndex, evaluated: EvaluationResult) -> AttemptOk {
        let verdict = evaluated.verdict;
        let cached = evaluated.cached;
        let tests = evaluated.graded.as_ref().and_then(grade::Graded::counts);
        let reason = evaluated.reason.clone();
        self.record_evaluated(index, evaluated);
        AttemptOk { outcome: Outcome::Evaluated { verdict, cached, tests, reason }, bytes: None }
    }
}

/// What a run may write even where the disk has less: then the guard of the disk ends all.
const LEAST_SHARE: u64 = 64 << 20;

/// Says what a run that was killed wrote too much of.
fn over_quota(quota: Quota, quotas: &Quotas, limits: &RunLimits) -> String {
    let bytes = |most: Option<u64>, wanted: Option<u64>, option: &str, what: &str| {
        let text = disk::bytes_text(most.unwrap_or_default());
        match most == wanted {
            true => format!("{what} came to the {text} of {option}"),
            false => format!("{what} came to {text}, their share of what the disk has free"),
        }
    };
    match quota {
        Quota::Disk => bytes(quotas.disk, limits.disk, "--disk", "the files that it wrote"),
        Quota::Log => bytes(quotas.log, limits.log_size, "--log-size", "its outputs"),
        Quota::Files => {
            format!("it made more than the {} of --files", quotas.files.unwrap_or_default())
        }
    }
}

/// A script that came to its end.
struct ScriptExit {
    exit_code: i64,
    out_of_memory: bool,
    seconds: f64,
    image_id: String,
    key: Key,
    notes: TreeNotes,
}

fn note(log: &NodeLog, text: &str) {
    let now = jiff::Timestamp::now();
    log.write(format!("{now:.3} {text}\n").as_bytes());
}

/// Returns what the model patch changed in an image that was built here.
fn changes_of(image: &Image) -> Result<Vec<Change>, NodeError> {
    let text = image.config.labels.get(label::CHANGED);
    text.and_then(|text| tree::from_json(text)).ok_or_else(|| NodeError::NotReady {
        image: image.id.clone(),
        what: format!("its label `{}` does not list what the patch changed", label::CHANGED),
    })
}
