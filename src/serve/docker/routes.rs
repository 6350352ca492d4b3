//! What is served: the table of paths, and what is said of the others.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use crate::engine::{ChangeKind, Process};

use super::answer::{Answer, Body, Refusal, done, empty, found, whole};
use super::archive;
use super::attach;
use super::call::Call;
use super::command;
use super::commit;
use super::container::Container;
use super::create;
use super::description;
use super::exec;
use super::exec_create;
use super::filters::Filters;
use super::images;
use super::listing;
use super::logs;
use super::network_routes;
use super::pull;
use super::server::Server;
use super::system;
use super::wait;

/// The heads of every answer.
const HEADS: [(&str, &str); 4] = [
    ("api-version", system::API),
    ("ostype", "linux"),
    ("builder-version", "1"),
    ("server", "Docker/28.0.0 (imgforge)"),
];

/// Answers a request.
pub(super) async fn answer(server: &Arc<Server>, request: Request<Incoming>) -> Response<Body> {
    let mut call = Call::new(request);
    let answer = dispatch(server, &mut call).await;
    let mut response = answer.unwrap_or_else(Refusal::answer);
    for (name, value) in HEADS {
        let name = HeaderName::from_static(name);
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    if call.method == Method::HEAD {
        *response.body_mut() = whole(bytes::Bytes::new());
    }
    response
}

async fn dispatch(server: &Arc<Server>, call: &mut Call) -> Answer {
    let path = std::mem::take(&mut call.path);
    let parts: Vec<&str> = path.iter().map(String::as_str).collect();
    let method = call.method.clone();
    match (method.as_str(), parts.as_slice()) {
        ("GET" | "HEAD", ["_ping"]) => system::ping(call),
        ("GET", ["version"]) => system::version(server),
        ("GET", ["info"]) => system::info(server),
        ("GET", ["containers", "json"]) => listing::list(server, call),
        ("POST", ["containers", "create"]) => create::create(server, call).await,
        ("POST", ["containers", "prune"]) => prune(server, call).await,
        ("DELETE", ["containers", name @ ..]) if !name.is_empty() => {
            let container = server.find(&name.join("/"))?;
            server.remove(&container, call.is_set("force")).await?;
            done()
        }
        // A name may have slashes, as that of an image that a client looks for here first.
        (_, ["containers", name @ .., action]) if !name.is_empty() => {
            of_container(server, call, &name.join("/"), action).await
        }
        ("POST", ["exec", id, "start"]) => exec::start(call, server.find_exec(id)?).await,
        ("POST", ["exec", id, "resize"]) => exec::resize(call, &*server.find_exec(id)?).await,
        ("GET", ["exec", id, "json"]) => exec::inspect(&*server.find_exec(id)?),
        ("GET", ["images", "json"]) => images::list(server, call).await,
        ("POST", ["images", "create"]) => pull::pull(server, call).await,
        ("POST", ["images", name @ .., "tag"]) if !name.is_empty() => {
            images::tag(server, call, &name.join("/")).await
        }
        ("DELETE", ["images", name @ ..]) if !name.is_empty() => {
            images::remove(server, call, &name.join("/")).await
        }
        ("POST", ["commit"]) => commit::commit(server, call).await,
        ("GET", ["volumes"]) => found(&json!({ "Volumes": [], "Warnings": [] })),
        ("GET" | "DELETE", ["volumes", name]) => {
            Err(Refusal::absent(format!("get {name}: no such volume")))
        }
        ("POST", ["volumes", "create"]) => {
            Err(Refusal::unserved("named volumes are not served: bind a directory of the host"))
        }
        ("GET", ["images", name @ .., "json"]) if !name.is_empty() => {
            images::inspect(server, &name.join("/")).await
        }
        ("GET", ["networks"]) => network_routes::list(server, call),
        ("POST", ["networks", "create"]) => network_routes::create(server, call).await,
        ("GET", ["networks", name]) => network_routes::inspect(server, name),
        ("DELETE", ["networks", name]) => network_routes::remove(server, name),
        ("POST", ["grpc" | "session"]) => {
            Err(Refusal::unserved("BuildKit is not served: set DOCKER_BUILDKIT=0"))
        }
        _ => Err(unserved(&method, &parts)),
    }
}

/// Says what is not served.
fn unserved(method: &Method, parts: &[&str]) -> Refusal {
    let path = parts.join("/");
    Refusal::unserved(format!("`{method} /{path}` is not served by imgforge"))
}

async fn of_container(server: &Arc<Server>, call: &mut Call, called: &str, action: &str) -> Answer {
    let method = call.method.clone();
    let container = server.find(called)?;
    match (method.as_str(), action) {
        ("GET", "json") => description::inspect(server, &container),
        ("POST", "start") => start(server, &container).await,
        ("POST", "stop") => {
            let (signal, seconds) = stopping(call)?;
            match container.stop(signal, seconds).await? {
                true => done(),
                false => Ok(empty(StatusCode::NOT_MODIFIED)),
            }
        }
        ("POST", "restart") => {
            let (signal, seconds) = stopping(call)?;
            container.stop(signal, seconds).await?;
            start(server, &container).await?;
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
        ("GET", "logs") => logs::logs(call, &container),
        ("GET", "top") => top(&container, called).await,
        ("GET", "changes") => changes(&container).await,
        _ => Err(unserved(&method, &["containers", called, action])),
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
                server.remove(container, true).await?;
            }
            return Err(refusal);
        }
    };
    let (server, container) = (server.clone(), container.clone());
    tokio::spawn(async move {
        container.follow(run).await;
        if removes {
            // Somebody else may have removed it already.
            let _ = server.remove(&container, true).await;
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
    container.signal(signal).await?;
    if signal == libc::SIGKILL {
        container.state.until(|now| now.ends > state.ends).await;
    }
    Ok(())
}

async fn rename(server: &Server, call: &Call, container: &Container) -> Answer {
    let wanted = call.parameter("name").ok_or_else(|| Refusal::bad("a name is needed"))?;
    let _names = server.names.lock().await;
    let name = create::name(server, Some(wanted.to_owned()), &container.id)?;
    *container.name.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = name;
    done()
}

/// Removes the containers that do not run.
async fn prune(server: &Server, call: &Call) -> Answer {
    let filters = Filters::of(call, &["label"])?;
    let mut removed = Vec::new();
    for container in server.all() {
        let labels = description::labels(&container);
        let is_meant = filters.labels(|name| labels.get(name).map(String::as_str));
        // One that was started meanwhile stays.
        let is_gone = is_meant
            && !container.state.now().status.is_alive()
            && server.remove(&container, false).await.is_ok();
        removed.extend(is_gone.then(|| container.id.clone()));
    }
    found(&json!({ "ContainersDeleted": removed, "SpaceReclaimed": 0 }))
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
