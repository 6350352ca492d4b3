//! Health checks, of a request and of an image.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::Serve;

const TENTH: i64 = 100_000_000;

impl Serve {
    async fn until_health(&self, id: &str, wanted: &str) -> Value {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let health = self.state(id).await["Health"].clone();
            if health["Status"] == wanted {
                return health;
            }
            assert!(Instant::now() < until, "not {wanted}: {health}");
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn a_service_is_starting_healthy_and_unhealthy_and_its_container_says_so() {
    let serve = Serve::start(&[]).await;
    let check = json!({
        "Test": ["CMD-SHELL", "echo looked; test -e /tmp/up"],
        "Interval": TENTH, "Timeout": 20 * TENTH, "Retries": 2, "StartPeriod": 6_000 * TENTH,
        "StartInterval": TENTH,
    });
    let body = json!({ "Healthcheck": check });
    let id = serve.create("checked", &["sleep", "600"], body).await;
    assert!(serve.state(&id).await["Health"].is_null(), "it was not started");
    serve.start_it(&id).await;
    let health = serve.until_health(&id, "starting").await;
    assert_eq!(health["FailingStreak"], 0, "failures do not count while it starts");
    let list = async |filter: &str| {
        let path = format!("/containers/json?filters=%7B%22health%22:%5B%22{filter}%22%5D%7D");
        serve.get(&path).await.json()
    };
    assert!(list("starting").await[0]["Status"].as_str().unwrap().ends_with("(health: starting)"));
    assert_eq!(serve.shell(&id, "touch /tmp/up").await.0, 0);
    let health = serve.until_health(&id, "healthy").await;
    let log = health["Log"].as_array().unwrap();
    let last = log.last().unwrap();
    assert_eq!((&last["ExitCode"], &last["Output"]), (&json!(0), &json!("looked\n")), "{last}");
    assert!(list("healthy").await[0]["Status"].as_str().unwrap().ends_with("(healthy)"));
    assert_eq!(serve.shell(&id, "rm /tmp/up").await.0, 0);
    let health = serve.until_health(&id, "unhealthy").await;
    assert!(health["FailingStreak"].as_i64().unwrap() >= 2, "{health}");
    assert_eq!(list("none").await, json!([]));
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn a_check_that_takes_too_long_is_killed_and_one_that_cannot_start_says_why() {
    let serve = Serve::start(&[]).await;
    let run = async |test: Value| {
        let check = json!({ "Test": test, "Interval": TENTH, "Timeout": 3 * TENTH, "Retries": 1 });
        let id = serve.create("", &["sleep", "600"], json!({ "Healthcheck": check })).await;
        serve.start_it(&id).await;
        let health = serve.until_health(&id, "unhealthy").await;
        let last = health["Log"].as_array().unwrap().last().unwrap().clone();
        assert_eq!(last["ExitCode"], -1, "{last}");
        (id, last["Output"].as_str().unwrap().to_owned())
    };
    let (id, output) = run(json!(["CMD", "sleep", "7654321"])).await;
    assert_eq!(output, "Health check exceeded timeout (0.3s)");
    let top = serve.get(&format!("/containers/{id}/top")).await.json();
    let count = top["Processes"].to_string().matches("7654321").count();
    assert!(count <= 1, "killed ones are gone: {top}");
    let (_, output) = run(json!(["CMD", "nosuch"])).await;
    assert!(output.contains("executable file not found"), "{output}");
    let body = json!({ "Image": crate::common::needs::BASE, "Healthcheck": { "Interval": 5 } });
    assert_eq!(serve.call("POST", "/containers/create", body).await.status, 400);
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn a_commit_takes_changes_and_an_image_says_how_it_is_checked() {
    let serve = Serve::start(&[]).await;
    let id = serve.create("", &["sleep", "600"], json!({})).await;
    let changes = [
        "HEALTHCHECK --interval=100ms CMD test \"$MARK\" = 1",
        "ENV MARK=1 MORE=2",
        "LABEL a=b",
        "EXPOSE 80",
    ];
    let mut path = format!("/commit?container={id}&repo=test/checked&tag=1");
    for change in changes {
        let change: String = form_urlencoded::byte_serialize(change.as_bytes()).collect();
        path += &format!("&changes={change}");
    }
    let got = serve.post(&path).await;
    assert_eq!(got.status, 201, "{}", got.message());
    let config = serve.get("/images/test/checked:1/json").await.json()["Config"].clone();
    assert_eq!(config["Healthcheck"]["Interval"], TENTH);
    assert!(config["ExposedPorts"]["80/tcp"].is_object(), "{config}");
    assert_eq!(config["Labels"]["a"], "b");
    let own =
        config["Labels"].as_object().unwrap().keys().find(|key| key.starts_with("dev.imgforge"));
    assert_eq!(own, None, "it is another image than the one it was made of");
    let body = json!({ "Image": "test/checked:1", "Cmd": ["sleep", "600"] });
    let made = serve.call("POST", "/containers/create", body).await.json();
    let made = made["Id"].as_str().unwrap();
    serve.start_it(made).await;
    serve.until_health(made, "healthy").await;
    let got = serve.post(&format!("/commit?container={id}&changes=RUN+true")).await;
    assert_eq!(got.status, 400, "{}", got.message());
    assert_eq!(
        serve.call("DELETE", "/images/test/checked:1?force=1", Value::Null).await.status,
        200
    );
}
