//! `imgforge serve --docker-api`: the Docker Engine API over sessions.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::ValueEnum;
use rustix::process::Pid;

use crate::cli::out::{errln, outln};
use crate::config;
use crate::engine::{HostAccess, SandboxNetwork};
use crate::forge::{EngineChoice, ForgeOptions};
use crate::serve::docker::{self, AllowedBinds, Server, Settings};
use crate::serve::{Address, Listening, SocketError, default_address, process_of};

use super::super::interrupt::unless_interrupted;
use super::super::open::{self, variable};
use super::super::{CommandResult, Error, Exit, Global};
use super::process::{after, ended, spawn, terminate, until_answers, watched};
use super::{ServeAction, ServeArgs};

/// What containers reach by default.
#[derive(Debug, Clone, Copy, Default, ValueEnum, PartialEq, Eq)]
pub(super) enum DefaultNetwork {
    /// Themselves
    #[default]
    None,
    /// What this host reaches
    Host,
}

/// Runs `serve --docker-api`.
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

pub(super) fn socket_error(error: SocketError) -> Error {
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

/// Starts this command once more, without a terminal, and waits until it answers.
fn start_in_background(address: &Address) -> Result<(), Error> {
    if process_of(address).is_some() {
        return Err(socket_error(SocketError::Taken { path: address.path().to_owned() }));
    }
    let log = address.path().with_extension("log");
    let own = ["--background", "--print-env"];
    let words = std::env::args_os().skip(1).filter(|word| !own.iter().any(|own| word == own));
    let child = spawn(words, &log)?;
    let own = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    until_answers(child, &log, || (own.is_some() && process_of(address) == own).then_some(()))
}

/// Ends the server of a socket.
async fn stop(address: &Address) -> CommandResult {
    let Some(process) = process_of(address) else {
        let error = anyhow!("no server listens on `{}`", address.path().display());
        return Err(Error::input(error).into());
    };
    terminate(process).await?;
    Ok(Exit::Success)
}
