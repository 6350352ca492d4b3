//! Running an evaluation: the script in its sandbox, the log on disk as it comes, the verdict.
//!
//! Everything that a run leaves is in the directory of its instance. The result is recorded by its
//! key when the script came to its end; what was killed from outside is never recorded and never
//! scored.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use petgraph::graph::NodeIndex;
use tokio::sync::Notify;

use crate::dataset::{Instance, Patch};
use crate::disk;
use crate::engine::{
    Image, LogSink, Quota, Quotas, SandboxEnd, SandboxNetwork, SandboxRequest, label,
};
use crate::grade::{self, Rules};
use crate::key::Key;
use crate::progress::NodeLog;
use crate::recipe::evaluation::{NO_SERVICE, NOT_READY, NOT_READY_MARK, PATCH_REFUSED};
use crate::recipe::{EvaluationRecipe, Recipe, RunLimits, RunNetwork, strict as strict_script};
use crate::report::{InstanceResult, Verdict, harness, milliseconds};
use crate::run::{RunDir, file, write_whole};
use crate::store::{RunRecord, StoreError};
use crate::tree::{self, Change, TreeNotes};

use super::control::Control;
use super::strict_log::put_together;
use super::worker::{Done, Refused, Worker};
use super::{NodeError, Outcome};

/// What evaluations need beside the plan.
pub struct Runs {
    /// Where they leave their files.
    pub dir: RunDir,
    /// What each evaluation is run for; the first has its log written as it comes.
    pub targets: HashMap<NodeIndex, Vec<RunTarget>>,
    /// Whether results of earlier runs count.
    pub use_results: bool,
}

/// One prediction that an evaluation is run for.
#[derive(Debug, Clone)]
pub struct RunTarget {
    /// The directory of the instance.
    pub dir: PathBuf,
    /// The instance.
    pub instance: Arc<Instance>,
    /// `model_name_or_path`.
    pub model: String,
    /// The model patch.
    pub patch: Patch,
    /// How its log is graded.
    pub rules: Rules,
    /// See [`EvaluationRecipe::emulator`].
    pub emulator: Option<String>,
}

/// What an evaluation came to.
#[derive(Debug, Clone)]
pub struct Evaluated {
    /// The verdict.
    pub verdict: Verdict,
    /// What the log says; absent when there is none to grade.
    pub graded: Option<grade::Graded>,
    /// Why there is no better verdict.
    pub reason: Option<String>,
    /// Seconds of the run.
    pub seconds: f64,
    /// Whether it is the result of an earlier run.
    pub cached: bool,
    /// The engine's id of the image.
    pub image_id: String,
    /// What its result is kept under, where that is known.
    pub key: Option<Key>,
    /// What is known of the tree.
    pub notes: TreeNotes,
}

/// The output of a script, on disk as it comes. The first failure to write is kept.
struct Output {
    file: Mutex<File>,
    failed: AtomicBool,
    error: Mutex<Option<std::io::Error>>,
    wake: Notify,
    watcher: Option<Arc<dyn LogSink>>,
}

impl Output {
    fn create(path: &Path, watcher: Option<Arc<dyn LogSink>>) -> std::io::Result<Output> {
        Ok(Output {
            file: Mutex::new(File::create(path)?),
            failed: AtomicBool::new(false),
            error: Mutex::new(None),
            wake: Notify::new(),
            watcher,
        })
    }

    async fn failure(&self) -> std::io::Error {
        loop {
            if let Some(error) = self.error.lock().expect("no writer panicked").take() {
                return error;
            }
            self.wake.notified().await;
        }
    }
}

impl LogSink for Output {
    fn write(&self, bytes: &[u8]) {
        if let Some(watcher) = &self.watcher {
            watcher.write(bytes);
        }
        if self.failed.load(Ordering::Relaxed) {
            return;
        }
        let written = self.file.lock().expect("no writer panicked").write_all(bytes);
        if let Err(error) = written {
            self.failed.store(true, Ordering::Relaxed);
            *self.error.lock().expect("no writer panicked") = Some(error);
            self.wake.notify_one();
        }
    }
}

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
    ) -> Result<Done, NodeError> {
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
            end = self.engine.run_sandboxed(&request, &output, &control) => end?,
            source = output.failure() => return Err(NodeError::File { path, source }),
            source = control.failure() => return Err(file(source)),
            error = self.disk_fills() => return Err(error),
        };
        if let Some(source) = output.error.into_inner().expect("no writer panicked") {
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
                Evaluated {
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
            SandboxEnd::OverQuota(quota) => Evaluated {
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
                Evaluated {
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
                let ended = Ended {
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
        refusal: &Refused,
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
        let evaluated = Evaluated {
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
        ended: Ended,
    ) -> Result<Evaluated, NodeError> {
        let (target, store) = (self.targets(index)[0].clone(), self.store.clone());
        let path = path.to_owned();
        let work = move || -> Result<Evaluated, NodeError> {
            let graded = grade_file(&path, &target)?;
            let Ended { exit_code, out_of_memory, seconds, image_id, key, notes } = ended;
            if out_of_memory && !graded.resolved() {
                let reason = "the kernel killed processes of the tests at the memory limit";
                return Ok(Evaluated {
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

    fn evaluated(&self, index: NodeIndex, evaluated: Evaluated) -> Done {
        let verdict = evaluated.verdict;
        let cached = evaluated.cached;
        let tests = evaluated.graded.as_ref().and_then(grade::Graded::counts);
        let reason = evaluated.reason.clone();
        self.record_evaluated(index, evaluated);
        Done { outcome: Outcome::Evaluated { verdict, cached, tests, reason }, bytes: None }
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
struct Ended {
    exit_code: i64,
    out_of_memory: bool,
    seconds: f64,
    image_id: String,
    key: Key,
    notes: TreeNotes,
}

fn of_graded(
    graded: grade::Graded,
    seconds: f64,
    cached: bool,
    image_id: String,
    key: Key,
    notes: TreeNotes,
) -> Evaluated {
    let verdict = if graded.resolved() { Verdict::Resolved } else { Verdict::Unresolved };
    let reason = graded.not_found.as_ref().map(ToString::to_string);
    let (graded, key) = (Some(graded), Some(key));
    Evaluated { verdict, graded, reason, seconds, cached, image_id, key, notes }
}

fn note(log: &NodeLog, text: &str) {
    let now = jiff::Timestamp::now();
    log.write(format!("{now:.3} {text}\n").as_bytes());
}

/// Writes what is known before a run, and removes what an earlier one left.
fn prepare(target: &RunTarget, recipe: &EvaluationRecipe) -> Result<(), NodeError> {
    for name in [file::REPORT, file::OUTPUT] {
        let path = target.dir.join(name);
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(NodeError::File { path, source }),
        }
    }
    write_whole(&target.dir.join(file::SCRIPT), recipe.script.as_bytes())?;
    write_whole(&target.dir.join(file::PATCH), target.patch.as_bytes())?;
    Ok(())
}

/// Returns what the end of a log says is wrong with the image.
fn not_ready(path: &Path) -> Result<Option<String>, NodeError> {
    let read = || -> std::io::Result<Option<String>> {
        let mut log = File::open(path)?;
        let length = log.metadata()?.len();
        log.seek(SeekFrom::Start(length.saturating_sub(1000)))?;
        let mut end = Vec::new();
        log.read_to_end(&mut end)?;
        let end = String::from_utf8_lossy(&end);
        let mut said =
            end.lines().rev().take(3).filter_map(|line| line.strip_prefix(NOT_READY_MARK));
        Ok(said.next().map(str::to_owned))
    };
    read().map_err(|source| NodeError::File { path: path.to_owned(), source })
}

fn append(path: &Path, text: &str) -> Result<(), NodeError> {
    let mut options = std::fs::OpenOptions::new();
    let mut open = options.append(true).open(path);
    let written = open.as_mut().map_err(|error| std::io::Error::from(error.kind()));
    let written = written.and_then(|file| file.write_all(text.as_bytes()));
    written.map_err(|source| NodeError::File { path: path.to_owned(), source })
}

/// Returns what the model patch changed in an image that was built here.
fn changes_of(image: &Image) -> Result<Vec<Change>, NodeError> {
    let text = image.config.labels.get(label::CHANGED);
    text.and_then(|text| tree::from_json(text)).ok_or_else(|| NodeError::NotReady {
        image: image.id.clone(),
        what: format!("its label `{}` does not list what the patch changed", label::CHANGED),
    })
}

/// Gives the logs of the first target to the others.
fn share(targets: &[RunTarget]) -> Result<(), NodeError> {
    for target in &targets[1..] {
        for name in [file::OUTPUT, file::LOG] {
            let path = target.dir.join(name);
            std::fs::copy(targets[0].dir.join(name), &path)
                .map_err(|source| NodeError::File { path, source })?;
        }
    }
    Ok(())
}

/// Grades the log at `path`.
pub fn grade_file(path: &Path, target: &RunTarget) -> Result<grade::Graded, NodeError> {
    let error = |source| NodeError::File { path: path.to_owned(), source };
    let mut log = BufReader::with_capacity(1 << 16, File::open(path).map_err(error)?);
    let graded = grade::grade(&mut log, &target.rules, &target.instance);
    graded.map_err(|source| NodeError::Grade { path: path.to_owned(), source })
}

/// Takes the result of an earlier run: writes its files and grades its log anew. `None` when there
/// is none, or its log is damaged.
pub fn reuse(
    store: &crate::store::Store,
    key: Key,
    recipe: &EvaluationRecipe,
    targets: &[RunTarget],
) -> Result<Option<Evaluated>, NodeError> {
    let Some(record) = store.result(&key)? else { return Ok(None) };
    for target in targets {
        prepare(target, recipe)?;
    }
    let first = &targets[0];
    let path = first.dir.join(file::OUTPUT);
    match store.write_log(&record.log, &path) {
        Ok(()) => {}
        Err(StoreError::Blob(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let text = format!(
        "the log of an earlier run with the same inputs was graded\nkey {key}\nimage {}\n\
         ended after {:.2} s with code {}\n>>>>> Applied Patch\n",
        record.image_id, record.seconds, record.exit_code
    );
    write_whole(&first.dir.join(file::LOG), text.as_bytes())?;
    share(targets)?;
    let graded = grade_file(&path, first)?;
    let evaluated = of_graded(graded, record.seconds, true, record.image_id, key, record.notes);
    write_reports(targets, &evaluated)?;
    Ok(Some(evaluated))
}

/// Writes `report.json` for every target, where the harness has one.
fn write_reports(targets: &[RunTarget], evaluated: &Evaluated) -> Result<(), NodeError> {
    for target in targets {
        let result = target.result(evaluated);
        if let Some(report) = harness::instance_report(&result, &grade::GRADER) {
            let text = serde_json::to_vec_pretty(&report).expect("reports are plain values");
            write_whole(&target.dir.join(file::REPORT), &text)?;
        }
    }
    Ok(())
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
    pub fn result(&self, evaluated: &Evaluated) -> InstanceResult {
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
            reaches: grade::reach::reaches(&evaluated.notes.changes()),
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
