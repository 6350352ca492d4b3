//! Commands in containers, over a websocket with channels (`v4.channel.k8s.io` and `v5`).

use std::process::Stdio;
use std::sync::Arc;

use base64::Engine as _;
use futures_util::{SinkExt as _, StreamExt as _};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::json;
use sha1::{Digest as _, Sha1};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
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
        let faults = Faults {
            silent: state.strikes("exec silent", knobs.exec_silent),
            cut: state.strikes("exec cut", knobs.exec_cut),
            input_lost: state.strikes("exec input", knobs.exec_input),
        };
        run(socket, pid.trim(), &command, &faults).await;
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

/// What goes wrong with a command.
struct Faults {
    /// It ends without a status.
    silent: bool,
    /// Its output ends after a half, with its status.
    cut: bool,
    /// Of its input nothing comes but the end.
    input_lost: bool,
}

/// The channels of the protocol.
const INPUT: u8 = 0;
const CLOSE: u8 = 255;

async fn run(
    socket: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>,
    pid: &str,
    command: &[String],
    faults: &Faults,
) {
    let first = node::process_one(pid);
    let variables = std::fs::read_to_string(format!("/proc/{first}/environ")).unwrap_or_default();
    let child = tokio::process::Command::new("nsenter")
        .args([
            "--target", &first, "--mount", "--pid", "--uts", "--ipc", "--net", "--root", "--wd",
            "--",
        ])
        .args(["setsid", "--wait", "env", "-i"])
        .args(variables.split_terminator('\0'))
        .args(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else { return };
    let (mut out, mut error) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let mut input = child.stdin.take().filter(|_| !faults.input_lost);
    let (mut sink, mut source) = socket.split();
    let (mut first, mut second) = (vec![0; 32 << 10], vec![0; 32 << 10]);
    let mut is_open = [true; 2];
    let mut held: [Vec<u8>; 2] = Default::default();
    // Until nobody can write any more, as a runtime has it, whether or not the command has ended.
    while is_open != [false; 2] {
        let (which, count) = tokio::select! {
            count = out.read(&mut first), if is_open[0] => (0, count.unwrap_or(0)),
            count = error.read(&mut second), if is_open[1] => (1, count.unwrap_or(0)),
            message = source.next() => {
                match message {
                    Some(Ok(Message::Binary(bytes))) => match bytes.split_first() {
                        Some((&INPUT, bytes)) => {
                            if let Some(to) = &mut input {
                                let _ = to.write_all(bytes).await;
                            }
                        }
                        Some((&CLOSE, [INPUT])) => input = None,
                        _ => {}
                    },
                    Some(Ok(_)) => {}
                    // The command lives on, as it does in a container.
                    Some(Err(_)) | None => return,
                }
                continue;
            }
        };
        if count == 0 {
            is_open[which] = false;
            if which == 0 {
                // As a runtime does.
                input = None;
            }
        }
        let piece = if which == 0 { &first[..count] } else { &second[..count] };
        match faults.cut {
            true => held[which].extend_from_slice(piece),
            false if count > 0 => {
                let message = [&[which as u8 + 1], piece].concat();
                let _ = sink.send(Message::binary(message)).await;
            }
            false => {}
        }
    }
    for (which, bytes) in held.iter().enumerate() {
        let message = [&[which as u8 + 1], &bytes[..bytes.len() / 2]].concat();
        let _ = sink.send(Message::binary(message)).await;
    }
    let code = child.wait().await.ok().and_then(|status| status.code()).unwrap_or(137);
    if !faults.silent {
        let status = match code {
            0 => json!({ "metadata": {}, "status": "Success" }),
            code => json!({ "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                "message": format!("command terminated with non-zero exit code: {code}"),
                "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] } }),
        };
        let message = [&[3], status.to_string().as_bytes()].concat();
        let _ = sink.send(Message::binary(message)).await;
    }
    let _ = sink.close().await;
}
