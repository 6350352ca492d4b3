//! How containers and servers begin and end, and what they leave.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::client::{Serve, command, demultiplexed, shell};
use crate::common::needs;

const SOON: Duration = Duration::from_secs(5);

/// Tells whether a process of this machine has a word as an argument.
fn is_running(word: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes.map(|process| process.path().join("cmdline")).any(|path| {
        std::fs::read(path).is_ok_and(|line| {
            line.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes())
        })
    })
}

/// Tells whether something holds within a time that is long for it.
async fn soon(what: impl Fn() -> bool) -> bool {
    for _ in 0..250 {
        if what() {
            return true;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    false
}

async fn until_gone(word: &str) {
    let until = Instant::now() + Duration::from_secs(20);
    while is_running(word) {
        assert!(Instant::now() < until, "{word} still runs");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A time to sleep that no other test sleeps.
fn unique() -> String {
    format!("7{}", rand::random::<u32>())
}

/// A tar with one file.
fn tar(path: &str, text: &str) -> bytes::Bytes {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o640);
    header.set_size(text.len() as u64);
    tar.append_data(&mut header, path, text.as_bytes()).unwrap();
    tar.into_inner().unwrap().into()
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn the_end_of_the_main_command_ends_every_process_and_files_can_still_be_copied() {
    let serve = Serve::start(&[]).await;
    let id = serve.create("", &["sleep", "600"], json!({})).await;
    let put = format!("/containers/{id}/archive?path=/tmp");
    assert_eq!(serve.bytes("PUT", &put, tar("a", "before")).await.status, 200, "created");
    serve.start_it(&id).await;
    let word = unique();
    let (code, out, _) =
        serve.shell(&id, &format!("cat /tmp/a; setsid sleep {word} >&- 2>&- &")).await;
    assert_eq!((code, out.as_str()), (0, "before"));
    // Its shell may have ended before it is the program that it is to be.
    assert!(soon(|| is_running(&word)).await, "what a command leaves behind lives on");
    assert_eq!(serve.post(&format!("/containers/{id}/kill?signal=TERM")).await.status, 204);
    assert_eq!(serve.wait(&id).await, 143);
    assert!(!is_running(&word), "it ends with the main command");
    let state = serve.state(&id).await;
    assert_eq!((&state["Status"], &state["Pid"]), (&json!("exited"), &json!(0)));
    assert_eq!(serve.bytes("PUT", &put, tar("b", "after")).await.status, 200, "exited");
    let got = serve.get(&format!("/containers/{id}/archive?path=/tmp/b")).await;
    let mut found = tar::Archive::new(&got.body[..]);
    let mut entry = found.entries().unwrap().next().unwrap().unwrap();
    assert_eq!(entry.path().unwrap().to_str(), Some("b"));
    let mut text = String::new();
    std::io::Read::read_to_string(&mut entry, &mut text).unwrap();
    assert_eq!(text, "after");
    let got = serve.bytes("PUT", &format!("/containers/{id}/archive?path=/no"), tar("b", "")).await;
    assert_eq!(got.status, 404);
    let got = serve
        .bytes("PUT", &format!("/containers/{id}/archive?path=/etc/passwd"), tar("b", ""))
        .await;
    assert_eq!(got.status, 400, "{}", got.message());
    serve.start_it(&id).await;
    assert_eq!(serve.shell(&id, "cat /tmp/b").await.1, "after", "it can be started again");
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn a_client_that_is_attached_before_the_start_gets_everything_and_gives_the_input() {
    let serve = Serve::start(&[]).await;
    let body = json!({ "OpenStdin": true, "StdinOnce": true, "AttachStdin": true });
    let id =
        serve.create("", &["sh", "-c", "echo first; cat; sleep 0.2; echo last >&2"], body).await;
    let path = format!("/containers/{id}/attach?stream=1&stdin=1&stdout=1&stderr=1");
    let (_, mut stream) = serve.open(&path, Value::Null).await;
    stream.write_all(b"typed\n").await.unwrap();
    stream.shutdown().await.unwrap();
    serve.start_it(&id).await;
    let mut all = Vec::new();
    timeout(SOON, stream.read_to_end(&mut all)).await.unwrap().unwrap();
    assert_eq!(demultiplexed(&all), ("first\ntyped\n".to_owned(), "last\n".to_owned()));
    let logs = async |more: &str| {
        let got = serve.get(&format!("/containers/{id}/logs?stdout=1&stderr=1{more}")).await;
        assert_eq!(got.status, 200);
        demultiplexed(&got.body)
    };
    assert_eq!(logs("").await, ("first\ntyped\n".to_owned(), "last\n".to_owned()));
    assert_eq!(logs("&tail=1").await, (String::new(), "last\n".to_owned()));
    assert_eq!(logs("&follow=1&tail=0").await, (String::new(), String::new()));
    let (out, _) = logs("&timestamps=1").await;
    assert!(out.lines().all(|line| line.split(' ').next().unwrap().ends_with('Z')), "{out}");
    assert_eq!(serve.get(&format!("/containers/{id}/logs")).await.status, 400);
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn what_is_paused_stands_still_and_what_is_not_given_is_said() {
    let serve = Serve::start(&[]).await;
    let host = json!({ "Privileged": true, "CapAdd": ["SYS_ADMIN", "CHOWN"], "PidMode": "host" });
    let body = json!({ "Image": needs::BASE, "Cmd": ["sleep", "600"], "HostConfig": host });
    let got = serve.call("POST", "/containers/create?name=asks", body).await.json();
    let warnings = got["Warnings"].to_string();
    for asked in ["Privileged", "CapAdd SYS_ADMIN", "PidMode host"] {
        assert!(warnings.contains(asked), "{warnings}");
    }
    assert!(!warnings.contains("CHOWN"), "{warnings}");
    let id = got["Id"].as_str().unwrap();
    serve.start_it("asks").await;
    let count = "while :; do echo x >> /tmp/n; sleep 0.02; done >&- 2>&- &";
    serve.shell(id, count).await;
    let size = async || {
        let got = serve.call("HEAD", "/containers/asks/archive?path=/tmp/n", Value::Null).await;
        got.headers["x-docker-container-path-stat"].clone()
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(serve.post("/containers/asks/pause").await.status, 204);
    assert_eq!(serve.state(id).await["Paused"], true);
    let before = size().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(before, size().await, "nothing runs");
    assert_eq!(serve.post("/containers/asks/pause").await.status, 409);
    assert_eq!(serve.post("/containers/asks/unpause").await.status, 204);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_ne!(before, size().await, "it goes on");
    let top = serve.get("/containers/asks/top").await.json();
    let rows = top["Processes"].to_string();
    assert!(rows.contains("sleep 600") && !rows.contains("imgforge"), "{rows}");
    let changes = serve.get("/containers/asks/changes").await.json().to_string();
    assert!(changes.contains(r#"{"Kind":1,"Path":"/tmp/n"}"#), "{changes}");
    assert_eq!(serve.call("DELETE", "/containers/asks", Value::Null).await.status, 409);
    assert_eq!(serve.call("DELETE", "/containers/asks?force=1", Value::Null).await.status, 204);
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn a_commit_is_an_image_with_what_changed() {
    let serve = Serve::start(&[]).await;
    let id = serve.create("", &["sleep", "600"], json!({ "Env": ["A=b"] })).await;
    serve.start_it(&id).await;
    serve.shell(&id, "echo new > /new; rm /etc/motd /etc/issue; mkdir -p /d/e").await;
    let name = format!("imgforge-test-serve:{:x}", rand::random::<u64>());
    let (repo, tag) = name.split_once(':').unwrap();
    let path = format!("/commit?container={id}&repo={repo}&tag={tag}");
    let got = serve.post(&path).await;
    assert_eq!(got.status, 201, "{}", got.message());
    let body =
        json!({ "Image": name, "Cmd": ["sh", "-c", "cat /new; ls -d /d/e /etc/issue; echo $A"] });
    let made = serve.call("POST", "/containers/create", body).await.json();
    let made = made["Id"].as_str().unwrap();
    serve.start_it(made).await;
    serve.wait(made).await;
    let got = serve.get(&format!("/containers/{made}/logs?stdout=1")).await;
    assert_eq!(demultiplexed(&got.body).0, "new\n/d/e\nb\n");
    let remove = format!("/images/{name}");
    assert_eq!(serve.call("DELETE", &remove, Value::Null).await.status, 409, "it is in use");
    serve.call("DELETE", &format!("/containers/{made}"), Value::Null).await;
    let got = serve.call("DELETE", &remove, Value::Null).await;
    assert!(got.json().to_string().contains("Deleted"), "{:?}", got.body);
    assert_eq!(serve.get(&format!("{remove}/json")).await.status, 404);
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn a_client_that_walks_away_ends_nothing_and_holds_nothing_up() {
    let serve = Serve::start(&[]).await;
    let id = serve.sleeper().await;
    let text = "seq 1 2000000; echo done > /tmp/done";
    let made = serve.make_exec(&id, shell(text)).await.json();
    let exec = made["Id"].as_str().unwrap();
    let (_, mut stream) = serve.open(&format!("/exec/{exec}/start"), json!({})).await;
    let mut some = [0; 1000];
    stream.read_exact(&mut some).await.unwrap();
    drop(stream);
    let until = Instant::now() + Duration::from_secs(30);
    while serve.get(&format!("/exec/{exec}/json")).await.json()["Running"] == true {
        assert!(Instant::now() < until, "it is held up");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(serve.shell(&id, "cat /tmp/done").await.1, "done\n");
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn a_server_is_for_one_user_alone_on_its_socket_and_leaves_nothing() {
    let mut serve = Serve::start(&[]).await;
    let mode = std::fs::metadata(&serve.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let output = command(&serve.socket, &[]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("a server listens on"), "{said}");
    let word = unique();
    let id = serve.create("", &["sleep", &word], json!({})).await;
    serve.start_it(&id).await;
    assert!(is_running(&word));
    let pid = rustix::process::Pid::from_child(&serve.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(serve.child.wait().unwrap().success());
    assert!(!is_running(&word), "a server takes its containers along");
    assert!(!serve.socket.exists());
    let (mut serve, word) = (Serve::start(&[]).await, unique());
    let id = serve.create("", &["sleep", &word], json!({})).await;
    serve.start_it(&id).await;
    serve.child.kill().unwrap();
    serve.child.wait().unwrap();
    until_gone(&word).await;
    // The socket of a dead server is replaced.
    assert!(serve.socket.exists());
    let child = command(&serve.socket, &[]).spawn().unwrap();
    serve.child = child;
    let until = Instant::now() + Duration::from_secs(20);
    while tokio::net::UnixStream::connect(&serve.socket).await.is_err() {
        assert!(Instant::now() < until, "the stale socket stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(serve.get("/_ping").await.status, 200);
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn a_server_in_the_background_answers_when_its_line_is_printed_and_ends_when_told() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("d.sock");
    let output =
        command(&socket, &["--background", "--print-env", "--ttl", "5m"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let line = format!("export DOCKER_HOST=unix://{}\n", socket.display());
    assert_eq!(String::from_utf8_lossy(&output.stdout), line);
    assert!(tokio::net::UnixStream::connect(&socket).await.is_ok());
    let mut stop = std::process::Command::new(env!("CARGO_BIN_EXE_imgforge"));
    stop.args(["serve", "stop", "--docker-api"]).arg(format!("unix://{}", socket.display()));
    let output = stop.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!socket.exists());
    let output = stop.output().unwrap();
    assert_eq!(output.status.code(), Some(2), "there is none any more");
    // One ends with a process, and with its time.
    let mut sleep = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let with = ["--with-pid", &sleep.id().to_string()];
    let mut server = command(&socket, &with).spawn().unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(server.try_wait().unwrap().is_none());
    sleep.kill().unwrap();
    sleep.wait().unwrap();
    assert!(server.wait().unwrap().success());
    assert!(command(&socket, &["--ttl", "1s"]).status().unwrap().success());
}
