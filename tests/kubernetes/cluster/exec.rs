//! Commands in containers, over a websocket with channels (`v4.channel.k8s.io` and `v5`).

use std::process::Stdio;
use std::sync::Arc;

use base64::Engine as _;
use futures_util::SinkExt as _;
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::json;
use sha1::{Digest as _, Sha1};
use tokio::io::AsyncReadExt as _;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::api::{Answer, body, failure};
use super::objects::Id;
use super::{State, node};

/// Runs a command in a container.
pub(super) fn exec(
    state: Arc<State>,
    id: Id,
    container: String,
    command: Vec<String>,
    mut request: Request<Incoming>,
) -> Answer {
    let knobs = state.knobs();
    let pod = state.objects.lock().unwrap().get(&id).cloned();
    let Some(pod) = pod else { return failure(404, "NotFound", "pod not found") };
    if state.strikes("exec 500", knobs.exec_fails) {
        return failure(500, "InternalError", "container not found (\"keeper\")");
    }
    let pid = std::fs::read_to_string(node::pod_dir(&state, &pod).join(format!("{container}.pid")));
    let Ok(pid) = pid else { return failure(500, "InternalError", "container not found") };
    let header = |name: &str| {
        let value = request.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let offered = header("sec-websocket-protocol");
    let known = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
    let Some(protocol) = known.into_iter().find(|known| offered.contains(known)) else {
        return failure(400, "BadRequest", "no known protocol");
    };
    let key = header("sec-websocket-key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let accept = base64::engine::general_purpose::STANDARD.encode(Sha1::digest(key));
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let io = TokioIo::new(upgraded);
        let socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
        let silent = state.strikes("exec silent", knobs.exec_silent);
        let cut = state.strikes("exec cut", knobs.exec_cut);
        run(socket, pid.trim(), &command, silent, cut).await;
    });
    Response::builder()
        .status(101)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-accept", accept)
        .header("sec-websocket-protocol", protocol)
        .body(body(&json!(null)))
        .unwrap()
}

async fn run(
    mut socket: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>,
    pid: &str,
    command: &[String],
    silent: bool,
    cut: bool,
) {
    // Process 1 of the container is the child of `unshare`.
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    let first = children.split_whitespace().next().unwrap_or("0").to_owned();
    let child = tokio::process::Command::new("nsenter")
        .args(["--target", &first, "--mount", "--pid", "--uts", "--ipc", "--root", "--wd", "--"])
        .args(command)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let Ok(mut child) = child else { return };
    let (mut out, mut error) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let (mut printed, mut said) = (Vec::new(), Vec::new());
    let _ = tokio::join!(out.read_to_end(&mut printed), error.read_to_end(&mut said));
    if cut {
        printed.truncate(printed.len() / 2);
    }
    let mut send = async |channel: u8, bytes: &[u8]| {
        let message = [&[channel], bytes].concat();
        let _ = socket.send(Message::binary(message)).await;
    };
    for piece in printed.chunks(32 << 10) {
        send(1, piece).await;
    }
    if !said.is_empty() {
        send(2, &said).await;
    }
    let code = child.wait().await.ok().and_then(|status| status.code()).unwrap_or(137);
    if !silent {
        let status = match code {
            0 => json!({ "metadata": {}, "status": "Success" }),
            code => json!({ "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                "message": format!("command terminated with non-zero exit code: {code}"),
                "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] } }),
        };
        send(3, status.to_string().as_bytes()).await;
    }
    let _ = socket.close(None).await;
}
