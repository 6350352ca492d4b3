//! What clients do with volumes.

use bollard_stubs::models::VolumeCreateRequest;
use hyper::StatusCode;
use serde_json::json;

use super::answer::{Answer, Refusal, document, done, found};
use super::call::Call;
use super::events::Kind;
use super::filters::Filters;
use super::server::Server;
use super::volumes;

/// Lists volumes.
pub(super) fn list(server: &Server, call: &Call) -> Answer {
    let filters = Filters::of(call, &["name", "label", "dangling", "driver"])?;
    let rows = server.volumes.all().into_iter().filter(|volume| {
        filters.any("name", |name| volume.name.contains(name.as_str()))
            && filters.any("driver", |driver| driver == "local")
            && filters.any("dangling", |wanted| {
                server.volumes.is_used(&volume.name) != matches!(wanted.as_str(), "true" | "1")
            })
            && filters.labels(|name| volume.labels.get(name).map(String::as_str))
    });
    let rows: Vec<_> = rows.map(|volume| server.volumes.described(&volume)).collect();
    found(&json!({ "Volumes": rows, "Warnings": [] }))
}

/// Makes a volume.
pub(super) async fn create(server: &Server, call: &mut Call) -> Answer {
    let request: VolumeCreateRequest = call.document().await?;
    volumes::check_driver(request.driver.as_deref())?;
    let labels = request.labels.unwrap_or_default().into_iter().collect();
    let options = request.driver_opts.unwrap_or_default().into_iter().collect();
    let name = request.name.unwrap_or_default();
    let is_new = server.volumes.find(&name).is_none();
    let volume = server.volumes.make(&name, &labels, &options)?;
    if is_new {
        server.events.tell(Kind::Volume, "create", &volume.name, &[("driver", "local")]);
    }
    Ok(document(StatusCode::CREATED, &server.volumes.described(&volume)))
}

/// Describes a volume.
pub(super) fn inspect(server: &Server, name: &str) -> Answer {
    let volume = server.volumes.find(name).ok_or_else(|| volumes::absent(name))?;
    found(&server.volumes.described(&volume))
}

/// Removes a volume that no container has.
pub(super) async fn remove(server: &Server, call: &Call, name: &str) -> Answer {
    match server.volumes.remove(&*server.engine, name).await {
        Err(refusal) if call.is_set("force") && refusal == volumes::absent(name) => done(),
        Err(refusal) => Err(refusal),
        Ok(()) => {
            server.events.tell(Kind::Volume, "destroy", name, &[("driver", "local")]);
            done()
        }
    }
}

/// Removes the anonymous volumes that no container has; with the filter `all` also the named ones.
pub(super) async fn prune(server: &Server, call: &Call) -> Answer {
    let filters = Filters::of(call, &["label", "all"])?;
    // Before 1.42 there was no difference.
    let is_old = call.version.is_some_and(|version| version < (1, 42));
    let all =
        is_old || filters.values("all").iter().any(|all| matches!(all.as_str(), "true" | "1"));
    let (mut removed, mut bytes) = (Vec::new(), 0);
    for volume in server.volumes.all() {
        let is_meant = (all || volume.is_anonymous())
            && filters.labels(|name| volume.labels.get(name).map(String::as_str))
            && !server.volumes.is_used(&volume.name);
        if is_meant {
            let size = server.volumes.size(&volume.name);
            let is_gone: Result<(), Refusal> =
                server.volumes.remove(&*server.engine, &volume.name).await;
            // One that was taken into use meanwhile stays.
            if is_gone.is_ok() {
                bytes += size;
                removed.push(volume.name);
            }
        }
    }
    found(&json!({ "VolumesDeleted": removed, "SpaceReclaimed": bytes }))
}
