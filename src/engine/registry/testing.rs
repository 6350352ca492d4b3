//! A registry for tests: an HTTP server on this machine that answers as it is told.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A request: its first line, its headers in lower case, and when it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub line: String,
    pub headers: String,
    pub at: Instant,
}

/// An answer; status 0 cuts the connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply { status, headers: Vec::new(), body: body.into() }
    }

    /// The document of an error.
    pub(crate) fn coded(status: u16, code: &str) -> Reply {
        let error = serde_json::json!({"code": code, "message": "in its own words", "detail": {}});
        let body = serde_json::json!({ "errors": [error] }).to_string();
        Reply::new(status, body).with("Content-Type", "application/json")
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Reply {
        self.headers.push((name, value.into()));
        self
    }
}

/// The server.
pub(crate) struct Server {
    pub host: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    pub(crate) async fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (all, answer) = (asked.clone(), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, all.clone(), answer.clone()));
            }
        });
        Server { host, asked }
    }

    /// Serves a registry whose greeting is fine and which answers everything else alike.
    pub(crate) async fn always(reply: Reply) -> Server {
        Server::start(move |asked| match asked.line.contains(" /v2/ ") {
            true => Reply::new(200, "{}"),
            false => reply.clone(),
        })
        .await
    }

    /// What was asked, without greetings.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|one| !one.line.contains(" /v2/ ")).cloned().collect()
    }
}

async fn serve(
    mut stream: TcpStream,
    all: Arc<Mutex<Vec<Asked>>>,
    answer: Arc<impl Fn(&Asked) -> Reply>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
    let text = String::from_utf8(head).unwrap();
    let (line, headers) = text.split_once("\r\n").unwrap();
    let headers = headers.to_ascii_lowercase();
    let asked = Asked { line: line.to_owned(), headers, at: Instant::now() };
    all.lock().unwrap().push(asked.clone());
    let reply = answer(&asked);
    if reply.status == 0 {
        return;
    }
    let mut text = format!("HTTP/1.1 {} said\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        text += &format!("{name}: {value}\r\n");
    }
    if !reply.headers.iter().any(|(name, _)| *name == "Content-Length") {
        text += &format!("Content-Length: {}\r\n", reply.body.len());
    }
    text += "\r\n";
    let mut bytes = text.into_bytes();
    if !asked.line.starts_with("HEAD ") {
        bytes.extend(&reply.body);
    }
    let _ = stream.write_all(&bytes).await;
    let _ = stream.shutdown().await;
}
