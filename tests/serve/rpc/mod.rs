//! The protocol for programs that `imgforge serve --stdio` and `--rpc` speak: the real binary, over real
//! sessions.

mod client;
mod ends;
mod environments;
mod instances;
mod smoke;

use std::process::Stdio;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use self::client::{Client, PATIENCE, PipeServer, bytes_of, imgforge_on, text_of};
use crate::common::needs;

#[test]
#[ignore = "needs a base image"]
fn the_first_request_is_hello_and_versions_are_negotiated() {
    let mut server = PipeServer::silent();
    let client = &mut server.client;
    assert_eq!(client.kind("session.ls", json!({})), "invalid");
    let error = client.call("hello", json!({ "protocol": 99 })).unwrap_err();
    assert_eq!((&error["code"], &error["data"]["kind"]), (&json!(-32001), &json!("protocol")));
    assert_eq!(error["data"]["supported"], json!([1]));
    assert!(error["data"]["hint"].as_str().unwrap().contains("versions"), "{error}");
    client.ok("hello", json!({ "protocol": 1 }));
    assert_eq!(client.ok("session.ls", json!({})), json!({ "sessions": [] }));
}

#[test]
#[ignore = "needs a base image"]
fn what_is_no_request_is_answered_and_the_connection_lives() {
    let mut server = PipeServer::start();
    let client = &mut server.client;
    for (line, code) in [
        ("{", -32700),
        ("[]", -32600),
        (r#"{"jsonrpc":"1.0","id":900,"method":"hello"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":901,"method":"session.sart"}"#, -32601),
        (r#"{"jsonrpc":"2.0","id":902,"method":"session.start","params":{"imgae":"a"}}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":903,"method":"session.start","params":{}}"#, -32602),
    ] {
        client.line(line);
        let answer = client.next();
        assert_eq!(answer["error"]["code"], json!(code), "{line}: {answer}");
        assert_eq!(answer["error"]["data"]["kind"], "invalid", "{answer}");
    }
    let near = client.call("session.sart", json!({})).unwrap_err();
    assert!(near["data"]["hint"].as_str().unwrap().contains("`session.start`"), "{near}");
    let unknown = client.call("session.start", json!({ "imgae": "a" })).unwrap_err();
    let message = unknown["message"].as_str().unwrap();
    assert!(message.starts_with("session.start: unknown field `imgae`"), "{message}");
    assert_eq!(client.kind("session.start", json!({ "image": "no/such:image" })), "no_such_image");
    assert_eq!(client.kind("session.stats", json!({ "session": "0" })), "no_such_session");
    assert_eq!(client.kind("session.start", json!({ "checkpoint": "0" })), "no_such_checkpoint");
}

#[test]
#[ignore = "needs a base image"]
fn a_command_tells_its_end_and_its_outputs() {
    let mut server = PipeServer::start();
    let client = &mut server.client;
    let session = client.session();
    let ran = client.ok(
        "session.exec",
        json!({
            "session": session, "command": ["sh", "-c", "cat; echo $A >&2; exit 3"],
            "env": { "A": "b" }, "stdin": STANDARD.encode(b"\xff\0x"),
        }),
    );
    assert_eq!(
        (&ran["end"], &ran["code"], &ran["signal"]),
        (&json!("exited"), &json!(3), &Value::Null)
    );
    assert_eq!(bytes_of(&ran["stdout"]), b"\xff\0x");
    assert_eq!(text_of(&ran["stderr"]), "b\n");
    assert_eq!(ran["dropped"], json!({ "stdout": 0, "stderr": 0 }));
    for (more, end, code) in [
        (json!({ "shell": "kill -9 $$" }), "signaled", Some(137)),
        (json!({ "shell": "echo before; sleep 60", "timeout": 0.3 }), "timed_out", Some(124)),
        (json!({ "shell": "sleep 60", "idle_timeout": 0.3 }), "idle", Some(124)),
        (json!({ "shell": "exit 124" }), "exited", Some(124)),
        (json!({ "command": ["no-such-program"] }), "not_started", Some(127)),
        (json!({ "command": ["true"], "user": "nobody-knows" }), "not_started", Some(126)),
        (json!({ "command": ["true"], "workdir": "/nowhere" }), "not_started", Some(126)),
    ] {
        let mut params = more.clone();
        params["session"] = json!(session);
        let ran = client.ok("session.exec", params);
        assert_eq!((ran["end"].as_str(), ran["code"].as_i64()), (Some(end), code), "{more}: {ran}");
        if end == "timed_out" {
            assert_eq!(text_of(&ran["stdout"]), "before\n", "what it printed is kept");
        }
    }
    let ran = client.ok(
        "session.exec",
        json!({
            "session": session, "shell": "echo 1; echo 2 >&2; echo 3", "merge": true,
            "max_output": 4, "keep": "head_tail",
        }),
    );
    assert_eq!(
        (text_of(&ran["stdout"]).as_str(), &ran["dropped"]["stdout"]),
        ("1\n3\n", &json!(2))
    );
    for wrong in [json!({}), json!({ "shell": "a", "command": ["a"] }), json!({ "command": [] })] {
        let mut params = wrong.clone();
        params["session"] = json!(session);
        let kind = client.kind("session.exec", params);
        assert!(["invalid", "refused"].contains(&kind.as_str()), "{wrong}: {kind}");
    }
}

#[test]
#[ignore = "needs a base image"]
fn a_command_may_be_talked_to_killed_and_waited_for() {
    let mut server = PipeServer::start();
    let client = &mut server.client;
    let session = client.session();
    let of = |exec: &str| json!({ "session": session, "exec": exec });
    let with = |exec: &str, more: Value| {
        let mut params = of(exec);
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        params
    };
    let cat = with(
        "cat",
        json!({ "command": ["cat"], "open_stdin": true, "detach": true, "stream": true }),
    );
    assert_eq!(client.ok("session.exec", cat.clone()), json!({ "exec": "cat" }));
    assert_eq!(client.kind("session.exec", cat), "invalid");
    for piece in ["one ", "two"] {
        client.ok("exec.input", with("cat", json!({ "data": STANDARD.encode(piece) })));
    }
    client.ok("exec.close_input", of("cat"));
    let result = client.ok("exec.wait", of("cat"));
    assert_eq!(
        (&result["end"], text_of(&result["stdout"]).as_str()),
        (&json!("exited"), "one two")
    );
    let streamed: Vec<u8> = client
        .notifications
        .iter()
        .filter(|one| one["method"] == "output" && one["params"]["exec"] == "cat")
        .flat_map(|one| bytes_of(&one["params"]["data"]))
        .collect();
    assert_eq!(streamed, b"one two");
    assert_eq!(client.kind("exec.wait", of("cat")), "no_such_exec");

    let sleep = client
        .send("session.exec", with("sleep", json!({ "shell": "setsid sleep 600 & sleep 600" })));
    // It is in its turn behind the first, and is never started.
    let waits = client.send("session.exec", with("waits", json!({ "shell": "touch /started" })));
    client.ok("exec.kill", of("waits"));
    let until = Instant::now() + PATIENCE;
    while client.call("exec.kill", of("sleep")) == Ok(json!({}))
        && !client.answers.contains_key(&sleep)
        && Instant::now() < until
    {
        std::thread::sleep(Duration::from_millis(20));
    }
    let result = client.answer(sleep).unwrap();
    assert!(["signaled", "not_started"].contains(&result["end"].as_str().unwrap()), "{result}");
    assert_eq!(client.answer(waits).unwrap()["end"], "not_started");
    let (code, left) = client.sh(&session, "ls /started; ls /proc | grep -c '^[0-9]*$'; pgrep sleep || cat /proc/[0-9]*/comm | grep sleep");
    assert_ne!(code, 0, "nothing is left: {left}");

    let tty = with(
        "tty",
        json!({
            "command": ["sh", "-c", "stty size; read line; echo got $line"],
            "tty": { "rows": 30, "columns": 100 }, "detach": true,
        }),
    );
    client.ok("session.exec", tty);
    client.ok("exec.input", with("tty", json!({ "data": STANDARD.encode("hi\n") })));
    let result = client.ok("exec.wait", of("tty"));
    let text = text_of(&result["stdout"]);
    assert!(text.contains("30 100") && text.contains("got hi"), "{text}");
}

#[test]
#[ignore = "needs a base image"]
fn requests_of_a_session_keep_their_order_and_others_do_not_wait() {
    let mut server = PipeServer::start();
    let client = &mut server.client;
    let (first, second) = (client.session(), client.session());
    let slow = client
        .send("session.exec", json!({ "session": first, "shell": "sleep 1; echo a >>/order" }));
    let behind =
        client.send("session.exec", json!({ "session": first, "shell": "echo b >>/order" }));
    let beside = client.send(
        "session.exec",
        json!({ "session": first, "shell": "echo c >>/order", "async": true }),
    );
    let other = client.send("session.exec", json!({ "session": second, "shell": "true" }));
    client.answer(beside).unwrap();
    client.answer(other).unwrap();
    assert!(!client.answers.contains_key(&slow), "they did not wait for the slow one");
    client.answer(behind).unwrap();
    assert!(client.answers.contains_key(&slow), "it was in its turn");
    assert_eq!(client.sh(&first, "cat /order"), (0, "c\na\nb\n".to_owned()));
}

#[test]
#[ignore = "needs a base image"]
fn a_shell_keeps_its_state_and_its_limits() {
    let mut server = PipeServer::start();
    let client = &mut server.client;
    let session = client.session();
    let opened = client
        .ok("shell.open", json!({ "session": session, "shell": "main", "env": { "A": "1" } }));
    assert_eq!(opened["shell"], "main");
    assert_eq!(
        client.kind("shell.open", json!({ "session": session, "shell": "main" })),
        "invalid"
    );
    let run = |client: &mut Client<_>, command: &str, more: Value| {
        let mut params = json!({ "session": session, "shell": "main", "command": command });
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        client.ok("shell.run", params)
    };
    run(client, "cd /tmp; B=2; f() { echo $A$B$PWD; }", json!({}));
    let ran = run(client, "f; (exit 7)", json!({ "stream": true }));
    assert_eq!(
        (&ran["end"], &ran["code"], text_of(&ran["output"]).as_str()),
        (&json!("exited"), &json!(7), "12/tmp\n")
    );
    let streamed: Vec<u8> = client
        .notifications
        .iter()
        .filter(|one| one["params"]["shell"] == "main")
        .flat_map(|one| bytes_of(&one["params"]["data"]))
        .collect();
    assert_eq!(streamed, b"12/tmp\n");
    let late = run(client, "echo partly; sleep 600", json!({ "timeout": 0.5 }));
    assert_eq!(late["end"], "timed_out");
    // Behind it bash says what was killed.
    assert!(text_of(&late["output"]).starts_with("partly\n"), "{late}");
    let waits = client
        .send("shell.run", json!({ "session": session, "shell": "main", "command": "sleep 600" }));
    while !client.answers.contains_key(&waits) {
        client.ok("shell.kill", json!({ "session": session, "shell": "main" }));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(client.answer(waits).unwrap()["code"], 137);
    assert_eq!(text_of(&run(client, "f", json!({}))["output"]), "12/tmp\n");
    let ended = run(client, "exit 5", json!({}));
    assert_eq!((&ended["end"], &ended["code"]), (&json!("shell_ended"), &json!(5)));
    let again = json!({ "session": session, "shell": "main", "command": "true" });
    assert_eq!(client.kind("shell.run", again), "no_such_shell");
    client.ok("shell.open", json!({ "session": session, "shell": "main" }));
    client.ok("shell.close", json!({ "session": session, "shell": "main" }));
    assert_eq!(
        client.kind("shell.close", json!({ "session": session, "shell": "main" })),
        "no_such_shell"
    );
}

#[test]
#[ignore = "needs a base image"]
fn files_keep_their_bytes() {
    let mut server = PipeServer::start();
    let client = &mut server.client;
    let session = client.session();
    let content: Vec<u8> = (0..=255).collect();
    let path = json!({ "session": session, "path": "/a/b/file" });
    let mut write = path.clone();
    write["data"] = json!(STANDARD.encode(&content));
    write["mode"] = json!(0o640);
    write["user"] = json!("1000:1001");
    client.ok("file.write", write);
    assert_eq!(bytes_of(&client.ok("file.read", path.clone())["data"]), content);
    let status = client.ok("file.stat", path.clone());
    assert_eq!(
        (&status["kind"], &status["size"], &status["mode"]),
        (&json!("file"), &json!(256), &json!(0o640))
    );
    assert_eq!(
        client.sh(&session, "stat -c %u:%g /a/b/file; ln -s b/file /a/link; mkdir /a/d").1,
        "1000:1001\n"
    );
    assert_eq!(
        bytes_of(&client.ok("file.read", json!({ "session": session, "path": "/a/link" }))["data"]),
        content
    );
    let short = json!({ "session": session, "path": "/a/link", "max": 255 });
    assert_eq!(client.kind("file.read", short), "limit");
    assert_eq!(client.kind("file.read", json!({ "session": session, "path": "/a" })), "refused");
    assert_eq!(client.kind("file.read", json!({ "session": session, "path": "a" })), "invalid");
    for method in ["file.read", "file.stat", "file.list", "file.get"] {
        let mut params = json!({ "session": session, "path": "/nothing" });
        if method == "file.get" {
            params["transfer"] = json!("t");
        }
        assert_eq!(client.kind(method, params), "no_such_path", "{method}");
    }
    let listed = client.ok("file.list", json!({ "session": session, "path": "/a" }));
    let names: Vec<_> = listed["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["name"].as_str().unwrap(), one["kind"].as_str().unwrap()))
        .collect();
    assert_eq!(names, [("b", "directory"), ("d", "directory"), ("link", "link")]);
    assert_eq!(
        client.ok("file.list", json!({ "session": session, "path": "/a/d" }))["entries"],
        json!([])
    );
    let data = STANDARD.encode("x");
    let over = json!({ "session": session, "path": "/a/b", "data": data });
    assert_eq!(client.kind("file.write", over), "refused", "a directory is not replaced");
    // What is no file goes along.
    client.sh(&session, "mkfifo -m 600 /a/fifo");
    // Out and in again, in pieces.
    client.ok("file.get", json!({ "session": session, "path": "/a", "transfer": "out" }));
    let tar: Vec<u8> = client
        .notifications
        .iter()
        .filter(|one| one["params"]["transfer"] == "out")
        .flat_map(|one| bytes_of(&one["params"]["data"]))
        .collect();
    let put = client.send(
        "file.put",
        json!({ "session": session, "directory": "/new", "make": true, "transfer": "in" }),
    );
    for piece in tar.chunks(700) {
        client.ok(
            "file.data",
            json!({ "session": session, "transfer": "in", "data": STANDARD.encode(piece) }),
        );
    }
    client.ok("file.data", json!({ "session": session, "transfer": "in" }));
    client.answer(put).unwrap();
    assert_eq!(
        client.sh(
            &session,
            "cmp /a/b/file /new/a/b/file && test -p /new/a/fifo && readlink /new/a/link"
        ),
        (0, "b/file\n".to_owned())
    );
    let missing = client.send(
        "file.put",
        json!({ "session": session, "directory": "/not/there", "transfer": "no" }),
    );
    client.ok("file.data", json!({ "session": session, "transfer": "no" }));
    assert_eq!(client.answer(missing).unwrap_err()["data"]["kind"], "no_such_path");
}

#[test]
#[ignore = "needs a base image"]
fn checkpoints_fork_and_reset() {
    let mut server = PipeServer::start();
    let client = &mut server.client;
    let session = client.session();
    client.sh(&session, "echo 1 >/state");
    let made = client.ok("session.checkpoint", json!({ "session": session }));
    let checkpoint = made["checkpoint"].as_str().unwrap().to_owned();
    client.sh(&session, "echo 2 >/state");
    let forked = client.ok("session.fork", json!({ "checkpoint": checkpoint, "n": 3 }));
    let sessions: Vec<String> = forked["sessions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["session"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(sessions.len(), 3);
    for fork in &sessions {
        assert_eq!(client.sh(fork, "cat /state").1, "1\n");
    }
    let of_session = client.ok("session.fork", json!({ "session": session }));
    let fork = of_session["sessions"][0]["session"].as_str().unwrap().to_owned();
    assert_eq!(client.sh(&fork, "cat /state").1, "2\n");
    client.ok("session.reset", json!({ "session": session, "to": checkpoint }));
    assert_eq!(client.sh(&session, "cat /state").1, "1\n");
    client.ok("session.reset", json!({ "session": session }));
    assert_ne!(client.sh(&session, "cat /state").0, 0);
    let listed = client.ok("checkpoint.ls", json!({}));
    assert_eq!(listed["checkpoints"].as_array().unwrap().len(), 2);
    for one in listed["checkpoints"].as_array().unwrap() {
        client.ok("checkpoint.remove", json!({ "checkpoint": one["checkpoint"] }));
    }
    assert_eq!(
        client.kind("session.fork", json!({ "checkpoint": checkpoint })),
        "no_such_checkpoint"
    );
    assert_eq!(client.kind("session.fork", json!({ "session": session, "n": 0 })), "invalid");
}

#[test]
fn a_server_that_cannot_serve_says_why_and_what_to_do() {
    let state = tempfile::tempdir().unwrap();
    let mut command = imgforge_on("docker", state.path(), &["serve", "--stdio"]);
    command.env("DOCKER_HOST", "unix:///nowhere").stderr(Stdio::null());
    let mut server = PipeServer::of(command);
    let said = server.client.next();
    assert_eq!((&said["id"], &said["error"]["data"]["kind"]), (&Value::Null, &json!("infra")));
    assert!(said["error"]["message"].as_str().unwrap().contains("unix:///nowhere"), "{said}");
    assert!(said["error"]["data"]["hint"].as_str().unwrap().contains("DOCKER_HOST"), "{said}");
    assert_eq!(server.child.wait().unwrap().code(), Some(3));
}

#[test]
#[ignore = "needs a base image"]
fn a_gigabyte_of_output_is_bounded() {
    let mut server = PipeServer::start();
    let client = &mut server.client;
    let session = client.session();
    let ran = client.ok(
        "session.exec",
        json!({ "session": session, "shell": "head -c 1000000000 /dev/zero", "max_output": 1000 }),
    );
    assert_eq!(bytes_of(&ran["stdout"]).len(), 1000);
    assert_eq!(ran["dropped"]["stdout"], json!(999_999_000));
}

#[test]
#[ignore = "needs Docker"]
fn the_protocol_is_the_same_on_docker() {
    needs::docker();
    let state = tempfile::tempdir().unwrap();
    let mut server = PipeServer::of(imgforge_on("docker", state.path(), &["serve", "--stdio"]));
    let client = &mut server.client;
    let hello = client.ok("hello", json!({ "protocol": 1 }));
    assert_eq!(hello["engine"], "docker");
    let started = client.ok("session.start", json!({ "image": needs::FROM, "env": { "A": "b" } }));
    let session = started["session"].as_str().unwrap().to_owned();
    assert_eq!(client.sh(&session, "echo $A; exit 3"), (3, "b\n".to_owned()));
    let late = json!({ "session": session, "shell": "echo x; sleep 60", "timeout": 1 });
    let late = client.ok("session.exec", late);
    assert_eq!((&late["end"], text_of(&late["stdout"]).as_str()), (&json!("timed_out"), "x\n"));
    let opened = client.ok("shell.open", json!({ "session": session }));
    let shell = opened["shell"].clone();
    let run = |command: &str| json!({ "session": session, "shell": shell, "command": command });
    client.ok("shell.run", run("cd /tmp"));
    assert_eq!(text_of(&client.ok("shell.run", run("pwd"))["output"]), "/tmp\n");
    let file = json!({ "session": session, "path": "/a/b", "data": STANDARD.encode(b"\0\xff") });
    client.ok("file.write", file);
    let path = json!({ "session": session, "path": "/a/b" });
    assert_eq!(bytes_of(&client.ok("file.read", path)["data"]), b"\0\xff");
    let listed = client.ok("file.list", json!({ "session": session, "path": "/a" }));
    assert_eq!(listed["entries"], json!([{ "name": "b", "kind": "file", "size": 2 }]));
    let nothing = json!({ "session": session, "path": "/nothing" });
    assert_eq!(client.kind("file.read", nothing), "no_such_path");
    let of_session = json!({ "session": session });
    let made = client.ok("session.checkpoint", of_session.clone());
    let forked = client.ok("session.fork", json!({ "checkpoint": made["checkpoint"] }));
    let fork = forked["sessions"][0]["session"].as_str().unwrap().to_owned();
    assert_eq!(client.sh(&fork, "wc -c </a/b").1.trim(), "2");
    client.ok("checkpoint.remove", json!({ "checkpoint": made["checkpoint"] }));
    // What Docker cannot do is said.
    assert_eq!(client.kind("session.processes", of_session.clone()), "unsupported");
    assert_eq!(client.kind("session.start", json!({ "image": "no/such:image" })), "no_such_image");
    client.ok("session.stop", of_session.clone());
    assert_eq!(client.kind("session.stats", of_session), "no_such_session");
}
