//! Commands of a session.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot, watch};

use crate::engine::{
    Began, ExecEnd, ExecRequest, ExecSummary, Input, NotStarted, Outputs, WindowSize,
};
use crate::session::{Capture, Captured};

use super::capture::{dropped, passed_on};
use super::fault::{Fault, Kind};
use super::lines::{Answer, Lines};
use super::locked::locked;
use super::params::{Base64, Exec, ExecInput, ExecKill, ExecResize, OfExec, keep};
use super::served::{Served, Use};
use super::under_way::{Running, Slot, Typed};

/// The exit code for a command that a limit ended.
const LIMIT: i32 = 124;

/// Notes a command that is to come, so that it can be killed while it waits. Returns its name.
pub(super) fn announce(served: &Served, params: &mut Exec) -> Result<(), Fault> {
    let mut execs = locked(&served.execs);
    let name = match params.exec.take() {
        Some(name) if execs.contains_key(&name) => {
            return Err(Fault::bad_params(format!("command `{name}` is there already")));
        }
        Some(name) => name,
        None => format!("{:016x}", rand::random::<u64>()),
    };
    execs.insert(name.clone(), Slot::Waiting);
    params.exec = Some(name);
    Ok(())
}

/// Makes the engine's request of a client's.
fn request(params: &Exec) -> Result<ExecRequest, Fault> {
    let command = match (&params.command, &params.shell) {
        (Some(command), None) if !params.login => command.clone(),
        (None, Some(text)) => {
            let (shell, option) =
                if params.login { ("/bin/bash", "-lc") } else { ("/bin/sh", "-c") };
            [shell, option, text].map(str::to_owned).to_vec()
        }
        (Some(_), None) => return Err(Fault::bad_params("`login` is for `shell`")),
        _ => return Err(Fault::bad_params("one of `command` and `shell` is needed")),
    };
    let input = match &params.stdin {
        Some(_) if params.open_stdin || params.tty.is_some() => {
            let message = "`stdin` is all of the input: give it by `exec.input` where that is open";
            return Err(Fault::bad_params(message));
        }
        Some(bytes) => Input::Bytes(bytes.0.clone().into()),
        None if params.open_stdin => Input::Held,
        None => Input::Null,
    };
    let outputs = match params.tty {
        Some(size) => Outputs::Terminal(WindowSize { rows: size.rows, columns: size.columns }),
        None if params.merge => Outputs::Merged,
        None => Outputs::Separate,
    };
    Ok(ExecRequest {
        command,
        variables: params.env.clone(),
        working_dir: params.workdir.clone(),
        user: params.user.clone(),
        input,
        outputs,
        time_limit: params.timeout.map(|limit| limit.0),
        idle_limit: params.idle_timeout.map(|limit| limit.0),
    })
}

/// Forgets a command when this is dropped, unless somebody else is to.
struct Forget {
    served: Arc<Served>,
    name: Option<String>,
}

impl Drop for Forget {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            locked(&self.served.execs).remove(name);
        }
    }
}

/// Runs a command that was announced.
pub(super) async fn exec(served: Arc<Served>, params: Exec, lines: Lines) -> Answer {
    let name = params.exec.clone().unwrap_or_default();
    let mut forget = Forget { served: served.clone(), name: Some(name.clone()) };
    let request = request(&params)?;
    if matches!(locked(&served.execs).get(&name), Some(Slot::Cancelled)) {
        let reason = "it was killed before its turn".to_owned();
        return Ok(not_started(NotStarted { errno: None, reason, program_missing: false }));
    }
    let began = Began::now();
    let mut exec = served.session().spawn(&request).await?;
    let is_open = params.open_stdin || params.tty.is_some();
    let input = match exec.input.take() {
        Some(input) if is_open => {
            let (sender, typed) = mpsc::unbounded_channel();
            tokio::spawn(feed(input, typed));
            Some(sender)
        }
        input => {
            exec.input = input;
            None
        }
    };
    if params.stream {
        let (session, exec_name) = (served.id.clone(), name.clone());
        exec.output = passed_on(exec.output, lines, session, exec_name);
    }
    let (tell, result) = watch::channel(None);
    let running = Arc::new(Running { handle: exec.handle.clone(), input, result });
    let was_cancelled = {
        let mut execs = locked(&served.execs);
        matches!(execs.insert(name.clone(), Slot::Running(running.clone())), Some(Slot::Cancelled))
    };
    if was_cancelled {
        running.handle.signal(libc::SIGKILL).await?;
    }
    let keep = keep(params.keep, params.max_output);
    let work = async move {
        let (out, error) = (Capture::new(keep), Capture::new(keep));
        let summary = exec.attend(&request, began, &out, &error).await?;
        Ok(document(&summary, out.finish(), error.finish()))
    };
    if !params.detach {
        return work.await;
    }
    // Who asks for the result forgets it.
    forget.name = None;
    // The session is used as long as it runs.
    let used = Use::of(served);
    tokio::spawn(async move {
        let _used = used;
        let _ = tell.send(Some(work.await));
    });
    Ok(json!({ "exec": name }))
}

/// Writes the input of a command as it comes.
async fn feed(
    mut input: Box<dyn AsyncWrite + Send + Unpin>,
    mut typed: mpsc::UnboundedReceiver<Typed>,
) {
    while let Some(Typed { bytes, tell }) = typed.recv().await {
        // A command that does not read is not at fault.
        let is_end = bytes.is_none();
        match bytes {
            Some(bytes) => {
                let _ = input.write_all(&bytes).await;
                let _ = input.flush().await;
            }
            None => drop(input.shutdown().await),
        }
        let _ = tell.send(());
        if is_end {
            return;
        }
    }
}

/// Returns the result of a command.
fn document(summary: &ExecSummary, out: Captured, error: Captured) -> Value {
    let ExecSummary { end, background, started_at, duration, cpu_time } = summary;
    let (end, code, signal, reason) = match end {
        ExecEnd::Exited(code) => ("exited", Some(*code), None, None),
        ExecEnd::Signaled(signal) => ("signaled", Some(128 + signal), Some(*signal), None),
        ExecEnd::TimedOut => ("timed_out", Some(LIMIT), None, None),
        ExecEnd::Idle => ("idle", Some(LIMIT), None, None),
        ExecEnd::OutOfMemory(code) => ("out_of_memory", Some(*code), None, None),
        ExecEnd::NotStarted(why) => {
            ("not_started", Some(why.code()), None, Some(why.reason.clone()))
        }
        ExecEnd::SessionEnded(how) => {
            ("session_ended", None, None, Some(how.reason().into_owned()))
        }
    };
    json!({
        "end": end,
        "code": code,
        "signal": signal,
        "reason": reason,
        "dropped": dropped(&out, &error),
        "stdout": Base64(out.bytes),
        "stderr": Base64(error.bytes),
        "background": background,
        "started_at": started_at,
        "duration": duration.as_secs_f64(),
        "cpu_ms": cpu_time.map(|time| time.as_millis() as u64),
    })
}

fn not_started(why: NotStarted) -> Value {
    let summary = ExecSummary {
        end: ExecEnd::NotStarted(why),
        background: false,
        started_at: jiff::Timestamp::now(),
        duration: std::time::Duration::ZERO,
        cpu_time: None,
    };
    document(&summary, Captured::default(), Captured::default())
}

fn no_such(name: &str) -> Fault {
    Fault::new(Kind::NoSuchExec, format!("no command `{name}` is under way"))
}

fn find(served: &Served, name: &str) -> Result<Arc<Running>, Fault> {
    match locked(&served.execs).get(name) {
        Some(Slot::Running(running)) => Ok(running.clone()),
        _ => Err(no_such(name)),
    }
}

/// Waits for the result of a command that was detached, and forgets it.
pub(super) async fn wait(served: Arc<Served>, params: OfExec) -> Answer {
    let running = find(&served, &params.exec)?;
    let mut result = running.result.clone();
    let answer = result.wait_for(Option::is_some).await.map(|answer| answer.clone());
    match answer {
        Ok(Some(answer)) => {
            locked(&served.execs).remove(&params.exec);
            answer
        }
        // It is not detached: who started it has the result.
        _ => Err(no_such(&params.exec)),
    }
}

fn typed(
    served: &Served,
    name: &str,
    bytes: Option<Vec<u8>>,
) -> Result<oneshot::Receiver<()>, Fault> {
    let running = find(served, name)?;
    let Some(input) = &running.input else {
        let message = format!("the input of command `{name}` is not open");
        return Err(Fault::new(Kind::Refused, message).hint("start it with `open_stdin`, or `tty`"));
    };
    let (tell, told) = oneshot::channel();
    // After the end of its input it takes no more: `told` says so at once.
    let _ = input.send(Typed { bytes, tell });
    Ok(told)
}

/// Gives input to a command, in the order in which it comes; the answer comes when it is written.
pub(super) fn input(
    served: &Served,
    params: ExecInput,
) -> Result<impl Future<Output = Answer> + Send + use<>, Fault> {
    let told = typed(served, &params.exec, Some(params.data.0))?;
    Ok(async move {
        let _ = told.await;
        Ok(json!({}))
    })
}

/// Ends the input of a command.
pub(super) fn close_input(
    served: &Served,
    params: OfExec,
) -> Result<impl Future<Output = Answer> + Send + use<>, Fault> {
    let told = typed(served, &params.exec, None)?;
    Ok(async move {
        let _ = told.await;
        Ok(json!({}))
    })
}

/// Gives the terminal of a command another size.
pub(super) async fn resize(served: Arc<Served>, params: ExecResize) -> Answer {
    let size = WindowSize { rows: params.rows, columns: params.columns };
    find(&served, &params.exec)?.handle.resize(size).await?;
    Ok(json!({}))
}

/// Kills a command, or sends it a signal. One that waits for its turn is never started.
pub(super) async fn kill(served: Arc<Served>, params: ExecKill) -> Answer {
    let signal = params.signal.unwrap_or(libc::SIGKILL);
    if !(1..=64).contains(&signal) {
        return Err(Fault::bad_params(format!("{signal} is no signal")));
    }
    let running = {
        let mut execs = locked(&served.execs);
        match execs.get_mut(&params.exec) {
            Some(Slot::Running(running)) => running.clone(),
            Some(slot) => {
                *slot = Slot::Cancelled;
                return Ok(json!({}));
            }
            None => return Err(no_such(&params.exec)),
        }
    };
    running.handle.signal(signal).await?;
    Ok(json!({}))
}
