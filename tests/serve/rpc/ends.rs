//! How sessions and servers end.

use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::client::{Client, PATIENCE, PipeServer, imgforge, state};
use crate::common::needs;

#[test]
#[ignore = "needs a base image"]
fn the_end_of_the_input_ends_all_sessions() {
    let mut server = PipeServer::start();
    let client = &mut server.client;
    let session = client.session();
    client.session();
    // Marked, so that this machine's processes tell whether the one of the session lives.
    let mark = format!("sleep {}.25", std::process::id());
    let running = client.send("session.exec", json!({ "session": session, "shell": mark }));
    let until = Instant::now() + PATIENCE;
    while !is_alive(&mark) {
        assert!(Instant::now() < until, "it starts");
        std::thread::sleep(Duration::from_millis(10));
    }
    client.ok("session.processes", json!({ "session": session }));
    assert!(!client.answers.contains_key(&running));
    // One that is being started at this moment ends as well.
    client.send("session.start", json!({ "image": needs::BASE }));
    let number = server.child.id();
    let (is_success, took) = server.end();
    assert!(is_success && took < Duration::from_secs(15), "{took:?}");
    let children = std::fs::read_to_string(format!("/proc/{number}/task/{number}/children"));
    assert!(children.is_err(), "the process is gone");
    assert!(!is_alive(&mark), "what ran in a session is gone with the server");
}

/// Tells whether a process of this machine, in a container or not, has a command that begins so.
fn is_alive(command: &str) -> bool {
    let found = Command::new("pgrep").args(["-f", &format!("^{command}")]).output().unwrap();
    assert!(matches!(found.status.code(), Some(0 | 1)), "{found:?}");
    !found.stdout.is_empty()
}

#[test]
#[ignore = "needs a base image"]
fn a_server_that_is_killed_leaves_no_process() {
    let mut server = PipeServer::start();
    let session = server.client.session();
    let mark = format!("sleep {}.5", std::process::id());
    server.client.send("session.exec", json!({ "session": session, "shell": mark }));
    let until = Instant::now() + PATIENCE;
    while !is_alive(&mark) {
        assert!(Instant::now() < until, "it starts");
        std::thread::sleep(Duration::from_millis(10));
    }
    server.child.kill().unwrap();
    while is_alive(&mark) {
        assert!(Instant::now() < until, "it ends");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
#[ignore = "needs a base image"]
fn sessions_end_when_their_time_is_over_or_nobody_uses_them() {
    let mut server = PipeServer::start();
    let client = &mut server.client;
    let start = |client: &mut Client<_>, more: Value| {
        let mut params = json!({ "image": needs::BASE });
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        client.ok("session.start", params)["session"].as_str().unwrap().to_owned()
    };
    let short = start(client, json!({ "ttl": 0.5 }));
    let idle = start(client, json!({ "idle": 1.0, "labels": { "task": "7" } }));
    let listed = client.ok("session.ls", json!({}));
    assert!(
        listed["sessions"].as_array().unwrap().iter().any(|one| one["labels"]["task"] == "7"),
        "{listed}"
    );
    // A command under way is a use.
    assert_eq!(client.sh(&idle, "sleep 2; echo there").1, "there\n");
    std::thread::sleep(Duration::from_secs(3));
    for session in [short, idle] {
        assert_eq!(client.kind("session.stats", json!({ "session": session })), "no_such_session");
    }
}

#[test]
#[ignore = "needs a base image"]
fn a_socket_has_clients_whose_sessions_end_with_them() {
    let state = state();
    let path = state.path().join("rpc.sock");
    let address = format!("unix://{}", path.display());
    let mut child = imgforge(state.path(), &["serve", "--rpc", &address]).spawn().unwrap();
    let until = Instant::now() + PATIENCE;
    let connect = || loop {
        match UnixStream::connect(&path) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let client = || {
        let stream = connect();
        let mut client = Client::new(stream.try_clone().unwrap(), stream);
        client.ok("hello", json!({ "protocol": 1 }));
        client
    };
    let (mut one, mut other) = (client(), client());
    let session = one.session();
    assert_eq!(other.sh(&session, "echo hello").1, "hello\n");
    let stream = one.input.take().unwrap();
    stream.shutdown(std::net::Shutdown::Both).unwrap();
    while other.call("session.stats", json!({ "session": session })).is_ok() {
        assert!(Instant::now() < until, "it ends with its client");
        std::thread::sleep(Duration::from_millis(10));
    }
    let second = imgforge(state.path(), &["serve", "--rpc", &address]).output().unwrap();
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("serve"), "{second:?}");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(!path.exists());
}
