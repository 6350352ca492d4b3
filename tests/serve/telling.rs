//! What is told of containers while they are there: events, what they use, how often they start.

use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::client::Serve;

fn encoded(filters: &Value) -> String {
    form_urlencoded::byte_serialize(filters.to_string().as_bytes()).collect()
}

impl Serve {
    /// Returns the events until now, as `Action` of the containers that are asked for.
    async fn actions(&self, filters: Value) -> Vec<String> {
        let until = jiff::Timestamp::now();
        let until = format!("{}.{:09}", until.as_second(), until.subsec_nanosecond());
        let path = format!("/events?since=1&until={until}&filters={}", encoded(&filters));
        let got = self.get(&path).await;
        let text = String::from_utf8_lossy(&got.body).into_owned();
        let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        events.map(|event| event["Action"].as_str().unwrap().to_owned()).collect()
    }

    async fn until_actions(&self, filters: Value, last: &str) -> Vec<String> {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let found = self.actions(filters.clone()).await;
            if found.last().is_some_and(|action| action == last) {
                return found;
            }
            assert!(Instant::now() < until, "{found:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn events_are_told_as_they_come_and_for_a_time_afterwards() {
    let serve = Serve::start(&[]).await;
    let filters = encoded(&json!({ "type": ["container"], "event": ["start", "die"] }));
    let live = serve.send("GET", &format!("/events?filters={filters}"), "".into(), &[]).await;
    assert_eq!(live.status(), 200, "the head comes at once");
    let id = serve.create("told", &["sleep", "600"], json!({ "Labels": { "a": "b" } })).await;
    serve.start_it(&id).await;
    assert_eq!(serve.shell(&id, "exit 3").await.0, 3);
    assert_eq!(serve.post("/containers/told/pause").await.status, 204);
    assert_eq!(serve.post("/containers/told/unpause").await.status, 204);
    assert_eq!(serve.post("/containers/told/rename?name=other").await.status, 204);
    assert_eq!(serve.post("/containers/other/stop").await.status, 204);
    assert_eq!(serve.call("DELETE", "/containers/other", Value::Null).await.status, 204);
    let mut body = live.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    let first: Value = serde_json::from_slice(&first).unwrap();
    assert_eq!((&first["status"], &first["id"]), (&json!("start"), &json!(id)));
    let attributes = &first["Actor"]["Attributes"];
    assert_eq!((&attributes["name"], &attributes["a"]), (&json!("told"), &json!("b")));
    let second = body.frame().await.unwrap().unwrap().into_data().unwrap();
    let second: Value = serde_json::from_slice(&second).unwrap();
    assert_eq!(second["Actor"]["Attributes"]["exitCode"], "143", "{second}");
    let all = serve.until_actions(json!({ "container": ["other"] }), "destroy").await;
    assert_eq!(all, ["rename", "kill", "die", "stop", "destroy"], "those of the name");
    let all = serve.actions(json!({ "container": [id] })).await;
    let right = [
        "create",
        "start",
        "exec_create: sh -c exit 3",
        "exec_start: sh -c exit 3",
        "exec_die",
        "pause",
        "unpause",
        "rename",
        "kill",
        "die",
        "stop",
        "destroy",
    ];
    assert_eq!(all, right);
    assert_eq!(serve.actions(json!({ "label": ["a=c"] })).await, Vec::<String>::new());
    let got = serve.call("POST", "/networks/create", json!({ "Name": "seen" })).await;
    assert_eq!(got.status, 201);
    assert_eq!(serve.actions(json!({ "network": ["seen"] })).await, ["create"]);
    assert_eq!(serve.get("/events?since=soon").await.status, 400);
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn what_a_container_uses_is_measured_and_its_limits_can_be_changed() {
    let serve = Serve::start(&[]).await;
    let memory = 200 << 20;
    let body = json!({ "HostConfig": { "Memory": memory, "PidsLimit": 50 } });
    let words = ["sh", "-c", "head -c 3000000 /dev/zero > /file; while :; do :; done"];
    let id = serve.create("busy", &words, body).await;
    serve.start_it(&id).await;
    let found = serve.get("/containers/busy/stats?stream=0").await.json();
    let of = |value: &Value, name: &str| value["cpu_usage"][name].as_u64().unwrap();
    let (before, now) = (&found["precpu_stats"], &found["cpu_stats"]);
    assert!(of(now, "total_usage") > of(before, "total_usage"), "{found}");
    assert!(now["system_cpu_usage"].as_u64() > before["system_cpu_usage"].as_u64(), "{found}");
    assert!(found["memory_stats"]["usage"].as_u64().unwrap() > 0, "{found}");
    assert_eq!(found["memory_stats"]["limit"], memory);
    assert!(found["pids_stats"]["current"].as_u64().unwrap() > 0, "{found}");
    let live = serve.send("GET", "/containers/busy/stats", "".into(), &[]).await;
    let mut body = live.into_body();
    for _ in 0..2 {
        let line = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let line: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(line["name"], "/busy");
    }
    let path = "/containers/busy/update";
    let body = json!({ "Memory": 2 * memory, "CpuShares": 512 });
    let got = serve.call("POST", path, body).await;
    assert_eq!(got.status, 200, "{:?}", got.body);
    let warnings = got.json()["Warnings"].as_array().unwrap().clone();
    assert!(warnings[0].as_str().unwrap().starts_with("CpuShares"), "{warnings:?}");
    // Where there are no control groups the limit stays, and a warning says so.
    let limit = if warnings.len() == 1 { 2 * memory } else { memory };
    let host = serve.get("/containers/busy/json").await.json()["HostConfig"].clone();
    assert_eq!((&host["Memory"], &host["CpuShares"]), (&json!(limit), &json!(512)), "{warnings:?}");
    let found = serve.get("/containers/busy/stats?stream=0&one-shot=1").await.json();
    assert_eq!(found["memory_stats"]["limit"], limit);
    assert_eq!(serve.call("POST", path, json!({ "Memory": 5 })).await.status, 400);
    let usage = serve.get("/system/df").await.json();
    assert!(usage["LayersSize"].as_u64().unwrap() > 0);
    let row = usage["Containers"].as_array().unwrap().iter().find(|one| one["Id"] == id).unwrap();
    let is_copy = serve.get("/containers/busy/changes").await.status != 200;
    assert!(is_copy || row["SizeRw"].as_u64().unwrap() >= 3_000_000, "{row}");
    assert_eq!(serve.post("/containers/busy/kill").await.status, 204);
    let found = serve.get("/containers/busy/stats?stream=0").await.json();
    assert_eq!(found["pids_stats"]["current"], 0);
    let pruned = serve.post("/containers/prune").await.json();
    assert_eq!(pruned["ContainersDeleted"], json!([id]));
    assert!(is_copy || pruned["SpaceReclaimed"].as_u64().unwrap() >= 3_000_000, "{pruned}");
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn a_policy_starts_a_container_again_until_it_has_had_enough_or_is_stopped() {
    let serve = Serve::start(&[]).await;
    let policy = |name: &str, most: i64| {
        let policy = json!({ "Name": name, "MaximumRetryCount": most });
        json!({ "HostConfig": { "RestartPolicy": policy } })
    };
    let id = serve.create("failing", &["sh", "-c", "exit 4"], policy("on-failure", 2)).await;
    serve.start_it(&id).await;
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let found = serve.get("/containers/failing/json").await.json();
        if found["State"]["Status"] == "exited" && found["RestartCount"] == 2 {
            break;
        }
        assert!(Instant::now() < until, "{}", found["State"]);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let id = serve.create("always", &["sleep", "0.1"], policy("always", 0)).await;
    serve.start_it(&id).await;
    assert_eq!(serve.wait(&id).await, 0, "each end is one");
    let got = serve.call("DELETE", "/containers/always", Value::Null).await;
    assert!(
        got.status == 409 && got.message().contains("stop the container before"),
        "{:?}",
        got.body
    );
    assert_eq!(serve.post("/containers/always/stop").await.status, 204);
    assert_eq!(serve.state(&id).await["Status"], "exited");
    let starts = serve.actions(json!({ "container": ["always"], "event": ["start"] })).await.len();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let later = serve.actions(json!({ "container": ["always"], "event": ["start"] })).await.len();
    assert_eq!(starts, later, "it stays stopped");
    assert_eq!(serve.call("DELETE", "/containers/always", Value::Null).await.status, 204);
    let id = serve.create("", &["sleep", "0.1"], policy("always", 0)).await;
    serve.start_it(&id).await;
    serve.wait(&id).await;
    let got = serve.call("DELETE", &format!("/containers/{id}?force=1"), Value::Null).await;
    assert_eq!(got.status, 204, "also between two starts");
}
