//! Building an env image: the packages of a version of a repository, on its base.

use crate::engine::{BuildRequest, Image};
use crate::recipe::EnvRecipe;

use super::NodeError;
use super::context::NodeContext;
use super::mirror::mirror;
use super::requirements;

/// Builds an env image.
pub(super) async fn build_env(
    ctx: &NodeContext<'_>,
    recipe: &EnvRecipe,
) -> Result<Image, NodeError> {
    for note in &recipe.replaced {
        ctx.note(note);
    }
    let mut files = Vec::new();
    for group in &recipe.requirements {
        ctx.step("read requirement files");
        let mirror = mirror(ctx, &group.repo).await?;
        let (group, variables) = (group.clone(), recipe.variables.clone());
        let read =
            tokio::task::spawn_blocking(move || requirements::read(&mirror, &group, &variables));
        let read = read.await.expect("reading requirements does not panic")?;
        for note in &read.notes {
            ctx.note(note);
        }
        files.push(read.files);
    }
    ctx.step("install packages");
    let base = ctx.parent().expect("an env stands on a base");
    let request = BuildRequest {
        context: recipe.context(&files),
        ..ctx.build_request(recipe.dockerfile(&base.node.image), &recipe.platform)
    };
    Ok(ctx.run.builder.build(&request, &**ctx.log).await?)
}
