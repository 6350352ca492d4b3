//! `imgforge run` and `imgforge shell`: a command in the image of an instance.
//!
//! Until the command starts, statuses are those of every command; from then on the status is the
//! command's own.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;

use crate::cli::out::errln;
use crate::disk::bytes_text;
use crate::engine::{
    AttachRequest, Engine, EngineInfo, EngineKind, SandboxEnd, SandboxNetwork, label,
};
use crate::forge::{self, AssessedPlan, LoadOptions, Workload};
use crate::key::Kind;
use crate::nearest::nearest;
use crate::plan::{EvaluateOptions, Node, Plan};
use crate::recipe::{EvaluationRecipe, Recipe, RunLimits, RunNetwork};
use crate::store::Store;

use super::attach::{self, Signals};
use super::execute::{ExecArgs, exit_of};
use super::help::heading;
use super::interrupt::unless_interrupted;
use super::open;
use super::render::warn;
use super::{Chosen, CommandResult, Error, Exit, Failure, Global, Sources};

/// Arguments of `run`.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    look: LookArgs,
    /// The command and its arguments [default: the image's own, a shell]
    #[arg(value_name = "CMD", help_heading = None, trailing_var_arg = true)]
    command: Vec<String>,
}

/// Arguments of `shell`.
#[derive(Debug, Args)]
pub(super) struct ShellArgs {
    #[command(flatten)]
    look: LookArgs,
}

/// What is looked at, and how.
#[derive(Debug, Args)]
#[command(next_help_heading = heading::RUN)]
struct LookArgs {
    /// The instance
    #[arg(value_name = "ID", help_heading = None)]
    id: String,
    /// lite, verified, full, multilingual, multimodal, demo, bundle, a Hugging Face id, or a path
    /// [default: the one that the instance was built from before]
    #[arg(short, long, alias = "dataset_name", value_name = "NAME", env = "IMGFORGE_DATASET",
        help_heading = heading::DATASET)]
    dataset: Option<String>,
    /// The split
    #[arg(long, default_value = "test", env = "IMGFORGE_SPLIT",
        help_heading = heading::DATASET)]
    split: String,
    /// A prediction whose patch is applied: a file, gold or empty
    #[arg(
        short,
        long,
        alias = "predictions_path",
        value_name = "PATH",
        env = "IMGFORGE_PREDICTIONS"
    )]
    predictions: Option<String>,
    /// The layer to look at
    #[arg(long, value_enum, default_value_t = Kind::Instance)]
    layer: Kind,
    /// An environment variable; without a value it is that of this process
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Where it starts [default: the repository]
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Whom it runs as: a user, or user:group, by name or number [default: the image's, root]
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Give it pipes, not a terminal, though input and output are one
    #[arg(short = 'T', long)]
    no_tty: bool,
    /// What it can reach [default: that of images.toml, else none]
    #[arg(long, value_enum, env = "IMGFORGE_NETWORK")]
    network: Option<RunNetwork>,
    /// Its memory, such as 4g [default: that of images.toml, else 8g]
    #[arg(short, long, value_name = "BYTES", value_parser = crate::size::memory,
        env = "IMGFORGE_MEMORY", help_heading = heading::LIMITS)]
    memory: Option<u64>,
    /// Its processors, such as 1.5 [default: that of images.toml, else all]
    #[arg(long, value_name = "N", value_parser = crate::size::milli_cpus, env = "IMGFORGE_CPUS",
        help_heading = heading::LIMITS)]
    cpus: Option<u64>,
    /// Its processes and threads [default: that of images.toml, else 4096]
    #[arg(long, value_name = "N", env = "IMGFORGE_PIDS_LIMIT",
        help_heading = heading::LIMITS,
        value_parser = clap::value_parser!(u64).range(16..))]
    pids_limit: Option<u64>,
    /// As docker says it: so it is anyway
    #[arg(short, long, hide = true)]
    interactive: bool,
    /// As docker says it: so it is anyway
    #[arg(short, long, hide = true, conflicts_with = "no_tty")]
    tty: bool,
    /// As docker says it: so it is anyway
    #[arg(long, hide = true)]
    rm: bool,
    #[command(flatten)]
    sources: Sources,
    #[command(flatten)]
    exec: ExecArgs,
}

/// What is run.
enum Wish {
    Command(Vec<String>),
    Shell,
}

/// Starts the better shell of an image.
pub(super) const SHELL: &str = "[ -x /bin/bash ] && exec /bin/bash; exec /bin/sh";

/// Runs `run`.
pub(super) async fn run(global: &Global, args: RunArgs) -> CommandResult {
    look(global, args.look, Wish::Command(args.command)).await
}

/// Runs `shell`.
pub(super) async fn shell(global: &Global, args: ShellArgs) -> CommandResult {
    look(global, args.look, Wish::Shell).await
}

async fn look(global: &Global, args: LookArgs, wish: Wish) -> CommandResult {
    if global.json {
        let error = anyhow!("the output is the command's own, and no JSON document");
        return Err(Error::input(error).with_hint(Some("leave --json out".to_owned())).into());
    }
    let dataset = match &args.dataset {
        Some(named) => named.clone(),
        None => dataset_of(global, &args.id)?,
    };
    let chosen = Chosen::one(&dataset, &args.split, Some(&args.id));
    let load = LoadOptions {
        predictions: args.predictions.iter().cloned().collect(),
        ..args.exec.load_options(&chosen, &args.sources)
    };
    let prepared = open::forge(global)?.load(&load).await?;
    let (engine, info) = prepared.engine();
    let plan = prepared.plan(&prepared.work, args.layer, None)?;
    // Its lease keeps the image as long as the command runs.
    let assessed = prepared.assess(plan, false, &Default::default()).await?;
    assessed.name_fresh().await?;
    let node = target(assessed.plan(), &args)?.clone();
    let evaluation = evaluation(&prepared, &args);
    let published = matches!(node.recipe, Recipe::Published(_));
    let evaluation = match evaluation {
        Ok(evaluation) => evaluation,
        // What decides how a patch is applied.
        Err(failure) if published => return Err(failure.into()),
        Err(_) => None,
    };
    let network = network(&args, evaluation.as_ref(), info)?;
    if let Some(exit) = make(global, &args, &assessed).await? {
        return Ok(exit);
    }
    let mut command = match wish {
        Wish::Command(words) if words.is_empty() => default_command(&**engine, &node).await?,
        Wish::Command(words) => words,
        Wish::Shell => ["/bin/sh", "-c", SHELL].map(str::to_owned).to_vec(),
    };
    let mut files = Vec::new();
    if let Some(evaluation) = evaluation.as_ref().filter(|_| published) {
        (command, files) = evaluation.around(&command);
    }
    let terminal = attach::terminal().filter(|_| !args.no_tty);
    if args.tty && terminal.is_none() {
        warn("input and output are no terminal: the command gets pipes");
    }
    let limits = evaluation.map_or_else(RunLimits::default, |evaluation| evaluation.limits);
    let request = AttachRequest {
        image: node.image.clone(),
        command,
        files,
        variables: args.env.iter().filter_map(|text| variable(text)).collect(),
        working_dir: args.workdir.clone(),
        user: args.user.clone(),
        network,
        memory: args.memory.or(limits.memory),
        milli_cpus: args.cpus.or(limits.milli_cpus),
        pids: args.pids_limit.or(limits.pids),
        terminal,
        labels: [(label::INSTANCE.to_owned(), args.id.clone())].into(),
    };
    let ended = attend(&prepared, &**engine, &request).await?;
    Ok(match ended {
        SandboxEnd::Exited(code) | SandboxEnd::Killed(code) => exit(code),
        SandboxEnd::OutOfMemory(code) => {
            if let Some(memory) = request.memory {
                let limit = bytes_text(memory);
                warn(format!("the memory limit of {limit} was reached: --memory raises it"));
            }
            exit(code)
        }
        SandboxEnd::TimedOut | SandboxEnd::OverQuota(_) => Exit::LOST,
    })
}

fn exit(code: i64) -> Exit {
    match u8::try_from(code) {
        Ok(0) => Exit::Success,
        Ok(code) => Exit::Command(code),
        Err(_) => Exit::LOST,
    }
}

/// Runs the command to its end; its container is gone afterwards.
async fn attend(
    prepared: &Workload,
    engine: &dyn Engine,
    request: &AttachRequest,
) -> Result<SandboxEnd, Failure> {
    let ended = async {
        let signals = Signals::take().map_err(Error::environment)?;
        let attached = unless_interrupted(engine.attach(request)).await?;
        let attached = attached.map_err(open::engine_failure)?;
        let joined = attach::join_container(attached, request.terminal.is_some(), signals).await;
        joined.map_err(|error| Failure { exit: Exit::LOST, error: open::engine_failure(error) })
    }
    .await;
    if ended.is_err() {
        forge::remove_own(engine, prepared.store.owners()).await;
    }
    ended
}

/// Finds the image that was meant.
fn target<'a>(plan: &'a Plan, args: &LookArgs) -> Result<&'a Node, Error> {
    let mut nodes: Vec<_> = plan.targets.iter().map(|target| target.node).collect();
    nodes.dedup();
    let node = match nodes.as_slice() {
        [one] => &plan.graph[*one],
        _ => {
            let ids: Vec<&str> = nodes.iter().map(|node| plan.graph[*node].id.as_str()).collect();
            let error = anyhow!("`{}` has several predictions: {}", args.id, ids.join(", "));
            return Err(Error::input(error)
                .with_hint(Some("keep that of one model in the file".to_owned())));
        }
    };
    if node.kind() != args.layer {
        let error = anyhow!("`{}` is a published image: it has no {}", node.image, args.layer);
        return Err(Error::input(error)
            .with_hint(Some("`--namespace none` builds the layers here".to_owned())));
    }
    Ok(node)
}

/// Returns how the tests of the instance are run: the command is run so too.
fn evaluation(prepared: &Workload, args: &LookArgs) -> Result<Option<EvaluationRecipe>, Error> {
    let options = EvaluateOptions { network: args.network, ..EvaluateOptions::default() };
    let plan = prepared.plan(&prepared.work, Kind::Instance, Some(options))?;
    let recipe = plan.targets.first().map(|target| &plan.graph[target.node].recipe);
    Ok(match recipe {
        Some(Recipe::Evaluation(recipe)) => Some(recipe.clone()),
        _ => None,
    })
}

/// Returns what the command can reach.
fn network(
    args: &LookArgs,
    evaluation: Option<&EvaluationRecipe>,
    engine: &EngineInfo,
) -> Result<SandboxNetwork, Error> {
    let found = args.network.or(evaluation.map(|evaluation| evaluation.network));
    match found.unwrap_or_default() {
        // Its service is started by what runs the tests.
        RunNetwork::None | RunNetwork::Httpbin => Ok(SandboxNetwork::None),
        RunNetwork::Host => Ok(SandboxNetwork::Host),
        RunNetwork::Bridge if engine.kind == EngineKind::Embedded => {
            let error = anyhow!("the embedded engine has no bridged network");
            Err(Error::environment(error)
                .with_hint(Some("use `--network host`, or `none`, or Docker".to_owned())))
        }
        RunNetwork::Bridge => Ok(SandboxNetwork::Bridge),
    }
}

/// Makes the image where it is not there; returns how that ended where it did not succeed.
async fn make(
    global: &Global,
    args: &LookArgs,
    assessed: &AssessedPlan<'_>,
) -> Result<Option<Exit>, Error> {
    if assessed.is_stale() {
        let summary = args.exec.build(global, assessed).await?;
        let exit = exit_of(&summary);
        return Ok((exit != Exit::Success).then_some(exit));
    }
    assessed.note_use().await?;
    Ok(None)
}

/// Returns what an image runs by itself.
async fn default_command(engine: &dyn Engine, node: &Node) -> Result<Vec<String>, Error> {
    let image = engine.inspect(&node.image).await.map_err(open::engine_failure)?;
    let config = image.map(|image| image.config).unwrap_or_default();
    let words: Vec<String> = config.entrypoint.into_iter().chain(config.cmd).collect();
    if words.is_empty() {
        let error = anyhow!("`{}` names no command of its own", node.image);
        return Err(Error::input(error).with_hint(Some("name one after the id".to_owned())));
    }
    Ok(words)
}

/// Reads a variable, as `docker run -e` takes it; one that this process does not have is none.
pub(super) fn variable(text: &str) -> Option<(String, String)> {
    match text.split_once('=') {
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
        None => Some((text.to_owned(), std::env::var(text).ok()?)),
    }
}

/// Finds the dataset that an instance was built from before, or the bundled one that has it.
fn dataset_of(global: &Global, id: &str) -> Result<String, Error> {
    let store = open::open_store(global)?;
    let uses = store.uses().map_err(Error::environment)?;
    let mut uses: Vec<_> = uses.into_values().flatten().collect();
    uses.sort();
    let demo = demo_ids(&store)?;
    // A path may be gone since then.
    let is_there = |name: &str| !name.starts_with(['/', '.']) || PathBuf::from(name).exists();
    let found = uses.iter().find(|one| one.instance == id && is_there(&one.dataset));
    if let Some(found) = found {
        if !global.quiet {
            errln!("dataset: {}", found.dataset);
        }
        return Ok(found.dataset.clone());
    }
    if demo.iter().any(|known| known == id) {
        return Ok("demo".to_owned());
    }
    let known = uses.iter().map(|one| one.instance.as_str());
    let near = nearest(id, known.chain(demo.iter().map(String::as_str)));
    let near = near.map_or(String::new(), |near| format!("; the nearest is `{near}`"));
    let error = anyhow!("no instance `{id}` was built here{near}");
    Err(Error::input(error).with_hint(Some("name its dataset: -d lite, or a path".to_owned())))
}

fn demo_ids(store: &Store) -> Result<Vec<String>, Error> {
    let demo = crate::dataset::demo::materialise(&store.dir().join("demo"));
    let dataset = demo.map_err(Error::environment)?.dataset;
    Ok(dataset.instances.into_iter().map(|instance| instance.instance_id).collect())
}
