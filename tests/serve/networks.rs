//! Networks: who shares a loopback, and which names lead to it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Serve, shell};

/// Serves a text on a port, for ever.
fn server(port: u16, text: &str) -> String {
    format!(
        "import socket; s = socket.create_server(('', {port})); \
         [c.send(b'{text}') and c.close() for c, _ in iter(s.accept, None)]"
    )
}

/// Reads what is served at a place.
fn fetch(name: &str, port: u16) -> Value {
    let program = format!(
        "import socket; print(socket.create_connection(('{name}', {port}), 3).recv(99).decode())"
    );
    json!({ "Cmd": ["python3", "-c", program], "AttachStdout": true, "AttachStderr": true })
}

impl Serve {
    async fn network(&self, name: &str) -> String {
        let got = self.call("POST", "/networks/create", json!({ "Name": name })).await;
        assert_eq!(got.status, 201, "{}", got.message());
        got.json()["Id"].as_str().unwrap().to_owned()
    }

    async fn member(
        &self,
        name: &str,
        network: &str,
        aliases: &[&str],
        command: &[&str],
    ) -> String {
        let endpoints = json!({ network: { "Aliases": aliases } });
        let body = json!({
            "HostConfig": { "NetworkMode": network },
            "NetworkingConfig": { "EndpointsConfig": endpoints },
        });
        let id = self.create(name, command, body).await;
        self.start_it(&id).await;
        id
    }

    async fn until_served(&self, id: &str, name: &str, port: u16, text: &str) {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let (_, out, error) = self.exec(id, fetch(name, port), b"").await;
            if out.trim() == text {
                return;
            }
            assert!(Instant::now() < until, "{name}:{port}: {out} {error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn the_members_of_a_network_know_each_other_whoever_came_first() {
    let serve = Serve::start(&[]).await;
    serve.network("proj_default").await;
    serve.network("other").await;
    let sleep = ["sleep", "600"];
    let web = serve.member("proj-web-1", "proj_default", &["web"], &sleep).await;
    let stranger = serve.member("stranger", "other", &[], &sleep).await;
    let words = ["python3", "-c", &server(9000, "data")];
    let db = serve.member("proj-db-1", "proj_default", &["db", "store"], &words).await;
    // The older one was told of the younger.
    for name in ["db", "store", "proj-db-1", &db[..12]] {
        serve.until_served(&web, name, 9000, "data").await;
    }
    let (code, out, _) = serve.shell(&db, "getent hosts web proj-db-1 db").await;
    assert_eq!((code, out.lines().count()), (0, 3), "{out}");
    let (code, _, error) = serve.exec(&stranger, fetch("127.0.0.1", 9000), b"").await;
    assert!(code != 0 && error.contains("refused"), "{error}");
    assert_ne!(serve.shell(&stranger, "getent hosts db").await.0, 0);
    let own = serve.shell(&stranger, "getent hosts stranger $(hostname)").await;
    assert_eq!((own.0, own.1.lines().count()), (0, 2), "{}", own.1);
    assert_eq!(serve.post("/containers/proj-db-1/rename?name=data").await.status, 204);
    serve.until_served(&web, "data", 9000, "data").await;
    let found = serve.get("/networks/proj_default").await.json();
    assert_eq!(found["Containers"].as_object().unwrap().len(), 2, "{found}");
    assert_eq!(serve.call("DELETE", "/networks/proj_default", Value::Null).await.status, 403);
    assert_eq!(
        serve.call("DELETE", &format!("/containers/{db}?force=1"), Value::Null).await.status,
        204
    );
    assert_ne!(serve.shell(&web, "getent hosts db || getent hosts data").await.0, 0);
    assert_eq!(serve.post("/containers/proj-web-1/kill").await.status, 204);
    assert_eq!(serve.call("DELETE", "/networks/proj_default", Value::Null).await.status, 204);
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn a_container_has_the_network_of_another_and_publishes_nothing_there() {
    let serve = Serve::start(&[]).await;
    let body = json!({ "Hostname": "first" });
    let first = serve.create("first", &["python3", "-c", &server(8000, "first")], body).await;
    serve.start_it(&first).await;
    let host = json!({ "HostConfig": { "NetworkMode": "container:first" } });
    let second = serve.create("second", &["sleep", "600"], host.clone()).await;
    serve.start_it(&second).await;
    serve.until_served(&second, "localhost", 8000, "first").await;
    serve.until_served(&second, "first", 8000, "first").await;
    // It lives on without the one that had it first.
    let words = ["python3", "-c", &server(8001, "third")];
    let body = json!({ "HostConfig": { "NetworkMode": format!("container:{second}") } });
    let third = serve.create("third", &words, body).await;
    serve.start_it(&third).await;
    assert_eq!(serve.call("DELETE", "/containers/first?force=1", Value::Null).await.status, 204);
    serve.until_served(&second, "localhost", 8001, "third").await;
    let mut body = host;
    body["Image"] = json!(crate::common::needs::BASE);
    body["HostConfig"]["NetworkMode"] = json!("container:second");
    body["HostConfig"]["PortBindings"] = json!({ "80/tcp": [{}] });
    let got = serve.call("POST", "/containers/create", body.clone()).await;
    assert_eq!(got.status, 400, "{}", got.message());
    body["HostConfig"] = json!({ "NetworkMode": "container:nosuch" });
    let got = serve.call("POST", "/containers/create", body).await;
    assert_eq!((got.status.as_u16(), got.message()), (404, "No such container: nosuch".into()));
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn a_container_that_runs_is_connected_and_disconnected() {
    let serve = Serve::start(&[]).await;
    serve.network("late").await;
    let words = ["python3", "-c", &server(7000, "here")];
    let first = serve.create("first", &words, json!({})).await;
    serve.start_it(&first).await;
    let body = json!({ "Container": "first", "EndpointConfig": { "Aliases": ["one"] } });
    let got = serve.call("POST", "/networks/late/connect", body.clone()).await;
    assert_eq!(got.status, 200, "{}", got.message());
    assert_eq!(serve.call("POST", "/networks/late/connect", body).await.status, 409);
    let second = serve.member("second", "late", &["two"], &["sleep", "600"]).await;
    serve.until_served(&second, "one", 7000, "here").await;
    assert_eq!(serve.shell(&first, "getent hosts two").await.0, 0);
    // One that has a network of its own cannot leave that.
    let lone = serve.sleeper().await;
    let body = json!({ "Container": lone });
    let got = serve.call("POST", "/networks/late/connect", body).await;
    assert!(got.status == 501 && got.message().contains("when the container is created"));
    let body = json!({ "Container": "first" });
    assert_eq!(serve.call("POST", "/networks/late/disconnect", body.clone()).await.status, 200);
    assert_eq!(serve.call("POST", "/networks/late/disconnect", body).await.status, 400);
    assert_ne!(serve.shell(&second, "getent hosts one").await.0, 0);
    assert_ne!(serve.shell(&first, "getent hosts two").await.0, 0);
    // Of two networks a container has names in both.
    serve.network("more").await;
    let endpoints = json!({ "late": { "Aliases": ["a"] }, "more": { "Aliases": ["b"] } });
    let body = json!({
        "HostConfig": { "NetworkMode": "late" },
        "NetworkingConfig": { "EndpointsConfig": endpoints },
    });
    let both = serve.create("both", &["sleep", "600"], body).await;
    serve.start_it(&both).await;
    let (code, _, _) = serve.exec(&both, shell("getent hosts a && getent hosts b"), b"").await;
    assert_eq!(code, 0);
    assert_eq!(serve.shell(&second, "getent hosts a").await.0, 0);
    let pruned = serve.post("/networks/prune").await.json();
    assert_eq!(pruned["NetworksDeleted"], json!([]));
    assert_eq!(serve.call("DELETE", "/containers/both?force=1", Value::Null).await.status, 204);
    let pruned = serve.post("/networks/prune").await.json();
    assert_eq!(pruned["NetworksDeleted"], json!(["more"]));
}
