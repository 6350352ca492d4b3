//! `imgforge build`.

use std::fs::File;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use crate::config;
use crate::event::Reporter;
use crate::exec::{ExecSettings, Executor, Interrupt, RunSummary};
use crate::key::Kind;
use crate::plan::{Status, render as plan_render};
use crate::progress::{Fanout, NdjsonReporter, PlainReporter, TtyReporter};
use crate::store::{self, disk};

use super::context::{self, Planned, Wanted};
use super::{Chosen, CommandResult, Exit, Failure, Global, Sources};

/// Arguments of `build`.
#[derive(Debug, Args)]
pub struct BuildArgs {
    #[command(flatten)]
    chosen: Chosen,
    #[command(flatten)]
    sources: Sources,
    /// How many images are built at once [default: 3/4 of the processors, at most 24]
    #[arg(short = 'j', long, alias = "max_workers", env = "IMGFORGE_MAX_WORKERS",
        value_parser = super::workers)]
    max_workers: Option<usize>,
    /// Build images that are fresh too
    #[arg(long)]
    force_rebuild: bool,
    /// Go on with what does not depend on a failed image (the default)
    #[arg(long, conflicts_with = "fail_fast")]
    keep_going: bool,
    /// Start nothing more after the first failure
    #[arg(long)]
    fail_fast: bool,
    /// Show the plan and build nothing
    #[arg(long)]
    dry_run: bool,
    /// Push the images to the registry of --push-to
    #[arg(long, requires = "push_to")]
    push: bool,
    /// The registry and path that --push pushes to, such as ghcr.io/me
    #[arg(long, value_name = "REGISTRY", env = "IMGFORGE_PUSH_TO")]
    push_to: Option<String>,
    /// Write events as NDJSON while it runs; - is stdout
    #[arg(long, value_name = "FILE", env = "IMGFORGE_EVENTS")]
    events: Option<PathBuf>,
    /// Certificates that build steps trust, `none` for the image's own [default: the host's]
    #[arg(long, value_name = "FILE", env = "IMGFORGE_CA_BUNDLE")]
    ca_bundle: Option<PathBuf>,
    /// The network of build steps, such as host
    #[arg(long, value_name = "MODE", env = "IMGFORGE_BUILD_NETWORK")]
    build_network: Option<String>,
    /// Stop before the disk has less than this free, in GiB
    #[arg(long, value_name = "GIB", default_value_t = 2, env = "IMGFORGE_MIN_FREE")]
    min_free: u64,
    /// How often a build is tried that fails for a passing reason
    #[arg(long, value_name = "N", default_value_t = 4, env = "IMGFORGE_ATTEMPTS")]
    attempts: u32,
}

/// Runs `build`.
pub(super) async fn run(global: &Global, args: BuildArgs) -> CommandResult {
    let force = if args.force_rebuild { &Kind::ALL[..] } else { &[] };
    let wanted = Wanted {
        chosen: &args.chosen,
        sources: &args.sources,
        workers: args.max_workers,
        force,
        build: !args.dry_run,
    };
    let planned = context::plan(global, &wanted).await?;
    if args.dry_run {
        let engine = planned.engine.as_ref().map_or("none", |(_, info)| info.name.as_str());
        if global.json {
            let document = plan_render::document(&planned.plan, engine, planned.workers);
            super::render::json(&document).map_err(Failure::environment)?;
        } else {
            print!("{}", plan_render::table(&planned.plan, false));
        }
        return Ok(Exit::Success);
    }
    let host = config::host_access(
        context::variable,
        args.ca_bundle.as_deref(),
        args.build_network.clone(),
    )
    .map_err(|error| {
        let error = anyhow::Error::from(error).context("cannot read the CA bundle");
        Failure::input(error)
    })?;
    let mut reporter = reporters(global, &args)?;
    let Planned { plan, engine, store, mirrors, workers, tags } = planned;
    let (engine, info) = engine.expect("a build has an engine, or it would have ended");
    for node in plan.graph.node_weights().filter(|node| node.status == Status::Fresh) {
        for alias in node.aliases.iter().filter(|alias| {
            tags.get(*alias) != tags.get(&node.image) && tags.contains_key(&node.image)
        }) {
            engine.tag(&node.image, alias).await.map_err(context::engine_failure)?;
        }
    }
    // What processes left that were killed.
    let left = engine.remove_scratch(&store::is_alive).await;
    left.map_err(context::engine_failure)?;
    let settings = ExecSettings {
        workers,
        fail_fast: args.fail_fast,
        attempts: args.attempts.max(1),
        host,
        log_dir: context::log_dir(),
        min_free: args.min_free << 30,
        engine: context::engine_identity(&info),
        engine_root: info.root.clone().filter(|root| disk::free(root).is_ok()),
        owner: store::owner().to_owned(),
    };
    let plan = Arc::new(plan);
    let executor = Executor { engine: engine.clone(), store, mirrors: Arc::new(mirrors), settings };
    let interrupt = Interrupt::default();
    watch_signals(interrupt.clone());
    let summary = executor.run(plan.clone(), &mut reporter, &interrupt).await;
    drop(reporter);
    if interrupt.kill.is_cancelled() {
        // Dropped builds leave containers and images of this very process.
        let _ =
            engine.remove_scratch(&|owner| owner != store::owner() && store::is_alive(owner)).await;
    }
    if let Some(registry) = args.push_to.as_deref().filter(|_| args.push) {
        push(&*engine, &summary, registry).await?;
    }
    if global.json {
        super::render::json(&summary).map_err(Failure::environment)?;
    }
    Ok(exit_of(&summary))
}

fn exit_of(summary: &RunSummary) -> Exit {
    if summary.interrupted {
        Exit::Interrupted
    } else if summary.out_of_space {
        Exit::Environment
    } else if summary.failed + summary.skipped > 0 {
        Exit::SomeFailed
    } else {
        Exit::Success
    }
}

fn reporters(global: &Global, args: &BuildArgs) -> Result<Fanout, Failure> {
    let mut reporters: Vec<Box<dyn Reporter>> = Vec::new();
    if !global.quiet {
        if std::io::stderr().is_terminal() && global.verbose == 0 {
            reporters.push(Box::new(TtyReporter::new()));
        } else {
            reporters.push(Box::new(PlainReporter::new(std::io::stderr(), global.verbose > 0)));
        }
    }
    if let Some(path) = &args.events {
        if path.as_os_str() == "-" {
            reporters.push(Box::new(NdjsonReporter::new(std::io::stdout())));
        } else {
            let file = File::create(path).map_err(|error| {
                let text = format!("cannot write `{}`", path.display());
                Failure::input(anyhow::Error::from(error).context(text))
            })?;
            reporters.push(Box::new(NdjsonReporter::new(file)));
        }
    }
    Ok(Fanout(reporters))
}

/// The first signal stops what has not started, the second drops what runs.
fn watch_signals(interrupt: Interrupt) {
    tokio::spawn(async move {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut ints), Ok(mut terms)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return;
        };
        for token in [&interrupt.stop, &interrupt.kill] {
            tokio::select! {
                _ = ints.recv() => {}
                _ = terms.recv() => {}
            }
            token.cancel();
        }
    });
}

async fn push(
    engine: &dyn crate::engine::Engine,
    summary: &RunSummary,
    registry: &str,
) -> Result<(), Failure> {
    struct Quiet;
    impl crate::engine::LogSink for Quiet {
        fn write(&self, _: &[u8]) {}
    }
    let there = |status: &str| matches!(status, "fresh" | "built");
    for node in summary.nodes.iter().filter(|node| there(node.status)) {
        let target = format!("{}/{}", registry.trim_end_matches('/'), node.image);
        engine.tag(&node.image, &target).await.map_err(context::engine_failure)?;
        let pushed = engine.push(&target, &Quiet).await;
        engine.remove(&target).await.map_err(context::engine_failure)?;
        pushed.map_err(context::engine_failure)?;
        eprintln!("  pushed {target}");
    }
    Ok(())
}
