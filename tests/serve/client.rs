//! A server under test, and a client of it that shows what travels.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::common::needs;

/// A server of its own, over the engine that all tests share.
pub(crate) struct Serve {
    pub(crate) child: Child,
    _directory: TempDir,
    pub(crate) socket: PathBuf,
}

/// An answer.
pub(crate) struct Got {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Got {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    pub(crate) fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }
}

/// Returns the command that serves on a socket.
pub(crate) fn command(socket: &std::path::Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_imgforge"));
    command.args(["--engine", "embedded", "-q", "--state-dir"]).arg(needs::base());
    command.arg("serve").arg("--docker-api").arg(format!("unix://{}", socket.display()));
    command.args(more).env_remove("DOCKER_HOST").stdin(Stdio::null());
    command
}

impl Serve {
    pub(crate) async fn start(more: &[&str]) -> Serve {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("d.sock");
        let child = command(&socket, more).spawn().unwrap();
        let serve = Serve { child, _directory: directory, socket };
        let until = Instant::now() + Duration::from_secs(60);
        while UnixStream::connect(&serve.socket).await.is_err() {
            assert!(Instant::now() < until, "the server does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        serve
    }

    /// Sends a request over a connection of its own, and returns the head of the answer.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        body: Bytes,
        head: &[(&str, &str)],
    ) -> Response<Incoming> {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder().method(method).uri(path).header("host", "docker");
        for (name, value) in head {
            request = request.header(*name, *value);
        }
        let response = sender.send_request(request.body(Full::new(body)).unwrap()).await.unwrap();
        // The connection ends with the sender.
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(120)).await;
            drop(sender);
        });
        response
    }

    pub(crate) async fn bytes(&self, method: &str, path: &str, body: Bytes) -> Got {
        let response = self.send(method, path, body, &[]).await;
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Got { status: head.status, headers: head.headers, body }
    }

    pub(crate) async fn call(&self, method: &str, path: &str, body: Value) -> Got {
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        self.bytes(method, path, body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Got {
        self.call("GET", path, Value::Null).await
    }

    pub(crate) async fn post(&self, path: &str) -> Got {
        self.call("POST", path, Value::Null).await
    }

    /// Creates a container and returns its id.
    pub(crate) async fn create(&self, name: &str, command: &[&str], mut body: Value) -> String {
        body["Image"] = json!(needs::BASE);
        body["Cmd"] = json!(command);
        let name = if name.is_empty() { String::new() } else { format!("?name={name}") };
        let got = self.call("POST", &format!("/containers/create{name}"), body).await;
        assert_eq!(got.status, 201, "{}", got.message());
        got.json()["Id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn start_it(&self, id: &str) {
        let got = self.post(&format!("/containers/{id}/start")).await;
        assert_eq!(got.status, 204, "{:?}", got.body);
    }

    /// Creates a container that sleeps, and starts it.
    pub(crate) async fn sleeper(&self) -> String {
        let id = self.create("", &["sleep", "600"], json!({})).await;
        self.start_it(&id).await;
        id
    }

    pub(crate) async fn state(&self, id: &str) -> Value {
        self.get(&format!("/containers/{id}/json")).await.json()["State"].clone()
    }

    pub(crate) async fn wait(&self, id: &str) -> i64 {
        let got = self.post(&format!("/containers/{id}/wait")).await;
        got.json()["StatusCode"].as_i64().unwrap()
    }

    pub(crate) async fn make_exec(&self, id: &str, body: Value) -> Got {
        self.call("POST", &format!("/containers/{id}/exec"), body).await
    }

    /// Opens a stream, which has to become one.
    pub(crate) async fn open(
        &self,
        path: &str,
        body: Value,
    ) -> (HeaderMap, TokioIo<hyper::upgrade::Upgraded>) {
        let head = [("connection", "Upgrade"), ("upgrade", "tcp")];
        let response = self.send("POST", path, body.to_string().into(), &head).await;
        assert_eq!(response.status(), 101);
        let headers = response.headers().clone();
        (headers, TokioIo::new(hyper::upgrade::on(response).await.unwrap()))
    }

    /// Runs a command, gives it an input, and returns its code and its two outputs.
    pub(crate) async fn exec(&self, id: &str, body: Value, input: &[u8]) -> (i64, String, String) {
        let made = self.make_exec(id, body).await;
        assert_eq!(made.status, 201, "{:?}", made.body);
        let exec = made.json()["Id"].as_str().unwrap().to_owned();
        let (_, mut stream) = self.open(&format!("/exec/{exec}/start"), json!({})).await;
        stream.write_all(input).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        let found = self.get(&format!("/exec/{exec}/json")).await.json();
        assert_eq!(found["Running"], false, "it runs after the end of its stream");
        let (out, error) = demultiplexed(&all);
        (found["ExitCode"].as_i64().unwrap(), out, error)
    }

    pub(crate) async fn shell(&self, id: &str, text: &str) -> (i64, String, String) {
        self.exec(id, shell(text), b"").await
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

/// A command of a shell with all outputs.
pub(crate) fn shell(text: &str) -> Value {
    json!({ "Cmd": ["sh", "-c", text], "AttachStdout": true, "AttachStderr": true })
}

/// Takes frames apart.
pub(crate) fn demultiplexed(mut bytes: &[u8]) -> (String, String) {
    let mut outputs = [Vec::new(), Vec::new()];
    while let Some((head, rest)) = bytes.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        outputs[usize::from(head[0]) - 1].extend_from_slice(&rest[..length]);
        bytes = &rest[length..];
    }
    assert!(bytes.is_empty(), "a frame is not whole");
    outputs.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).into()
}
