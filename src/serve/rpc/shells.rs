//! Shells of a session: each in a task of its own, which runs one command after another.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use crate::engine::{ExecEnd, SandboxSession};
use crate::session::{Capture, Running, Shell, ShellEnd, ShellOptions};

use super::capture::{Printed, send_pieces};
use super::fault::{Fault, Kind};
use super::lines::{Answer, Lines};
use super::locked::locked;
use super::params::{Base64, OfShell, ShellOpen, ShellRun, keep};
use super::served::Served;
use super::under_way::{Control, ControlKind, Order, ShellHandle};

/// How many commands wait for a shell.
const WAITING: usize = 64;

fn no_such(name: &str) -> Fault {
    Fault::new(Kind::NoSuchShell, format!("there is no shell `{name}`, or it has ended"))
        .hint("`shell.open` starts one")
}

/// Starts a shell.
pub(super) async fn open(served: Arc<Served>, params: ShellOpen) -> Answer {
    let name = match params.shell {
        Some(name)
            if locked(&served.shells).get(&name).is_some_and(|one| !one.orders.is_closed()) =>
        {
            return Err(Fault::bad_params(format!("shell `{name}` is there already")));
        }
        Some(name) => name,
        None => format!("{:012x}", rand::random::<u64>() & 0xffff_ffff_ffff),
    };
    let options = ShellOptions {
        variables: params.env,
        working_dir: params.workdir,
        user: params.user,
        is_interactive: params.interactive,
    };
    let (orders, for_shell) = mpsc::channel(WAITING);
    let (controls, to_shell) = mpsc::channel(WAITING);
    let (tell, told) = oneshot::channel();
    let task = tokio::spawn(attend(served.session(), options, tell, for_shell, to_shell));
    let handle = ShellHandle { orders, controls, _task: AbortOnDropHandle::new(task) };
    let failed = || Fault::new(Kind::Infra, "the shell could not be started");
    let process = told.await.map_err(|_| failed())??;
    locked(&served.shells).insert(name.clone(), handle);
    Ok(json!({ "shell": name, "process": process }))
}

/// Starts a shell, and serves it until it ends or nobody has its other ends any more.
async fn attend(
    session: Arc<dyn SandboxSession>,
    options: ShellOptions,
    started: oneshot::Sender<Result<i32, Fault>>,
    mut orders: mpsc::Receiver<Order>,
    mut controls: mpsc::Receiver<Control>,
) {
    let mut shell = match Shell::open(&*session, &options).await {
        Ok(shell) => {
            let _ = started.send(Ok(shell.process()));
            shell
        }
        Err(error) => {
            let _ = started.send(Err(error.into()));
            return;
        }
    };
    loop {
        tokio::select! {
            order = orders.recv() => {
                let Some(Order { params, lines, tell }) = order else { return };
                let running = shell.running();
                let work = run(&mut shell, params, lines);
                tokio::pin!(work);
                let (answer, has_ended) = loop {
                    tokio::select! {
                        done = &mut work => break done,
                        Some(Control { kind, tell }) = controls.recv() => {
                            let _ = tell.send(done_to(&running, kind).await);
                        }
                    }
                };
                if has_ended {
                    // Before anybody asks for more.
                    orders.close();
                }
                let _ = tell.send(answer);
                if has_ended {
                    return;
                }
            }
            // It runs nothing.
            Some(Control { tell, .. }) = controls.recv() => drop(tell.send(Ok(json!({})))),
        }
    }
}

async fn done_to(running: &Running<'_>, kind: ControlKind) -> Answer {
    match kind {
        ControlKind::Interrupt => running.interrupt().await?,
        ControlKind::Kill => running.kill().await?,
    }
    Ok(json!({}))
}

/// Runs a command; tells also whether the shell has ended.
async fn run(shell: &mut Shell<'_>, params: ShellRun, lines: Lines) -> (Answer, bool) {
    let began = Instant::now();
    let (pieces, to_send) = mpsc::unbounded_channel();
    let sending = params
        .stream
        .then(|| tokio::spawn(send_pieces(to_send, lines, params.session, params.shell)));
    let pieces = sending.is_some().then_some(pieces);
    let printed = Printed::new(Capture::new(keep(params.keep, params.max_output)), pieces);
    let limit = params.timeout.map(|limit| limit.0);
    let end = shell.run(&params.command, limit, &printed).await;
    let duration = began.elapsed();
    let output = printed.finish();
    if let Some(sending) = sending {
        // All of the output comes before the result.
        let _ = sending.await;
    }
    let end = match end {
        Ok(end) => end,
        Err(error) => return (Err(error.into()), true),
    };
    let has_ended = matches!(end, ShellEnd::ShellEnded(_));
    let (end, code) = match end {
        ShellEnd::Exited(code) => ("exited", Some(code)),
        ShellEnd::TimedOut => ("timed_out", None),
        ShellEnd::ShellEnded(ExecEnd::Exited(code) | ExecEnd::OutOfMemory(code)) => {
            ("shell_ended", Some(code))
        }
        ShellEnd::ShellEnded(ExecEnd::Signaled(signal)) => ("shell_ended", Some(128 + signal)),
        ShellEnd::ShellEnded(ExecEnd::SessionEnded(how)) => return (Err(how.into()), true),
        ShellEnd::ShellEnded(_) => ("shell_ended", None),
    };
    let answer = json!({
        "end": end,
        "code": code,
        "output": Base64(output.bytes),
        "dropped": output.dropped,
        "duration": duration.as_secs_f64(),
    });
    (Ok(answer), has_ended)
}

/// Runs a command in a shell, after those that were sent before.
pub(super) async fn run_in(served: Arc<Served>, params: ShellRun, lines: Lines) -> Answer {
    let name = params.shell.clone();
    let orders = match locked(&served.shells).get(&name) {
        Some(handle) => handle.orders.clone(),
        None => return Err(no_such(&name)),
    };
    let (tell, told) = oneshot::channel();
    orders.send(Order { params, lines, tell }).await.map_err(|_| no_such(&name))?;
    match told.await {
        Ok(answer) => answer,
        Err(_) => Err(no_such(&name)),
    }
}

/// Interrupts or kills what a shell runs.
pub(super) async fn control(served: Arc<Served>, params: OfShell, kind: ControlKind) -> Answer {
    let controls = match locked(&served.shells).get(&params.shell) {
        Some(handle) => handle.controls.clone(),
        None => return Err(no_such(&params.shell)),
    };
    let (tell, told) = oneshot::channel();
    controls.send(Control { kind, tell }).await.map_err(|_| no_such(&params.shell))?;
    // It may end at this very moment.
    told.await.unwrap_or_else(|_| Ok(json!({})))
}

/// Ends a shell, and all that it runs.
pub(super) fn close(served: &Served, params: &OfShell) -> Answer {
    match locked(&served.shells).remove(&params.shell) {
        Some(_) => Ok(json!({})),
        None => Err(no_such(&params.shell)),
    }
}
