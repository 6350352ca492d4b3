//! The removal of what is not in use: containers and images.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::answer::{Answer, found};
use super::call::Call;
use super::events::Kind;
use super::filters::Filters;
use super::server::Server;

/// Removes the containers that do not run.
pub(super) async fn containers(server: &Server, call: &Call) -> Answer {
    let filters = Filters::of(call, &["label", "until"])?;
    let until = filters.until()?;
    let (mut removed, mut bytes) = (Vec::new(), 0);
    for container in server.all() {
        let labels = container.labels();
        let is_meant = filters.labels(|name| labels.get(name).map(String::as_str))
            && until.is_none_or(|until| container.created_at < until)
            && !container.state.now().status.is_alive();
        if !is_meant {
            continue;
        }
        let written = container.session.usage().await.map_or(0, |usage| usage.written);
        // One that was started meanwhile stays.
        if server.remove(&container, false, false).await.is_ok() {
            bytes += written;
            removed.push(container.id.clone());
        }
    }
    found(&json!({ "ContainersDeleted": removed, "SpaceReclaimed": bytes }))
}

/// Removes the layers that no image needs; with the filter `dangling=false` first the images that no
/// container stands on. Images without a name are not kept anyway.
pub(super) async fn images(server: &Server, call: &Call) -> Answer {
    let filters = Filters::of(call, &["dangling", "label", "until"])?;
    let all =
        filters.values("dangling").iter().any(|wanted| matches!(wanted.as_str(), "false" | "0"));
    let mut rows: Vec<Value> = Vec::new();
    if all {
        let used: HashSet<String> =
            server.all().iter().map(|container| container.image.id.to_string()).collect();
        for image in server.engine.images().await? {
            let is_own = image.labels.keys().any(|name| name.starts_with("dev.imgforge."));
            // What a run of imgforge made is for `cache gc`.
            if is_own
                || used.contains(image.id.as_str())
                || !filters.labels(|name| image.labels.get(name).map(String::as_str))
            {
                continue;
            }
            server.engine.remove(image.id.as_str()).await?;
            server.events.tell(Kind::Image, "delete", image.id.as_str(), &[]);
            rows.extend(image.tags.iter().map(|tag| json!({ "Untagged": tag })));
            rows.push(json!({ "Deleted": image.id.to_string() }));
        }
    }
    let pruned = server.engine.prune(false).await?;
    found(&json!({ "ImagesDeleted": rows, "SpaceReclaimed": pruned.bytes }))
}

/// Removes what builds keep beside images: it is what no image needs.
pub(super) async fn builds(server: &Server) -> Answer {
    let pruned = server.engine.prune(false).await?;
    found(&json!({ "CachesDeleted": [], "SpaceReclaimed": pruned.bytes }))
}
