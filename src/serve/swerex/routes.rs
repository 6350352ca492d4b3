//! What is served: the table of paths, and who may ask.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::serve::answer::{Body, whole};

use super::execute::execute;
use super::failure::Failure;
use super::files;
use super::once::Reply;
use super::requests::{Action, CloseSession, Command, CreateSession, ReadFile, WriteFile};
use super::runtime::Runtime;
use super::server::Server;
use super::upload;

/// The most that a document may be, in bytes.
const MOST_DOCUMENT: usize = 64 << 20;

/// The most of a body that is read and thrown away, so that its sender gets to read the answer, in bytes.
const MOST_WASTE: usize = 1 << 30;

/// The calls that are posted.
const POSTED: [&str; 8] = [
    "create_session",
    "run_in_session",
    "close_session",
    "execute",
    "read_file",
    "write_file",
    "upload",
    "close",
];

/// Answers a request.
pub(super) async fn answer(server: &Arc<Server>, request: Request<Incoming>) -> Response<Body> {
    let reply = match dispatch(server, request).await {
        Ok(reply) => reply,
        Err(failure) => Reply::of(&failure),
    };
    let mut response = Response::new(whole(reply.body));
    *response.status_mut() = reply.status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

async fn dispatch(server: &Arc<Server>, request: Request<Incoming>) -> Result<Reply, Failure> {
    let (head, body) = request.into_parts();
    let parts: Vec<&str> = head.uri.path().split('/').filter(|part| !part.is_empty()).collect();
    let (id, call) = match parts.as_slice() {
        ["s", id, call @ ..] => (Some(*id), call),
        call => (None, call),
    };
    // Before anything is said about what is there.
    let runtime = server.admit(id, text(&head.headers, "x-api-key"))?;
    match (&head.method, call) {
        (&Method::GET, []) => Ok(reply_of(Ok(json!({ "message": "hello world" })))),
        (&Method::GET, ["is_alive"]) => Ok(reply_of(Ok(runtime.is_alive().await))),
        (&Method::POST, [call]) if POSTED.contains(call) => {
            post(runtime, call, &head.headers, body).await
        }
        (method, [call]) if *call == "is_alive" || POSTED.contains(call) => {
            let right = if *call == "is_alive" { "GET" } else { "POST" };
            let detail = format!("`{call}` is for {right}, not for {method}");
            Err(Failure::unserved(StatusCode::METHOD_NOT_ALLOWED, detail))
        }
        (method, call) => {
            let detail = format!("`{method} /{}` is not served by imgforge", call.join("/"));
            Err(Failure::unserved(StatusCode::NOT_FOUND, detail))
        }
    }
}

/// Does what a call asks for, once for every id of a request.
async fn post(
    runtime: Arc<Runtime>,
    call: &str,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Reply, Failure> {
    let id = text(headers, "x-request-id").map(str::to_owned);
    let once = runtime.once.clone();
    let work = read(call, headers, body).await?;
    Ok(once.answer(id, async move { reply_of(work.of(&runtime).await) }).await)
}

/// A call that was read.
enum Work {
    Create(CreateSession),
    Act(Action),
    Close(CloseSession),
    Execute(Command),
    Read(ReadFile),
    Write(WriteFile),
    Upload(upload::Upload),
    CloseAll,
}

/// Reads a call as a whole: what breaks off is none.
async fn read(call: &str, headers: &HeaderMap, body: Incoming) -> Result<Work, Failure> {
    if call == "upload" {
        return upload::read(headers, body).await.map(Work::Upload);
    }
    let bytes = bytes(body).await?;
    match call {
        "create_session" => document(call, &bytes).map(Work::Create),
        "run_in_session" => document(call, &bytes).map(Work::Act),
        "close_session" => document(call, &bytes).map(Work::Close),
        "execute" => document(call, &bytes).map(Work::Execute),
        "read_file" => document(call, &bytes).map(Work::Read),
        "write_file" => document(call, &bytes).map(Work::Write),
        _ => Ok(Work::CloseAll),
    }
}

impl Work {
    async fn of(self, runtime: &Runtime) -> Result<Value, Failure> {
        match self {
            Work::Create(create) => runtime.create(create).await,
            Work::Act(action) => runtime.act(action).await,
            Work::Close(close) => runtime.close(&close),
            Work::Execute(command) => execute(&runtime.connect().await?, command).await,
            Work::Read(file) => files::read(&runtime.connect().await?, file).await,
            Work::Write(file) => files::write(&runtime.connect().await?, file).await,
            Work::Upload(upload) => upload::put(&runtime.connect().await?, upload).await,
            Work::CloseAll => Ok(runtime.close_all()),
        }
    }
}

fn reply_of(outcome: Result<Value, Failure>) -> Reply {
    match outcome {
        Ok(document) => Reply { status: StatusCode::OK, body: document.to_string().into() },
        Err(failure) => Reply::of(&failure),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn document<T: DeserializeOwned>(call: &str, bytes: &Bytes) -> Result<T, Failure> {
    serde_json::from_slice(bytes)
        .map_err(|error| Failure::bad(format!("the body is no document for `{call}`: {error}")))
}

/// Reads a body that is a document.
async fn bytes(mut body: Incoming) -> Result<Bytes, Failure> {
    let (mut kept, mut count) = (BytesMut::new(), 0);
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Failure::bad(format!("the body cannot be read: {error}")))?;
        let Ok(bytes) = frame.into_data() else { continue };
        count += bytes.len();
        if count <= MOST_DOCUMENT {
            kept.extend_from_slice(&bytes);
        } else if count > MOST_WASTE {
            break;
        }
    }
    match count <= MOST_DOCUMENT {
        true => Ok(kept.freeze()),
        false => Err(Failure::bad(format!("the body has more than {} MiB", MOST_DOCUMENT >> 20))),
    }
}
