//! `imgforge sandbox`: one command, or tests, in a locked-down container.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use serde_json::{Value, json};

use crate::catalog::Catalog;
use crate::cli::out::{errln, outln};
use crate::config;
use crate::dataset::is_repo;
use crate::engine::LogSink;
use crate::key::Digest;
use crate::sandbox::{
    DIRECTORY, ExecResult, Limits, Sandbox, SandboxError, Settings, TestResult, Tests,
};
use crate::session::egress::Allowed;
use crate::session::{OfHost, StartError};
use crate::source::{CheckoutLayer, Mirror, Mirrors, SourceError, local_path};
use crate::store::Store;
use crate::words;

use super::help::heading;
use super::interrupt::unless_interrupted;
use super::look::variable;
use super::open::LogLines;
use super::session::{AT_LIMIT, SessionNetwork, duration};
use super::{CommandResult, Error, Exit, Failure, Global, open, render};

mod live;

/// Arguments of `sandbox`.
#[derive(Debug, Args)]
#[command(next_help_heading = heading::RUN)]
pub(super) struct SandboxArgs {
    /// The command, without a shell: one of 18 programs, such as python, pytest and git, and its arguments;
    /// docs/sandbox.md and every refusal list them
    #[arg(value_name = "CMD", help_heading = None, last = true,
        conflicts_with = "tests")]
    command: Vec<String>,
    /// An image of the engine
    #[arg(long, value_name = "REF")]
    image: String,
    /// A repository to work in: OWNER/NAME, a URL, or a path that begins with . or /
    #[arg(long, value_name = "REPO", requires = "commit")]
    repo: Option<String>,
    /// The commit that it is at: 40 hexadecimal digits
    #[arg(long, value_name = "COMMIT", requires = "repo")]
    commit: Option<String>,
    /// A patch to apply to it, as a whole or not at all; - is the standard input
    #[arg(long, value_name = "FILE", requires = "repo")]
    patch: Option<PathBuf>,
    /// Run these tests with pytest: their ids, from the repository
    #[arg(long, value_name = "ID", num_args = 1.., requires = "repo")]
    tests: Vec<String>,
    /// With --tests: a further option of pytest, as --pytest-option=-x; may be repeated
    #[arg(long, value_name = "OPTION", requires = "tests", allow_hyphen_values = true)]
    pytest_option: Vec<String>,
    /// An environment variable; without a value it is that of this process
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// What it can reach [default: none, or proxy where there is an --allow]
    #[arg(long, value_enum)]
    network: Option<SessionNetwork>,
    /// A host that it may reach over HTTP and HTTPS, such as pypi.org or *.pythonhosted.org
    #[arg(long, value_name = "HOST")]
    allow: Vec<Allowed>,
    /// For each command; then the whole sandbox ends
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration,
        help_heading = heading::LIMITS)]
    timeout: Duration,
    /// Its memory; what is in /workspace and /tmp counts
    #[arg(short, long, value_name = "BYTES", default_value = "2g",
        value_parser = crate::size::memory, help_heading = heading::LIMITS)]
    memory: u64,
    /// Its processors, such as 1.5
    #[arg(long, value_name = "N", default_value = "2", value_parser = crate::size::milli_cpus,
        help_heading = heading::LIMITS)]
    cpus: u64,
    /// Its processes and threads
    #[arg(long, value_name = "N", default_value_t = 512,
        value_parser = clap::value_parser!(u64).range(16..), help_heading = heading::LIMITS)]
    pids_limit: u64,
    /// What /workspace holds at most [default: half of the memory]
    #[arg(long, value_name = "BYTES", value_parser = crate::size::bytes,
        help_heading = heading::LIMITS)]
    workspace_size: Option<u64>,
    /// What /tmp holds at most [default: an eighth of the memory, at most 256m]
    #[arg(long, value_name = "BYTES", value_parser = crate::size::bytes,
        help_heading = heading::LIMITS)]
    tmp_size: Option<u64>,
    /// Take a sandbox whose limits are not enforced, too; what is missing is told
    #[arg(long, help_heading = heading::LIMITS)]
    unenforced: bool,
    /// Where repositories come from: a URL or a directory with {owner}, {name} or {repo}; the first
    /// that has the commit wins [default: GitHub]
    #[arg(long, value_name = "TEMPLATE", env = "IMGFORGE_GIT_MIRROR", value_delimiter = ' ',
        help_heading = heading::SOURCES)]
    git_mirror: Vec<String>,
}

/// What is to be done in a sandbox, checked.
struct Order {
    settings: Settings,
    repository: Option<Repository>,
    patch: Option<Vec<u8>>,
    work: Work,
}

/// A repository at a commit.
struct Repository {
    repo: String,
    commit: String,
}

enum Work {
    Command(Vec<String>),
    Tests(Tests, Vec<String>),
}

/// What was done.
#[derive(Default)]
struct Done {
    patch: Option<ExecResult>,
    command: Option<ExecResult>,
    tests: Option<TestResult>,
}

/// Runs `sandbox`.
pub(super) async fn run(global: &Global, args: SandboxArgs) -> CommandResult {
    let order = order(&args)?;
    let host = match order.settings.allowed {
        Some(_) => open::of_host()?,
        None => OfHost::default(),
    };
    let store = open::open_store(global)?;
    let scratch = store.scratch_dir().map_err(Error::environment)?;
    let mirror = match &order.repository {
        Some(wanted) => Some(mirror(global, &args, &store, wanted).await?),
        None => None,
    };
    let engine = open::connect(global).await.map_err(open::engine_failure)?;
    let name = engine.info().await.map_err(open::engine_failure)?.kind.name();
    let started = Sandbox::start(engine, &order.settings, &host, scratch.path());
    let mut sandbox = unless_interrupted(started).await?.map_err(failed)?;
    for wrong in sandbox.unenforced() {
        render::warn(wrong);
    }
    let work = work(global, &order, &mut sandbox, mirror, scratch.path());
    let done = unless_interrupted(work).await;
    let stopped = sandbox.stop().await;
    let done = done.map_err(Failure::from).and_then(|done| done)?;
    stopped.map_err(open::engine_failure)?;
    let exit = exit_of(&order, &done);
    if global.json {
        render::json(&document(name, &order, &sandbox, &done));
    } else {
        tell(global, &order, &done);
    }
    Ok(exit)
}

/// Checks all that can be checked before anything starts.
fn order(args: &SandboxArgs) -> Result<Order, Error> {
    let work = match args.tests.as_slice() {
        [] if args.command.is_empty() => {
            let hint = "write the command after `--`, or name tests by --tests".to_owned();
            let error = anyhow!("there is nothing to run");
            return Err(Error::input(error).with_hint(Some(hint)));
        }
        [] => {
            Sandbox::check_program(&args.command).map_err(Error::input)?;
            Work::Command(args.command.clone())
        }
        ids => Work::Tests(Tests::new(ids).map_err(Error::input)?, args.pytest_option.clone()),
    };
    let is_open = !matches!(args.network, None | Some(SessionNetwork::Proxy));
    if !args.allow.is_empty() && is_open {
        return Err(Error::input(anyhow!("--allow is for `--network proxy`")));
    }
    let variables: std::collections::BTreeMap<String, String> =
        args.env.iter().filter_map(|text| variable(text)).collect();
    for name in variables.keys() {
        Settings::check_variable(name).map_err(|error| {
            let hint = "set it in a command, such as `python -c`".to_owned();
            Error::input(error).with_hint(Some(hint))
        })?;
    }
    let limits = Limits::new(
        Some(args.memory),
        Some(args.cpus),
        Some(args.pids_limit),
        args.workspace_size,
        args.tmp_size,
    );
    let limits = limits.map_err(|error| {
        let hint = "--memory, --workspace-size and --tmp-size say how much each has".to_owned();
        Error::input(error).with_hint(Some(hint))
    })?;
    let repository = args.repo.clone().zip(args.commit.clone());
    let repository = repository.map(|(repo, commit)| Repository { repo, commit });
    if let Some(Repository { repo, commit }) = &repository {
        source_of(repo)?;
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if commit.len() != 40 || !commit.bytes().all(is_digit) {
            let error = SourceError::NotACommit { commit: commit.clone() };
            let hint = "`git rev-parse NAME^{commit}` prints the id of a branch or tag".to_owned();
            return Err(Error::input(error).with_hint(Some(hint)));
        }
    }
    let patch = args.patch.as_deref().map(read_patch).transpose()?;
    let has_way_out = args.network == Some(SessionNetwork::Proxy) || !args.allow.is_empty();
    let settings = Settings {
        image: args.image.clone(),
        limits,
        time_limit: args.timeout,
        network: SessionNetwork::of_container(args.network),
        allowed: has_way_out.then(|| args.allow.clone().into()),
        variables,
        unenforced: args.unenforced,
    };
    Ok(Order { settings, repository, patch, work })
}

fn read_patch(path: &Path) -> Result<Vec<u8>, Error> {
    let mut patch = Vec::new();
    let read = match path.to_str() {
        Some("-") => std::io::stdin().read_to_end(&mut patch),
        _ => std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut patch)),
    };
    read.map_err(|error| {
        let context = format!("cannot read `{}`", path.display());
        Error::input(anyhow::Error::from(error).context(context))
    })?;
    if patch.iter().all(u8::is_ascii_whitespace) {
        return Err(Error::input(anyhow!("`{}` holds no patch", path.display())));
    }
    Ok(patch)
}

/// Where a repository comes from.
enum Source {
    /// The mirrors, by its name.
    Named,
    /// A path of this machine.
    Path(PathBuf),
    /// A server.
    Url,
}

fn source_of(repo: &str) -> Result<Source, Error> {
    let is_path = repo.starts_with(['/', '.']) || repo.starts_with("file://");
    let local = local_path(repo).filter(|_| is_path);
    match local {
        Some(path) if path.exists() => Ok(Source::Path(path)),
        Some(path) => Err(Error::input(anyhow!("there is no repository `{}`", path.display()))),
        None if is_repo(repo) => Ok(Source::Named),
        None if local_path(repo).is_none() && !repo.starts_with('-') => Ok(Source::Url),
        None => {
            let hint = "write OWNER/NAME, a URL, or a path that begins with . or /".to_owned();
            let error = anyhow!("`{repo}` names no repository");
            Err(Error::input(error).with_hint(Some(hint)))
        }
    }
}

/// Opens the mirror of a repository, with the commit. Of a repository of this machine it is one that reads
/// the objects where they are.
async fn mirror(
    global: &Global,
    args: &SandboxArgs,
    store: &Store,
    wanted: &Repository,
) -> Result<Arc<Mirror>, Error> {
    let source = source_of(&wanted.repo)?;
    let (repo, mirrors) = match &source {
        Source::Named => {
            let catalog = open::catalog(global)?;
            (
                wanted.repo.clone(),
                Mirrors::new(store.dir(), templates(args, &catalog), catalog.mirrors().clone()),
            )
        }
        Source::Path(path) => {
            let path = std::path::absolute(path).map_err(Error::input)?;
            from_one(store, &path.display().to_string())
        }
        Source::Url => from_one(store, &wanted.repo),
    };
    let (commit, quiet) = (wanted.commit.clone(), global.quiet);
    let opened = tokio::task::spawn_blocking(move || {
        let log: &dyn LogSink = &LogLines::new(!quiet);
        mirrors.mirror(&repo, &[&commit], log)
    });
    let opened = unless_interrupted(opened).await?.expect("opening a mirror does not panic");
    opened.map(Arc::new).map_err(|error| {
        let hint = error.hint();
        let error = match (&source, &error) {
            (Source::Path(path), SourceError::NoCommit { commit, tried, .. }) => {
                let said = tried.first().map_or("does not have the commit", |tried| &tried.said);
                return Error::input(anyhow!("no commit `{commit}`: `{}` {said}", path.display()));
            }
            (Source::Named | Source::Url, _) | (Source::Path(_), _) => Error::environment(error),
        };
        error.with_hint(hint)
    })
}

/// A mirror of one source, under a name of its own.
fn from_one(store: &Store, source: &str) -> (String, Mirrors) {
    let digest = Digest::of(source).to_string();
    let name = format!("sandbox/{}", &digest[..16]);
    (name, Mirrors::new(store.dir(), vec![source.to_owned()], Default::default()))
}

fn templates(args: &SandboxArgs, catalog: &Catalog) -> Vec<String> {
    match (args.git_mirror.as_slice(), &catalog.defaults().git_mirrors) {
        ([], Some(defaults)) => defaults.clone(),
        ([], None) => vec![config::GITHUB.to_owned()],
        (templates, _) => templates.to_vec(),
    }
}

/// Does what was ordered. A patch that does not apply, or that the sandbox ended with, is the last step.
async fn work(
    global: &Global,
    order: &Order,
    sandbox: &mut Sandbox,
    mirror: Option<Arc<Mirror>>,
    scratch: &Path,
) -> Result<Done, Failure> {
    let mut done = Done::default();
    if let Some((mirror, wanted)) = mirror.zip(order.repository.as_ref()) {
        let put = sandbox.put_repository(mirror, &wanted.commit, scratch).await;
        note(&wanted.repo, &put.map_err(failed)?);
    }
    if let Some(patch) = &order.patch {
        let applied = sandbox.apply_patch(patch.clone().into()).await.map_err(failed)?;
        let is_applied = applied.is_success();
        done.patch = Some(applied);
        if !is_applied {
            return Ok(done);
        }
    }
    match &order.work {
        Work::Command(command) => {
            let printed = live::start(!global.json, false);
            let ran = sandbox.run(command, printed.sender()).await;
            printed.finish(sandbox).await;
            done.command = Some(ran.map_err(|error| match error {
                error @ SandboxError::NotAllowed(_) => failed(error),
                error => Failure { exit: Exit::LOST, ..failed(error) },
            })?);
        }
        Work::Tests(tests, options) => {
            let printed = live::start(!global.json && !global.quiet, true);
            let ran = sandbox.run_tests(tests, options, printed.sender()).await;
            printed.finish(sandbox).await;
            done.tests = Some(ran.map_err(failed)?);
        }
    }
    Ok(done)
}

/// Says what a checkout lacks.
fn note(repo: &str, layer: &CheckoutLayer) {
    if layer.shallow {
        render::warn(format!(
            "{repo} is a shallow clone: versions that are computed from tags may be wrong"
        ));
    }
    for submodule in &layer.submodules {
        render::warn(format!("the submodule `{}` stays an empty directory", submodule.path));
    }
    for (filter, files) in &layer.filters {
        let count = words::count(files.len(), "file");
        render::warn(format!("the filter `{filter}` is a program and is not run: {count}"));
    }
}

/// Makes a failure of a sandbox that gives no result.
fn failed(error: SandboxError) -> Failure {
    let hint = error.hint();
    let error = match error {
        SandboxError::NotAllowed(_) => Error::input(error),
        SandboxError::Start(StartError::Engine(error)) => {
            return open::start_failure(error).into();
        }
        error => Error::environment(error),
    };
    error.with_hint(hint).into()
}

/// Returns the status: 0 where all went well, 1 where tests did not pass, the command's own, 124 at the time
/// limit, 137 where something was killed for memory, 125 where a patch kept a command from running.
fn exit_of(order: &Order, done: &Done) -> Exit {
    let of_command = |ran: &ExecResult| match ran {
        ran if ran.timed_out => Exit::Command(AT_LIMIT),
        ran if ran.out_of_memory => Exit::OUT_OF_MEMORY,
        ran => match u8::try_from(ran.returncode) {
            Ok(0) => Exit::Success,
            Ok(code) => Exit::Command(code),
            Err(_) => Exit::LOST,
        },
    };
    match (done, &order.work) {
        (Done { command: Some(ran), .. }, _) => of_command(ran),
        (Done { tests: Some(tests), .. }, _) if tests.timed_out => Exit::Command(AT_LIMIT),
        (Done { tests: Some(tests), .. }, _) if tests.out_of_memory => Exit::OUT_OF_MEMORY,
        (Done { tests: Some(tests), .. }, Work::Tests(asked, _)) => {
            match tests.all_passed() && tests.asked(asked).into_values().all(|passed| passed) {
                true => Exit::Success,
                false => Exit::SomeFailed,
            }
        }
        (Done { patch: Some(patch), .. }, _) if patch.timed_out || patch.out_of_memory => {
            of_command(patch)
        }
        (_, Work::Tests(..)) => Exit::SomeFailed,
        (_, Work::Command(_)) => Exit::LOST,
    }
}

/// Returns what is printed with `--json`.
fn document(engine: &str, order: &Order, sandbox: &Sandbox, done: &Done) -> Value {
    let of_command = |ran: &ExecResult| {
        let mut document = json!(ran);
        document["success"] = json!(ran.is_success());
        document
    };
    let tests = done.tests.as_ref().map(|tests| {
        let mut document = json!(tests);
        document["all_passed"] = json!(tests.all_passed());
        if let Work::Tests(asked, _) = &order.work {
            document["asked"] = json!(tests.asked(asked));
        }
        document
    });
    json!({
        "engine": engine,
        "image": order.settings.image,
        "unenforced": sandbox.unenforced(),
        "repository": order.repository.as_ref().map(|Repository { repo, commit }| json!({
            "repo": repo, "commit": commit, "directory": DIRECTORY,
        })),
        "patch": done.patch.as_ref().map(of_command),
        "command": done.command.as_ref().map(of_command),
        "tests": tests,
    })
}

/// Says how it ended. What a command printed was shown as it came.
fn tell(global: &Global, order: &Order, done: &Done) {
    let limit = order.settings.time_limit.as_secs_f64();
    let is_over = |timed_out: bool, out_of_memory: bool| {
        if timed_out {
            render::warn(format!(
                "it was ended at its time limit of {limit}s: --timeout raises it"
            ));
        }
        if out_of_memory {
            render::warn("the memory limit was reached: --memory raises it");
        }
    };
    if let Some(patch) = done.patch.as_ref().filter(|patch| !patch.is_success()) {
        render::warn("the patch does not apply, and nothing was run");
        errln!("{}", patch.stderr.trim_end());
        is_over(patch.timed_out, patch.out_of_memory);
    }
    if let Some(ran) = &done.command {
        if matches!(ran.returncode, 126 | 127) && ran.stdout.is_empty() {
            errln!("{}", ran.stderr.trim_end());
        }
        is_over(ran.timed_out, ran.out_of_memory);
    }
    if let Some(tests) = &done.tests {
        tell_tests(global, tests);
        is_over(tests.timed_out, tests.out_of_memory);
    }
}

fn tell_tests(global: &Global, tests: &TestResult) {
    let lists = [
        ("PASSED", "passed", &tests.passed),
        ("FAILED", "failed", &tests.failed),
        ("ERROR", "with errors", &tests.errors),
        ("SKIPPED", "skipped", &tests.skipped),
        ("XFAIL", "failed as expected", &tests.xfailed),
        ("XPASS", "passed unexpectedly", &tests.xpassed),
        ("MISSING", "missing", &tests.missing),
    ];
    for (word, _, list) in lists {
        for test in list {
            outln!("{word} {test}");
        }
    }
    for problem in &tests.problems {
        render::warn(problem);
    }
    if tests.source == crate::sandbox::Source::Text {
        render::warn("the results are what was printed: whoever prints such lines is believed");
    }
    if !global.quiet {
        let counts = lists.iter().filter(|(_, _, list)| !list.is_empty());
        let counts: Vec<String> =
            counts.map(|(_, word, list)| format!("{} {word}", list.len())).collect();
        errln!("{}", if counts.is_empty() { "no test ran".to_owned() } else { counts.join(", ") });
    }
}
