//! The API over HTTP and TLS.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use super::objects::{Id, Kind, matches};
use super::rights::Right;
use super::{State, exec};

pub(super) type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Serves until the runtime ends.
pub(super) async fn serve(
    listener: tokio::net::TcpListener,
    key: rcgen::CertifiedKey<rcgen::KeyPair>,
    state: Arc<State>,
) {
    let certificate = key.cert.der().clone();
    let private = rustls::pki_types::PrivateKeyDer::Pkcs8(key.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], private)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        // As the API server does: else each of two answers in a row waits 40 ms.
        stream.set_nodelay(true).unwrap();
        let (acceptor, state) = (acceptor.clone(), state.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request| {
                let state = state.clone();
                async move { Ok::<_, Infallible>(answer(state, request).await) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            let _ = served.await;
        });
    }
}

pub(super) fn body(value: &Value) -> UnsyncBoxBody<Bytes, Infallible> {
    Full::new(Bytes::from(value.to_string())).boxed_unsync()
}

fn json_answer(code: u16, value: &Value) -> Answer {
    Response::builder()
        .status(code)
        .header("content-type", "application/json")
        .body(body(value))
        .unwrap()
}

pub(super) fn failure(code: u16, reason: &str, message: &str) -> Answer {
    let mut status = json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": message,
    });
    if code == 429 {
        status["details"] = json!({ "retryAfterSeconds": 1 });
    }
    json_answer(code, &status)
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Answer {
    let wanted = format!("Bearer {}", state.token);
    let given = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    if given != Some(&wanted) {
        return failure(401, "Unauthorized", "Unauthorized");
    }
    let path = request.uri().path().to_owned();
    let query: Vec<(String, String)> =
        form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes())
            .into_owned()
            .collect();
    let one = |name: &str| {
        let found = query.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    if path == "/version" {
        let version = json!({ "major": "1", "minor": "34", "gitVersion": "v1.34.2",
            "gitCommit": "", "gitTreeState": "", "buildDate": "", "goVersion": "",
            "compiler": "", "platform": "" });
        return json_answer(200, &version);
    }
    if path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" {
        let mut review = read(request).await;
        let asked = &review["spec"]["resourceAttributes"];
        let text = |name: &str| asked[name].as_str().unwrap_or_default();
        let (verb, group, resource) = (text("verb"), text("group"), text("resource"));
        let right = Right { verb, group, resource, part: text("subresource") };
        let is_allowed = allows(&state, &right);
        review["status"] = json!({ "allowed": is_allowed });
        return json_answer(201, &review);
    }
    let rest = path.strip_prefix("/api/v1/namespaces/");
    let rest = rest.or(path.strip_prefix("/apis/coordination.k8s.io/v1/namespaces/"));
    let parts: Vec<&str> = rest.unwrap_or_default().split('/').collect();
    let kind = parts.get(1).and_then(|name| Kind::of_path(name));
    let (Some(kind), [namespace, _, below @ ..]) = (kind, &parts[..]) else {
        return failure(404, "NotFound", &format!("no path {path}"));
    };
    let namespace = (*namespace).to_owned();
    let method = request.method().clone();
    let watches = one("watch") == "true";
    let what = if watches { "WATCH" } else { method.as_str() };
    state.count(&format!("{what} {}", kind.name()));
    let right = Right {
        verb: match (&method, below) {
            (_, _) if watches => "watch",
            (&Method::GET, []) => "list",
            (&Method::GET, _) => "get",
            (&Method::POST, _) => "create",
            (&Method::PUT, _) => "update",
            (&Method::DELETE, []) => "deletecollection",
            (&Method::DELETE, _) => "delete",
            _ => "patch",
        },
        group: kind.api_version().split_once('/').map_or("", |(group, _)| group),
        resource: parts[1],
        part: below.get(1).copied().unwrap_or_default(),
    };
    if !allows(&state, &right) {
        let (verb, resource, group) = (right.verb, right.name(), right.group);
        let text = format!(
            "{resource} is forbidden: User \"u\" cannot {verb} resource \"{resource}\" in API group \
             \"{group}\" in the namespace \"{namespace}\""
        );
        return failure(403, "Forbidden", &text);
    }
    if !watches && below.len() < 2 && state.strikes("busy", state.knobs().busy) {
        return failure(429, "TooManyRequests", "the server is busy");
    }
    match (&method, below) {
        (&Method::GET, [name, "exec"]) => {
            let id = (kind, namespace, (*name).to_owned());
            let commands = query.iter().filter(|(name, _)| name == "command");
            let command = commands.map(|(_, value)| value.clone()).collect();
            exec::exec(state, id, one("container"), command, request)
        }
        (&Method::GET, []) if watches => {
            watch(state, kind, namespace, &one("labelSelector"), &one("resourceVersion"), &query)
        }
        (&Method::GET, []) => {
            let objects = state.objects.lock().unwrap();
            let items = objects.list(kind, &namespace, &one("labelSelector"));
            json_answer(
                200,
                &json!({
                    "apiVersion": kind.api_version(), "kind": format!("{}List", kind.name()),
                    "metadata": { "resourceVersion": objects.version.to_string() }, "items": items,
                }),
            )
        }
        (&Method::GET, [name]) => {
            let id = (kind, namespace, (*name).to_owned());
            match state.objects.lock().unwrap().get(&id) {
                Some(value) => json_answer(200, value),
                None => not_found(&id),
            }
        }
        (&Method::POST, []) => create(&state, kind, namespace, read(request).await),
        (&Method::PUT, [name]) => {
            let id = (kind, namespace, (*name).to_owned());
            let value = read(request).await;
            state.change(|objects| match objects.get(&id) {
                None => not_found(&id),
                Some(there)
                    if there["metadata"]["resourceVersion"]
                        != value["metadata"]["resourceVersion"] =>
                {
                    failure(409, "Conflict", "the object has been modified")
                }
                Some(_) => json_answer(200, &objects.put(id.clone(), "MODIFIED", value)),
            })
        }
        (&Method::DELETE, []) => {
            let objects = state.objects.lock().unwrap();
            let all = objects.list(kind, &namespace, &one("labelSelector"));
            drop(objects);
            for value in all {
                let name = value["metadata"]["name"].as_str().unwrap().to_owned();
                state.change(|objects| objects.remove(&(kind, namespace.clone(), name)));
            }
            json_answer(200, &json!({ "apiVersion": "v1", "kind": "Status", "status": "Success" }))
        }
        (&Method::DELETE, [name]) => {
            let id = (kind, namespace, (*name).to_owned());
            delete(&state, &id, &read(request).await)
        }
        _ => failure(405, "MethodNotAllowed", &format!("no {method} on {path}")),
    }
}

fn allows(state: &State, right: &Right<'_>) -> bool {
    let name = format!("{} {}", right.verb, right.name());
    let is_denied = state.knobs().denied.is_some_and(|denied| denied == name);
    !is_denied && state.rights.allow(right)
}

async fn read(request: Request<Incoming>) -> Value {
    let bytes = request.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&bytes).unwrap_or(Value::Null)
}

fn not_found(id: &Id) -> Answer {
    failure(404, "NotFound", &format!("{} \"{}\" not found", id.0.name(), id.2))
}

fn create(state: &State, kind: Kind, namespace: String, value: Value) -> Answer {
    let knobs = state.knobs();
    let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let id = (kind, namespace, name);
    let data = value["data"].as_object().into_iter().flatten();
    let bytes: usize = data.map(|(_, text)| text.as_str().map_or(0, str::len) / 4 * 3).sum();
    if kind == Kind::Secret && bytes > 1 << 20 {
        return failure(422, "Invalid", "data: Too long: may not be more than 1048576 bytes");
    }
    let created = state.change(|objects| {
        let pods = objects.names(Kind::Pod).len();
        if kind == Kind::Pod && knobs.quota.is_some_and(|quota| pods >= quota) {
            return Err((403, "Forbidden", "pods is forbidden: exceeded quota: q"));
        }
        let exists = (409, "AlreadyExists", "already exists");
        let mut value = value;
        if kind == Kind::Pod {
            value["status"] = json!({ "phase": "Pending" });
        }
        objects.create(id.clone(), value).ok_or(exists)
    });
    match created {
        Err((code, reason, message)) => failure(code, reason, message),
        Ok(_) if state.strikes("lost answer", knobs.lost_answers) => {
            failure(500, "InternalError", "etcdserver: request timed out")
        }
        Ok(value) => json_answer(201, &value),
    }
}

fn delete(state: &State, id: &Id, options: &Value) -> Answer {
    state.change(|objects| {
        let Some(there) = objects.get(id).cloned() else { return not_found(id) };
        for field in ["uid", "resourceVersion"] {
            let wanted = &options["preconditions"][field];
            if !wanted.is_null() && *wanted != there["metadata"][field] {
                return failure(409, "Conflict", "the precondition does not hold");
            }
        }
        let grace = options["gracePeriodSeconds"].as_u64().unwrap_or(0);
        if id.0 != Kind::Pod || grace == 0 {
            objects.remove(id);
        } else {
            // The node removes it once its containers are dead.
            objects.modify(id, |value| {
                value["metadata"]["deletionTimestamp"] = json!(super::objects::now());
            });
        }
        json_answer(200, &there)
    })
}

fn watch(
    state: Arc<State>,
    kind: Kind,
    namespace: String,
    selector: &str,
    version: &str,
    query: &[(String, String)],
) -> Answer {
    let knobs = state.knobs();
    if state.strikes("expired", knobs.expired) {
        return failure(410, "Expired", "too old resource version");
    }
    let seconds = query.iter().find(|(name, _)| name == "timeoutSeconds");
    let seconds = seconds.and_then(|(_, value)| value.parse().ok()).unwrap_or(290);
    let life = knobs.watch_ends.map_or(Duration::from_secs(seconds), Duration::from_millis);
    let (send, receive) = tokio::sync::mpsc::unbounded_channel::<Value>();
    let selector = selector.to_owned();
    let mut version: u64 = version.parse().unwrap_or(0);
    tokio::spawn(async move {
        let mut changed = state.changed.subscribe();
        let end = tokio::time::Instant::now() + life;
        loop {
            let (new, latest) = {
                let objects = state.objects.lock().unwrap();
                (objects.since(version, kind), objects.version)
            };
            let Some(new) = new else {
                let status = json!({ "kind": "Status", "status": "Failure", "code": 410,
                    "reason": "Expired", "message": "too old resource version" });
                let _ = send.send(json!({ "type": "ERROR", "object": status }));
                return;
            };
            for change in new {
                let object = &change.object;
                if object["metadata"]["namespace"] == namespace.as_str()
                    && matches(object, &selector)
                    && send.send(json!({ "type": change.event, "object": object })).is_err()
                {
                    return;
                }
            }
            version = latest;
            tokio::select! {
                _ = changed.changed() => {}
                () = tokio::time::sleep(Duration::from_secs(1)) => {
                    let mark = json!({ "type": "BOOKMARK", "object": {
                        "apiVersion": kind.api_version(), "kind": kind.name(),
                        "metadata": { "resourceVersion": version.to_string() },
                        "spec": { "containers": [] },
                    } });
                    if send.send(mark).is_err() {
                        return;
                    }
                }
                () = tokio::time::sleep_until(end) => return,
            }
        }
    });
    let lines = tokio_stream(receive).map(|value| {
        let mut line = value.to_string().into_bytes();
        line.push(b'\n');
        Ok::<_, Infallible>(Frame::data(Bytes::from(line)))
    });
    Response::builder()
        .status(StatusCode::OK)
        .header("content-type", "application/json")
        .body(StreamBody::new(lines).boxed_unsync())
        .unwrap()
}

fn tokio_stream(
    receive: tokio::sync::mpsc::UnboundedReceiver<Value>,
) -> impl futures_util::Stream<Item = Value> {
    futures_util::stream::unfold(receive, |mut receive| async move {
        let value = receive.recv().await?;
        Some((value, receive))
    })
}
