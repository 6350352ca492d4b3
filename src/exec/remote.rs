//! Images that come from the remote, a registry or an archive, and are checked when they are here.

use std::sync::atomic::Ordering;

use crate::cache::check::{self, Wrong};
use crate::cache::external;
use crate::cache::image_source::ImageSource;
use crate::engine::{EngineError, Image};
use crate::key::Kind;

use super::NodeError;
use super::context::NodeContext;
use super::error::chain;

/// An image that came from the remote.
pub(super) struct Fetched {
    pub image: Image,
    /// The size of its parent, 0 for a base.
    parent_bytes: u64,
}

impl Fetched {
    /// Returns the bytes that the image added to its parent.
    pub(super) fn own_bytes(&self) -> u64 {
        self.image.size.saturating_sub(self.parent_bytes)
    }
}

/// Returns the node's image, or what is wrong with it; `None` where the engine has none.
pub(super) async fn checked_image(
    ctx: &NodeContext<'_>,
) -> Result<Option<Result<Image, Wrong>>, NodeError> {
    let (builder, node) = (&*ctx.run.builder, ctx.node);
    let Some(image) = builder.inspect(&node.image).await? else { return Ok(None) };
    let below = match ctx.parent() {
        Some(parent) => builder.inspect(&parent.node.image).await?.into_iter().collect(),
        None => external::below(builder, ctx.run.remote.as_deref(), &image).await?,
    };
    let below: Vec<&Image> = below.iter().collect();
    let checked = check::check(&image, node.kind(), &node.key, &below);
    Ok(Some(checked.map(|()| image)))
}

/// Fetches the node's image; `None` where it cannot be had and is to be built instead, after a warning.
///
/// # Errors
/// A failure that ends the run; any failure where nothing is to be built instead.
pub(super) async fn fetch_or_build(
    ctx: &NodeContext<'_>,
    remote: &dyn ImageSource,
) -> Result<Option<Fetched>, NodeError> {
    let error = match fetch(ctx, remote).await {
        Ok(fetched) => return Ok(Some(fetched)),
        Err(error) => error,
    };
    if error.ends_run() || !ctx.run.settings.fallback_to_build {
        return Err(error);
    }
    let why = chain(&error).join(": ");
    ctx.note(&why);
    match &error {
        NodeError::Engine(error) if error.is_of_registry() => {
            if !ctx.run.remote_is_gone.swap(true, Ordering::Relaxed) {
                ctx.run.warn(format!("what is left is built and not pulled: {why}"));
            }
        }
        _ => {
            let id = &ctx.node.id;
            ctx.run.warn(format!("{id} cannot be pulled, it is built instead: {why}"));
        }
    }
    Ok(None)
}

/// Fetches the node's image from the remote. An image that comes and is not the one that was meant is
/// removed.
async fn fetch(ctx: &NodeContext<'_>, remote: &dyn ImageSource) -> Result<Fetched, NodeError> {
    let (builder, node) = (&*ctx.run.builder, ctx.node);
    ctx.step(format!("pull from {}", remote.describe()));
    let parent = ctx.parent_image().await?;
    remote.fetch(builder, node.kind(), &node.key, parent.as_ref(), &**ctx.log).await?;
    if node.kind() == Kind::Base
        && let Some(base) = builder.inspect(&node.image).await?
    {
        external::fetch(builder, remote, &base, &**ctx.log).await?;
    }
    let why = match checked_image(ctx).await? {
        Some(Ok(image)) => {
            return Ok(Fetched { image, parent_bytes: parent.map_or(0, |parent| parent.size) });
        }
        Some(Err(wrong)) => wrong.to_string(),
        None => "it is not here afterwards".to_owned(),
    };
    builder.remove(&node.image).await?;
    Err(NodeError::Engine(EngineError::Pull {
        reference: node.image.clone(),
        reason: format!("what {} has of it is not taken: {why}", remote.describe()),
    }))
}
