//! Making images: what each kind of node asks of sources and engine.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use petgraph::graph::NodeIndex;

use crate::cache::from_image::{self, FromImage};
use crate::dataset::Patch;
use crate::engine::{
    BuildRequest, EngineError, Image, ImageConfig, LayerFile, LayerRequest, LogSink, label,
};
use crate::key::{Digest, Key};
use crate::plan::Node;
use crate::platform;
use crate::progress::NodeLog;
use crate::recipe::checkout::SETUP_CHANGED;
use crate::recipe::{BaseRecipe, CheckoutRecipe, EnvRecipe, InstanceRecipe, Recipe, TESTBED};
use crate::source::{CheckoutOptions, PatchOutcome, PatchRequest, Submodule};
use crate::tree;

use super::NodeError;
use super::worker::Worker;

/// The name of the image of a checkout that is not installed yet: one of this process's own, since
/// processes that share an engine need not share the locks of keys.
fn uninstalled(key: &Key, owner: &str) -> String {
    let owner = Digest::of(owner).to_string();
    format!("imgforge/scratch:{key}-{}", &owner[..16])
}

impl Worker {
    pub(super) async fn build_base(
        &self,
        index: NodeIndex,
        recipe: &BaseRecipe,
        log: &Arc<NodeLog>,
    ) -> Result<Image, NodeError> {
        let mut names = BTreeMap::new();
        for from in from_image::of_recipe(recipe) {
            match self.name_of_from(index, &from, log).await? {
                Some(name) => drop(names.insert(from.reference, name)),
                None => return Err(self.without_from(from).await?),
            }
        }
        self.step(index, format!("build {}", recipe.name));
        let node = &self.plan.graph[index];
        let request = BuildRequest {
            // One that came with a base has a name of ours.
            dockerfile: recipe.dockerfile_with(&names),
            context: recipe.context.clone(),
            args: recipe.args.clone(),
            platform: recipe.platform.clone(),
            labels: self.labels(index),
            tags: Self::tags(node),
            host: self.settings.host.clone(),
            no_cache: node.status.is_forced(),
        };
        match self.builder.build(&request, &**log).await {
            Err(EngineError::NoSuchImage { reference: name }) => {
                let meant = names.into_iter().find(|(_, known)| *known == name);
                let reference = meant.map_or(name, |(reference, _)| reference);
                Err(EngineError::NoSuchImage { reference }.into())
            }
            built => Ok(built?),
        }
    }

    /// Returns the name of a `FROM` image on the engine. It is brought where the images come from has it
    /// and the engine has not.
    pub(super) async fn name_of_from(
        &self,
        index: NodeIndex,
        from: &FromImage,
        log: &Arc<NodeLog>,
    ) -> Result<Option<String>, NodeError> {
        let mut here = from.find(&*self.builder).await?;
        if let Some(remote) = self.remote.as_deref().filter(|_| here.is_empty()) {
            self.step(index, format!("pull {} from {}", from.reference, remote.describe()));
            if from_image::bring_for_build(&*self.builder, remote, from, &**log).await? {
                here = from.find(&*self.builder).await?;
            }
        }
        Ok(here.into_iter().next().map(|(name, _)| name))
    }

    /// Says why a base cannot be built on a `FROM` image: it is not here, or is another one by now.
    async fn without_from(&self, from: FromImage) -> Result<NodeError, NodeError> {
        let FromImage { reference, platform, .. } = from;
        let image = self.builder.inspect(&reference).await?;
        Ok(match image.is_some_and(|image| platform::same(&image.platform, &platform)) {
            true => NodeError::FromChanged { reference },
            false => EngineError::NoSuchImage { reference }.into(),
        })
    }

    pub(super) async fn build_env(
        &self,
        index: NodeIndex,
        recipe: &EnvRecipe,
        log: &Arc<NodeLog>,
    ) -> Result<Image, NodeError> {
        for note in &recipe.replaced {
            log.write(format!("imgforge: {note}\n").as_bytes());
        }
        let mut requirements = Vec::new();
        for group in &recipe.requirements {
            self.step(index, "read requirement files");
            let mirror = self.mirror(index, &group.repo, log).await?;
            let (group, variables) = (group.clone(), recipe.variables.clone());
            let read = tokio::task::spawn_blocking(move || {
                super::requirements::read(&mirror, &group, &variables)
            });
            let read = read.await.expect("reading requirements does not panic")?;
            for note in &read.notes {
                log.write(format!("imgforge: {note}\n").as_bytes());
            }
            requirements.push(read.files);
        }
        self.step(index, "install packages");
        let node = &self.plan.graph[index];
        let parent = self.plan.parent(index).expect("an env stands on a base");
        let request = BuildRequest {
            dockerfile: recipe.dockerfile(&self.plan.graph[parent].image),
            context: recipe.context(&requirements),
            args: BTreeMap::new(),
            platform: recipe.platform.clone(),
            labels: self.labels(index),
            tags: Self::tags(node),
            host: self.settings.host.clone(),
            no_cache: node.status.is_forced(),
        };
        Ok(self.builder.build(&request, &**log).await?)
    }

    pub(super) async fn build_checkout(
        &self,
        index: NodeIndex,
        recipe: &CheckoutRecipe,
        log: &Arc<NodeLog>,
    ) -> Result<Image, NodeError> {
        let node = &self.plan.graph[index];
        let mirror = self.mirror(index, &recipe.repo, log).await?;
        self.step(index, "write the checkout");
        let scratch = self.store.scratch_dir()?;
        let path = scratch.path().join("layer.tar");
        let directory = scratch.path().to_owned();
        let commit = recipe.base_commit.clone();
        let layer = tokio::task::spawn_blocking(move || {
            let options = CheckoutOptions::new(TESTBED.trim_start_matches('/')).shared(&directory);
            mirror.write_checkout(&commit, &options, &path)
        });
        let layer = layer.await.expect("writing a checkout does not panic")?;
        let layers: Vec<LayerFile> = layer.shared.into_iter().chain([layer.file]).collect();
        log.write(format!("imgforge: {} tags before the commit\n", layer.tags).as_bytes());
        if layer.shallow {
            let text = format!(
                "the source of {} is a shallow clone: versions that are computed from tags may be \
                 wrong; name a source with the whole history with `--git-mirror`",
                recipe.repo
            );
            log.write(format!("imgforge: {text}\n").as_bytes());
            self.warn(text);
        }
        for submodule in &layer.submodules {
            let Submodule { path, url, .. } = submodule;
            let text = format!("submodule `{path}` ({url}) stays an empty directory");
            log.write(format!("imgforge: {text}\n").as_bytes());
        }
        for (filter, files) in &layer.filters {
            let named: Vec<String> = files.iter().take(3).map(|file| format!("`{file}`")).collect();
            let more = if files.len() > named.len() { " and more" } else { "" };
            let named = named.join(", ");
            let text = format!(
                "the filter `{filter}` is a program and is not run: {named}{more} of {} stay as \
                 they are in git ({} in all)",
                recipe.repo,
                files.len()
            );
            log.write(format!("imgforge: {text}\n").as_bytes());
            self.warn(text);
        }
        let parent = self.plan.parent(index).expect("a checkout stands on an env");
        let parent = self.image_of(&self.plan.graph[parent]).await?;
        let mut config = ImageConfig { working_dir: TESTBED.to_owned(), ..parent.config.clone() };
        self.step(index, "load the checkout");
        if !recipe.needs_container() {
            config.labels = self.labels(index);
            let request = LayerRequest { parent, layers, config, tags: Self::tags(node) };
            return Ok(self.builder.load(&request).await?);
        }
        let uninstalled = uninstalled(&node.key, &self.settings.owner);
        config.labels = BTreeMap::from([
            (label::SCRATCH.to_owned(), self.settings.owner.clone()),
            (label::MADE.to_owned(), jiff::Timestamp::now().as_second().to_string()),
        ]);
        let request = LayerRequest { parent, layers, config, tags: vec![uninstalled.clone()] };
        self.builder.load(&request).await?;
        drop(scratch);
        self.step(index, "install the checkout");
        let request = BuildRequest {
            dockerfile: recipe.dockerfile(&uninstalled),
            context: Vec::new(),
            args: BTreeMap::new(),
            platform: recipe.platform.clone(),
            labels: self.labels(index),
            tags: Self::tags(node),
            host: self.settings.host.clone(),
            no_cache: node.status.is_forced(),
        };
        let watched = Watch { log: &**log, seen: Mutex::new(Vec::new()) };
        let built = self.builder.build(&request, &watched).await;
        let removed = self.builder.remove(&uninstalled).await;
        let image = built.map_err(|error| of_commands(error, recipe))?;
        removed?;
        if watched.saw(SETUP_CHANGED) {
            self.keep_setup_diff(node, recipe).await?;
        } else {
            let nothing = self.store.put_blob(b"")?;
            self.store.set_checkout_diff(&node.key, &nothing)?;
        }
        Ok(image)
    }

    /// Keeps what the installation changed in tracked files: patches apply on top of it.
    async fn keep_setup_diff(
        &self,
        node: &Node,
        recipe: &CheckoutRecipe,
    ) -> Result<Vec<u8>, NodeError> {
        let command =
            ["git", "-C", TESTBED, "diff", "--binary", "--full-index", &recipe.base_commit, "HEAD"];
        let command = command.map(str::to_owned);
        let output = Collect::default();
        let code = self.builder.run(&node.image, &command, &output).await?;
        if code != 0 {
            let step = command.join(" ");
            return Err(EngineError::Step { step, code }.into());
        }
        let diff = output.0.into_inner().expect("no writer panicked");
        let digest = self.store.put_blob(&diff)?;
        self.store.set_checkout_diff(&node.key, &digest)?;
        Ok(diff)
    }

    pub(super) async fn build_instance(
        &self,
        index: NodeIndex,
        recipe: &InstanceRecipe,
        log: &Arc<NodeLog>,
    ) -> Result<Image, NodeError> {
        let node = &self.plan.graph[index];
        let parent_index = self.plan.parent(index).expect("an instance stands on a checkout");
        let parent_node = &self.plan.graph[parent_index];
        let scratch = self.store.scratch_dir()?;
        let mut layers = Vec::new();
        let mut changed = Vec::new();
        if recipe.test_patch.is_some() || recipe.model_patch.is_some() {
            let mirror = self.mirror(index, &recipe.repo, log).await?;
            let setup_diff = self.setup_diff(parent_node).await?;
            self.step(index, "apply the patches");
            let dir = scratch.path().to_owned();
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
                PatchOutcome::Applied(applied) => {
                    layers.push(applied.file);
                    changed = applied.changed;
                }
                PatchOutcome::Refused(refusal) => {
                    log.write(refusal.text.as_bytes());
                    return Err(NodeError::PatchRefused {
                        which: refusal.which,
                        failures: refusal.failures,
                        text: refusal.text,
                    });
                }
            }
        }
        let parent = self.image_of(parent_node).await?;
        let mut labels = self.labels(index);
        labels.insert(label::CHANGED.to_owned(), tree::to_json(&changed));
        let config = ImageConfig { labels, ..parent.config.clone() };
        self.step(index, "load the patches");
        let request = LayerRequest { parent, layers, config, tags: Self::tags(node) };
        Ok(self.builder.load(&request).await?)
    }

    /// Returns what the installation of a checkout changed in tracked files.
    async fn setup_diff(&self, checkout: &Node) -> Result<Option<Vec<u8>>, NodeError> {
        let Recipe::Checkout(recipe) = &checkout.recipe else { return Ok(None) };
        if !recipe.needs_container() {
            return Ok(None);
        }
        let kept = match self.store.checkout_diff(&checkout.key)? {
            Some(digest) => self.store.blob(&digest).ok(),
            None => None,
        };
        // The state may be younger than the image.
        let diff = match kept {
            Some(diff) => diff,
            None => self.keep_setup_diff(checkout, recipe).await?,
        };
        Ok((!diff.is_empty()).then_some(diff))
    }
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

/// Keeps output in memory.
#[derive(Default)]
struct Collect(Mutex<Vec<u8>>);

impl LogSink for Collect {
    fn write(&self, bytes: &[u8]) {
        self.0.lock().expect("no writer panicked").extend_from_slice(bytes);
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
