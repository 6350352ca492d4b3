//! The test script of an evaluation in its sandbox: the request for the engine, and the run with the
//! output on disk as it comes.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::engine::{Quotas, SandboxEnd, SandboxNetwork, SandboxRequest, label};
use crate::key::Kind;
use crate::recipe::{EvaluationRecipe, RunNetwork, strict};
use crate::run::file;
use crate::runner::Tests;
use crate::tree::{Change, TreeNotes};

use super::NodeError;
use super::context::{NodeContext, RunContext};
use super::control::Control;
use super::evaluation_files::Output;
use super::strict_log::put_together;

/// A script that has ended.
pub(super) struct EndedScript {
    pub end: SandboxEnd,
    /// Whether the tests themselves began.
    pub tests_began: bool,
    /// The changes of the tree that root told of.
    pub said: TreeNotes,
    pub seconds: f64,
    /// The log: with the strict rules the frame's lines and the tests' output, made one.
    pub log: PathBuf,
}

/// Makes the request for the sandbox of an evaluation. `image` is the name that the runner gave it;
/// `changes` are those of the model patch, where the
/// image was built here; `nonce` is the line before the output of the tests under the strict rules.
pub(super) fn request(
    ctx: &NodeContext<'_>,
    recipe: &EvaluationRecipe,
    image: String,
    changes: Option<&[Change]>,
    nonce: &str,
    quotas: Quotas,
) -> SandboxRequest {
    let mut files = recipe.files();
    if let Some(changes) = changes
        && recipe.strict.is_some()
    {
        files.push((strict::CHANGES.to_owned(), strict::changes_file(changes)));
    }
    let run_id = ctx.run.evaluations().dir.run_id();
    SandboxRequest {
        image,
        files,
        command: recipe.command(nonce),
        time_limit: Duration::from_secs(recipe.limits.timeout),
        memory: recipe.limits.memory,
        milli_cpus: recipe.limits.milli_cpus,
        pids: recipe.limits.pids,
        quotas,
        network: network(recipe.network),
        loopback_names: recipe.loopback_names(),
        variables: recipe.variables(),
        labels: BTreeMap::from([
            (label::RUN.to_owned(), run_id.to_string()),
            (label::INSTANCE.to_owned(), recipe.instance_id.clone()),
        ]),
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

/// Runs a script to its end, with its output in the directory of the first target.
///
/// # Errors
/// The engine fails, a file cannot be written, or a disk fills.
pub(super) async fn run(
    ctx: &NodeContext<'_>,
    recipe: &EvaluationRecipe,
    request: &SandboxRequest,
    nonce: String,
) -> Result<EndedScript, NodeError> {
    let path = ctx.run.targets(ctx.index)[0].dir.join(file::OUTPUT);
    let output = Output::create(&path, ctx.log.watcher().cloned())
        .map_err(|source| NodeError::File { path: path.clone(), source })?;
    let aside = path.with_extension("tests");
    let aside_error = |source| NodeError::File { path: aside.clone(), source };
    let apart = match recipe.strict {
        Some(_) => Some((nonce, File::create(&aside).map_err(aside_error)?)),
        None => None,
    };
    let control = Control::new(ctx.log, apart);
    let environment = ctx.below().find(|node| node.kind() == Kind::Env).map(|node| node.key);
    let tell = |step| ctx.step(step);
    let tests =
        Tests { request, key: &ctx.node.key, environment: environment.as_ref(), tell: &tell };
    let began = Instant::now();
    let end = tokio::select! {
        end = ctx.run.runner.run_tests(&tests, &output, &control) => end?,
        source = output.failure() => return Err(NodeError::File { path, source }),
        source = control.failure() => return Err(aside_error(source)),
        error = disk_fills(ctx.run) => return Err(error),
    };
    if let Some(source) = output.into_failure() {
        return Err(NodeError::File { path, source });
    }
    let (said, tests_began) = control.finish().map_err(aside_error)?;
    if let Some(separated) = &recipe.strict {
        let code = match end {
            SandboxEnd::Exited(code) | SandboxEnd::OutOfMemory(code) => Some(code),
            SandboxEnd::TimedOut | SandboxEnd::Killed(_) | SandboxEnd::OverQuota(_) => None,
        };
        let results = code.is_some() && separated.writes_results();
        put_together(&path, &aside, tests_began.then_some(code), results).await?;
    }
    let seconds = began.elapsed().as_secs_f64();
    Ok(EndedScript { end, tests_began, said, seconds, log: path })
}

/// Waits until a disk has less free than must stay so: what quotas do not hold, and what others write.
async fn disk_fills(run: &RunContext) -> NodeError {
    loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        if let Err(error) = run.guard_disk() {
            return error;
        }
    }
}
