//! `imgforge session exec`.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Args;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use serde_json::json;
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use crate::cli::out::outln;
use crate::engine::{
    EngineError, Exec, ExecEnd, ExecHandle, ExecRequest, Input, Output, Outputs, SandboxSession,
};
use crate::session::directory::SessionRecord;
use crate::session::{Keep, Run};

use super::super::attach::{self, Ends, Signals, Steered};
use super::super::help::heading;
use super::super::look::variable;
use super::super::{CommandResult, Error, Exit, Failure, Global, render};
use super::start::duration;
use super::{directory, failed, found};

/// Arguments of `session exec`.
#[derive(Debug, Args)]
#[command(next_help_heading = heading::RUN)]
pub(in crate::cli) struct ExecArgs {
    /// The session: its name, its id or the beginning of that
    #[arg(value_name = "SESSION", help_heading = None)]
    session: String,
    /// The command and its arguments
    #[arg(value_name = "CMD", help_heading = None, trailing_var_arg = true, required = true)]
    command: Vec<String>,
    /// Give it the standard input
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal
    #[arg(short, long, conflicts_with = "timeout")]
    tty: bool,
    /// Where it starts [default: the session's directory]
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// An environment variable; without a value it is that of this process
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Whom it runs as: a user, or user:group, by name or number [default: the session's]
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Kill it, and all that came of it, after this time, such as 90s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
    /// Kill it, and all that came of it, when it has printed nothing for this time
    #[arg(long, value_name = "TIME", value_parser = duration)]
    idle_timeout: Option<Duration>,
    /// With --json: keep so many bytes of each output, half of its beginning and half of its end
    #[arg(long, value_name = "BYTES", default_value = "10m", value_parser = crate::size::bytes,
        help_heading = heading::OUTPUT)]
    max_output: u64,
}

/// The exit code of a command that was killed at a limit, as of `timeout`.
pub(in crate::cli) const AT_LIMIT: u8 = 124;

/// Runs `session exec`.
pub(super) async fn run(global: &Global, args: ExecArgs) -> CommandResult {
    let (record, session) = found(global, &args.session).await.map_err(lost)?;
    let terminal = match args.tty {
        true => attach::terminal(),
        false => None,
    };
    if args.tty && terminal.is_none() {
        render::warn("input and output are no terminal: the command gets pipes");
    }
    let has_input = args.interactive || terminal.is_some();
    let mut request = ExecRequest {
        command: args.command,
        variables: args.env.iter().filter_map(|text| variable(text)).collect(),
        working_dir: args.workdir,
        user: args.user,
        input: if has_input { Input::Held } else { Input::Null },
        outputs: terminal.map_or(Outputs::Separate, Outputs::Terminal),
        time_limit: args.timeout,
        idle_limit: args.idle_timeout,
    };
    if global.json {
        if has_input {
            let mut bytes = Vec::new();
            let read = std::io::Read::read_to_end(&mut std::io::stdin(), &mut bytes);
            read.map_err(|error| lost(Error::environment(error)))?;
            (request.input, request.outputs) = (Input::Bytes(bytes.into()), Outputs::Separate);
        }
        return as_document(&session, &request, args.max_output).await;
    }
    let signals = Signals::take().map_err(|error| lost(Error::environment(error)))?;
    let end = attend(&session, &request, terminal.is_some(), signals).await;
    let end = end.map_err(|error| lost(failed(error)))?;
    if matches!(end, ExecEnd::SessionEnded(_)) {
        // Its host waits for its clients to go.
        drop(session);
        say_why(global, &record.id).await;
        return Ok(Exit::LOST);
    }
    Ok(exit_of(&end))
}

/// Says why a session ended: its host knows more of it than its commands.
async fn say_why(global: &Global, id: &str) {
    let directory = directory(global);
    let mut why = "it was stopped".to_owned();
    for _ in 0..20 {
        match directory.find(id) {
            Ok(SessionRecord { ended: Some(ended), .. }) => {
                why = ended.why.reason();
                break;
            }
            Ok(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(_) => break,
        }
    }
    render::warn(format!("the session ended: {why}"));
}

/// A command that was not started, or nobody knows how it ended.
pub(super) fn lost(error: Error) -> Failure {
    Failure { exit: Exit::LOST, error }
}

/// Runs a command with the ends of this process.
pub(super) async fn attend(
    session: &dyn SandboxSession,
    request: &ExecRequest,
    has_terminal: bool,
    signals: Signals,
) -> Result<ExecEnd, EngineError> {
    let Exec { input, output, handle } = session.spawn(request).await?;
    let last = Arc::new(Mutex::new(Instant::now()));
    let noted = last.clone();
    let output: BoxStream<'static, Result<Output, EngineError>> =
        output.inspect(move |_| *noted.lock().expect("no holder panics") = Instant::now()).boxed();
    let nowhere = || Box::new(tokio::io::sink()) as Box<dyn AsyncWrite + Send + Unpin>;
    let ends =
        Ends { input: input.unwrap_or_else(nowhere), output, reads: request.input == Input::Held };
    let end = within_limits(handle.clone(), request, last);
    attach::join(ends, Steered::Exec(handle), end, has_terminal, signals).await
}

/// Waits for the end of a command, and kills it at its limits.
fn within_limits(
    handle: Arc<dyn ExecHandle>,
    request: &ExecRequest,
    last: Arc<Mutex<Instant>>,
) -> Pin<Box<dyn Future<Output = Result<ExecEnd, EngineError>> + Send>> {
    let began = Instant::now();
    let (time, idle) = (request.time_limit, request.idle_limit);
    Box::pin(async move {
        let next = || {
            let last = *last.lock().expect("no holder panics");
            let time = time.map(|limit| (began + limit, ExecEnd::TimedOut));
            let idle = idle.map(|limit| (last + limit, ExecEnd::Idle));
            time.into_iter().chain(idle).min_by_key(|(at, _)| *at)
        };
        loop {
            let Some((at, cut)) = next() else { return Ok(handle.end().await?.end) };
            tokio::select! {
                biased;
                ended = handle.end() => return Ok(ended?.end),
                () = tokio::time::sleep_until(at) => {
                    if next().is_some_and(|(at, _)| at > Instant::now()) {
                        continue;
                    }
                    handle.signal(libc::SIGKILL).await?;
                    handle.end().await?;
                    return Ok(cut);
                }
            }
        }
    })
}

/// Returns the status that stands for an end, and says what a status cannot.
pub(super) fn exit_of(end: &ExecEnd) -> Exit {
    let code = match end {
        ExecEnd::Exited(code) => *code,
        ExecEnd::Signaled(signal) => 128 + signal,
        ExecEnd::OutOfMemory(code) => {
            render::warn("the memory limit of the session was reached");
            *code
        }
        ExecEnd::TimedOut => {
            render::warn("the command was killed at its time limit");
            AT_LIMIT.into()
        }
        ExecEnd::Idle => {
            render::warn("the command was killed: it printed nothing for too long");
            AT_LIMIT.into()
        }
        ExecEnd::NotStarted(why) => {
            render::warn(format!("the command was not started: {}", why.reason));
            why.code()
        }
        ExecEnd::SessionEnded(how) => {
            render::warn(format!("the session ended: {}", how.reason()));
            return Exit::LOST;
        }
    };
    match u8::try_from(code) {
        Ok(0) => Exit::Success,
        Ok(code) => Exit::Command(code),
        Err(_) => Exit::LOST,
    }
}

/// Runs a command to its end and prints one document.
async fn as_document(
    session: &dyn SandboxSession,
    request: &ExecRequest,
    max_output: u64,
) -> CommandResult {
    let keep = Keep::HeadTail(usize::try_from(max_output).unwrap_or(usize::MAX));
    let ran = crate::session::run(session, request, keep).await;
    let Run { summary, out, error } = ran.map_err(|error| lost(failed(error)))?;
    let exit = exit_of(&summary.end);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let document = json!({
        "end": summary.end,
        "stdout": text(&out.bytes),
        "stderr": text(&error.bytes),
        "dropped": { "stdout": out.dropped, "stderr": error.dropped },
        "background": summary.background,
        "started_at": summary.started_at,
        "duration_seconds": summary.duration.as_secs_f64(),
        "cpu_seconds": summary.cpu_time.map(|time| time.as_secs_f64()),
    });
    outln!("{document:#}");
    Ok(exit)
}
