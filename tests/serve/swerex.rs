//! The runtime of SWE-ReX that `imgforge serve --swerex` serves: the real binary, over real sessions.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::common::needs;

/// A server in the foreground, over a state directory of its own that has the images of the tests.
struct Swerex {
    child: std::process::Child,
    state: tempfile::TempDir,
    port: u16,
}

/// A session that is served, which ends with this value.
struct Session<'a> {
    server: &'a Swerex,
    id: String,
    key: String,
}

/// An answer.
struct Got {
    status: StatusCode,
    json: Value,
}

impl Got {
    /// The class that the client raises, without its module.
    fn class(&self) -> &str {
        assert_eq!(self.status, 511, "{}", self.json);
        let path = self.json["swerexception"]["class_path"].as_str().unwrap();
        path.strip_prefix("swerex.exceptions.").or(path.strip_prefix("builtins.")).unwrap()
    }

    fn message(&self) -> &str {
        self.json["swerexception"]["message"].as_str().unwrap()
    }

    fn more(&self) -> &Value {
        &self.json["swerexception"]["extra_info"]
    }

    /// The sentence of a request that is refused.
    fn detail(&self) -> &str {
        self.json["detail"].as_str().unwrap()
    }

    /// The document of a call that succeeded.
    fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.json);
        self.json
    }
}

/// Returns the command of imgforge on a state directory.
fn imgforge(state: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_imgforge"));
    command.args(["--engine", "embedded", "-q", "--state-dir"]).arg(state).args(words);
    command.env_remove("DOCKER_HOST").stdin(Stdio::null());
    command
}

fn run(state: &Path, words: &[&str]) -> Output {
    let output = imgforge(state, words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Sends a request to a port, and returns its answer.
async fn send(port: u16, method: &str, path: &str, head: &[(&str, &str)], body: &[u8]) -> Got {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
    for (name, value) in head {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(bytes::Bytes::copy_from_slice(body))).unwrap();
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let json = serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{error}: {body:?}"));
    Got { status: head.status, json }
}

impl Swerex {
    /// Starts a server on the state that all tests share: sessions are apart, and so are their keys.
    async fn start() -> Swerex {
        let state = tempfile::tempdir().unwrap();
        // The images are those of all tests, the sessions and the server are this test's.
        std::os::unix::fs::symlink(needs::base().join("embedded"), state.path().join("embedded"))
            .unwrap();
        let mut command = imgforge(state.path(), &["serve", "--swerex", "127.0.0.1:0"]);
        let child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut server = Swerex { child, state, port: 0 };
        let mut line = String::new();
        let stdout = server.child.stdout.as_mut().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
        let address = line.trim().strip_prefix("http://127.0.0.1:").unwrap();
        server.port = address.parse().unwrap();
        server
    }

    fn session(&self, more: &[&str]) -> Session<'_> {
        let words = ["session", "start", "--image", needs::BASE, "--swerex", "--json"];
        let output = run(self.state.path(), &[&words, more].concat());
        let started: Value = serde_json::from_slice(&output.stdout).unwrap();
        let id = started["id"].as_str().unwrap().to_owned();
        let host = format!("http://127.0.0.1:{}/s/{id}", self.port);
        assert_eq!(started["swerex"]["host"], json!(host));
        assert_eq!(started["swerex"]["port"], Value::Null);
        let key = started["swerex"]["auth_token"].as_str().unwrap().to_owned();
        Session { server: self, id, key }
    }
}

impl Drop for Swerex {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

impl Session<'_> {
    async fn send(&self, method: &str, call: &str, head: &[(&str, &str)], body: &[u8]) -> Got {
        let head = [&[("x-api-key", self.key.as_str())], head].concat();
        send(self.server.port, method, &format!("/s/{}/{call}", self.id), &head, body).await
    }

    async fn get(&self, call: &str) -> Got {
        self.send("GET", call, &[], b"").await
    }

    async fn post(&self, call: &str, body: Value) -> Got {
        self.send("POST", call, &[], body.to_string().as_bytes()).await
    }

    async fn execute(&self, body: Value) -> Got {
        self.post("execute", body).await
    }

    /// Runs a text with `/bin/sh`, and returns its output.
    async fn sh(&self, text: &str) -> String {
        let told = self.execute(json!({ "command": text, "shell": true })).await.ok();
        told["stdout"].as_str().unwrap().to_owned()
    }

    /// Counts the processes called `sleep`.
    async fn sleepers(&self) -> usize {
        let text = "cat /proc/[0-9]*/comm 2>/dev/null | grep -cx sleep";
        self.sh(text).await.trim().parse().unwrap()
    }

    /// Waits until so many of them run.
    async fn until_sleepers(&self, count: usize) {
        let until = Instant::now() + Duration::from_secs(20);
        while self.sleepers().await != count {
            assert!(Instant::now() < until, "there are not {count}");
        }
    }

    async fn open(&self) {
        self.post("create_session", json!({})).await.ok();
    }

    /// Runs a command in the default shell.
    async fn bash(&self, command: &str, mut more: Value) -> Got {
        more["action_type"] = json!("bash");
        more["command"] = json!(command);
        self.post("run_in_session", more).await
    }

    /// Runs a command there that has to succeed, and returns its output.
    async fn said(&self, command: &str) -> String {
        let told = self.bash(command, json!({ "timeout": 30 })).await.ok();
        assert_eq!(told["exit_code"], 0);
        told["output"].as_str().unwrap().to_owned()
    }

    async fn interrupt(&self, mut more: Value) -> Got {
        more["action_type"] = json!("bash_interrupt");
        self.post("run_in_session", more).await
    }

    /// Uploads a file, as SWE-ReX's client does.
    async fn upload(&self, fields: &[(&str, &[u8])]) -> Got {
        let mut body = Vec::new();
        for (name, value) in fields {
            let file = if *name == "file" { "; filename=\"f\"" } else { "" };
            body.extend(b"--edge\r\nContent-Disposition: form-data; name=\"");
            body.extend(format!("{name}\"{file}\r\n\r\n").as_bytes());
            body.extend(*value);
            body.extend(b"\r\n");
        }
        body.extend(b"--edge--\r\n");
        let head = [("content-type", "multipart/form-data; boundary=edge")];
        self.send("POST", "upload", &head, &body).await
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // A test may have ended it.
        let _ = imgforge(self.server.state.path(), &["session", "stop", &self.id]).output();
    }
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn nothing_is_told_without_the_key_of_the_session() {
    let server = Swerex::start().await;
    let (one, other) = (server.session(&[]), server.session(&[]));
    let nobody = "0".repeat(64);
    for call in ["", "is_alive", "execute", "upload", "close", "no-such-call"] {
        for path in [format!("/s/{}/{call}", one.id), format!("/{call}"), format!("/s/none/{call}")]
        {
            for head in [&[][..], &[("x-api-key", nobody.as_str())], &[("x-api-key", "")]] {
                let got = send(server.port, "GET", &path, head, b"").await;
                assert_eq!(got.status, 403, "{path}");
                assert!(got.detail().contains("X-API-Key"), "{}", got.detail());
            }
        }
        let path = format!("/s/{}/{call}", one.id);
        let got = send(server.port, "GET", &path, &[("x-api-key", &other.key)], b"").await;
        assert_eq!(got.status, 403, "the key of another session");
    }
    let hello = json!({ "message": "hello world" });
    assert_eq!(one.get("").await.ok(), hello);
    let got = send(server.port, "GET", "/", &[("x-api-key", &one.key)], b"").await;
    assert_eq!(got.ok(), hello);
    // Without a path the key says which session is meant.
    one.post("write_file", json!({ "path": "/tmp/of", "content": "one" })).await.ok();
    let read = json!({ "path": "/tmp/of" }).to_string();
    for (key, is_there) in [(&one.key, true), (&other.key, false)] {
        let head = [("x-api-key", key.as_str())];
        let got = send(server.port, "POST", "/read_file", &head, read.as_bytes()).await;
        match is_there {
            true => assert_eq!(got.ok()["content"], "one"),
            false => assert_eq!(got.class(), "FileNotFoundError"),
        }
    }
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn a_key_is_in_one_file_of_its_owner_and_in_no_list() {
    use std::os::unix::fs::PermissionsExt as _;
    let server = Swerex::start().await;
    let session = server.session(&[]);
    let listed = run(server.state.path(), &["session", "ls", "--json"]).stdout;
    let listed = String::from_utf8(listed).unwrap();
    assert!(listed.contains(&session.id) && !listed.contains(&session.key), "{listed}");
    let directory = server.state.path().join("sessions").join(&session.id);
    let mut with_key = Vec::new();
    for file in std::fs::read_dir(directory).unwrap().flatten() {
        let text = std::fs::read(file.path()).unwrap_or_default();
        if memchr::memmem::find(&text, session.key.as_bytes()).is_some() {
            with_key.push(file.metadata().unwrap().permissions().mode() & 0o777);
        }
    }
    assert_eq!(with_key, [0o600]);
    // One without `--swerex` has no key: nobody reaches it.
    let plain = run(server.state.path(), &["session", "start", "--image", needs::BASE]).stdout;
    let plain = String::from_utf8(plain).unwrap();
    let got =
        send(server.port, "GET", &format!("/s/{}/", plain.trim()), &[("x-api-key", "")], b"").await;
    run(server.state.path(), &["session", "stop", plain.trim()]);
    assert_eq!(got.status, 403);
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn what_is_not_served_is_said_and_a_body_that_is_none_is_refused_with_a_sentence() {
    let server = Swerex::start().await;
    let session = server.session(&[]);
    assert_eq!(session.get("no-such-call").await.status, 404);
    assert_eq!(session.get("execute").await.status, 405);
    assert_eq!(session.post("is_alive", json!({})).await.status, 405);
    for (call, body) in [
        ("execute", "{"),
        ("execute", "{}"),
        ("execute", r#"{"command": []}"#),
        ("execute", r#"{"command": "x", "timeout": -1}"#),
        ("run_in_session", r#"{"command": "x"}"#),
        ("run_in_session", r#"{"action_type": "bash", "command": "x", "check": "maybe"}"#),
        ("create_session", r#"{"session_type": "zsh"}"#),
        ("write_file", r#"{"path": "/tmp/x"}"#),
        ("upload", "text"),
    ] {
        let got = session.send("POST", call, &[], body.as_bytes()).await;
        assert_eq!(got.status, 400, "{call} {body}");
        assert!(got.detail().contains(' '), "{}", got.detail());
    }
    let content = "x".repeat(65 << 20);
    let got = session.post("write_file", json!({ "path": "/tmp/x", "content": content })).await;
    assert_eq!(got.status, 400);
    assert_eq!(got.detail(), "the body has more than 64 MiB");
    for fields in [
        &[("target_path", &b"/tmp/x"[..])][..],
        &[("file", b"x")],
        &[("file", b"x"), ("target_path", b"")],
    ] {
        assert_eq!(session.upload(fields).await.status, 400);
    }
    assert_eq!(session.sh("ls /tmp").await, "", "nothing was written");
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn commands_run_as_subprocesses_of_python_do() {
    let server = Swerex::start().await;
    let session = server.session(&["-w", "/usr"]);
    let got = session.execute(json!({ "command": ["printf", "%s|", "a b", "$X"] })).await.ok();
    assert_eq!(got, json!({ "stdout": "a b|$X|", "stderr": "", "exit_code": 0 }));
    let text = "echo out; echo err >&2; pwd; echo $X; kill -9 $$";
    let mut command = json!({ "command": text, "shell": true, "env": { "X": "1" }, "cwd": "lib" });
    let got = session.execute(command.clone()).await.ok();
    let all = json!({ "stdout": "out\n/usr/lib\n1\n", "stderr": "err\n", "exit_code": -9 });
    assert_eq!(got, all);
    command["merge_output_streams"] = json!(true);
    let got = session.execute(command).await.ok();
    assert_eq!(got["stdout"], "out\nerr\n/usr/lib\n1\n");
    let got = session.execute(json!({ "command": "printf '\\377ä'", "shell": true })).await.ok();
    assert_eq!(got["stdout"], "\\xffä");
    let failing =
        json!({ "command": "echo why; exit 3", "shell": true, "check": true, "error_msg": "E" });
    let got = session.execute(failing).await;
    assert_eq!(got.class(), "NonZeroExitCodeError");
    assert!(got.message().starts_with("E: ") && got.message().contains("why"), "{}", got.message());
    assert_eq!(got.more()["exit_code"], 3);
    let began = Instant::now();
    let slow = json!({ "command": "echo before; sleep 60", "shell": true, "timeout": 0.3 });
    let got = session.execute(slow).await;
    assert_eq!(got.class(), "CommandTimeoutError");
    assert_eq!(got.more()["stdout"], "before\n");
    assert!(began.elapsed() < Duration::from_secs(20));
    assert_eq!(session.sleepers().await, 0, "it is killed");
    // What a command leaves behind lives on, and nobody waits for it.
    let began = Instant::now();
    assert_eq!(session.sh("sleep 50 & echo started").await, "started\n");
    assert!(began.elapsed() < Duration::from_secs(20));
    assert_eq!(session.sleepers().await, 1);
    for (command, class) in [
        (json!({ "command": ["no-such-program"] }), "FileNotFoundError"),
        (json!({ "command": ["ls"], "cwd": "/nowhere" }), "FileNotFoundError"),
        (json!({ "command": ["ls"], "cwd": "nowhere" }), "FileNotFoundError"),
        (json!({ "command": ["/etc/passwd"] }), "PermissionError"),
    ] {
        assert_eq!(session.execute(command).await.class(), class);
    }
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn files_are_written_and_read_by_the_user_of_the_session() {
    let server = Swerex::start().await;
    let session = server.session(&["-u", "nobody", "-w", "/tmp"]);
    let write = json!({ "path": "new/dir/a.txt", "content": "ä\r\n" });
    assert_eq!(session.post("write_file", write).await.ok(), json!({}));
    let read = |path: &str| session.post("read_file", json!({ "path": path }));
    assert_eq!(read("/tmp/new/dir/a.txt").await.ok(), json!({ "content": "ä\r\n" }));
    assert_eq!(session.sh("stat -c %U new/dir/a.txt; ln -s new/dir/a.txt link").await, "nobody\n");
    assert_eq!(read("link").await.ok()["content"], "ä\r\n", "a link is followed");
    assert_eq!(read("/nowhere").await.class(), "FileNotFoundError");
    assert_eq!(read("/tmp").await.class(), "IsADirectoryError");
    assert_eq!(read("/etc/shadow").await.class(), "PermissionError");
    let refused = |path: &str| session.post("write_file", json!({ "path": path, "content": "" }));
    assert_eq!(refused("/etc/x").await.class(), "PermissionError");
    assert_eq!(refused("/tmp").await.class(), "IsADirectoryError");
    assert_eq!(refused("/etc/passwd/x").await.class(), "NotADirectoryError");
    session.sh("printf '\\344' >latin").await;
    assert_eq!(read("latin").await.class(), "UnicodeDecodeError");
    let mut latin = json!({ "path": "latin", "encoding": "latin-1" });
    assert_eq!(session.post("read_file", latin.clone()).await.ok()["content"], "ä");
    latin["encoding"] = json!("ebcdic");
    assert_eq!(session.post("read_file", latin).await.class(), "LookupError");
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn files_and_directories_are_uploaded_for_the_user_of_the_session() {
    use std::io::Write as _;
    let server = Swerex::start().await;
    let session = server.session(&["-u", "nobody", "-w", "/tmp"]);
    let bytes: Vec<u8> = (0..200_000u32).map(|number| number as u8).collect();
    let fields: [(&str, &[u8]); 3] =
        [("file", &bytes), ("target_path", b"up/file"), ("unzip", b"false")];
    assert_eq!(session.upload(&fields).await.ok(), json!({}));
    assert_eq!(session.sh("stat -c '%U %s' up/file").await, "nobody 200000\n");
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    zip.start_file("a/run", options.unix_permissions(0o755)).unwrap();
    zip.write_all(b"#!/bin/sh\necho ran\n").unwrap();
    let zip = zip.finish().unwrap().into_inner();
    let fields: [(&str, &[u8]); 3] =
        [("target_path", b"/tmp/dir"), ("unzip", b"true"), ("file", &zip)];
    session.upload(&fields).await.ok();
    assert_eq!(session.sh("dir/a/run; stat -c %U dir/a/run dir").await, "ran\nnobody\nnobody\n");
    let fields: [(&str, &[u8]); 3] =
        [("file", b"no zip"), ("target_path", b"/tmp/x"), ("unzip", b"true")];
    let got = session.upload(&fields).await;
    assert_eq!(got.status, 400, "{}", got.json);
    assert!(got.detail().contains("zip"), "{}", got.detail());
    let fields: [(&str, &[u8]); 2] = [("file", b"x"), ("target_path", b"/etc/x/y")];
    assert_eq!(session.upload(&fields).await.class(), "NotADirectoryError");
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn a_shell_keeps_its_state_and_its_errors_have_the_classes_of_swe_rex() {
    let server = Swerex::start().await;
    let session = server.session(&[]);
    assert_eq!(session.bash("ls", json!({})).await.class(), "SessionDoesNotExistError");
    session
        .sh("printf '[ -z \"$PS1\" ] && return\\ncase $- in *i*) V=1; echo sourced ;; esac' >/rc")
        .await;
    let got = session.post("create_session", json!({ "startup_source": ["/rc"] })).await.ok();
    assert_eq!(got, json!({ "output": "sourced\n", "session_type": "bash" }));
    assert_eq!(session.post("create_session", json!({})).await.class(), "SessionExistsError");
    session.said("cd /usr; f() { echo f$1; }; alias g='f 2'").await;
    assert_eq!(session.said("pwd; echo $V; f 1; g").await, "/usr\n1\nf1\nf2\n");
    assert_eq!(session.said("\n\n echo one \n\n echo two").await, "one\ntwo\n");
    assert_eq!(session.said("PS1='$ '; kill -9 $BASHPID | cat; echo x\\\\y").await, "x\\y\n");
    let got = session.bash("echo why; false", json!({ "error_msg": "E" })).await;
    assert_eq!(got.class(), "NonZeroExitCodeError");
    assert!(got.message().starts_with("E: "), "{}", got.message());
    assert_eq!(got.more(), &json!({ "exit_code": 1, "output": "why\n" }));
    let got = session
        .bash("exit_code() { return 7; }; exit_code", json!({ "check": "silent" }))
        .await
        .ok();
    assert_eq!((&got["exit_code"], &got["expect_string"]), (&json!(7), &json!("")));
    let got = session.bash("false", json!({ "check": "ignore" })).await.ok();
    assert_eq!(got["exit_code"], Value::Null);
    let got = session.bash("touch /ran\n(a", json!({})).await;
    assert_eq!(got.class(), "BashIncorrectSyntaxError");
    assert!(got.more()["bash_stderr"].as_str().unwrap().contains("syntax error"));
    assert_eq!(got.more()["bash_stdout"], "");
    assert_eq!(session.said("ls /ran 2>/dev/null; echo $V").await, "1\n", "nothing of it ran");
    assert_eq!(session.post("close_session", json!({})).await.ok()["session_type"], "bash");
    let again = session.post("close_session", json!({})).await;
    assert_eq!(again.class(), "SessionDoesNotExistError");
    let slow = json!({ "startup_source": ["<(echo sleep 60)"], "startup_timeout": 0.3 });
    assert_eq!(session.post("create_session", slow).await.class(), "CommandTimeoutError");
    session.open().await;
    session.post("close", Value::Null).await.ok();
    assert_eq!(session.bash("ls", json!({})).await.class(), "SessionDoesNotExistError");
    assert!(session.get("is_alive").await.ok()["is_alive"].as_bool().unwrap(), "the session stays");
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn a_command_that_takes_too_long_is_killed_and_the_shell_goes_on() {
    let server = Swerex::start().await;
    let session = server.session(&[]);
    session.open().await;
    session.said("X=kept; sleep 500 & sleep 0.1").await;
    let limit = || json!({ "timeout": 0.3 });
    for command in [
        "echo before; sleep 60; touch /over",
        "echo before; while :; do :; done; touch /over",
        "echo before; sleep 60 | cat; touch /over",
    ] {
        let got = session.bash(command, limit()).await;
        assert_eq!(got.class(), "CommandTimeoutError", "{command}");
        assert!(got.more()["output"].as_str().unwrap().starts_with("before\n"), "{}", got.more());
        // As SWE-agent does it then.
        let got = session.interrupt(json!({})).await.ok();
        assert_eq!((&got["output"], &got["exit_code"]), (&json!(""), &json!(0)));
        assert_eq!(session.said("echo $X; ls /over 2>&-; true").await, "kept\n");
        assert_eq!(session.sleepers().await, 1, "what was left in the background before");
    }
    let got = session.bash("echo bye; exit 5", json!({})).await;
    assert_eq!(got.class(), "SwerexException");
    assert!(got.message().contains("exit code 5"), "{}", got.message());
    assert_eq!(session.bash("ls", json!({})).await.class(), "SessionDoesNotExistError");
    session.open().await;
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn an_interrupt_ends_what_runs_now() {
    let server = Swerex::start().await;
    let session = server.session(&[]);
    session.open().await;
    for (command, code) in [("sleep 60; echo over", 130), ("trap '' INT; exec sleep 60", 137)] {
        let command = format!("( {command} )");
        let running = session.bash(&command, json!({ "check": "silent" }));
        let interrupt = async {
            session.until_sleepers(1).await;
            session.interrupt(json!({ "timeout": 0.1, "n_retry": 2 })).await.ok()
        };
        let (ran, interrupted) = tokio::join!(running, interrupt);
        let ran = ran.ok();
        assert_eq!(ran["exit_code"], code, "{ran}");
        assert!(!ran["output"].as_str().unwrap().contains("over"));
        assert_eq!(interrupted["exit_code"], 0);
    }
    assert_eq!(session.said("trap - INT; echo on").await, "on\n");
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn a_program_on_a_terminal_is_spoken_with() {
    let server = Swerex::start().await;
    let session = server.session(&[]);
    session.open().await;
    session.said("cd /usr; export X=1; y='a b'; tell() { echo $y; }").await;
    let ask = |text: &'static str, expect: &[&str]| {
        session
            .bash(text, json!({ "is_interactive_command": true, "expect": expect, "timeout": 20 }))
    };
    let got = ask("python3", &["WONT", ">>> "]).await.ok();
    assert_eq!((&got["expect_string"], &got["exit_code"]), (&json!(">>> "), &json!(0)));
    let got =
        ask("import os, sys; print(os.getcwd(), os.environ['X'], sys.stdin.isatty())", &[">>> "]);
    assert_eq!(got.await.ok()["output"], "/usr 1 True");
    let got = session
        .bash("1", json!({ "is_interactive_command": true, "expect": ["WONT"], "timeout": 0.2 }));
    assert_eq!(got.await.class(), "CommandTimeoutError");
    let got = session
        .interrupt(json!({ "expect": ["KeyboardInterrupt\\s+>>> "], "timeout": 10 }))
        .await
        .ok();
    assert!(got["expect_string"].as_str().unwrap().starts_with("Keyboard"), "{got}");
    let quit = json!({ "is_interactive_quit": true, "check": "raise", "timeout": 20 });
    session.bash("quit()", quit).await.ok();
    assert_eq!(session.said("pwd; echo $y").await, "/usr\na b\n", "the shell is where it was");
    // A shell's own functions are there, and its exit code counts where nobody asked for a program.
    let got = session
        .bash("tell; exit 4", json!({ "expect": ["WONT"], "check": "silent", "timeout": 20 }));
    let got = got.await.ok();
    assert_eq!((&got["output"], &got["exit_code"]), (&json!("a b\n"), &json!(4)));
    let running = json!({ "expect": ["ready"], "timeout": 20 });
    let got = session.bash("echo ready; read line; echo got $line; exit 3", running).await;
    assert_eq!(got.class(), "NoExitCodeError");
    let got = session.bash("words", json!({ "check": "silent", "timeout": 20 })).await.ok();
    assert_eq!((&got["output"], &got["exit_code"]), (&json!("\ngot words\n"), &json!(3)));
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn a_request_that_comes_again_is_answered_again_and_not_done_again() {
    let server = Swerex::start().await;
    let session = server.session(&[]);
    let other = server.session(&[]);
    let body =
        json!({ "command": "echo x >>/count; sleep 0.5; cat /count", "shell": true }).to_string();
    let head = [("x-request-id", "one")];
    let ask = |session: &Session<'_>| {
        let (port, path, key) =
            (server.port, format!("/s/{}/execute", session.id), session.key.clone());
        let body = body.clone();
        async move {
            let head = [("x-api-key", key.as_str()), head[0]];
            send(port, "POST", &path, &head, body.as_bytes()).await.ok()
        }
    };
    let (first, meanwhile) = tokio::join!(ask(&session), ask(&session));
    let after = ask(&session).await;
    assert_eq!(first["stdout"], "x\n");
    assert_eq!((&meanwhile, &after), (&first, &first));
    assert_eq!(session.sh("cat /count").await, "x\n");
    // An id is one session's own.
    assert_eq!(ask(&other).await["stdout"], "x\n");
    assert_eq!(other.sh("cat /count").await, "x\n");
    // A client that breaks off and asks again gets what was done meanwhile.
    let gone = tokio::time::timeout(Duration::from_millis(100), async {
        let body = json!({ "command": "sleep 0.5; echo y >>/count; wc -l </count", "shell": true });
        session
            .send("POST", "execute", &[("x-request-id", "two")], body.to_string().as_bytes())
            .await
    });
    assert!(gone.await.is_err());
    let again =
        session.send("POST", "execute", &[("x-request-id", "two")], br#"{"command": "x"}"#).await;
    assert_eq!(again.ok()["stdout"], "2\n");
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn a_session_that_ends_is_an_error_and_never_a_result() {
    let server = Swerex::start().await;
    let session = server.session(&[]);
    session.open().await;
    let running = [
        json!({ "action_type": "bash", "command": "sleep 60", "check": "silent" }),
        json!({ "command": ["sleep", "60"] }),
    ];
    let (in_shell, beside) = (
        session.post("run_in_session", running[0].clone()),
        session.post("execute", running[1].clone()),
    );
    let stop = async {
        session.until_sleepers(2).await;
        run(server.state.path(), &["session", "stop", &session.id]);
    };
    let (in_shell, beside, ()) = tokio::join!(in_shell, beside, stop);
    for got in [&in_shell, &beside] {
        assert_eq!(got.class(), "SwerexException", "{}", got.json);
        assert!(got.message().len() > 10, "{}", got.message());
    }
    for got in [
        session.bash("ls", json!({})).await,
        session.execute(json!({ "command": "ls" })).await,
        session.post("read_file", json!({ "path": "/etc/passwd" })).await,
        session.post("create_session", json!({ "session": "new" })).await,
    ] {
        let class = got.class();
        assert!(["SwerexException", "SessionDoesNotExistError"].contains(&class), "{class}");
    }
    let told = session.get("is_alive").await.ok();
    assert_eq!(told["is_alive"], false);
    assert!(told["message"].as_str().unwrap().contains("session"), "{told}");
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn a_killed_host_of_a_session_is_an_error_too() {
    let server = Swerex::start().await;
    let session = server.session(&[]);
    session.open().await;
    let listed = run(server.state.path(), &["session", "ls", "--json"]).stdout;
    let listed: Value = serde_json::from_slice(&listed).unwrap();
    let host = listed[0]["host"].as_i64().unwrap();
    let running = session.bash("sleep 60", json!({ "check": "silent" }));
    let kill = async {
        session.until_sleepers(1).await;
        let host = rustix::process::Pid::from_raw(host as i32).unwrap();
        rustix::process::kill_process(host, rustix::process::Signal::KILL).unwrap();
    };
    let (ran, ()) = tokio::join!(running, kill);
    assert_eq!(ran.class(), "SwerexException", "{}", ran.json);
    assert_eq!(session.get("is_alive").await.ok()["is_alive"], false);
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn one_server_serves_a_state_directory_and_only_this_machine() {
    let server = Swerex::start().await;
    let state = server.state.path();
    for address in ["0.0.0.0:0", "[::]:8000", "192.168.0.1:8000"] {
        let refused = imgforge(state, &["serve", "--swerex", address]).output().unwrap();
        assert_eq!(refused.status.code(), Some(2));
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(said.contains("other machines"), "{said}");
    }
    let second = imgforge(state, &["serve", "--swerex"]).output().unwrap();
    assert_eq!(second.status.code(), Some(3));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains(&format!("http://127.0.0.1:{}", server.port)), "{said}");
    let elsewhere = ["session", "start", "--image", needs::BASE, "--swerex", "127.0.0.1:1"];
    assert!(!imgforge(state, &elsewhere).output().unwrap().status.success());
    let listed = run(state, &["session", "ls", "--json"]).stdout;
    assert_eq!(listed.trim_ascii(), b"[]", "no session was started for that");
    // Another state directory has a server of its own, whose sessions are not these.
    let other = Swerex::start().await;
    let session = server.session(&[]);
    let path = format!("/s/{}/", session.id);
    let head = [("x-api-key", session.key.as_str())];
    assert_eq!(send(server.port, "GET", &path, &head, b"").await.status, 200);
    assert_eq!(send(other.port, "GET", &path, &head, b"").await.status, 403);
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn a_session_starts_the_server_that_it_needs() {
    let state = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(needs::base().join("embedded"), state.path().join("embedded"))
        .unwrap();
    let start = || run(state.path(), &["session", "start", "--image", needs::BASE, "--swerex"]);
    let told = String::from_utf8(start().stdout).unwrap();
    let lines: Vec<&str> = told.lines().collect();
    let [id, host, "port: null", key] = lines[..] else { panic!("{told}") };
    let rest = host.strip_prefix("host: http://127.0.0.1:").unwrap();
    let (port, path) = rest.split_once('/').unwrap();
    assert_eq!(path, format!("s/{id}"));
    let port: u16 = port.parse().unwrap();
    let head = [("x-api-key", key.strip_prefix("auth_token: ").unwrap())];
    let got = send(port, "GET", &format!("/s/{id}/is_alive"), &head, b"").await.ok();
    assert_eq!(got["is_alive"], true);
    // The second one takes the server that is there.
    let second = String::from_utf8(start().stdout).unwrap();
    assert!(second.contains(&format!("http://127.0.0.1:{port}/s/")), "{second}");
    run(state.path(), &["session", "stop", "--all"]);
    let taken = imgforge(state.path(), &["serve", "--swerex", "--background"]).output().unwrap();
    assert_eq!(taken.status.code(), Some(3), "one server is enough");
    run(state.path(), &["serve", "stop", "--swerex"]);
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err(), "the server has ended");
    let again = imgforge(state.path(), &["serve", "stop", "--swerex"]).output().unwrap();
    assert_eq!(again.status.code(), Some(2));
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn a_server_in_the_background_says_where_it_is_and_ends_after_its_time() {
    let state = tempfile::tempdir().unwrap();
    let words = ["serve", "--swerex", "--background", "--ttl", "2s"];
    let told = String::from_utf8(run(state.path(), &words).stdout).unwrap();
    let port: u16 = told.trim().strip_prefix("http://127.0.0.1:").unwrap().parse().unwrap();
    assert_eq!(send(port, "GET", "/", &[], b"").await.status, 403);
    let until = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
        assert!(Instant::now() < until, "it serves on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!state.path().join("swerex.json").exists());
}
