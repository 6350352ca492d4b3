//! Building a base image, on the `FROM` images that its key names.

use std::collections::BTreeMap;

use crate::cache::external;
use crate::cache::from_image::{self, FromImage};
use crate::engine::{BuildRequest, EngineError, Image};
use crate::recipe::BaseRecipe;

use super::NodeError;
use super::context::NodeContext;

/// Builds a base image.
pub(super) async fn build_base(
    ctx: &NodeContext<'_>,
    recipe: &BaseRecipe,
) -> Result<Image, NodeError> {
    let mut names = BTreeMap::new();
    for from in from_image::of_recipe(recipe) {
        match name_of_from(ctx, &from).await? {
            Some(name) => drop(names.insert(from.reference, name)),
            None => return Err(without_from(ctx, from).await?),
        }
    }
    ctx.step(format!("build {}", recipe.name));
    // A `FROM` image that came with a base has a name of ours.
    let dockerfile = recipe.dockerfile_with(&names);
    let request = BuildRequest {
        context: recipe.context.clone(),
        args: recipe.args.clone(),
        ..ctx.build_request(dockerfile, &recipe.platform)
    };
    match ctx.run.builder.build(&request, &**ctx.log).await {
        Err(EngineError::NoSuchImage { reference: name }) => {
            let meant = names.into_iter().find(|(_, known)| *known == name);
            let reference = meant.map_or(name, |(reference, _)| reference);
            Err(EngineError::NoSuchImage { reference }.into())
        }
        built => Ok(built?),
    }
}

/// Returns the name of a `FROM` image on the engine. The image is fetched from the remote where that has
/// it and the engine has not.
pub(super) async fn name_of_from(
    ctx: &NodeContext<'_>,
    from: &FromImage,
) -> Result<Option<String>, NodeError> {
    let builder = &*ctx.run.builder;
    let mut here = from.find(builder).await?;
    if let Some(remote) = ctx.run.remote.as_deref().filter(|_| here.is_empty()) {
        ctx.step(format!("pull {} from {}", from.reference, remote.describe()));
        if external::fetch_for_build(builder, remote, from, &**ctx.log).await? {
            here = from.find(builder).await?;
        }
    }
    Ok(here.into_iter().next().map(|(name, _)| name))
}

/// Says why a base cannot be built on a `FROM` image: it is not here, or is another one by now.
async fn without_from(ctx: &NodeContext<'_>, from: FromImage) -> Result<NodeError, NodeError> {
    let FromImage { reference, platform, .. } = from;
    let image = ctx.run.builder.inspect(&reference).await?;
    Ok(match image.is_some_and(|image| image.platform.matches(&platform)) {
        true => NodeError::FromChanged { reference },
        false => EngineError::NoSuchImage { reference }.into(),
    })
}
