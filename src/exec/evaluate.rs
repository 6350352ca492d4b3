//! Running an evaluation: the script in its sandbox, the log on disk as it comes, the verdict.
//!
//! Everything that a run leaves is in the directory of its instance. The result is recorded by its
//! key when the script came to its end; what was killed from outside is never recorded and never
//! scored.

use std::path::PathBuf;

use petgraph::graph::NodeIndex;

use crate::engine::{Image, LogSink as _, Quotas, SandboxEnd, label};
use crate::event::Outcome;
use crate::grade;
use crate::key::{ImageId, Key, Kind};
use crate::progress::NodeLog;
use crate::recipe::marks::{NO_SERVICE, NOT_READY, PATCH_REFUSED};
use crate::recipe::{EvaluationRecipe, Recipe, RunNetwork};
use crate::report::Verdict;
use crate::run::{file, write_whole};
use crate::runner::Offer;
use crate::store::RunRecord;
use crate::tree::{self, Change, TreeNotes};

use super::NodeError;
use super::context::{NodeContext, RunContext};
use super::evaluation::{EvaluationResult, RunFacts};
use super::evaluation_files::{
    append, grade_file, not_ready, prepare, reuse, share, write_reports,
};
use super::quotas::{over_quota, quotas};
use super::test_script::{self, EndedScript};

/// Returns the file with the output of an evaluation.
pub(super) fn output_path(run: &RunContext, index: NodeIndex) -> PathBuf {
    run.targets(index)[0].dir.join(file::OUTPUT)
}

/// Starts the log of an evaluation.
pub(super) fn open_log(run: &RunContext, index: NodeIndex) -> std::io::Result<NodeLog> {
    NodeLog::at(&run.targets(index)[0].dir.join(file::LOG))
}

/// Runs an evaluation, unless its result came to be meanwhile.
pub(super) async fn evaluate(
    ctx: &NodeContext<'_>,
    recipe: &EvaluationRecipe,
) -> Result<Outcome, NodeError> {
    ctx.run.guard_disk()?;
    let (_lock, waited) = ctx.lock_key("wait for another process that runs it").await?;
    if waited && let Some(evaluated) = known_result(ctx, recipe, ctx.node.key)? {
        return Ok(ended(ctx.run, ctx.index, evaluated));
    }
    let targets = ctx.run.targets(ctx.index);
    for target in targets {
        prepare(target, recipe)?;
    }
    let image = ctx.image().await?;
    let key = result_key(ctx, recipe, &image.id);
    if key != ctx.node.key
        && let Some(evaluated) = known_result(ctx, recipe, key)?
    {
        return Ok(ended(ctx.run, ctx.index, evaluated));
    }
    note_inputs(ctx, recipe, &image, &key);
    let quotas = quotas(ctx.run, &recipe.limits);
    let offered = offer(ctx, &image).await?;
    ctx.step("run the tests");
    let changes = match is_on_published(ctx) {
        true => None,
        false => Some(changes_of(&image)?),
    };
    let nonce = format!("imgforge-tests-{:032x}\n", rand::random::<u128>());
    let request = test_script::request(ctx, recipe, offered, changes.as_deref(), &nonce, quotas);
    let script = test_script::run(ctx, recipe, &request, nonce).await?;
    let mut notes = script.said.clone();
    if let Some(changes) = changes {
        notes.changed = changes.iter().map(ToString::to_string).collect();
    }
    note(ctx, &format!("ended after {:.2} s: {:?}", script.seconds, script.end));
    let facts = RunFacts { seconds: script.seconds, cached: false, image_id: image.id, key, notes };
    let evaluated = result_of(ctx, recipe, script, &quotas, facts).await?;
    write_reports(targets, &evaluated)?;
    note(ctx, &format!("verdict {}", evaluated.verdict));
    share(targets)?;
    Ok(ended(ctx.run, ctx.index, evaluated))
}

/// Brings the image to where the tests run; returns its name there.
async fn offer(ctx: &NodeContext<'_>, image: &Image) -> Result<String, NodeError> {
    let mut chain: Vec<(Kind, Key)> = match is_on_published(ctx) {
        true => Vec::new(),
        false => ctx.below().map(|node| (node.kind(), node.key)).collect(),
    };
    chain.reverse();
    if !ctx.run.runner.is_here() {
        ctx.step("push the image");
    }
    let offer = Offer { image, name: &ctx.node.image, chain: &chain };
    Ok(ctx.run.runner.offer(&offer).await?)
}

/// Returns the result of an earlier run with a key, where such results count.
fn known_result(
    ctx: &NodeContext<'_>,
    recipe: &EvaluationRecipe,
    key: Key,
) -> Result<Option<EvaluationResult>, NodeError> {
    match ctx.run.evaluations().use_results {
        true => reuse(&ctx.run.store, key, recipe, ctx.run.targets(ctx.index)),
        false => Ok(None),
    }
}

/// Tells whether the evaluation stands on a published image.
fn is_on_published(ctx: &NodeContext<'_>) -> bool {
    ctx.parent().is_some_and(|parent| matches!(parent.node.recipe, Recipe::Published(_)))
}

/// Returns the key that a result is recorded by: the node's key, but where the published image came only
/// after the plan was made.
fn result_key(ctx: &NodeContext<'_>, recipe: &EvaluationRecipe, image_id: &ImageId) -> Key {
    if is_on_published(ctx) && recipe.image_id.as_ref() != Some(image_id) {
        let image_id = Some(image_id.clone());
        return EvaluationRecipe { image_id, ..recipe.clone() }.key();
    }
    ctx.node.key
}

/// Returns what the model patch changed in an image that was built here.
fn changes_of(image: &Image) -> Result<Vec<Change>, NodeError> {
    let text = image.config.labels.get(label::CHANGED);
    text.and_then(|text| tree::from_json(text)).ok_or_else(|| NodeError::NotReady {
        image: image.id.to_string(),
        what: format!("its label `{}` does not list what the patch changed", label::CHANGED),
    })
}

/// Writes the inputs of the run to its log.
fn note_inputs(ctx: &NodeContext<'_>, recipe: &EvaluationRecipe, image: &Image, key: &Key) {
    note(ctx, &format!("image {} ({})", ctx.node.image, image.id));
    note(ctx, &format!("key {key}"));
    if let Some(emulator) = &recipe.emulator {
        note(ctx, &format!("{} under {emulator}", recipe.platform));
    }
    let limits = serde_json::to_string(&recipe.limits).expect("plain values");
    note(ctx, &format!("limits {limits}, network {:?}", recipe.network));
}

/// Writes a line with the time to the log.
fn note(ctx: &NodeContext<'_>, text: &str) {
    let now = jiff::Timestamp::now();
    ctx.log.write(format!("{now:.3} {text}\n").as_bytes());
}

/// Makes the result of a script that has ended.
///
/// # Errors
/// The end says nothing of the prediction: the image or a service was not ready, the container was
/// killed from outside, or the log cannot be graded.
async fn result_of(
    ctx: &NodeContext<'_>,
    recipe: &EvaluationRecipe,
    script: EndedScript,
    quotas: &Quotas,
    facts: RunFacts,
) -> Result<EvaluationResult, NodeError> {
    let before_tests = !script.tests_began;
    let timeout = recipe.limits.timeout;
    if script.end == SandboxEnd::Exited(NOT_READY)
        && before_tests
        && let Some(what) = not_ready(&script.log)?
    {
        return Err(NodeError::NotReady { image: ctx.node.image.clone(), what });
    }
    match script.end {
        SandboxEnd::Killed(code) => Err(NodeError::Lost { code }),
        SandboxEnd::TimedOut => {
            append(&script.log, &grade::time_limit_note(timeout))?;
            Ok(facts.ungraded(Verdict::TimedOut, format!("killed after {timeout} s")))
        }
        SandboxEnd::OverQuota(quota) => {
            let reason = over_quota(quota, quotas, &recipe.limits);
            Ok(facts.ungraded(Verdict::OverQuota, reason))
        }
        SandboxEnd::Exited(NO_SERVICE) if recipe.network == RunNetwork::Httpbin && before_tests => {
            Err(NodeError::NoService { said: ctx.log.tail().pop().unwrap_or_default() })
        }
        SandboxEnd::Exited(PATCH_REFUSED) if recipe.patch.is_some() && before_tests => {
            Ok(facts.ungraded(Verdict::PatchRefused, ctx.log.tail().join("\n")))
        }
        SandboxEnd::Exited(code) => grade(ctx, script.log, code, false, facts).await,
        SandboxEnd::OutOfMemory(code) => grade(ctx, script.log, code, true, facts).await,
    }
}

/// Grades a log and records the result, unless the environment is at fault.
async fn grade(
    ctx: &NodeContext<'_>,
    path: PathBuf,
    exit_code: i64,
    out_of_memory: bool,
    facts: RunFacts,
) -> Result<EvaluationResult, NodeError> {
    ctx.step("grade");
    let target = ctx.run.targets(ctx.index)[0].clone();
    let store = ctx.run.store.clone();
    let work = move || -> Result<EvaluationResult, NodeError> {
        let graded = grade_file(&path, &target)?;
        if out_of_memory && !graded.resolved() {
            let reason = "the kernel killed processes of the tests at the memory limit";
            return Ok(facts.ungraded(Verdict::OutOfMemory, reason.to_owned()));
        }
        if graded.tree_vanished() {
            return Err(NodeError::TreeVanished);
        }
        if !graded.environment_at_fault() {
            let (log, log_bytes) = store.put_log(&path)?;
            let record = RunRecord {
                instance_id: target.instance.instance_id.clone(),
                image_id: facts.image_id.clone(),
                exit_code,
                seconds: facts.seconds,
                log,
                log_bytes,
                finished_at: jiff::Timestamp::now().as_second(),
                notes: facts.notes.clone(),
            };
            store.record_result(&facts.key, &record)?;
        }
        Ok(facts.graded(graded))
    };
    tokio::task::spawn_blocking(work).await.expect("grading does not panic")
}

/// Settles an evaluation whose model patch does not apply: a result, not an error.
pub(super) fn refused(
    run: &RunContext,
    index: NodeIndex,
    failures: &[String],
    text: &str,
) -> Result<Outcome, NodeError> {
    let node = &run.plan.graph[index];
    let Recipe::Evaluation(recipe) = &node.recipe else {
        unreachable!("only evaluations stand on an instance image")
    };
    let targets = run.targets(index);
    for target in targets {
        prepare(target, recipe)?;
        let text = format!("{}:\n{text}", grade::PATCH_FAILED);
        write_whole(&target.dir.join(file::LOG), text.as_bytes())?;
    }
    let facts = RunFacts {
        seconds: 0.0,
        cached: false,
        image_id: ImageId::default(),
        key: node.key,
        notes: TreeNotes::default(),
    };
    let evaluated = facts.ungraded(Verdict::PatchRefused, failures.join("\n"));
    write_reports(targets, &evaluated)?;
    Ok(ended(run, index, evaluated))
}

/// Keeps the result of an evaluation; returns its outcome.
fn ended(run: &RunContext, index: NodeIndex, evaluated: EvaluationResult) -> Outcome {
    let outcome = Outcome::Evaluated {
        verdict: evaluated.verdict,
        cached: evaluated.cached,
        tests: evaluated.graded.as_ref().and_then(grade::Graded::counts),
        reason: evaluated.reason.clone(),
    };
    run.keep_result(index, evaluated);
    outcome
}
