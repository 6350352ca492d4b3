//! What clients of Docker expect and a server gets wrong at first.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::client::{Serve, demultiplexed, shell};
use crate::common::needs;

const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
#[ignore = "needs a base image"]
async fn paths_have_a_version_or_none_and_a_ping_says_what_is_served() {
    let serve = Serve::start(&[]).await;
    for (method, path) in [("GET", "/_ping"), ("HEAD", "/_ping"), ("GET", "/v1.41/_ping")] {
        let got = serve.call(method, path, Value::Null).await;
        assert_eq!(got.status, 200, "{path}");
        assert_eq!(got.body, if method == "GET" { "OK" } else { "" });
        let head = |name: &str| got.headers[name].to_str().unwrap();
        assert_eq!((head("api-version"), head("ostype")), ("1.47", "linux"));
        assert_eq!(head("builder-version"), "1");
    }
    let version = serve.get("/v1.47/version").await.json();
    let major: u32 =
        version["Version"].as_str().unwrap().split('.').next().unwrap().parse().unwrap();
    assert!(major >= 28, "clients refuse engines before 24");
    assert_eq!(version["ApiVersion"], "1.47");
    assert_eq!(serve.get("/info").await.json()["OSType"], "linux");
    let got = serve.post("/v1.41/swarm/init").await;
    assert_eq!(got.status, 501);
    assert!(got.message().contains("POST /swarm/init"), "{}", got.message());
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn wait_sends_its_head_before_the_container_is_started() {
    let serve = Serve::start(&[]).await;
    let id = serve.create("", &["sh", "-c", "exit 7"], json!({})).await;
    let path = format!("/containers/{id}/wait?condition=next-exit");
    let response = timeout(SOON, serve.send("POST", &path, Bytes::new(), &[])).await;
    let response = response.expect("the head comes at once");
    assert_eq!(response.status(), 200);
    serve.start_it(&id).await;
    let body = timeout(SOON, response.into_body().collect()).await.unwrap().unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["StatusCode"], 7);
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn the_head_of_an_archive_has_no_body_also_where_nothing_is_there() {
    let serve = Serve::start(&[]).await;
    let id = serve.create("", &["true"], json!({})).await;
    let mut stream = UnixStream::connect(&serve.socket).await.unwrap();
    // One connection, as Go's client keeps it: a body of the first answer would be read as the next.
    for path in ["/nosuch", "/etc/hostname", "/nosuch/deeper"] {
        let text = format!("HEAD /containers/{id}/archive?path={path} HTTP/1.1\r\nHost: d\r\n\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
    }
    stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    timeout(SOON, stream.read_to_string(&mut text)).await.unwrap().unwrap();
    let statuses: Vec<&str> = text.lines().filter(|line| line.starts_with("HTTP/1.1")).collect();
    assert_eq!(statuses.len(), 4, "{text}");
    assert!(statuses[0].contains("404") && statuses[1].contains("200"), "{text}");
    assert!(!text.contains("message"), "a body: {text}");
    assert!(text.to_lowercase().contains("x-docker-container-path-stat"), "{text}");
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn errors_name_things_as_the_client_spelled_them() {
    let serve = Serve::start(&[]).await;
    let id = serve.sleeper().await;
    let got = serve.get("/containers/My.Box/json").await;
    assert_eq!((got.status.as_u16(), got.message()), (404, "No such container: My.Box".to_owned()));
    let short = &id[..12];
    let got = serve.get(&format!("/containers/{short}/archive?path=/no/such")).await;
    assert_eq!(got.status, 404);
    let right = format!("Could not find the file /no/such in container {short}");
    assert_eq!(got.message(), right);
    let run = |body: Value| serve.exec(&id, body, b"");
    let (code, out, _) = run(json!({ "Cmd": ["nosuch"], "AttachStdout": true })).await;
    assert!(out.contains("exec: \"nosuch\": executable file not found"), "{out}");
    assert_eq!(code, 127);
    let (code, out, _) = run(json!({ "Cmd": ["id"], "User": "jane", "AttachStdout": true })).await;
    assert!(out.contains("unable to find user jane"), "{out}");
    assert_eq!(code, 126);
    let (code, out, _) =
        run(json!({ "Cmd": ["id"], "WorkingDir": "/no/such", "AttachStdout": true })).await;
    assert!(out.contains("no such file or directory"), "{out}");
    assert_eq!(code, 126);
    let body = json!({ "Image": "no/such", "Cmd": ["true"] });
    let got = serve.call("POST", "/containers/create", body).await;
    assert_eq!((got.status.as_u16(), got.message()), (404, "No such image: no/such:latest".into()));
    let lost = serve.create("lost", &["nosuch"], json!({})).await;
    let got = serve.post(&format!("/containers/{lost}/start")).await;
    assert_eq!(got.status, 400);
    assert!(got.message().contains("executable file not found in $PATH"), "{}", got.message());
    assert_eq!(serve.state(&lost).await["ExitCode"], 127);
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn an_exec_is_refused_before_the_connection_becomes_a_stream() {
    let serve = Serve::start(&[]).await;
    let id = serve.sleeper().await;
    let made = serve.make_exec(&id, shell("true")).await.json();
    let exec = made["Id"].as_str().unwrap();
    assert_eq!(serve.post(&format!("/containers/{id}/pause")).await.status, 204);
    let head = [("connection", "Upgrade"), ("upgrade", "tcp")];
    let path = format!("/exec/{exec}/start");
    let response = serve.send("POST", &path, "{}".into(), &head).await;
    assert_eq!(response.status(), 409, "it is paused");
    assert_eq!(serve.make_exec(&id, shell("true")).await.status, 409);
    assert_eq!(serve.post(&format!("/containers/{id}/unpause")).await.status, 204);
    assert_eq!(serve.post(&format!("/containers/{id}/kill")).await.status, 204);
    let response = serve.send("POST", &path, "{}".into(), &head).await;
    assert_eq!(response.status(), 409, "it does not run");
    let response = serve.send("POST", "/exec/nosuch/start", "{}".into(), &head).await;
    assert_eq!(response.status(), 404);
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn a_stream_has_frames_unless_it_is_a_terminal_and_is_a_body_where_no_upgrade_is_asked_for() {
    let serve = Serve::start(&[]).await;
    let id = serve.sleeper().await;
    let print = "printf out; sleep 0.1; printf err >&2";
    let start = async |body: Value| {
        let made = serve.make_exec(&id, body).await.json();
        format!("/exec/{}/start", made["Id"].as_str().unwrap())
    };
    let (headers, mut stream) = serve.open(&start(shell(print)).await, json!({})).await;
    assert_eq!(headers["upgrade"], "tcp");
    assert_eq!(headers["content-type"], "application/vnd.docker.multiplexed-stream");
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"\x01\0\0\0\0\0\0\x03out\x02\0\0\0\0\0\0\x03err");
    let mut body = shell(print);
    body["Tty"] = json!(true);
    let (headers, mut stream) = serve.open(&start(body).await, json!({ "Tty": true })).await;
    assert_eq!(headers["content-type"], "application/vnd.docker.raw-stream");
    let mut all = String::new();
    stream.read_to_string(&mut all).await.unwrap();
    assert_eq!(all, "outerr");
    let got = serve.call("POST", &start(shell(print)).await, json!({})).await;
    assert_eq!(got.status, 200);
    assert_eq!(demultiplexed(&got.body), ("out".to_owned(), "err".to_owned()));
    let body = json!({ "Cmd": ["cat"], "AttachStdin": true, "AttachStdout": true });
    let input = "x".repeat(1 << 20);
    let (code, out, _) = serve.exec(&id, body, input.as_bytes()).await;
    assert!(code == 0 && out == input, "the end of the input is told, and nothing is lost");
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn an_exec_has_its_code_when_its_stream_ends_and_its_number_is_that_inside() {
    let serve = Serve::start(&[]).await;
    let id = serve.sleeper().await;
    // The outputs are closed long before the end.
    let (code, out, _) = serve.shell(&id, "printf x; exec >&- 2>&-; sleep 0.5; exit 5").await;
    assert_eq!((code, out.as_str()), (5, "x"));
    for _ in 0..10 {
        assert_eq!(serve.shell(&id, "exit 3").await.0, 3);
    }
    let made = serve.make_exec(&id, shell("echo $$; exec sleep 600")).await.json();
    let exec = made["Id"].as_str().unwrap();
    let (_, mut stream) = serve.open(&format!("/exec/{exec}/start"), json!({})).await;
    let mut head = [0; 8];
    stream.read_exact(&mut head).await.unwrap();
    let mut line = vec![0; head[7].into()];
    stream.read_exact(&mut line).await.unwrap();
    let found = serve.get(&format!("/exec/{exec}/json")).await.json();
    assert_eq!(found["Running"], true);
    let pid = found["Pid"].to_string();
    assert_eq!(String::from_utf8_lossy(&line).trim(), pid);
    assert_eq!(serve.shell(&id, &format!("kill -9 {pid}")).await.0, 0);
    let mut rest = Vec::new();
    timeout(SOON, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
    let found = serve.get(&format!("/exec/{exec}/json")).await.json();
    assert_eq!((&found["Running"], &found["ExitCode"]), (&json!(false), &json!(137)));
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn the_name_of_an_image_is_looked_for_as_a_container_first() {
    let serve = Serve::start(&[]).await;
    for path in ["/containers/sess/task:1/json", "/v1.41/containers/sess%2Ftask:1/json"] {
        let got = serve.get(path).await;
        assert_eq!(got.status, 404, "{path}");
        assert_eq!(got.message(), "No such container: sess/task:1");
    }
    let got = serve.get("/images/sess/task:1/json").await;
    assert_eq!((got.status.as_u16(), got.message()), (404, "No such image: sess/task:1".into()));
    let found = serve.get(&format!("/images/{}/json", needs::BASE)).await.json();
    assert!(found["RepoTags"].to_string().contains(needs::BASE), "{found}");
    let short = found["Id"].as_str().unwrap()[7..19].to_owned();
    let again = serve.get(&format!("/images/{short}/json")).await.json();
    assert_eq!(again["Id"], found["Id"]);
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn to_stop_takes_no_longer_than_the_main_command_needs() {
    let serve = Serve::start(&[]).await;
    // It is not the first process of the container, so that the signal ends it.
    let tail = serve.create("", &["tail", "-f", "/dev/null"], json!({})).await;
    serve.start_it(&tail).await;
    let began = Instant::now();
    assert_eq!(serve.post(&format!("/containers/{tail}/stop")).await.status, 204);
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert_eq!(serve.state(&tail).await["ExitCode"], 143);
    assert_eq!(serve.post(&format!("/containers/{tail}/stop")).await.status, 304);
    // A shell that somebody types at does not mind the signal; its terminal is hung up.
    let body = json!({ "Tty": true, "OpenStdin": true });
    let bash = serve.create("", &["bash", "-l"], body).await;
    serve.start_it(&bash).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let began = Instant::now();
    assert_eq!(serve.post(&format!("/containers/{bash}/stop")).await.status, 204);
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    // One that does not end is killed after the time.
    let text = "trap '' TERM; echo ready; while :; do sleep 1; done";
    let stubborn = serve.create("", &["sh", "-c", text], json!({})).await;
    serve.start_it(&stubborn).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let began = Instant::now();
    assert_eq!(serve.post(&format!("/containers/{stubborn}/stop?t=1")).await.status, 204);
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(serve.state(&stubborn).await["ExitCode"], 137);
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn a_port_is_picked_a_bind_has_labels_and_a_container_removes_itself() {
    let serve = Serve::start(&["--allow-bind", "/tmp"]).await;
    let directory = tempfile::tempdir_in("/tmp").unwrap();
    std::fs::write(directory.path().join("file"), "text").unwrap();
    let bind = format!("{}:/shared:Z,ro", directory.path().display());
    let host = json!({
        "AutoRemove": true,
        "Binds": [bind],
        "PortBindings": { "8000/tcp": [{ "HostIp": "", "HostPort": "" }] },
    });
    let words = ["python3", "-m", "http.server", "8000", "-d", "/shared"];
    let body = json!({ "HostConfig": host, "ExposedPorts": { "8000/tcp": {} } });
    let id = serve.create("", &words, body).await;
    let path = format!("/containers/{id}/wait?condition=removed");
    let removed = serve.send("POST", &path, Bytes::new(), &[]).await;
    serve.start_it(&id).await;
    let found = serve.get(&format!("/containers/{id}/json")).await.json();
    let place = &found["NetworkSettings"]["Ports"]["8000/tcp"][0];
    assert_eq!(place["HostIp"], "127.0.0.1");
    let port: u16 = place["HostPort"].as_str().unwrap().parse().unwrap();
    let fetch = async || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        stream.write_all(b"GET /file HTTP/1.0\r\n\r\n").await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        text.ends_with("\r\n\r\ntext").then_some(())
    };
    let until = Instant::now() + Duration::from_secs(20);
    while fetch().await.is_none() {
        assert!(Instant::now() < until, "the port does not lead to the container");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (code, _, error) = serve.shell(&id, "touch /shared/other").await;
    assert!(code != 0 && error.contains("Read-only"), "{error}");
    let (code, _, _) = serve
        .shell(&id, "python3 -c \"import socket as s; s.create_connection(('1.1.1.1', 80), 2)\"")
        .await;
    assert_ne!(code, 0, "no route leads out");
    assert_eq!(serve.post(&format!("/containers/{id}/kill")).await.status, 204);
    let body = timeout(SOON, removed.into_body().collect()).await.unwrap().unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&body).contains("137"), "{body:?}");
    assert_eq!(serve.get(&format!("/containers/{id}/json")).await.status, 404);
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err(), "the port is given back");
    let body = json!({ "Image": needs::BASE, "HostConfig": { "Binds": ["/etc:/x"] } });
    let got = serve.call("POST", "/containers/create", body).await;
    assert_eq!(got.status, 400);
    assert!(got.message().contains("--allow-bind"), "{}", got.message());
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn what_is_asked_all_the_time_is_answered_from_memory() {
    let serve = Serve::start(&[]).await;
    assert!(serve.get("/info").await.json()["Images"].as_u64() > Some(0), "at the first time");
    let id = serve.sleeper().await;
    let began = Instant::now();
    for _ in 0..5 {
        serve.shell(&id, "true").await;
    }
    let five_commands = began.elapsed();
    let began = Instant::now();
    for _ in 0..50 {
        assert_eq!(serve.get("/info").await.status, 200);
        assert_eq!(serve.get("/containers/json?all=1").await.status, 200);
    }
    assert!(began.elapsed() < five_commands * 2, "{:?}, {five_commands:?}", began.elapsed());
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn names_are_filtered_by_an_expression_and_labels_come_back_as_they_were() {
    let serve = Serve::start(&[]).await;
    let hash = "a:{\"b\"=\u{e9}}, c=d";
    let labels = json!({ "com.docker.compose.config-hash": hash, "x": "1" });
    let one = serve.create("proj-web-1", &["sleep", "600"], json!({ "Labels": labels })).await;
    let other = serve.create("proj-db-1", &["sleep", "600"], json!({})).await;
    serve.start_it(&one).await;
    let list = async |filters: Value, all: &str| {
        let text: String =
            form_urlencoded::byte_serialize(filters.to_string().as_bytes()).collect();
        let got = serve.get(&format!("/containers/json?all={all}&filters={text}")).await;
        let rows = got.json();
        let ids = rows.as_array().unwrap().iter().map(|row| row["Id"].as_str().unwrap().to_owned());
        ids.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(list(json!({ "name": ["web"] }), "1").await, one);
    assert_eq!(list(json!({ "name": { "^/proj-db-1$": true } }), "1").await, other);
    assert_eq!(list(json!({ "name": ["proj"] }), "1").await, format!("{other} {one}"));
    assert_eq!(list(json!({ "name": ["proj"] }), "0").await, one);
    assert_eq!(list(json!({ "label": ["x=1"] }), "1").await, one);
    assert_eq!(list(json!({ "label": ["x=2"] }), "1").await, "");
    assert_eq!(list(json!({ "status": ["created"] }), "0").await, other);
    let found = serve.get("/containers/proj-web-1/json").await.json();
    assert_eq!(found["Config"]["Labels"]["com.docker.compose.config-hash"], hash);
    let rows = serve.get("/containers/json").await.json();
    assert_eq!(rows[0]["Labels"]["com.docker.compose.config-hash"], hash);
    assert_eq!(serve.get("/containers/json?filters=%7B%22no%22:[]%7D").await.status, 400);
    let body = json!({ "Image": needs::BASE });
    let got = serve.call("POST", "/containers/create?name=proj-web-1", body).await;
    assert_eq!(got.status, 409);
}
