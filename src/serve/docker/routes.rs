//! What is served: the table of paths, and what is said of the others.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, Response};

use super::answer::{Answer, Body, Refusal, done, whole};
use super::build;
use super::call::Call;
use super::commit;
use super::container_routes;
use super::create;
use super::disk_usage;
use super::event_stream;
use super::exec;
use super::images;
use super::listing;
use super::load;
use super::network_members;
use super::network_routes;
use super::prune;
use super::pull;
use super::save;
use super::server::Server;
use super::system;
use super::volume_routes;

/// The heads of every answer.
const HEADS: [(&str, &str); 4] = [
    ("api-version", system::API),
    ("ostype", "linux"),
    ("builder-version", "1"),
    ("server", "Docker/28.0.0 (imgforge)"),
];

/// Answers a request.
pub(super) async fn answer(server: &Arc<Server>, request: Request<Incoming>) -> Response<Body> {
    let mut call = Call::new(request);
    let answer = dispatch(server, &mut call).await;
    let mut response = answer.unwrap_or_else(Refusal::answer);
    for (name, value) in HEADS {
        let name = HeaderName::from_static(name);
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    if call.method == Method::HEAD {
        *response.body_mut() = whole(bytes::Bytes::new());
    }
    response
}

async fn dispatch(server: &Arc<Server>, call: &mut Call) -> Answer {
    let path = std::mem::take(&mut call.path);
    let parts: Vec<&str> = path.iter().map(String::as_str).collect();
    let method = call.method.clone();
    match (method.as_str(), parts.as_slice()) {
        ("GET" | "HEAD", ["_ping"]) => system::ping(call),
        ("GET", ["version"]) => system::version(server),
        ("GET", ["info"]) => system::info(server).await,
        ("GET", ["containers", "json"]) => listing::list(server, call),
        ("POST", ["containers", "create"]) => create::create(server, call).await,
        ("POST", ["containers", "prune"]) => prune::containers(server, call).await,
        ("DELETE", ["containers", name @ ..]) if !name.is_empty() => {
            let container = server.find(&name.join("/"))?;
            let (force, volumes) = (call.is_set("force"), call.is_set("v"));
            server.remove(&container, force, volumes).await?;
            done()
        }
        // A name may have slashes, as that of an image that a client looks for here first.
        (_, ["containers", name @ .., action]) if !name.is_empty() => {
            container_routes::answer(server, call, &name.join("/"), action).await
        }
        ("POST", ["exec", id, "start"]) => {
            exec::start(call, server.find_exec(id)?, server.settings.abandoned_execs).await
        }
        ("POST", ["exec", id, "resize"]) => exec::resize(call, &*server.find_exec(id)?).await,
        ("GET", ["exec", id, "json"]) => exec::inspect(&*server.find_exec(id)?),
        ("GET", ["images", "json"]) => images::list(server, call).await,
        ("POST", ["images", "create"]) if call.parameter("fromSrc").is_some() => {
            load::import(server, call).await
        }
        ("POST", ["images", "create"]) => pull::pull(server, call).await,
        ("POST", ["images", "load"]) => load::load(server, call).await,
        ("GET", ["images", "get"]) => save::save(server, call, None).await,
        ("GET", ["images", name @ .., "get"]) if !name.is_empty() => {
            save::save(server, call, Some(&name.join("/"))).await
        }
        ("GET", ["images", name @ .., "history"]) if !name.is_empty() => {
            images::history(server, &name.join("/")).await
        }
        ("POST", ["images", name @ .., "tag"]) if !name.is_empty() => {
            images::tag(server, call, &name.join("/")).await
        }
        ("DELETE", ["images", name @ ..]) if !name.is_empty() => {
            images::remove(server, call, &name.join("/")).await
        }
        ("GET", ["events"]) => event_stream::events(server, call),
        ("GET", ["system", "df"]) => disk_usage::disk_usage(server).await,
        ("POST", ["images", "prune"]) => prune::images(server, call).await,
        ("POST", ["build", "prune"]) => prune::builds(server).await,
        ("POST", ["build"]) => build::build(server, call).await,
        ("POST", ["commit"]) => commit::commit(server, call).await,
        ("GET", ["volumes"]) => volume_routes::list(server, call),
        ("POST", ["volumes", "create"]) => volume_routes::create(server, call).await,
        ("POST", ["volumes", "prune"]) => volume_routes::prune(server, call).await,
        ("GET", ["volumes", name]) => volume_routes::inspect(server, name),
        ("DELETE", ["volumes", name]) => volume_routes::remove(server, call, name).await,
        ("GET", ["images", name @ .., "json"]) if !name.is_empty() => {
            images::inspect(server, &name.join("/")).await
        }
        ("GET", ["networks"]) => network_routes::list(server, call),
        ("POST", ["networks", "create"]) => network_routes::create(server, call).await,
        ("POST", ["networks", "prune"]) => network_routes::prune(server, call),
        ("POST", ["networks", name, "connect"]) => {
            network_members::connect(server, call, name).await
        }
        ("POST", ["networks", name, "disconnect"]) => {
            network_members::disconnect(server, call, name).await
        }
        ("GET", ["networks", name]) => network_routes::inspect(server, name),
        ("DELETE", ["networks", name]) => network_routes::remove(server, name),
        ("POST", ["grpc" | "session"]) => {
            Err(Refusal::unserved("BuildKit is not served: set DOCKER_BUILDKIT=0"))
        }
        _ => Err(not_served(&method, &parts)),
    }
}

/// Says of what is not served why: there is no swarm here, as on most machines with Docker.
fn not_served(method: &Method, parts: &[&str]) -> Refusal {
    match (method.as_str(), parts) {
        ("POST", ["swarm", "leave"]) => Refusal::unavailable("This node is not part of a swarm"),
        ("GET", ["swarm" | "nodes" | "services" | "tasks" | "secrets" | "configs", ..]) => {
            Refusal::unavailable("This node is not a swarm manager.")
        }
        _ => Refusal::no_route(method, parts),
    }
}
