//! `imgforge serve`: sessions for programs that speak another protocol.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use clap::{Args, ValueEnum};
use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::cli::out::{errln, outln};
use crate::config;
use crate::engine::{HostAccess, SandboxNetwork};
use crate::forge::{EngineChoice, ForgeOptions};
use crate::serve::docker::{self, AllowedBinds, Server, Settings};
use crate::serve::{Address, Listening, SocketError, default_address, process_of};

use super::interrupt::unless_interrupted;
use super::open::{self, variable};
use super::{CommandResult, Error, Exit, Global};

/// How long a server in the background may take to answer, and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often it is looked at meanwhile.
const TICK: Duration = Duration::from_millis(20);

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// End the server of the socket, and every container of it
    #[arg(value_enum, value_name = "stop")]
    action: Option<ServeAction>,
    /// Serve the Docker Engine API on this unix socket, such as unix:///run/me/docker.sock
    /// [default: $XDG_RUNTIME_DIR/imgforge/docker.sock, else docker.sock in the state directory]
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1,
        required_unless_present = "action")]
    docker_api: Option<Option<String>>,
    /// What containers reach that ask for Docker's default network
    #[arg(
        long,
        value_enum,
        value_name = "NETWORK",
        default_value_t,
        env = "IMGFORGE_DEFAULT_NETWORK"
    )]
    default_network: DefaultNetwork,
    /// Let containers have files of the host below this directory; none forbids all; may be repeated
    /// [default: the home directory, and /tmp]
    #[arg(long, value_name = "DIR", env = "IMGFORGE_ALLOW_BIND", value_delimiter = ':')]
    allow_bind: Vec<PathBuf>,
    /// Kill commands of `exec` this long after their clients broke off; 0 lets them run, as Docker does
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 0,
        env = "IMGFORGE_KILL_ABANDONED_EXECS",
        hide_default_value = true
    )]
    kill_abandoned_execs: u64,
    /// Refuse requests that ask for what is not given, such as privileges, instead of warning
    #[arg(long, env = "IMGFORGE_STRICT_API")]
    strict_api: bool,
    /// Serve in the background, and return when it answers
    #[arg(long)]
    background: bool,
    /// Print the line that leads Docker's clients here, for a shell's eval
    #[arg(long)]
    print_env: bool,
    /// End after this time, such as 2h
    #[arg(long, value_name = "TIME", value_parser = time)]
    ttl: Option<Duration>,
    /// End with this process
    #[arg(long, value_name = "PID")]
    with_pid: Option<i32>,
}

/// What is done with a server that is there.
#[derive(Debug, Clone, Copy, ValueEnum, PartialEq, Eq)]
enum ServeAction {
    /// End it
    Stop,
}

/// What containers reach by default.
#[derive(Debug, Clone, Copy, Default, ValueEnum, PartialEq, Eq)]
enum DefaultNetwork {
    /// Themselves
    #[default]
    None,
    /// What this host reaches
    Host,
}

/// Reads a time: `90`, `30m`, `2h 30m`.
fn time(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<u64>().map(Duration::from_secs).ok();
    let spoken = || text.parse::<jiff::SignedDuration>().ok()?.try_into().ok();
    let wrong = || "it is not a time such as 90s, 30m or 2h".to_owned();
    seconds.or_else(spoken).filter(|time| !time.is_zero()).ok_or_else(wrong)
}

/// Runs `serve`.
pub(super) async fn run(global: &Global, args: ServeArgs) -> CommandResult {
    if global.engine == EngineChoice::Docker {
        let error = anyhow!("Docker serves its API itself");
        let hint = "leave `--engine docker` out: the embedded engine is served".to_owned();
        return Err(Error::input(error).with_hint(Some(hint)).into());
    }
    let named = args.docker_api.as_ref().and_then(Option::as_deref);
    let address = address(global, named)?;
    if args.action == Some(ServeAction::Stop) {
        return stop(&address).await;
    }
    if args.background {
        start_in_background(&address)?;
        if args.print_env {
            print_env(&address);
        }
        return Ok(Exit::Success);
    }
    serve(global, &args, &address).await
}

/// Returns the address that is named, or the default one.
fn address(global: &Global, named: Option<&str>) -> Result<Address, Error> {
    match named {
        Some(text) => text.parse().map_err(|error: SocketError| Error::input(error)),
        None => {
            let runtime_dir = variable("XDG_RUNTIME_DIR");
            Ok(default_address(runtime_dir.as_deref(), &open::state_dir(global)))
        }
    }
}

fn print_env(address: &Address) {
    let text = address.to_string();
    let quoted = shlex::try_quote(&text).unwrap_or(text.as_str().into());
    outln!("export DOCKER_HOST={quoted}");
}

fn socket_error(error: SocketError) -> Error {
    let hint = match &error {
        SocketError::Taken { path } => {
            Some(format!("`imgforge serve stop --docker-api unix://{}` ends it", path.display()))
        }
        _ => None,
    };
    Error::environment(error).with_hint(hint)
}

async fn serve(global: &Global, args: &ServeArgs, address: &Address) -> CommandResult {
    let parent = args.with_pid.map(watched).transpose()?;
    let options = ForgeOptions { engine: EngineChoice::Embedded, ..global.forge_options() };
    let store = options.open_store()?;
    let scratch = store.scratch_dir().map_err(Error::environment)?;
    let engine = options.connect().await.map_err(open::engine_failure)?;
    let settings = Settings {
        default_network: match args.default_network {
            DefaultNetwork::None => SandboxNetwork::None,
            DefaultNetwork::Host => SandboxNetwork::Host,
        },
        allowed_binds: allowed_binds(&args.allow_bind),
        scratch_dir: scratch.path().to_owned(),
        host: host_access()?,
        abandoned_execs: Some(args.kill_abandoned_execs)
            .filter(|seconds| *seconds > 0)
            .map(Duration::from_secs),
        is_strict: args.strict_api,
    };
    let server = Server::new(engine, settings).await.map_err(open::engine_failure)?;
    // From here on signals are watched, so that a server which can be reached ends as it should.
    let work = async {
        let listening = Listening::on(address).map_err(socket_error)?;
        greet(global, args, address);
        tokio::select! {
            () = docker::serve(&server, listening.listener()) => {}
            () = after(args.ttl) => {}
            () = ended(parent) => {}
        }
        Ok::<_, Error>(())
    };
    // To be told to end is how a server ends.
    let worked = unless_interrupted(work).await;
    server.close().await;
    worked.unwrap_or(Ok(()))?;
    Ok(Exit::Success)
}

/// Reads what the steps of a build get from the host.
fn host_access() -> Result<HostAccess, Error> {
    let network = crate::offline::is_on().then(|| "none".to_owned());
    let host = config::host_access(variable, None, network);
    host.context("cannot read the CA bundle").map_err(Error::input)
}

/// Says where the server is.
fn greet(global: &Global, args: &ServeArgs, address: &Address) {
    let network = match args.default_network {
        DefaultNetwork::None => "containers reach no network unless they ask for the host's",
        DefaultNetwork::Host => "containers reach what this host reaches",
    };
    if !global.quiet {
        errln!("serving the Docker Engine API at {address}; {network}");
    }
    if args.print_env {
        print_env(address);
    }
}

/// Returns the directories below which containers may have files of the host.
fn allowed_binds(named: &[PathBuf]) -> AllowedBinds {
    match named {
        [] => {
            let home = variable("HOME").map(PathBuf::from);
            let all: Vec<PathBuf> = home.into_iter().chain([PathBuf::from("/tmp")]).collect();
            AllowedBinds::below(&all)
        }
        [only] if only == Path::new("none") => AllowedBinds::below(&[]),
        all => AllowedBinds::below(all),
    }
}

async fn after(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// Opens a process whose end is waited for.
fn watched(number: i32) -> Result<AsyncFd<std::os::fd::OwnedFd>, Error> {
    let process = Pid::from_raw(number).ok_or_else(|| anyhow!("`{number}` is no process"));
    let opened = process.and_then(|process| {
        let pidfd = rustix::process::pidfd_open(process, PidfdFlags::empty());
        pidfd.with_context(|| format!("there is no process {number}"))
    });
    let watched = opened.and_then(|pidfd| {
        // SAFETY: an owned descriptor is the same and open as long as it lives.
        let registered = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
        registered.context("cannot wait for a process")
    });
    watched.map_err(Error::input)
}

async fn ended(process: Option<AsyncFd<std::os::fd::OwnedFd>>) {
    match process {
        Some(process) => drop(process.readable().await),
        None => std::future::pending().await,
    }
}

/// Starts this command once more, without a terminal, and waits until it answers.
fn start_in_background(address: &Address) -> Result<(), Error> {
    if process_of(address).is_some() {
        return Err(socket_error(SocketError::Taken { path: address.path().to_owned() }));
    }
    let log = address.path().with_extension("log");
    let started = spawn(&log).with_context(|| "cannot start a server in the background");
    let mut child = started.map_err(Error::environment)?;
    let until = Instant::now() + PATIENCE;
    let own = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    while Instant::now() < until {
        if own.is_some() && process_of(address) == own {
            return Ok(());
        }
        if let Ok(Some(status)) = child.try_wait() {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let text = text.trim();
            let error = anyhow!("the server ended with {status}: {text}");
            return Err(Error::environment(error));
        }
        std::thread::sleep(TICK);
    }
    let _ = child.kill();
    Err(Error::environment(anyhow!("the server does not answer; its log is `{}`", log.display())))
}

fn spawn(log: &Path) -> io::Result<Child> {
    if let Some(directory) = log.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let log = std::fs::File::create(log)?;
    let is_own = |word: &OsString| word == "--background" || word == "--print-env";
    let words = std::env::args_os().skip(1).filter(|word| !is_own(word));
    let mut command = Command::new(std::env::current_exe()?);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    // SAFETY: between fork and exec it makes one system call, and allocates nothing.
    unsafe { command.pre_exec(|| Ok(rustix::process::setsid().map(drop)?)) };
    command.spawn()
}

/// Ends the server of a socket.
async fn stop(address: &Address) -> CommandResult {
    let Some(process) = process_of(address) else {
        let error = anyhow!("no server listens on `{}`", address.path().display());
        return Err(Error::input(error).into());
    };
    let told = rustix::process::kill_process(process, Signal::TERM);
    told.with_context(|| format!("cannot end process {}", process.as_raw_nonzero()))
        .map_err(Error::environment)?;
    let process = watched(process.as_raw_nonzero().get());
    let has_ended = match process {
        Ok(process) => tokio::time::timeout(PATIENCE, process.readable()).await.is_ok(),
        // It has ended already.
        Err(_) => true,
    };
    match has_ended {
        true => Ok(Exit::Success),
        false => Err(Error::environment(anyhow!("the server does not end")).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_or_have_units() {
        assert_eq!(time("90"), Ok(Duration::from_secs(90)));
        assert_eq!(time("2h 30m"), Ok(Duration::from_secs(9000)));
        for text in ["", "0", "soon", "-3s"] {
            assert!(time(text).is_err(), "{text}");
        }
    }
}
