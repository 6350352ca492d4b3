//! The records of an image: its other names on the engine, and its rows in the state.

use crate::engine::{EngineError, Image, label};
use crate::store::{BuildRecord, ImageRecord};

use super::NodeError;
use super::context::NodeContext;

/// Gives an image of the engine those of the node's aliases that it has not.
pub(super) async fn apply_aliases(ctx: &NodeContext<'_>, image: &Image) -> Result<(), NodeError> {
    for alias in &ctx.node.aliases {
        if !image.tags.contains(alias) {
            let alias = alias.parse().map_err(EngineError::Reference)?;
            ctx.run.builder.tag(image.id.as_str(), &alias).await?;
        }
    }
    Ok(())
}

/// Records the node's image; `bytes` are those of its own layers, where they are known.
pub(super) fn record_image(
    ctx: &NodeContext<'_>,
    image: &Image,
    bytes: Option<u64>,
    seconds: f64,
) -> Result<(), NodeError> {
    let (run, node) = (ctx.run, ctx.node);
    let parent = image.config.labels.get(label::PARENT).and_then(|key| key.parse().ok());
    run.store.record_image(&ImageRecord {
        key: node.key,
        kind: node.kind(),
        node: node.id.clone(),
        engine: run.settings.engine.clone(),
        image_id: image.id.clone(),
        diff_ids: image.diff_ids.clone(),
        parent,
        document: node.document.canonical(),
        bytes: bytes.unwrap_or(0),
        seconds,
    })?;
    Ok(())
}

/// Records that the node's image was built here, from `started` until now.
pub(super) fn record_build(
    ctx: &NodeContext<'_>,
    image: &Image,
    started: jiff::Timestamp,
) -> Result<(), NodeError> {
    let build = BuildRecord {
        started: started.as_second(),
        finished: jiff::Timestamp::now().as_second(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    ctx.run.store.note_build(&ctx.run.settings.engine, &ctx.node.key, &image.id, &build)?;
    Ok(())
}
