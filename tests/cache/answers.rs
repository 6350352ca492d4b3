//! Registries that say no, in the ways of those that people use: one image or one repository that
//! is not there leaves the others, and who is busy is waited for. Through the binary.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::{Machine, text};

/// A server that answers as it is told, and keeps what it was asked, without greetings.
struct Server {
    port: u16,
    asked: Arc<Mutex<Vec<(Instant, String)>>>,
}

/// Status line, headers, body.
type Answer = (&'static str, String, String);

impl Server {
    fn start(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (all, answer) = (asked.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (all, answer) = (all.clone(), answer.clone());
                std::thread::spawn(move || {
                    let _ = serve(stream, &all, &*answer);
                });
            }
        });
        Server { port, asked }
    }

    /// Answers every question alike, with a document of that code.
    fn coded(status: &'static str, code: &str, headers: &str) -> Server {
        let error = serde_json::json!({"code": code, "message": "in its own words"});
        let body = serde_json::json!({ "errors": [error] }).to_string();
        let headers = headers.to_owned();
        Server::start(move |_| (status, headers.clone(), body.clone()))
    }

    fn name(&self) -> String {
        format!("127.0.0.1:{}/me", self.port)
    }

    fn asked(&self) -> Vec<(Instant, String)> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(
    mut stream: TcpStream,
    all: &Mutex<Vec<(Instant, String)>>,
    answer: &dyn Fn(&str) -> Answer,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Ok(());
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let line = head.lines().next().unwrap_or_default().to_owned();
    let (status, headers, body) = match line.contains(" /v2/ ") {
        true => ("200 OK", String::new(), "{}".to_owned()),
        false => {
            all.lock().unwrap().push((Instant::now(), line.clone()));
            answer(&line)
        }
    };
    let length = body.len();
    let end = format!("{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    stream.write_all(format!("HTTP/1.1 {status}\r\n{end}").as_bytes())
}

/// Plans the demo dataset with a cache; what was said on stderr.
async fn plan(machine: &Machine, registry: &str) -> String {
    let output = run(machine, &["plan", "-d", "demo", "--cache-registry", registry]).await;
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn run(machine: &Machine, args: &[&str]) -> Output {
    let catalog = machine.catalog().await;
    machine.run(&[&["--config", catalog.to_str().unwrap()], args].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_image_says_nothing_about_the_others() {
    let machine = Machine::new().await;
    for (status, code) in [
        ("404 Not Found", "MANIFEST_UNKNOWN"),
        ("404 Not Found", "NAME_UNKNOWN"),
        ("404 Not Found", "NOT_FOUND"),
        ("400 Bad Request", "RepositoryNotFoundException"),
    ] {
        let server = Server::coded(status, code, "");
        let said = plan(&machine, &server.name()).await;
        assert!(!said.contains("warning"), "{code}: {said}");
        assert!(server.asked().len() > 3, "{code}: every image is asked for");
    }
    let page = Server::start(|_| ("404 Not Found", String::new(), "<html></html>".to_owned()));
    let said = plan(&machine, &page.name()).await;
    assert!(!said.contains("warning"), "{said}");
    assert!(page.asked().len() > 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_lets_nothing_be_read_is_named_once_with_what_helps() {
    let machine = Machine::new().await;
    for (status, code) in [("401 Unauthorized", "UNAUTHORIZED"), ("403 Forbidden", "DENIED")] {
        let server = Server::coded(status, code, "");
        let said = plan(&machine, &server.name()).await;
        assert_eq!(said.matches("warning").count(), 1, "{said}");
        assert!(said.contains("everything is built") && said.contains("docker login"), "{said}");
        let output = run(&machine, &["prewarm", "-d", "demo", "--from", &server.name()]).await;
        assert_eq!(output.status.code(), Some(3), "{}", text(&output));
        assert!(text(&output).contains("docker login"), "{}", text(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_repository_that_may_not_be_read_leaves_the_others() {
    let machine = Machine::new().await;
    let document = |code: &str| format!(r#"{{"errors":[{{"code":"{code}","message":"no"}}]}}"#);
    let server = Server::start(move |line| match line.contains("/imgforge/env/") {
        true => ("403 Forbidden", String::new(), document("DENIED")),
        false => ("404 Not Found", String::new(), document("MANIFEST_UNKNOWN")),
    });
    let said = plan(&machine, &server.name()).await;
    assert!(!said.contains("everything is built"), "{said}");
    assert_eq!(said.matches("warning").count(), 1, "{said}");
    assert!(said.contains("does not tell all"), "{said}");
    let of = |kind: &str| {
        let part = format!("/imgforge/{kind}/");
        server.asked().iter().filter(|(_, line)| line.contains(&part)).count()
    };
    assert_eq!(of("env"), 1, "a repository that may not be read is asked once");
    assert!(of("checkout") > 1 && of("instance") > 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_busy_is_asked_again_when_it_says_and_left_alone_then() {
    let machine = Machine::new().await;
    let bodies = [r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"limit"}]}"#, "<html></html>"];
    for body in bodies {
        let server = Server::start(move |_| {
            ("429 Too Many Requests", "Retry-After: 1\r\n".to_owned(), body.to_owned())
        });
        let output = run(&machine, &["prewarm", "-d", "demo", "--from", &server.name()]).await;
        assert_eq!(output.status.code(), Some(3), "{}", text(&output));
        assert!(text(&output).contains("docker login"), "{}", text(&output));
        let asked = server.asked();
        assert_eq!(asked.len(), 4, "{asked:?}");
        for pair in asked.windows(2) {
            assert!(pair[1].0 - pair[0].0 >= Duration::from_secs(1), "{asked:?}");
        }
    }
    // A registry that is down costs one warning, and not one for each image.
    let down = Server::coded("503 Service Unavailable", "UNAVAILABLE", "");
    let said = plan(&machine, &down.name()).await;
    assert_eq!(said.matches("warning").count(), 1, "{said}");
    assert!(said.contains("everything is built"), "{said}");
    assert!(down.asked().len() <= 10, "{:?}", down.asked());
}
