//! What is served below `/containers/ID`.

use std::sync::Arc;

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::engine::{ChangeKind, Process};

use super::answer::{Answer, Refusal, done, empty, found};
use super::archive;
use super::attach;
use super::call::Call;
use super::command;
use super::container::Container;
use super::create;
use super::description;
use super::exec;
use super::exec_create;
use super::hosts;
use super::logs;
use super::server::Server;
use super::state::{Change, Status};
use super::stats;
use super::update;
use super::wait;

/// Answers a request about a container.
pub(super) async fn answer(
    server: &Arc<Server>,
    call: &mut Call,
    called: &str,
    action: &str,
) -> Answer {
    let method = call.method.clone();
    let container = server.find(called)?;
    match (method.as_str(), action) {
        ("GET", "json") => description::inspect(server, &container),
        ("POST", "start") => start(server, &container).await,
        ("POST", "stop") => {
            let (signal, seconds) = stopping(call)?;
            match container.stop(signal, seconds).await? {
                true => {
                    container.tell("stop", &[]);
                    done()
                }
                false => Ok(empty(StatusCode::NOT_MODIFIED)),
            }
        }
        ("POST", "restart") => {
            let (signal, seconds) = stopping(call)?;
            container.stop(signal, seconds).await?;
            start(server, &container).await?;
            container.tell("restart", &[]);
            done()
        }
        ("POST", "kill") => {
            kill(call, &container, called).await?;
            done()
        }
        ("POST", "wait") => wait::wait(call, container),
        ("POST", "attach") => attach::attach(call, container),
        ("POST", "pause" | "unpause") => {
            container.pause(action == "pause").await?;
            done()
        }
        ("POST", "resize") => {
            container.resize(exec::size(call)?).await?;
            Ok(empty(StatusCode::OK))
        }
        ("POST", "rename") => rename(server, call, &container).await,
        ("POST", "exec") => exec_create::create(server, call, container, called).await,
        ("GET" | "HEAD" | "PUT", "archive") => archive::archive(call, container, called).await,
        ("GET", "export") => archive::export(container),
        ("GET", "stats") => stats::stats(server, call, container).await,
        ("POST", "update") => update::update(server, call, &container).await,
        ("GET", "logs") => logs::logs(call, &container),
        ("GET", "top") => top(&container, called).await,
        ("GET", "changes") => changes(&container).await,
        _ => Err(Refusal::no_route(&method, &["containers", called, action])),
    }
}

/// Starts a container; one that runs is left alone.
async fn start(server: &Arc<Server>, container: &Arc<Container>) -> Answer {
    let removes = container.host_config().auto_remove == Some(true);
    let run = match container.start().await {
        Ok(Some(run)) => run,
        Ok(None) => return Ok(empty(StatusCode::NOT_MODIFIED)),
        Err(refusal) => {
            if removes {
                server.remove(container, true, true).await?;
            }
            return Err(refusal);
        }
    };
    if container.health.is_some() {
        let container = container.clone();
        tokio::spawn(async move { container.watch_health().await });
    }
    let (server, container) = (server.clone(), container.clone());
    tokio::spawn(async move {
        let mut next = Some(run);
        while let Some(run) = next.take() {
            container.follow(run).await;
            if container.state.now().status == Status::Restarting {
                next = container.start_again().await;
            }
        }
        if removes {
            // Somebody else may have removed it already.
            let _ = server.remove(&container, true, true).await;
        }
    });
    done()
}

/// Reads how a container is to be stopped.
fn stopping(call: &Call) -> Result<(Option<i32>, Option<i64>), Refusal> {
    let signal = call.parameter("signal").map(command::signal).transpose()?;
    Ok((signal, call.number("t")?))
}

async fn kill(call: &Call, container: &Container, called: &str) -> Result<(), Refusal> {
    let signal = command::signal(call.parameter("signal").unwrap_or("SIGKILL"))?;
    let state = container.state.now();
    if !state.status.is_alive() {
        return Err(Refusal::conflict(format!(
            "cannot kill container: {called}: container {} is not running",
            container.id
        )));
    }
    if matches!(signal, libc::SIGKILL | libc::SIGTERM) {
        container.restarting.give_up();
    }
    container.signal(signal).await?;
    if signal == libc::SIGKILL && state.status == Status::Restarting {
        container.state.set(Change::StaysEnded);
    } else if signal == libc::SIGKILL {
        container.state.until(|now| now.ends > state.ends).await;
    }
    Ok(())
}

async fn rename(server: &Server, call: &Call, container: &Container) -> Answer {
    let wanted = call.parameter("name").ok_or_else(|| Refusal::bad("a name is needed"))?;
    let _names = server.names.lock().await;
    let name = create::name(server, Some(wanted.to_owned()), &container.id)?;
    let old = format!("/{}", container.name());
    *container.name.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = name;
    container.tell("rename", &[("oldName", &old)]);
    let networks = server.networks.of(&container.id);
    hosts::refresh(&server.networks, &server.all(), &networks).await;
    done()
}

/// Lists the processes as `ps -ef` does; other columns are not served.
async fn top(container: &Container, called: &str) -> Answer {
    if !container.state.now().status.is_alive() {
        return Err(Refusal::conflict(format!("Container {called} is not running")));
    }
    let row = |process: Process| {
        let clock = |seconds: u64| {
            format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
        };
        let terminal = if process.terminal.is_empty() { "?" } else { process.terminal.as_str() };
        json!([
            process.uid.to_string(),
            process.pid.to_string(),
            process.parent.to_string(),
            "0",
            clock(process.started % 86_400),
            terminal,
            clock(process.cpu_seconds),
            process.command,
        ])
    };
    let rows: Vec<Value> = container.session.processes().await?.into_iter().map(row).collect();
    found(&json!({
        "Titles": ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"],
        "Processes": rows,
    }))
}

async fn changes(container: &Container) -> Answer {
    let rows = container.session.changes().await?.into_iter().map(|change| {
        let kind = match change.kind {
            ChangeKind::Modified => 0,
            ChangeKind::Added => 1,
            ChangeKind::Deleted => 2,
        };
        json!({ "Path": change.path, "Kind": kind })
    });
    found(&Value::Array(rows.collect()))
}
