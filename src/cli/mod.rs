//! The command line. One file per command; this one holds what they share.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod attach;
mod base;
mod build;
mod bundle;
mod cache;
mod checkout;
mod chosen;
mod clean;
mod complete;
mod completions;
mod dataset;
mod doctor;
mod engine_value;
mod eval;
mod eval_options;
mod execute;
mod exit;
mod grade;
mod help;
mod interrupt;
mod keys;
mod lock;
mod look;
mod man;
mod open;
mod out;
mod parsers;
mod plan;
mod prewarm;
mod progress;
mod refusal;
mod render;
mod report;
mod results;
mod runner;
mod sandbox;
mod schema;
mod serve;
mod session;
mod settings;
mod shard;
mod smoke;
mod swebench;
mod variables;
mod words;

use std::path::PathBuf;

use clap::{Args, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use regex::Regex;

use help::heading;

use crate::forge::{EngineChoice, Selection, SourceOptions};

pub use crate::forge::Error;
pub use exit::Exit;
pub use help::command;
pub use render::Failure;

/// A command's result: how it ended, or why it could not.
type CommandResult = Result<Exit, Failure>;

/// Layered images for SWE-bench-style evaluations, built once and kept.
#[derive(Debug, Parser)]
#[command(name = "imgforge", version = env!("VERSION_TEXT"), max_term_width = 100)]
#[command(disable_help_flag = true, disable_version_flag = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = heading::GLOBAL)]
struct Global {
    /// The catalog [default: ./images.toml, else the built-in one]
    #[arg(long, global = true, value_name = "FILE", env = "IMGFORGE_IMAGES")]
    config: Option<PathBuf>,
    /// Files layered over the catalog, separated by colons as in PATH
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "IMGFORGE_CONFIG",
        value_delimiter = ':'
    )]
    overlay: Vec<PathBuf>,
    /// Where mirrors and the record of images are kept [default: imgforge in the XDG cache]
    #[arg(long, global = true, value_name = "DIR", env = "IMGFORGE_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// Where logs/ and evaluation_results/ go, and the reports of runs [default: .]
    #[arg(long, global = true, value_name = "DIR", env = "IMGFORGE_OUTPUT_DIR")]
    output_dir: Option<PathBuf>,
    /// Fetch nothing: no dataset, repository, image or package; what is missing is named
    #[arg(long, global = true, env = "IMGFORGE_OFFLINE")]
    offline: bool,
    /// The container engine
    #[arg(long, global = true, value_parser = engine_value::EngineValue, default_value = "auto",
        env = "IMGFORGE_ENGINE")]
    engine: EngineChoice,
    /// Print one JSON document on stdout
    #[arg(long, global = true, env = "IMGFORGE_JSON")]
    json: bool,
    /// When to use colour
    #[arg(long, global = true, value_enum, default_value_t, env = "IMGFORGE_COLOR")]
    color: ColorChoice,
    /// Print errors only
    #[arg(short, long, global = true, conflicts_with = "verbose", env = "IMGFORGE_QUIET")]
    quiet: bool,
    /// Print more: what build steps print, and with -vv what tests print
    #[arg(short, long, global = true, action = clap::ArgAction::Count, env = "IMGFORGE_VERBOSE",
        value_parser = variables::verbosity)]
    verbose: u8,
    /// How progress is shown on stderr
    #[arg(
        long,
        global = true,
        value_name = "HOW",
        value_enum,
        default_value_t,
        env = "IMGFORGE_PROGRESS"
    )]
    progress: progress::ProgressChoice,
    /// Print help; --help says more than -h
    #[arg(short, long, global = true, action = clap::ArgAction::Help)]
    help: Option<bool>,
    /// Print the version
    #[arg(short = 'V', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
}

impl Global {
    /// These options, and for those that were not given the ones of `below`.
    fn over(self, below: &Global) -> Global {
        let engine = match self.engine {
            EngineChoice::Auto => below.engine,
            chosen => chosen,
        };
        Global {
            config: self.config.or(below.config.clone()),
            overlay: if self.overlay.is_empty() { below.overlay.clone() } else { self.overlay },
            state_dir: self.state_dir.or(below.state_dir.clone()),
            output_dir: self.output_dir.or(below.output_dir.clone()),
            offline: self.offline || below.offline,
            engine,
            json: self.json || below.json,
            quiet: self.quiet || below.quiet,
            verbose: self.verbose.max(below.verbose),
            ..self
        }
    }
}

#[derive(Debug, Clone, Copy, Default, ValueEnum, PartialEq, Eq)]
enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    Always,
    Never,
}

/// Which instances.
#[derive(Debug, Args)]
#[command(next_help_heading = heading::DATASET)]
struct Chosen {
    /// lite, verified, full, multilingual, multimodal, demo, bundle, a Hugging Face id, or a path
    #[arg(short, long, aliases = ["dataset_name", "dataset-name"], value_name = "NAME", env = "IMGFORGE_DATASET")]
    dataset: String,
    /// The split
    #[arg(short, long, default_value = "test", env = "IMGFORGE_SPLIT")]
    split: String,
    /// These instances: ids with spaces or commas between them; @FILE reads them from a file, @- from
    /// the standard input
    #[arg(short, long, aliases = ["instance_ids", "instance", "instance-id"], value_name = "ID",
        num_args = 1..)]
    instance_ids: Vec<String>,
    /// Not these instances; written as -i
    #[arg(long, value_name = "ID", num_args = 1.., env = "IMGFORGE_EXCLUDE", value_delimiter = ',')]
    exclude: Vec<String>,
    /// Instances whose id matches
    #[arg(long, value_name = "REGEX", env = "IMGFORGE_FILTER")]
    filter: Option<Regex>,
    /// Instances of this repository
    #[arg(long, value_name = "OWNER/NAME", env = "IMGFORGE_REPO")]
    repo: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", env = "IMGFORGE_LIMIT")]
    limit: Option<usize>,
}

impl Chosen {
    /// Returns the choice as the library takes it.
    fn selection(&self) -> Selection {
        Selection {
            dataset: self.dataset.clone(),
            split: self.split.clone(),
            instance_ids: self.instance_ids.clone(),
            exclude: self.exclude.clone(),
            filter: self.filter.clone(),
            repo: self.repo.clone(),
            limit: self.limit,
        }
    }

    /// Chooses instances of a dataset by their ids; all where there are none.
    fn ids(dataset: &str, split: &str, ids: &[String]) -> Self {
        let instance_ids = ids.to_vec();
        Chosen { instance_ids, ..Chosen::one(dataset, split, None) }
    }

    /// Chooses one instance of a dataset, or all.
    fn one(dataset: &str, split: &str, id: Option<&str>) -> Self {
        Chosen {
            dataset: dataset.to_owned(),
            split: split.to_owned(),
            instance_ids: id.map(str::to_owned).into_iter().collect(),
            exclude: Vec::new(),
            filter: None,
            repo: None,
            limit: None,
        }
    }
}

/// Where things come from and how they are called.
#[derive(Debug, Args)]
#[command(next_help_heading = heading::SOURCES)]
struct Sources {
    /// Where repositories come from: a URL or a directory with {owner}, {name} or {repo}; the first
    /// that has the commit wins [default: GitHub]
    #[arg(long, value_name = "TEMPLATE", env = "IMGFORGE_GIT_MIRROR", value_delimiter = ' ')]
    git_mirror: Vec<String>,
    /// Pull published images: those that rows name, others by their ids from this registry
    /// namespace; row takes what rows name alone, '' or none builds everything here
    #[arg(short, long, value_name = "NS", env = "IMGFORGE_NAMESPACE")]
    namespace: Option<String>,
    /// Take published images from --namespace even where rows name their own: for a mirror of them
    #[arg(long, env = "IMGFORGE_DERIVE_IMAGES")]
    derive_images: bool,
    /// The tag of the images that are named by --namespace; one that is not latest is taken even
    /// where rows name their own [default: latest]
    #[arg(long, alias = "tag", value_name = "TAG", env = "IMGFORGE_INSTANCE_IMAGE_TAG")]
    instance_image_tag: Option<String>,
    /// linux/amd64 or linux/arm64 [default: the engine's own]
    #[arg(long, value_name = "PLATFORM", env = "IMGFORGE_PLATFORM")]
    platform: Option<String>,
    /// Where that is not the engine's own, run it under an emulator that the kernel has registered
    #[arg(long, env = "IMGFORGE_EMULATE")]
    emulate: bool,
    /// Make base images from Debian's packages, with mmdebstrap, where they cannot be pulled
    #[arg(long, env = "IMGFORGE_BOOTSTRAP")]
    bootstrap: bool,
    #[command(flatten)]
    sharing: Sharing,
    /// Whether images come from it, those that are built go to it, or both [default: read]
    #[arg(long, value_enum, value_name = "MODE", env = "IMGFORGE_CACHE_MODE",
        help_heading = heading::SHARING)]
    cache_mode: Option<crate::catalog::RegistryMode>,
}

impl Sources {
    /// Returns the options as the library takes them.
    fn options(&self) -> SourceOptions {
        let tag = self.instance_image_tag.as_ref().filter(|tag| *tag != "latest");
        SourceOptions {
            git_mirrors: self.git_mirror.clone(),
            namespace: self.namespace.clone(),
            derive_images: self.derive_images,
            image_tag: tag.cloned(),
            platform: self.platform.clone(),
            emulate: self.emulate,
            bootstrap: self.bootstrap,
            cache_mode: self.cache_mode,
            ..self.sharing.options()
        }
    }
}

/// The registry that images are shared through, and the keys that count there.
#[derive(Debug, Args)]
#[command(next_help_heading = heading::SHARING)]
struct Sharing {
    /// A registry and path that images are shared through by their keys, such as ghcr.io/me
    /// [default: that of images.toml]
    #[arg(long, value_name = "REGISTRY", env = "IMGFORGE_CACHE_REGISTRY")]
    cache_registry: Option<String>,
    /// Take images of it, and of archives, only where this public key signed them; may be repeated
    /// [default: those of images.toml]
    #[arg(long, value_name = "KEY", env = "IMGFORGE_VERIFY", value_delimiter = ',')]
    verify: Vec<String>,
    /// Sign what is pushed with this private key; the password is in COSIGN_PASSWORD
    #[arg(long, value_name = "KEY", env = "IMGFORGE_SIGN")]
    sign: Option<PathBuf>,
}

impl Sharing {
    /// Returns the options that choose the same in another process.
    fn words(&self) -> Vec<std::ffi::OsString> {
        let one = |option: &str, value: &std::ffi::OsStr| [option.into(), value.to_owned()];
        let registry = self.cache_registry.iter();
        let mut words: Vec<_> =
            registry.flat_map(|name| one("--cache-registry", name.as_ref())).collect();
        words.extend(self.verify.iter().flat_map(|key| one("--verify", key.as_ref())));
        words.extend(self.sign.iter().flat_map(|key| one("--sign", key.as_ref())));
        words
    }

    /// Returns the options as the library takes them.
    fn options(&self) -> SourceOptions {
        SourceOptions {
            cache_registry: self.cache_registry.clone(),
            verify: self.verify.clone(),
            sign: self.sign.clone(),
            ..SourceOptions::default()
        }
    }
}

/// Which images of the chosen instances.
#[derive(Debug, Args)]
#[command(next_help_heading = heading::BUILD)]
struct Images {
    /// Predictions whose patches are applied: a file, gold or empty
    #[arg(
        short,
        long,
        aliases = ["predictions_path", "predictions-path"],
        value_name = "PATH",
        env = "IMGFORGE_PREDICTIONS"
    )]
    predictions: Option<String>,
    /// The layers that are wanted, from base up
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LAYER")]
    layers: Vec<crate::key::Kind>,
}

impl Images {
    /// Returns the predictions: one file at most.
    fn predictions(&self) -> Vec<String> {
        self.predictions.iter().cloned().collect()
    }

    /// Returns the last layer that is wanted.
    fn up_to(&self) -> crate::key::Kind {
        self.layers.iter().copied().max().unwrap_or(crate::key::Kind::Instance)
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show which images a build would make, and why
    Plan(plan::PlanArgs),
    /// Build the images that are stale, in parallel
    Build(build::BuildArgs),
    /// Bring every image that instances need onto this machine
    Prewarm(prewarm::PrewarmArgs),
    /// Run the tests of predictions in the instance images, grade and report them
    Eval(Box<eval::EvalArgs>),
    /// Run a command in the image of an instance, as `docker run -it --rm` does
    ///
    /// Images that are missing are made first. From then on the status is the command's: 126 and 127
    /// where it cannot be started, 128 and the signal where one killed it, 125 where the engine lost it.
    Run(look::RunArgs),
    /// Open a shell in the image of an instance
    Shell(look::ShellArgs),
    /// Containers that live while commands run in them, for agents and people
    #[command(subcommand)]
    Session(session::SessionCommand),
    /// Run a command, or tests, in a locked-down container
    ///
    /// No network, a read-only root, a workspace in memory, an unprivileged user, limits that are enforced
    /// or refused. The status is 0 where all tests passed that were asked for and 1 where not, or that of the
    /// command; 124 at the time limit, 137 where the memory limit was reached, 3 where there is no sandbox.
    Sandbox(Box<sandbox::SandboxArgs>),
    /// Serve the Docker Engine API without Docker, for agents and tools that speak it
    Serve(Box<serve::ServeArgs>),
    /// Run the setup and the tests of a repository in a sandbox of its own, and report each stage
    ///
    /// The file has the sandbox, the repository and the task: see `imgforge schema smoke-config`. The
    /// status is 0 where every stage was done and the tests did what they were to do, 1 where one failed,
    /// 3 where engine, machine or network did.
    Smoke(Box<smoke::SmokeArgs>),
    /// Grade one log
    Grade(grade::GradeArgs),
    /// Grade the saved logs of a run again and rewrite its reports
    Report(report::ReportArgs),
    /// Look at a dataset
    #[command(subcommand)]
    Dataset(dataset::DatasetCommand),
    /// Write the lockfile of an environment as of a date
    Lock(lock::LockArgs),
    /// See, bound, check and move the images that were built
    #[command(subcommand)]
    Cache(cache::CacheCommand),
    /// Everything that instances need in one file, for machines without a network
    #[command(subcommand)]
    Bundle(bundle::BundleCommand),
    /// Make base images without a registry
    #[command(subcommand)]
    Base(base::BaseCommand),
    /// Check engine, disk, memory, network and programs
    Doctor(doctor::DoctorArgs),
    /// Remove what interrupted runs left behind
    Clean(clean::CleanArgs),
    /// Print completions for a shell
    Completions(completions::CompletionsArgs),
    /// Print the manual page, or write those of all commands
    Man(man::ManArgs),
    /// List the parsers of logs
    Parsers,
    /// Print the JSON Schema of what a command prints with --json, or of a file
    Schema(schema::SchemaArgs),
    /// Look at the settings
    #[command(subcommand)]
    Config(settings::ConfigCommand),
}

/// Parses the arguments of the process and runs the command.
pub async fn main() -> Exit {
    // Where a shell asks for candidates, it gets them and nothing else happens.
    clap_complete::CompleteEnv::with_factory(help::command).complete();
    let words = swebench::translate(std::env::args_os().collect());
    let matches = variables::parse(help::command, words);
    let cli = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => {
            let arguments = std::env::args_os().map(|text| text.to_string_lossy().into_owned());
            words::explain(error, &arguments.collect::<Vec<_>>()).exit()
        }
    };
    match cli.global.color {
        ColorChoice::Auto => {}
        choice => {
            console::set_colors_enabled(choice == ColorChoice::Always);
            console::set_colors_enabled_stderr(choice == ColorChoice::Always);
        }
    }
    let global = &cli.global;
    // `run` and `shell` print what their command prints.
    let has_json = global.json
        && match &cli.command {
            Command::Run(_) | Command::Shell(_) => false,
            Command::Session(command) => !command.prints_output(),
            _ => true,
        };
    if let Err(failure) = variables::check(&help::command(), global.quiet) {
        return failed(&failure.into(), has_json);
    }
    progress::decide(global);
    if global.offline {
        crate::offline::stay();
    }
    let result = match cli.command {
        Command::Plan(args) => plan::run(global, args).await,
        Command::Build(args) => build::run(global, args).await,
        Command::Prewarm(args) => prewarm::run(global, args).await,
        Command::Eval(args) => eval::run(global, *args).await,
        Command::Run(args) => look::run(global, args).await,
        Command::Shell(args) => look::shell(global, args).await,
        Command::Session(command) => session::run(global, command).await,
        Command::Sandbox(args) => sandbox::run(global, *args).await,
        Command::Serve(args) => serve::run(global, *args).await,
        Command::Smoke(args) => smoke::run(global, *args).await,
        Command::Grade(args) => grade::run(global, args).await,
        Command::Report(args) => report::run(global, args).await,
        Command::Dataset(command) => dataset::run(global, command).await,
        Command::Lock(args) => lock::run(global, args).await,
        Command::Cache(command) => cache::run(global, command).await,
        Command::Bundle(command) => bundle::run(global, command).await,
        Command::Base(command) => base::run(global, command).await,
        Command::Doctor(args) => doctor::run(global, args).await,
        Command::Clean(args) => clean::run(global, args).await,
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(global, &args),
        Command::Parsers => parsers::run(global),
        Command::Schema(args) => schema::run(global, &args),
        Command::Config(command) => settings::run(global, command),
    };
    let exit = match result {
        Ok(exit) => exit,
        Err(failure) => failed(&failure, has_json),
    };
    match out::finish() {
        Err(error) if exit == Exit::Success => {
            let error = anyhow::Error::from(error).context("cannot write the output");
            let failure = Failure::from(Error::environment(error));
            failure.print();
            failure.exit
        }
        _ => exit,
    }
}

/// Says what failed; a program that reads a document gets one, whatever happened.
fn failed(failure: &Failure, has_json: bool) -> Exit {
    failure.print();
    if has_json && out::is_empty() {
        failure.print_json();
    }
    failure.exit
}

/// Reads a number of workers; none is one, as in the harness.
fn workers(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(number) => Ok(number.max(1)),
        Err(_) => Err("it is no number of workers: write 1 or more".to_owned()),
    }
}
