//! The Hugging Face hub, as a server on loopback answers: listing, redirect to another host, ranges,
//! refusals, rate limits, transfers that are cut off. Through the binary.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use sha2::{Digest as _, Sha256};

const SHA: &str = "1234567890123456789012345678901234567890";

/// What was asked: method, path, headers.
type Asked = (String, String, HashMap<String, String>);

/// A server that answers each request by a function, and remembers what it was asked.
struct Server {
    port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    fn start(answer: impl Fn(&Asked, usize) -> Vec<u8> + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let log = asked.clone();
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, answer) = (log.clone(), answer.clone());
                std::thread::spawn(move || {
                    let Some(request) = read(&stream) else { return };
                    let before = {
                        let mut log = log.lock().unwrap();
                        let same = |asked: &&Asked| asked.0 == request.0 && asked.1 == request.1;
                        let before = log.iter().filter(same).count();
                        log.push(request.clone());
                        before
                    };
                    let _ = (&stream).write_all(&answer(&request, before));
                });
            }
        });
        Server { port, asked }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn read(stream: &TcpStream) -> Option<Asked> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Some((method, path, headers))
}

fn response(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut out = format!("HTTP/1.1 {status}\r\nconnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "content-length") {
        out.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    out.push_str("\r\n");
    [out.into_bytes(), body.to_vec()].concat()
}

fn rows() -> Vec<u8> {
    (1..=50)
        .map(|number| {
            format!(
                "{{\"instance_id\":\"pallets__flask-{number}\",\"repo\":\"pallets/flask\",\
                 \"version\":\"2.0\",\"base_commit\":\"{}\",\"test_patch\":\"x\"}}\n",
                "a".repeat(40)
            )
        })
        .collect::<String>()
        .into_bytes()
}

/// A hub whose file is on another host, which cuts the first transfer off.
fn hub() -> (Server, Server) {
    let body = rows();
    let digest = hex::encode(Sha256::digest(&body));
    let size = body.len().to_string();
    let half = body.len() / 2;
    let length = size.clone();
    let cdn = Server::start(move |(_, _, headers), before| {
        if before == 0 {
            return response("200 OK", &[("content-length", &length)], &body[..half]);
        }
        match headers.get("range").and_then(|range| {
            range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok()
        }) {
            Some(from) => response("206 Partial Content", &[], &body[from..]),
            None => response("200 OK", &[], &body),
        }
    });
    let location = format!("http://127.0.0.1:{}/blob", cdn.port);
    let hub = Server::start(move |(_, path, headers), before| {
        let token = headers.get("authorization").map(String::as_str) == Some("Bearer secret");
        let listing = format!(
            "{{\"sha\":\"{SHA}\",\"siblings\":[{{\"rfilename\":\"README.md\"}},{{\"rfilename\":\"data/test.jsonl\"}},{{\"rfilename\":\"data/dev.jsonl\"}}]}}"
        );
        match path.as_str() {
            "/prefix/api/datasets/o/busy/revision/main" if before == 0 => {
                response("429 Too Many Requests", &[("retry-after", "1")], b"")
            }
            "/prefix/api/datasets/o/busy/revision/main" if before == 1 => {
                response("503 Service Unavailable", &[], b"")
            }
            "/prefix/api/datasets/o/gated/revision/main" if !token => {
                response("401 Unauthorized", &[], b"")
            }
            "/prefix/api/datasets/o/busy/revision/main"
            | "/prefix/api/datasets/o/gated/revision/main" => {
                response("200 OK", &[("content-type", "application/json")], listing.as_bytes())
            }
            path if path.ends_with("/data/test.jsonl") => response(
                "302 Found",
                &[
                    ("location", &location),
                    ("x-linked-etag", &format!("\"{digest}\"")),
                    ("x-linked-size", &size),
                ],
                b"",
            ),
            _ => response("404 Not Found", &[], b""),
        }
    });
    (hub, cdn)
}

fn ls(home: &std::path::Path, hub: &Server, args: &[&str], more: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_imgforge"))
        .args(["dataset", "ls", "-d"])
        .args(args)
        .current_dir(home)
        .env("HF_HOME", home.join("hf"))
        .env("HF_ENDPOINT", format!("http://127.0.0.1:{}/prefix", hub.port))
        .env_remove("HF_TOKEN")
        .env_remove("HF_HUB_OFFLINE")
        .envs(more.iter().copied())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_busy_hub_is_waited_for_a_cut_off_transfer_resumed_and_the_cache_read() {
    let home = tempfile::tempdir().unwrap();
    let (hub, cdn) = hub();
    let output = ls(home.path(), &hub, &["o/busy"], &[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).lines().count(), 50);
    let ranges: Vec<_> =
        cdn.asked().into_iter().map(|(_, _, headers)| headers.get("range").cloned()).collect();
    assert_eq!(ranges.len(), 2);
    assert!(ranges[1].as_ref().is_some_and(|range| range.starts_with("bytes=")), "{ranges:?}");
    let listed = hub.asked().iter().filter(|(_, path, _)| path.contains("/api/")).count();
    assert_eq!(listed, 3, "429, 503, and then the listing");

    // In the layout of huggingface_hub.
    let dir = home.path().join("hf/hub/datasets--o--busy");
    assert_eq!(std::fs::read_to_string(dir.join("refs/main")).unwrap(), SHA);
    let link = std::fs::read_link(dir.join("snapshots").join(SHA).join("data/test.jsonl")).unwrap();
    assert!(link.starts_with("../../../blobs"), "{link:?}");

    let before = hub.asked().len();
    let again = ls(home.path(), &hub, &["o/busy"], &[]);
    assert_eq!(text(&again.stdout), text(&output.stdout));
    assert_eq!(hub.asked().len(), before, "what is in the cache is not asked for");
    let offline = ls(home.path(), &hub, &["o/busy"], &[("HF_HUB_OFFLINE", "1")]);
    assert!(offline.status.success());
}

#[test]
fn a_token_goes_to_the_hub_and_not_to_where_the_file_is() {
    let home = tempfile::tempdir().unwrap();
    let (hub, cdn) = hub();
    let denied = ls(home.path(), &hub, &["o/gated"], &[]);
    assert_eq!(denied.status.code(), Some(2));
    assert!(text(&denied.stderr).contains("HF_TOKEN"), "{}", text(&denied.stderr));
    let output = ls(home.path(), &hub, &["o/gated"], &[("HF_TOKEN", "secret")]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(cdn.asked().iter().all(|(_, _, headers)| !headers.contains_key("authorization")));
}

#[test]
fn unknown_datasets_and_splits_are_told_apart() {
    let home = tempfile::tempdir().unwrap();
    let (hub, _cdn) = hub();
    let absent = ls(home.path(), &hub, &["o/absent"], &[]);
    assert_eq!(absent.status.code(), Some(2));
    assert!(text(&absent.stderr).contains("the hub has no dataset `o/absent`"));
    let split = ls(home.path(), &hub, &["o/busy", "--split", "train"], &[]);
    assert_eq!(split.status.code(), Some(2));
    assert!(
        text(&split.stderr).contains("no split `train`; it has dev, test"),
        "{}",
        text(&split.stderr)
    );
}
