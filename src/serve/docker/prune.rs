//! The removal of what is not in use.

use serde_json::json;

use super::answer::{Answer, found};
use super::call::Call;
use super::description;
use super::filters::Filters;
use super::server::Server;

/// Removes the containers that do not run.
pub(super) async fn containers(server: &Server, call: &Call) -> Answer {
    let filters = Filters::of(call, &["label"])?;
    let mut removed = Vec::new();
    for container in server.all() {
        let labels = description::labels(&container);
        let is_meant = filters.labels(|name| labels.get(name).map(String::as_str));
        // One that was started meanwhile stays.
        let is_gone = is_meant
            && !container.state.now().status.is_alive()
            && server.remove(&container, false, false).await.is_ok();
        removed.extend(is_gone.then(|| container.id.clone()));
    }
    found(&json!({ "ContainersDeleted": removed, "SpaceReclaimed": 0 }))
}
