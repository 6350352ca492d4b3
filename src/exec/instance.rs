//! Building an instance image: the patches of an instance, on its checkout.

use std::path::Path;

use crate::dataset::Patch;
use crate::engine::{Image, ImageConfig, LayerRequest, LogSink as _, label};
use crate::recipe::{InstanceRecipe, TESTBED};
use crate::source::{PatchLayer, PatchOutcome, PatchRequest};
use crate::tree;

use super::NodeError;
use super::context::NodeContext;
use super::mirror::mirror;
use super::setup_diff;

/// Builds an instance image: one layer with the files that the patches change, or none without patches.
pub(super) async fn build_instance(
    ctx: &NodeContext<'_>,
    recipe: &InstanceRecipe,
) -> Result<Image, NodeError> {
    let checkout = ctx.parent().expect("an instance stands on a checkout");
    let scratch = ctx.run.store.scratch_dir()?;
    let mut layers = Vec::new();
    let mut changed = Vec::new();
    if recipe.test_patch.is_some() || recipe.model_patch.is_some() {
        let applied = apply_patches(ctx, recipe, scratch.path()).await?;
        layers.push(applied.file);
        changed = applied.changed;
    }
    let parent = checkout.image().await?;
    let mut labels = ctx.labels();
    labels.insert(label::CHANGED.to_owned(), tree::to_json(&changed));
    let config = ImageConfig { labels, ..parent.config.sealed() };
    ctx.step("load the patches");
    let request = LayerRequest { parent, layers, config, tags: ctx.tags() };
    Ok(ctx.run.builder.load(&request).await?)
}

/// Applies the patches of a recipe to its commit; the layer with the result is written to `scratch`.
///
/// # Errors
/// [`NodeError::PatchRefused`] where a patch does not apply.
async fn apply_patches(
    ctx: &NodeContext<'_>,
    recipe: &InstanceRecipe,
    scratch: &Path,
) -> Result<PatchLayer, NodeError> {
    let mirror = mirror(ctx, &recipe.repo).await?;
    let checkout = ctx.parent().expect("an instance stands on a checkout");
    let setup_diff = setup_diff::of(ctx.run, checkout.node).await?;
    ctx.step("apply the patches");
    let dir = scratch.to_owned();
    let recipe = recipe.clone();
    let outcome = tokio::task::spawn_blocking(move || {
        let bytes = |patch: &Option<Patch>| patch.clone().unwrap_or_default();
        let (test, model) = (bytes(&recipe.test_patch), bytes(&recipe.model_patch));
        let request = PatchRequest {
            commit: &recipe.base_commit,
            setup_diff: setup_diff.as_deref(),
            test_patch: test.as_bytes(),
            model_patch: model.as_bytes(),
            root: TESTBED.trim_start_matches('/'),
        };
        mirror.write_patch_layer(&request, &dir, &dir.join("layer.tar"))
    });
    match outcome.await.expect("applying patches does not panic")? {
        PatchOutcome::Applied(applied) => Ok(applied),
        PatchOutcome::Refused(refusal) => {
            ctx.log.write(refusal.text.as_bytes());
            Err(NodeError::PatchRefused {
                which: refusal.which,
                failures: refusal.failures,
                text: refusal.text,
            })
        }
    }
}
