//! One try of a node: its image is pulled or built, its evaluation is run.

use std::sync::atomic::Ordering;
use std::time::Instant;

use futures_util::future::BoxFuture;

use crate::cache::from_image;
use crate::engine::{EngineError, Image, check_platform};
use crate::event::Outcome;
use crate::key::Kind;
use crate::plan::Status;
use crate::recipe::{EvaluationRecipe, PublishedRecipe, Recipe};

use super::NodeError;
use super::base::{self, build_base};
use super::checkout::build_checkout;
use super::context::NodeContext;
use super::env::build_env;
use super::evaluate::evaluate;
use super::instance::build_instance;
use super::record::{apply_aliases, record_build, record_image};
use super::remote::{self, checked_image};

/// The end of a try that succeeded.
pub(super) struct AttemptOk {
    pub outcome: Outcome,
    /// Bytes that it added to the engine.
    pub bytes: Option<u64>,
}

/// Tries a node once.
pub(super) async fn attempt(ctx: &NodeContext<'_>) -> Result<AttemptOk, NodeError> {
    match &ctx.node.recipe {
        Recipe::Published(recipe) => pull_published(ctx, recipe).await,
        Recipe::Evaluation(recipe) => evaluate_on_image(ctx, recipe).await,
        _ => make_image(ctx).await,
    }
}

/// Tries a node once, in a future whose type does not hold itself: a try may try the parent.
fn attempt_boxed<'a>(ctx: &'a NodeContext<'a>) -> BoxFuture<'a, Result<AttemptOk, NodeError>> {
    Box::pin(attempt(ctx))
}

async fn pull_published(
    ctx: &NodeContext<'_>,
    recipe: &PublishedRecipe,
) -> Result<AttemptOk, NodeError> {
    let reference = recipe.reference.parse().map_err(EngineError::Reference)?;
    let image = ctx.run.builder.pull(&reference, &recipe.platform, &**ctx.log).await?;
    apply_aliases(ctx, &image).await?;
    Ok(AttemptOk { outcome: Outcome::Pulled, bytes: Some(image.size) })
}

/// Runs an evaluation; an image that somebody removed is made again, once.
async fn evaluate_on_image(
    ctx: &NodeContext<'_>,
    recipe: &EvaluationRecipe,
) -> Result<AttemptOk, NodeError> {
    let outcome = match evaluate(ctx, recipe).await {
        Err(NodeError::Engine(EngineError::NoSuchImage { reference })) => {
            restore_below(ctx, &reference).await?;
            evaluate(ctx, recipe).await?
        }
        done => done?,
    };
    Ok(AttemptOk { outcome, bytes: None })
}

/// Makes an image under its key's lock, unless it came to be meanwhile: it is pulled where the plan
/// says so and the remote gives it, else built.
async fn make_image(ctx: &NodeContext<'_>) -> Result<AttemptOk, NodeError> {
    let run = ctx.run;
    run.guard_disk()?;
    let _lock = ctx.lock_key("wait for another process that builds it").await?;
    if !ctx.node.status.is_forced()
        && let Some(Ok(image)) = checked_image(ctx).await?
    {
        apply_aliases(ctx, &image).await?;
        record_image(ctx, &image, None, 0.0)?;
        return Ok(AttemptOk { outcome: Outcome::FoundFresh, bytes: None });
    }
    let (start, started) = (Instant::now(), jiff::Timestamp::now());
    if ctx.node.status == Status::Pull
        && let Some(remote) = run.remote.as_deref()
        && !run.remote_is_gone.load(Ordering::Relaxed)
        && let Some(fetched) = remote::fetch_or_build(ctx, remote).await?
    {
        apply_aliases(ctx, &fetched.image).await?;
        record_image(ctx, &fetched.image, None, start.elapsed().as_secs_f64())?;
        return Ok(AttemptOk { outcome: Outcome::Pulled, bytes: Some(fetched.own_bytes()) });
    }
    if !run.settings.fallback_to_build {
        let remote = run.remote.as_ref().map_or("nothing".to_owned(), |remote| remote.describe());
        return Err(NodeError::NotOffered { remote });
    }
    let image = build_on_parent(ctx).await?;
    let parent = ctx.parent_image().await?;
    check_built(ctx, &image, parent.as_ref()).await?;
    let bytes = image.size.saturating_sub(parent.map_or(0, |parent| parent.size));
    record_image(ctx, &image, Some(bytes), start.elapsed().as_secs_f64())?;
    record_build(ctx, &image, started)?;
    Ok(AttemptOk { outcome: Outcome::Built, bytes: Some(bytes) })
}

/// Tells whether the layers of an image are added to its parent where that is, and this machine hardly
/// works for it.
fn is_made_elsewhere(ctx: &NodeContext<'_>) -> bool {
    let parent = ctx.parent().map(|parent| &parent.node.status);
    ctx.node.kind() == Kind::Instance
        && !ctx.run.runner.is_here()
        && parent == Some(&Status::Unneeded)
}

/// Builds the node's image; a parent that somebody removed is built again, once.
async fn build_on_parent(ctx: &NodeContext<'_>) -> Result<Image, NodeError> {
    match build_in_turn(ctx).await {
        Err(NodeError::Engine(EngineError::NoSuchImage { reference })) => {
            ctx.run
                .warn(format!("`{reference}` was removed while it was needed; building it again"));
            // Its turn is over meanwhile: what it stands on needs one, too.
            restore_below(ctx, &reference).await?;
            build_in_turn(ctx).await
        }
        built => built,
    }
}

/// Builds the node's image when it is its turn.
async fn build_in_turn(ctx: &NodeContext<'_>) -> Result<Image, NodeError> {
    let _one_of_few = match is_made_elsewhere(ctx) {
        true => None,
        false => Some(ctx.run.builds.acquire().await.expect("it is never closed")),
    };
    build(ctx).await
}

async fn build(ctx: &NodeContext<'_>) -> Result<Image, NodeError> {
    match &ctx.node.recipe {
        Recipe::Base(recipe) => build_base(ctx, recipe).await,
        Recipe::Env(recipe) => build_env(ctx, recipe).await,
        Recipe::Checkout(recipe) => build_checkout(ctx, recipe).await,
        Recipe::Instance(recipe) => build_instance(ctx, recipe).await,
        Recipe::Published(_) => unreachable!("a published image is pulled"),
        Recipe::Evaluation(_) => unreachable!("an evaluation builds nothing"),
    }
}

/// Checks that a built image stands on its parent and is for the plan's platform; removes one that is
/// not.
async fn check_built(
    ctx: &NodeContext<'_>,
    image: &Image,
    parent: Option<&Image>,
) -> Result<(), NodeError> {
    let (builder, name) = (&ctx.run.builder, &ctx.node.image);
    if let Some(parent) = parent
        && !image.diff_ids.starts_with(&parent.diff_ids)
    {
        let _ = builder.remove(name).await;
        let parent = parent.name().to_owned();
        return Err(NodeError::NotOnParent { parent });
    }
    if let Err(error) = check_platform(name, &image.platform, &ctx.run.plan.platform) {
        let _ = builder.remove(name).await;
        return Err(error.into());
    }
    Ok(())
}

/// Makes again what the node stands on, after the engine said that `reference` is not there.
async fn restore_below(ctx: &NodeContext<'_>, reference: &str) -> Result<(), NodeError> {
    if let Some(parent) = ctx.parent() {
        attempt_boxed(&parent).await?;
        return Ok(());
    }
    let from = match &ctx.node.recipe {
        Recipe::Base(base) => from_image::of_recipe(base),
        _ => Vec::new(),
    };
    let here = match from.into_iter().find(|from| from.reference == reference) {
        Some(from) => base::name_of_from(ctx, &from).await?,
        None => None,
    };
    if here.is_none() {
        let reference = reference.parse().map_err(EngineError::Reference)?;
        ctx.run.builder.pull(&reference, &ctx.run.plan.platform, &**ctx.log).await?;
    }
    Ok(())
}
