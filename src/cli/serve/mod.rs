//! `imgforge serve`: sessions for programs that speak another protocol.

mod docker;
mod events;
mod process;
mod rpc;
mod swerex;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use clap::{Args, ValueEnum};

use crate::serve::swerex::LoopbackAddress;

use super::runner::RunnerArgs;
use super::{CommandResult, Error, Global, Sharing};

pub(super) use swerex::ensure as ensure_swerex;

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// End the server: that of the socket with every container of it, or that of --swerex
    #[arg(value_enum, value_name = "stop")]
    action: Option<ServeAction>,
    /// Serve the Docker Engine API on this unix socket, such as unix:///run/me/docker.sock
    /// [default: $XDG_RUNTIME_DIR/imgforge/docker.sock, else docker.sock in the state directory]
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1,
        required_unless_present_any = ["action", "swerex", "rpc", "stdio"])]
    docker_api: Option<Option<String>>,
    /// Serve the sessions of the state directory that `session start --swerex` started, by the protocol of
    /// SWE-ReX, on this address of loopback, which is printed [default: 127.0.0.1, at a free port]
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, conflicts_with = "docker_api")]
    swerex: Option<Option<LoopbackAddress>>,
    /// Serve programs on the standard input and output, by the protocol of docs/protocol.md; all sessions
    /// end with the input
    #[arg(long, conflicts_with_all = ["docker_api", "swerex", "rpc"])]
    stdio: bool,
    /// Serve programs on this unix socket, by the same protocol
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["docker_api", "swerex"])]
    rpc: Option<String>,
    /// What containers reach that ask for Docker's default network
    #[arg(
        long,
        value_enum,
        value_name = "NETWORK",
        default_value_t,
        env = "IMGFORGE_DEFAULT_NETWORK"
    )]
    default_network: docker::DefaultNetwork,
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
    #[arg(long, conflicts_with = "swerex")]
    print_env: bool,
    /// End after this time, such as 2h
    #[arg(long, value_name = "TIME", value_parser = time)]
    ttl: Option<Duration>,
    /// End with this process
    #[arg(long, value_name = "PID")]
    with_pid: Option<i32>,
    /// End when no session has lived for five minutes
    #[arg(long, requires = "swerex")]
    with_sessions: bool,
    #[command(flatten)]
    runner: RunnerArgs,
    #[command(flatten)]
    sharing: Sharing,
}

/// What is done with a server that is there.
#[derive(Debug, Clone, Copy, ValueEnum, PartialEq, Eq)]
enum ServeAction {
    /// End it
    Stop,
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
    if args.stdio || args.rpc.is_some() {
        return rpc::run(global, args).await;
    }
    if args.runner.choice(global)?.in_pods() {
        let error = anyhow!("pods serve programs by --stdio and --rpc alone");
        let hint = "`session start --runner kubernetes --swerex` serves one to SWE-ReX; the Docker API is \
                    that of the embedded engine";
        return Err(Error::input(error).with_hint(Some(hint.to_owned())).into());
    }
    match args.swerex {
        Some(address) => swerex::run(global, &args, address.unwrap_or_default()).await,
        None => docker::run(global, args).await,
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
