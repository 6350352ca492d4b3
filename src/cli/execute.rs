//! Running a plan: what `build` and `eval` share.

use super::open;
use crate::cli::out::errln;
use crate::package_indexes;
use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use crate::bundle::index::PackageIndex;
use crate::config;
use crate::disk;
use crate::engine::{Engine, EngineKind, HostAccess, embedded};
use crate::event::Reporter;
use crate::exec::evaluation::Runs;
use crate::exec::{ExecSettings, Executor, Interrupt, NodeStatus, RunSummary};
use crate::key::{Key, Kind};
use crate::owner::{self, Liveness, Owner, Owners};
use crate::plan::{Node, Plan, Status};
use crate::progress::{Fanout, NdjsonReporter, PlainReporter, TtyReporter};
use crate::recipe::Recipe;

use super::budget::Budget;
use super::context::Prepared;
use super::help::heading;
use super::progress::Mode;
use super::{Exit, Failure, Global};

/// How a plan is run.
#[derive(Debug, Args)]
#[command(next_help_heading = heading::BUILD)]
pub struct ExecArgs {
    /// How many images and evaluations are done at once [default: 3/4 of the processors, at most
    /// 24]
    #[arg(short = 'j', long, visible_alias = "workers", aliases = ["max_workers", "num-workers"], env = "IMGFORGE_MAX_WORKERS",
        value_parser = super::workers)]
    pub max_workers: Option<usize>,
    /// Go on with what does not depend on a failed image (the default)
    #[arg(long, conflicts_with = "fail_fast")]
    keep_going: bool,
    /// Start nothing more after the first failure
    #[arg(long)]
    fail_fast: bool,
    /// Write events as NDJSON while it runs; - is stdout
    #[arg(long, value_name = "FILE", env = "IMGFORGE_EVENTS", help_heading = heading::OUTPUT)]
    events: Option<PathBuf>,
    /// Certificates that build steps trust, `none` for the image's own [default: the host's]
    #[arg(long, value_name = "FILE", env = "IMGFORGE_CA_BUNDLE")]
    ca_bundle: Option<PathBuf>,
    /// The network of build steps, such as host
    #[arg(long, value_name = "MODE", env = "IMGFORGE_BUILD_NETWORK")]
    build_network: Option<String>,
    /// A file for `RUN --mount=type=secret`, as id=ID,src=FILE
    #[arg(long, value_name = "id=ID,src=FILE", value_parser = secret)]
    secret: Vec<(String, PathBuf)>,
    /// Stop before the disk has less than this free, in GiB
    #[arg(long, value_name = "GIB", default_value_t = 2, env = "IMGFORGE_MIN_FREE")]
    pub min_free: u64,
    /// How often something is tried that fails for a passing reason
    #[arg(long, value_name = "N", default_value_t = 4, env = "IMGFORGE_ATTEMPTS")]
    attempts: u32,
    /// The same without the first time
    #[arg(long, value_name = "N", conflicts_with = "attempts", env = "IMGFORGE_RETRIES")]
    retries: Option<u32>,
}

impl ExecArgs {
    /// Runs a plan. `more` is told of every event beside the reporters that the options ask for.
    pub async fn run(
        &self,
        global: &Global,
        prepared: &Prepared,
        plan: Arc<Plan>,
        runs: Option<Arc<Runs>>,
        more: Vec<Box<dyn Reporter>>,
    ) -> Result<RunSummary, Failure> {
        let index = match &prepared.package_index {
            Some(records) => Some(serve_index(records).await?),
            None => None,
        };
        self.run_with(global, prepared, plan, runs, more, index).await
    }

    /// The same, with a package index of this process that build steps ask.
    pub async fn run_with(
        &self,
        global: &Global,
        prepared: &Prepared,
        plan: Arc<Plan>,
        runs: Option<Arc<Runs>>,
        more: Vec<Box<dyn Reporter>>,
        index: Option<PackageIndex>,
    ) -> Result<RunSummary, Failure> {
        let host = self.host()?;
        if !global.quiet {
            warn_of_environments(&plan);
        }
        let (engine, info) =
            prepared.engine.as_ref().expect("what runs has an engine, or it would have ended");
        super::preflight::check(&plan, info)?;
        let mut host = HostAccess { secrets: self.secret.iter().cloned().collect(), ..host };
        if let Some(index) = &index {
            lead_to(index, &mut host);
        }
        let mut reporter = self.reporters(global)?;
        reporter.0.extend(more);
        if !global.quiet && info.kind == EngineKind::Embedded && embedded::ends_with_login() {
            super::render::warn(format!(
                "this run ends with your last login; {}",
                embedded::LINGER
            ));
        }
        // What processes left that were killed.
        let owners = prepared.store.owners();
        let left = engine.remove_scratch(&|name, made| owners.judge(name, made)).await;
        left.map_err(open::engine_failure)?;
        let settings = ExecSettings {
            workers: prepared.workers,
            build_instead: prepared.build_instead,
            fail_fast: self.fail_fast,
            attempts: self.retries.map_or(self.attempts, |more| more.saturating_add(1)).max(1),
            host,
            log_dir: open::output_dir(global).join(open::BUILD_LOGS),
            min_free: self.min_free << 30,
            engine: open::engine_identity(info),
            engine_root: info.root.clone().filter(|root| disk::free(root).is_ok()),
            owner: owner::name().to_owned(),
            told: global.progress_mode().told(global.verbose),
        };
        let identity = settings.engine.clone();
        let note_use = || {
            let kept = plan.nodes().filter(|(_, node)| node.kind() != Kind::Evaluation);
            let images = kept.map(|(_, node)| (node.key, node.instances.as_slice()));
            prepared.store.record_use(&identity, &prepared.dataset, images)
        };
        note_use().map_err(Failure::environment)?;
        let collector = open::collector(&**engine, info, &identity, &prepared.store);
        let budget = Budget::new(collector, prepared.catalog.cache(), global.quiet);
        budget.keep().await;
        let executor = Executor {
            engine: engine.clone(),
            store: prepared.store.clone(),
            mirrors: prepared.mirrors.clone(),
            settings,
            runs,
            remote: prepared.remote.clone(),
        };
        let interrupt = Interrupt::default();
        super::interrupt::watch_signals(interrupt.clone());
        let summary = tokio::select! {
            biased;
            summary = executor.run(plan.clone(), &mut reporter, &interrupt) => summary,
            () = budget.keep_meanwhile() => unreachable!("it goes on for ever"),
        };
        drop(reporter);
        drop(index);
        if !global.quiet && prepared.fetched.as_secs() > 0 {
            let took = crate::progress::seconds(prepared.fetched.as_secs_f64());
            errln!("and {took} for the FROM images before");
        }
        remove_own(&**engine, owners).await;
        note_use().map_err(Failure::environment)?;
        if let Some(registry) = &prepared.push_to {
            // Images of model patches are made in less time than they travel, and seldom needed twice.
            let patched: HashSet<Key> =
                plan.nodes().filter_map(|(_, node)| of_model(node)).collect();
            let built = summary
                .nodes
                .iter()
                .filter(|node| node.status == NodeStatus::Built && !patched.contains(&node.key));
            let checker = prepared.checker()?;
            super::push::push_nodes(global, &checker, registry, built).await;
        }
        budget.keep().await;
        Ok(summary)
    }

    /// Reads what build steps get from the host.
    ///
    /// # Errors
    /// A bundle of certificates that cannot be read.
    pub fn host(&self) -> Result<HostAccess, Failure> {
        let network = match crate::offline::is_on() {
            true => Some("none".to_owned()),
            false => self.build_network.clone(),
        };
        let host = config::host_access(open::variable, self.ca_bundle.as_deref(), network);
        host.map_err(|error| {
            let what = match &self.ca_bundle {
                Some(path) => format!("cannot read the CA bundle `{}`", path.display()),
                None => "cannot read the CA bundle".to_owned(),
            };
            Failure::input(anyhow::Error::from(error).context(what))
        })
    }

    fn reporters(&self, global: &Global) -> Result<Fanout, Failure> {
        let mut reporters: Vec<Box<dyn Reporter>> = Vec::new();
        let output = global.verbose > 0;
        match global.progress_mode() {
            Mode::None => {}
            Mode::Tty => reporters.push(Box::new(TtyReporter::new(output))),
            Mode::Plain => reporters.push(Box::new(PlainReporter::new(std::io::stderr(), output))),
            Mode::Json => reporters.push(Box::new(NdjsonReporter::new(std::io::stderr(), output))),
        }
        if let Some(path) = &self.events {
            if path.as_os_str() == "-" {
                reporters.push(Box::new(NdjsonReporter::new(super::out::Stdout, false)));
            } else {
                let file = File::create(path).map_err(|error| {
                    let text = format!("cannot write `{}`", path.display());
                    Failure::input(anyhow::Error::from(error).context(text))
                })?;
                reporters.push(Box::new(NdjsonReporter::new(file, false)));
            }
        }
        Ok(Fanout(reporters))
    }
}

/// Says of the environments that will be made what was replaced in them, and what they do not see.
fn warn_of_environments(plan: &Plan) {
    let mut made = false;
    for (_, node) in plan.nodes() {
        let (Recipe::Env(recipe), Status::Stale(_)) = (&node.recipe, &node.status) else {
            continue;
        };
        made = true;
        for note in &recipe.replaced {
            errln!("warning: {}: {note}", node.id);
        }
    }
    let links = open::variable("UV_FIND_LINKS").or(open::variable("PIP_FIND_LINKS"));
    let links = links.filter(|_| made).unwrap_or_default();
    for folder in package_indexes::links(&links).1 {
        errln!(
            "warning: build steps do not see the folder `{folder}` of PIP_FIND_LINKS: packages come \
             from the index"
        );
    }
}

/// Returns the key of an image with a model patch.
fn of_model(node: &Node) -> Option<Key> {
    match &node.recipe {
        Recipe::Instance(recipe) => recipe.model_patch.as_ref().map(|_| node.key),
        _ => None,
    }
}

/// Starts what answers for the package index from the records of a bundle.
async fn serve_index(records: &Path) -> Result<PackageIndex, Failure> {
    PackageIndex::start(records, None).await.map_err(|error| {
        let error = anyhow::Error::from(error).context("cannot serve the packages of the bundle");
        Failure::environment(error)
    })
}

/// Leads build steps to an index on this machine, and nowhere else.
fn lead_to(index: &PackageIndex, host: &mut HostAccess) {
    for name in [
        "PIP_EXTRA_INDEX_URL",
        "PIP_FIND_LINKS",
        "PIP_NO_INDEX",
        "UV_EXTRA_INDEX_URL",
        "UV_FIND_LINKS",
        "UV_INDEX",
        "UV_INDEX_STRATEGY",
    ] {
        host.variables.remove(name);
    }
    for (name, value) in index.variables() {
        host.variables.insert(name.to_owned(), value);
    }
    host.network = Some("host".to_owned());
}

/// Removes the containers and images of work that this very process dropped, or that the engine
/// lost on the way.
pub async fn remove_own(engine: &dyn Engine, owners: &Owners) {
    let judge = |name: &str, made| match Owner::parse(name) {
        Some(owner) if owner == *Owner::this() => Liveness::Dead,
        _ => owners.judge(name, made),
    };
    let _ = engine.remove_scratch(&judge).await;
}

/// Returns how a run ends the process.
pub fn exit_of(summary: &RunSummary) -> Exit {
    if summary.interrupted {
        Exit::Interrupted
    } else if summary.out_of_space || summary.is_nothing_possible() {
        Exit::Environment
    } else if summary.failed + summary.skipped > 0 {
        Exit::SomeFailed
    } else {
        Exit::Success
    }
}

/// Reads `id=ID,src=FILE`, as `docker build --secret` takes it; the file has to be there.
fn secret(text: &str) -> Result<(String, PathBuf), String> {
    let (mut id, mut path) = (None, None);
    for part in text.split(',') {
        match part.split_once('=') {
            Some(("id", value)) => id = Some(value.to_owned()),
            Some(("src" | "source", value)) => path = Some(PathBuf::from(value)),
            Some(("type", "file")) => {}
            _ => return Err(format!("`{part}` is neither id=ID nor src=FILE")),
        }
    }
    let (Some(id), Some(path)) = (id, path) else {
        return Err("id=ID and src=FILE are both needed".to_owned());
    };
    match path.canonicalize() {
        Ok(path) => Ok((id, path)),
        Err(error) => Err(format!("`{}`: {error}", path.display())),
    }
}
