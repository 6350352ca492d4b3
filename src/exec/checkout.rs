//! Building a checkout image: the files of a commit with their history, and what their installation
//! makes of them.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::engine::{EngineError, Image, ImageConfig, LayerFile, LayerRequest, LogSink, label};
use crate::key::{Digest, Key};
use crate::recipe::checkout::SETUP_CHANGED;
use crate::recipe::{CheckoutRecipe, TESTBED};
use crate::source::{CheckoutLayer, CheckoutOptions, Submodule};

use super::NodeError;
use super::context::NodeContext;
use super::mirror::mirror;
use super::setup_diff;

/// Builds a checkout image: its files are loaded as layers, and a recipe that installs runs on them.
pub(super) async fn build_checkout(
    ctx: &NodeContext<'_>,
    recipe: &CheckoutRecipe,
) -> Result<Image, NodeError> {
    let mirror = mirror(ctx, &recipe.repo).await?;
    ctx.step("write the checkout");
    let scratch = ctx.run.store.scratch_dir()?;
    let path = scratch.path().join("layer.tar");
    let directory = scratch.path().to_owned();
    let commit = recipe.base_commit.clone();
    let layer = tokio::task::spawn_blocking(move || {
        let options = CheckoutOptions::new(TESTBED.trim_start_matches('/')).shared(&directory);
        mirror.write_checkout(&commit, &options, &path)
    });
    let layer = layer.await.expect("writing a checkout does not panic")?;
    note_layer(ctx, &recipe.repo, &layer);
    let layers: Vec<LayerFile> = layer.shared.into_iter().chain([layer.file]).collect();
    let parent = ctx.parent().expect("a checkout stands on an env").image().await?;
    let mut config = ImageConfig { working_dir: TESTBED.to_owned(), ..parent.config.sealed() };
    ctx.step("load the checkout");
    if !recipe.needs_container() {
        config.labels = ctx.labels();
        let request = LayerRequest { parent, layers, config, tags: ctx.tags() };
        return Ok(ctx.run.builder.load(&request).await?);
    }
    let owner = &ctx.run.settings.owner;
    let uninstalled = uninstalled(&ctx.node.key, owner);
    config.labels = BTreeMap::from([
        (label::SCRATCH.to_owned(), owner.clone()),
        (label::MADE.to_owned(), jiff::Timestamp::now().as_second().to_string()),
    ]);
    let request = LayerRequest { parent, layers, config, tags: vec![uninstalled.clone()] };
    ctx.run.builder.load(&request).await?;
    drop(scratch);
    install(ctx, recipe, &uninstalled).await
}

/// The name of the image of a checkout that is not installed yet: one of this process's own, since
/// processes that share an engine need not share the locks of keys.
fn uninstalled(key: &Key, owner: &str) -> String {
    let owner = Digest::of(owner).to_string();
    format!("imgforge/scratch:{key}-{}", &owner[..16])
}

/// Tells what the layer of a checkout has not: history, submodules, files that a filter would write.
fn note_layer(ctx: &NodeContext<'_>, repo: &str, layer: &CheckoutLayer) {
    ctx.note(&format!("{} tags before the commit", layer.tags));
    if layer.shallow {
        let text = format!(
            "the source of {repo} is a shallow clone: versions that are computed from tags may be \
             wrong; name a source with the whole history with `--git-mirror`"
        );
        ctx.note(&text);
        ctx.run.warn(text);
    }
    for submodule in &layer.submodules {
        let Submodule { path, url, .. } = submodule;
        ctx.note(&format!("submodule `{path}` ({url}) stays an empty directory"));
    }
    for (filter, files) in &layer.filters {
        let named: Vec<String> = files.iter().take(3).map(|file| format!("`{file}`")).collect();
        let more = if files.len() > named.len() { " and more" } else { "" };
        let named = named.join(", ");
        let text = format!(
            "the filter `{filter}` is a program and is not run: {named}{more} of {repo} stay as \
             they are in git ({} in all)",
            files.len()
        );
        ctx.note(&text);
        ctx.run.warn(text);
    }
}

/// Installs a checkout: builds the node's image on that of the files, which is removed.
async fn install(
    ctx: &NodeContext<'_>,
    recipe: &CheckoutRecipe,
    uninstalled: &str,
) -> Result<Image, NodeError> {
    ctx.step("install the checkout");
    let request = ctx.build_request(recipe.dockerfile(uninstalled), &recipe.platform);
    let watched = Watch { log: &**ctx.log, seen: Mutex::new(Vec::new()) };
    let built = ctx.run.builder.build(&request, &watched).await;
    let removed = ctx.run.builder.remove(uninstalled).await;
    let image = built.map_err(|error| of_commands(error, recipe))?;
    removed?;
    if watched.saw(SETUP_CHANGED) {
        setup_diff::record(ctx.run, ctx.node, recipe).await?;
    } else {
        setup_diff::record_none(ctx.run, ctx.node)?;
    }
    Ok(image)
}

/// Hands output on and remembers imgforge's own lines in it.
struct Watch<'a> {
    log: &'a dyn LogSink,
    seen: Mutex<Vec<u8>>,
}

impl Watch<'_> {
    fn saw(&self, line: &str) -> bool {
        let seen = self.seen.lock().expect("no writer panicked");
        seen.windows(line.len()).any(|window| window == line.as_bytes())
    }
}

impl LogSink for Watch<'_> {
    fn write(&self, bytes: &[u8]) {
        self.log.write(bytes);
        let mut seen = self.seen.lock().expect("no writer panicked");
        seen.extend_from_slice(bytes);
        // The line comes last in a script; what is long before it need not be kept.
        if seen.len() > 1 << 20 {
            let keep = seen.len() - (1 << 16);
            seen.drain(..keep);
        }
    }
}

/// Names the commands of an installation that failed, and not the script around them. Which of them
/// it was, the log shows.
fn of_commands(error: EngineError, recipe: &CheckoutRecipe) -> EngineError {
    match error {
        EngineError::Step { code, .. } => {
            let commands: Vec<&str> =
                recipe.pre_install.iter().chain(&recipe.install).map(String::as_str).collect();
            EngineError::Step { step: commands.join("; "), code }
        }
        other => other,
    }
}
