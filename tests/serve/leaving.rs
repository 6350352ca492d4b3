//! Clients that leave, by keys or by breaking off; a strict server; images that travel as archives.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::client::Serve;
use crate::common::needs;

const SOON: Duration = Duration::from_secs(10);

impl Serve {
    async fn started_exec(
        &self,
        id: &str,
        body: Value,
    ) -> (String, hyper_util::rt::TokioIo<hyper::upgrade::Upgraded>) {
        let made = self.make_exec(id, body).await.json();
        let exec = made["Id"].as_str().unwrap().to_owned();
        let (_, stream) = self.open(&format!("/exec/{exec}/start"), json!({ "Tty": true })).await;
        (exec, stream)
    }

    async fn is_running(&self, exec: &str) -> bool {
        self.get(&format!("/exec/{exec}/json")).await.json()["Running"] == true
    }
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn keys_of_a_terminal_end_its_stream_and_nothing_else() {
    let serve = Serve::start(&[]).await;
    let id = serve.create("", &["cat"], json!({ "Tty": true, "OpenStdin": true })).await;
    let path = format!("/containers/{id}/attach?stream=1&stdin=1&stdout=1&detachKeys=ctrl-a,x");
    let (_, mut stream) = serve.open(&path, Value::Null).await;
    serve.start_it(&id).await;
    stream.write_all(b"seen\n").await.unwrap();
    let mut text = [0; 4];
    timeout(SOON, stream.read_exact(&mut text)).await.unwrap().unwrap();
    assert_eq!(&text, b"seen");
    stream.write_all(&[1]).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    let mut rest = Vec::new();
    timeout(SOON, stream.read_to_end(&mut rest)).await.expect("the stream ends").unwrap();
    assert_eq!(serve.state(&id).await["Status"], "running");
    let body = json!({ "Cmd": ["cat"], "Tty": true, "AttachStdin": true, "AttachStdout": true });
    let (exec, mut stream) = serve.started_exec(&id, body.clone()).await;
    stream.write_all(&[16, 17]).await.unwrap();
    timeout(SOON, stream.read_to_end(&mut rest)).await.expect("the usual keys").unwrap();
    assert!(serve.is_running(&exec).await);
    let mut wrong = body;
    wrong["DetachKeys"] = json!("ctrl-what");
    let made = serve.make_exec(&id, wrong).await.json();
    let path = format!("/exec/{}/start", made["Id"].as_str().unwrap());
    assert_eq!(serve.call("POST", &path, json!({})).await.status, 400);
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn a_command_whose_client_broke_off_is_killed_after_its_time_where_that_is_asked_for() {
    let serve = Serve::start(&["--kill-abandoned-execs", "1"]).await;
    let id = serve.sleeper().await;
    let body = json!({ "Cmd": ["sleep", "600"], "AttachStdin": true, "AttachStdout": true });
    let (abandoned, stream) = serve.started_exec(&id, body.clone()).await;
    drop(stream);
    // One that closes its half is there, and so is one that nobody was attached to.
    let (half, mut stream) = serve.started_exec(&id, body).await;
    stream.shutdown().await.unwrap();
    let made = serve.make_exec(&id, json!({ "Cmd": ["sleep", "600"] })).await.json();
    let detached = made["Id"].as_str().unwrap().to_owned();
    let path = format!("/exec/{detached}/start");
    assert_eq!(serve.call("POST", &path, json!({ "Detach": true })).await.status, 200);
    let until = Instant::now() + SOON;
    while serve.is_running(&abandoned).await {
        assert!(Instant::now() < until, "it still runs");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(serve.is_running(&half).await && serve.is_running(&detached).await);
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn a_strict_server_refuses_what_it_does_not_give() {
    let asked = json!({
        "Image": needs::BASE,
        "Cmd": ["true"],
        "HostConfig": { "Privileged": true, "CapAdd": ["SYS_ADMIN"] },
    });
    let serve = Serve::start(&["--strict-api"]).await;
    let got = serve.call("POST", "/containers/create", asked.clone()).await;
    assert_eq!(got.status, 400);
    assert!(got.message().contains("Privileged") && got.message().contains("SYS_ADMIN"));
    let id = serve.create("", &["sleep", "600"], json!({})).await;
    let got =
        serve.call("POST", &format!("/containers/{id}/update"), json!({ "CpuShares": 5 })).await;
    assert_eq!(got.status, 400, "{}", got.message());
    drop(serve);
    let serve = Serve::start(&[]).await;
    let got = serve.call("POST", "/containers/create", asked).await;
    assert_eq!((got.status.as_u16(), got.json()["Warnings"].as_array().unwrap().len()), (201, 2));
    let limit = json!({ "Name": "nofile", "Soft": 1_i64 << 40, "Hard": 1_i64 << 40 });
    let body = json!({ "HostConfig": { "Ulimits": [limit] } });
    let id = serve.create("", &["sleep", "600"], body).await;
    serve.start_it(&id).await;
    assert_eq!(serve.shell(&id, "ulimit -Hn").await.0, 0, "it is the most that can be given");
    assert_eq!(serve.post("/swarm/leave").await.status, 503);
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn images_travel_as_archives_and_a_container_becomes_one() {
    let serve = Serve::start(&[]).await;
    let id = serve.create("", &["sh", "-c", "echo kept > /kept; sleep 600"], json!({})).await;
    serve.start_it(&id).await;
    serve.shell(&id, "until test -s /kept; do sleep 0.05; done").await;
    let got = serve.post(&format!("/commit?container={id}&repo=test/travels&tag=1")).await;
    assert_eq!(got.status, 201, "{}", got.message());
    let image = got.json()["Id"].clone();
    let saved = serve.get("/images/get?names=test/travels:1").await;
    assert_eq!(saved.status, 200);
    let names: Vec<String> = tar::Archive::new(&saved.body[..])
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().to_string_lossy().into_owned())
        .collect();
    assert!(names.contains(&"manifest.json".to_owned()), "{names:?}");
    let rows = serve.get("/images/test/travels:1/history").await.json();
    assert_eq!(rows.as_array().unwrap().len(), names.len() - 3, "{rows}");
    let delete = "/images/test/travels:1?force=1";
    assert_eq!(serve.call("DELETE", delete, Value::Null).await.status, 200);
    let loaded = serve.bytes("POST", "/images/load", saved.body).await;
    let text = String::from_utf8_lossy(&loaded.body).into_owned();
    assert!(text.contains("Loaded image: test/travels:1"), "{text}");
    assert_eq!(serve.get("/images/test/travels:1/json").await.json()["Id"], image);
    let exported = serve.get(&format!("/containers/{id}/export")).await;
    assert_eq!(exported.status, 200);
    let path = "/images/create?fromSrc=-&repo=test/flat&tag=1&changes=ENV%20A%3D1";
    let got = serve.bytes("POST", path, exported.body).await;
    assert_eq!(got.status, 200, "{:?}", got.body);
    let flat = serve.get("/images/test/flat:1/json").await.json();
    assert_eq!(
        (&flat["Config"]["Env"], flat["RootFS"]["Layers"].as_array().unwrap().len()),
        (&json!(["A=1"]), 1)
    );
    let body = json!({ "Image": "test/flat:1", "Cmd": ["cat", "/kept"] });
    let made = serve.call("POST", "/containers/create", body).await.json();
    let made = made["Id"].as_str().unwrap();
    serve.start_it(made).await;
    assert_eq!(serve.wait(made).await, 0);
    let told = serve.bytes("POST", "/images/load", "nonsense".into()).await;
    assert!(told.json()["errorDetail"]["message"].is_string(), "{:?}", told.body);
    for name in ["test/flat:1", "test/travels:1"] {
        serve.call("DELETE", &format!("/images/{name}?force=1"), Value::Null).await;
    }
}
