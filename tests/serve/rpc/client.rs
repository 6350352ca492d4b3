//! A client of the protocol for programs, and a server that it speaks to.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::common::{needs, schema};

/// How long an answer may take on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// The two directions of a connection.
pub(super) struct Client<W: Write> {
    pub(super) input: Option<W>,
    lines: Receiver<Value>,
    /// Answers that came while another was waited for.
    pub(super) answers: HashMap<u64, Value>,
    pub(super) notifications: Vec<Value>,
    last: u64,
}

impl<W: Write> Client<W> {
    pub(super) fn new(input: W, output: impl Read + Send + 'static) -> Client<W> {
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line).unwrap_or_else(|_| json!({ "text": line }));
                if sender.send(value).is_err() {
                    return;
                }
            }
        });
        let (answers, notifications) = Default::default();
        Client { input: Some(input), lines, answers, notifications, last: 0 }
    }

    /// Sends a request, and returns its number.
    pub(super) fn send(&mut self, method: &str, params: Value) -> u64 {
        self.last += 1;
        let id = self.last;
        self.line(
            &json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string(),
        );
        id
    }

    pub(super) fn line(&mut self, line: &str) {
        let input = self.input.as_mut().unwrap();
        input.write_all(format!("{line}\n").as_bytes()).unwrap();
        input.flush().unwrap();
    }

    /// Takes the next line.
    pub(super) fn next(&mut self) -> Value {
        let line = self.lines.recv_timeout(PATIENCE).expect("an answer comes");
        schema::check("protocol", &line);
        line
    }

    /// Waits for the answer of a request.
    pub(super) fn answer(&mut self, id: u64) -> Result<Value, Value> {
        let answer = loop {
            if let Some(answer) = self.answers.remove(&id) {
                break answer;
            }
            let value = self.next();
            match value["id"].as_u64() {
                Some(id) => drop(self.answers.insert(id, value)),
                None => self.notifications.push(value),
            }
        };
        assert_eq!(answer["jsonrpc"], "2.0");
        match answer.get("error") {
            Some(error) => Err(error.clone()),
            None => Ok(answer["result"].clone()),
        }
    }

    pub(super) fn call(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        let id = self.send(method, params);
        self.answer(id)
    }

    pub(super) fn ok(&mut self, method: &str, params: Value) -> Value {
        self.call(method, params).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// The kind of the error that a request has.
    pub(super) fn kind(&mut self, method: &str, params: Value) -> String {
        let error = self.call(method, params).expect_err("it is refused");
        error["data"]["kind"].as_str().unwrap().to_owned()
    }

    /// Starts a session, and returns its id.
    pub(super) fn session(&mut self) -> String {
        let started = self.ok("session.start", json!({ "image": needs::BASE }));
        started["session"].as_str().unwrap().to_owned()
    }

    /// Runs a text of a shell; returns the code and what it printed.
    pub(super) fn sh(&mut self, session: &str, text: &str) -> (i64, String) {
        let ran = self.ok("session.exec", json!({ "session": session, "shell": text }));
        (ran["code"].as_i64().unwrap(), text_of(&ran["stdout"]))
    }
}

pub(super) fn bytes_of(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap()).unwrap()
}

pub(super) fn text_of(value: &Value) -> String {
    String::from_utf8(bytes_of(value)).unwrap()
}

/// A server on a pipe, over a state directory of its own that has the images of the tests.
pub(super) struct PipeServer {
    pub(super) child: Child,
    pub(super) client: Client<ChildStdin>,
    /// Where it keeps what is not an image, unless that is shared.
    _state: Option<tempfile::TempDir>,
}

pub(super) fn state() -> tempfile::TempDir {
    let state = tempfile::tempdir().unwrap();
    // The images are those of all tests, the rest is this test's.
    let images = needs::base().join("embedded");
    std::os::unix::fs::symlink(images, state.path().join("embedded")).unwrap();
    state
}

pub(super) fn imgforge(state: &Path, words: &[&str]) -> Command {
    imgforge_on("embedded", state, words)
}

pub(super) fn imgforge_on(engine: &str, state: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_imgforge"));
    command.args(["--engine", engine, "-q", "--state-dir"]).arg(state).args(words);
    command.stdin(Stdio::null());
    command
}

impl PipeServer {
    pub(super) fn start() -> PipeServer {
        let mut server = PipeServer::silent();
        let hello = server.client.ok("hello", json!({ "protocol": 1, "client": "tests" }));
        assert_eq!((&hello["protocol"], &hello["engine"]), (&json!(1), &json!("embedded")));
        server
    }

    pub(super) fn silent() -> PipeServer {
        let state = state();
        let mut server = PipeServer::on(state.path());
        server._state = Some(state);
        server
    }

    /// Starts a server on the state that the images of instances are built in.
    pub(super) fn with_instances() -> PipeServer {
        needs::base();
        let mut server = PipeServer::on(&needs::state());
        server.client.ok("hello", json!({ "protocol": 1 }));
        server
    }

    pub(super) fn on(state: &Path) -> PipeServer {
        PipeServer::of(imgforge(state, &["serve", "--stdio"]))
    }

    pub(super) fn of(mut command: Command) -> PipeServer {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        PipeServer { child, client: Client::new(input, output), _state: None }
    }

    /// Ends the input, and waits for the end of the server.
    pub(super) fn end(mut self) -> (bool, Duration) {
        let began = Instant::now();
        drop(self.client.input.take());
        let status = self.child.wait().unwrap();
        (status.success(), began.elapsed())
    }
}

impl Drop for PipeServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
