//! Volumes: what they begin with, who has them, and when they go.

use serde_json::{Value, json};

use crate::client::Serve;
use crate::common::needs;

/// A name that no other test uses.
fn name(text: &str) -> String {
    format!("{text}-{:x}", rand::random::<u32>())
}

impl Serve {
    async fn volume_names(&self) -> Vec<String> {
        let found = self.get("/volumes").await.json();
        let names = found["Volumes"].as_array().unwrap().iter();
        names.map(|volume| volume["Name"].as_str().unwrap().to_owned()).collect()
    }

    async fn remove(&self, id: &str, query: &str) {
        let got = self.call("DELETE", &format!("/containers/{id}?{query}"), Value::Null).await;
        assert_eq!(got.status, 204, "{}", got.message());
    }
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn a_named_volume_begins_with_the_image_and_outlives_containers_and_servers() {
    let data = name("data");
    let serve = Serve::start(&[]).await;
    // The image has files there; nocopy leaves them out.
    let binds = json!([format!("{data}:/etc"), "/root/new"]);
    let id = serve.create("", &["sleep", "600"], json!({ "HostConfig": { "Binds": binds } })).await;
    serve.start_it(&id).await;
    let (code, out, _) = serve.shell(&id, "stat -c %U:%a /etc/shadow; echo kept > /etc/own").await;
    assert_eq!((code, out.trim_start_matches("root:").len()), (0, 4), "{out}");
    let found = serve.get(&format!("/containers/{id}/json")).await.json();
    let mount = found["Mounts"].as_array().unwrap().iter().find(|one| one["Name"] == data).unwrap();
    assert_eq!((&mount["Type"], &mount["Destination"]), (&json!("volume"), &json!("/etc")));
    let got = serve.call("DELETE", &format!("/volumes/{data}"), Value::Null).await;
    assert_eq!(got.status, 409, "it is in use");
    serve.remove(&id, "force=1&v=1").await;
    drop(serve);
    let serve = Serve::start(&[]).await;
    let mount = json!({ "Type": "volume", "Source": data, "Target": "/mnt/d", "ReadOnly": true });
    let body = json!({ "HostConfig": { "Mounts": [mount] } });
    let id = serve.create("", &["sleep", "600"], body).await;
    serve.start_it(&id).await;
    let (code, out, error) = serve.shell(&id, "cat /mnt/d/own && ! touch /mnt/d/x").await;
    assert_eq!((code, out.as_str()), (0, "kept\n"), "{error}");
    serve.remove(&id, "force=1").await;
    let path = format!("/volumes/{data}");
    assert_eq!(serve.get(&path).await.json()["Driver"], "local");
    assert_eq!(serve.call("DELETE", &path, Value::Null).await.status, 204);
    assert_eq!(serve.get(&path).await.status, 404);
    assert_eq!(serve.call("DELETE", &path, Value::Null).await.status, 404);
    assert_eq!(serve.call("DELETE", &format!("{path}?force=1"), Value::Null).await.status, 204);
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn an_anonymous_volume_goes_with_its_container_where_that_is_asked_for() {
    let serve = Serve::start(&[]).await;
    let before = serve.volume_names().await;
    let new = async || {
        let names = serve.volume_names().await;
        names
            .into_iter()
            .filter(|name| !before.contains(name) && name.len() == 64)
            .collect::<Vec<_>>()
    };
    let body = json!({ "Volumes": { "/a": {} }, "HostConfig": { "Binds": ["/a/b"] } });
    let id = serve.create("first", &["sleep", "600"], body.clone()).await;
    serve.start_it(&id).await;
    let (code, out, _) = serve.shell(&id, "echo x > /a/b/c && grep -c ' /a' /proc/mounts").await;
    assert_eq!((code, out.trim()), (0, "2"), "one within the other");
    let mine: Vec<String> = {
        let found = serve.get("/containers/first/json").await.json();
        let mounts = found["Mounts"].as_array().unwrap().clone();
        mounts.iter().map(|one| one["Name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(mine.len(), 2);
    // Another container has the same ones, and keeps them.
    let other = json!({ "HostConfig": { "VolumesFrom": ["first:ro"] } });
    let second = serve.create("", &["sleep", "600"], other).await;
    serve.start_it(&second).await;
    serve.remove(&id, "force=1&v=1").await;
    assert_eq!(serve.shell(&second, "cat /a/b/c && ! touch /a/b/d").await.1, "x\n");
    serve.remove(&second, "force=1&v=1").await;
    let left = new().await;
    assert!(mine.iter().all(|name| left.contains(name)), "others had them: {left:?}");
    let pruned = serve.post("/volumes/prune").await.json();
    let pruned = pruned["VolumesDeleted"].as_array().unwrap().clone();
    assert!(mine.iter().all(|name| pruned.contains(&json!(name))), "{pruned:?}");
    let id = serve.create("", &["sleep", "600"], body.clone()).await;
    assert_eq!(new().await.len(), 2);
    serve.remove(&id, "v=1").await;
    assert_eq!(new().await, Vec::<String>::new());
    // One that removes itself takes them along.
    let mut own = body;
    own["HostConfig"]["AutoRemove"] = json!(true);
    let id = serve.create("", &["true"], own).await;
    serve.start_it(&id).await;
    serve.wait(&id).await;
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !new().await.is_empty() {
        assert!(std::time::Instant::now() < until, "{:?}", new().await);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn volumes_are_made_listed_and_refused_where_they_would_be_something_else() {
    let serve = Serve::start(&[]).await;
    let name = name("listed");
    let labels = json!({ "a": "b" });
    let body = json!({ "Name": name, "Labels": labels });
    let got = serve.call("POST", "/volumes/create", body.clone()).await;
    assert_eq!((got.status.as_u16(), &got.json()["Labels"]), (201, &labels));
    assert_eq!(
        serve.call("POST", "/volumes/create", json!({ "Name": name })).await.json()["Labels"],
        labels
    );
    let path = format!("/volumes?filters=%7B%22name%22:%5B%22{name}%22%5D%7D");
    assert_eq!(serve.get(&path).await.json()["Volumes"].as_array().unwrap().len(), 1);
    for (wrong, status) in [
        (json!({ "Name": "../x" }), 400),
        (json!({ "Name": "x1", "Driver": "nfs" }), 404),
        (json!({ "Name": "x1", "DriverOpts": { "type": "nfs" } }), 501),
    ] {
        let got = serve.call("POST", "/volumes/create", wrong).await;
        assert_eq!(got.status, status, "{}", got.message());
    }
    for binds in [json!(["../x:/y"]), json!(["xx:/y", "yy:/y"])] {
        let body = json!({ "Image": needs::BASE, "HostConfig": { "Binds": binds } });
        assert_eq!(serve.call("POST", "/containers/create", body).await.status, 400);
    }
    assert_eq!(serve.call("DELETE", &format!("/volumes/{name}"), Value::Null).await.status, 204);
}
