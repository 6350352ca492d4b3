//! `system/df`: what takes which place on the disk.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::answer::{Answer, found};
use super::images;
use super::listing;
use super::server::Server;

/// Measures images, containers and volumes.
pub(super) async fn disk_usage(server: &Server) -> Answer {
    let listed = server.engine.images().await?;
    let all = server.all();
    let mut layers = BTreeSet::new();
    let mut rows = Vec::new();
    for image in &listed {
        let mut row = images::row(image);
        let users = all.iter().filter(|container| container.image.id == image.id).count();
        row["Containers"] = json!(users);
        row["SharedSize"] = json!(0);
        rows.push(row);
        if let Some(image) = server.engine.inspect(image.id.as_str()).await? {
            layers.extend(server.engine.layer_storage_ids(&image.diff_ids));
        }
    }
    let layers: Vec<String> = layers.into_iter().collect();
    let sizes = server.engine.layer_disk_usage(&layers).await?;
    let mut containers = Vec::new();
    for container in &all {
        let mut row = listing::row(server, container, &container.state.now());
        let written = container.session.usage().await.map_or(0, |usage| usage.written);
        row["SizeRw"] = json!(written);
        row["SizeRootFs"] = json!(container.image.size + written);
        containers.push(row);
    }
    let volumes = server.volumes.all().into_iter().map(|volume| {
        let users = all.iter().filter(|container| {
            container.mounts.volumes.iter().any(|mount| mount.name == volume.name)
        });
        let mut row = server.volumes.described(&volume);
        row["UsageData"] =
            json!({ "Size": server.volumes.size(&volume.name), "RefCount": users.count() });
        row
    });
    found(&json!({
        "LayersSize": sizes.into_iter().flatten().sum::<u64>(),
        "Images": rows,
        "Containers": containers,
        "Volumes": volumes.collect::<Vec<Value>>(),
        "BuildCache": [],
        "BuilderSize": 0,
    }))
}
