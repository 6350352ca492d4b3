//! The images of a run that this machine does not need: they stay in the registry, and the layers of patches
//! are added to them there. So a machine that has nothing yet pulls no environment to evaluate a patch.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use crate::cache::registry::RegistryCache;
use crate::engine::reference::Reference;
use crate::engine::{
    BuildRequest, Builder, Engine, EngineError, Image, ImageConfig, Images, LayerRequest,
    ListedImage, LogSink, NoLog, PushSummary, Result, SandboxEnd, label,
};
use crate::key::{Key, Kind};
use crate::plan::name;
use crate::platform::Platform;
use crate::quote::shell_quote;
use crate::runner::Tests;

use super::client::lost;
use super::run;
use super::shared::Shared;

/// How long a command may run that looks into an image.
const LOOK: Duration = Duration::from_secs(600);

/// What is known of images that stay in the registry.
#[derive(Default)]
pub(super) struct Remote {
    left: Mutex<HashSet<Key>>,
    /// Those that were asked for.
    known: Mutex<HashMap<Key, Image>>,
    /// Those that this process made there.
    added: Mutex<HashMap<Key, Image>>,
}

impl Remote {
    /// Takes note of which images stay there.
    pub(super) fn leave(&self, keys: HashSet<Key>) {
        self.left.lock().expect("no holder panics").extend(keys);
    }

    /// Tells whether an image need not be here.
    pub(super) fn is_left(&self, key: &Key) -> bool {
        self.left.lock().expect("no holder panics").contains(key)
    }

    /// Returns an image that this process made there.
    pub(super) fn added(&self, key: &Key) -> Option<Image> {
        self.added.lock().expect("no holder panics").get(key).cloned()
    }

    /// Returns an image that the registry was asked for.
    pub(super) fn known(&self, key: &Key) -> Option<Image> {
        self.known.lock().expect("no holder panics").get(key).cloned()
    }

    /// Forgets what the registry has: somebody removed an image there.
    pub(super) fn forget(&self) {
        self.known.lock().expect("no holder panics").clear();
        self.added.lock().expect("no holder panics").clear();
    }

    fn has_id(&self, id: &str) -> bool {
        let has = |images: &Mutex<HashMap<Key, Image>>| {
            images.lock().expect("no holder panics").values().any(|image| image.id == *id)
        };
        has(&self.known) || has(&self.added)
    }
}

/// The images of the engine, and those that stay in the registry.
pub(super) struct RemoteImages {
    pub engine: Arc<dyn Engine>,
    pub registry: Arc<RegistryCache>,
    pub remote: Arc<Remote>,
    /// What runs a command in an image that is not here.
    pub shared: Arc<Shared>,
    /// The name of the run.
    pub run_id: String,
}

impl RemoteImages {
    /// Returns kind and key of a name where that image need not be here.
    fn left(&self, reference: &str) -> Option<(Kind, Key)> {
        name::parse(reference).filter(|(_, key)| self.remote.is_left(key))
    }

    /// Returns the parent of a request where the engine does not have it.
    async fn parent_there(&self, request: &LayerRequest) -> Result<Option<(Kind, Key)>> {
        let Some(there) = kind_and_key(&request.parent.config) else { return Ok(None) };
        let here = self.engine.inspect(&name::image(there.0, &there.1)).await?;
        Ok((here.is_none() && self.remote.is_left(&there.1)).then_some(there))
    }
}

/// Returns what the labels of an image say that it is.
fn kind_and_key(config: &ImageConfig) -> Option<(Kind, Key)> {
    let label = |name| config.labels.get(name);
    name::parse(&format!("imgforge/{}:{}", label(label::KIND)?, label(label::KEY)?))
}

#[async_trait]
impl Images for RemoteImages {
    async fn images(&self) -> Result<Vec<ListedImage>> {
        self.engine.images().await
    }

    async fn inspect(&self, reference: &str) -> Result<Option<Image>> {
        let here = self.engine.inspect(reference).await?;
        let (None, Some((kind, key))) = (&here, self.left(reference)) else { return Ok(here) };
        let remote = &self.remote;
        if let Some(known) = remote.added(&key).or_else(|| remote.known(&key)) {
            return Ok(Some(known));
        }
        let found = match self.registry.image(kind, &key).await {
            // As if it were not there.
            Err(EngineError::Unsigned { .. } | EngineError::Denied { .. }) => None,
            found => found?,
        };
        if let Some(image) = &found {
            remote.known.lock().expect("no holder panics").insert(key, image.clone());
        }
        Ok(found)
    }

    async fn pull(
        &self,
        reference: &Reference,
        platform: &Platform,
        log: &dyn LogSink,
    ) -> Result<Image> {
        self.engine.pull(reference, platform, log).await
    }

    async fn push(
        &self,
        reference: &Reference,
        siblings: &[String],
        log: &dyn LogSink,
    ) -> Result<PushSummary> {
        self.engine.push(reference, siblings, log).await
    }

    async fn tag(&self, image: &str, name: &Reference) -> Result<()> {
        match self.remote.has_id(image) {
            // Further names are for people, and for images that are here.
            true => Ok(()),
            false => self.engine.tag(image, name).await,
        }
    }

    async fn remove(&self, reference: &str) -> Result<()> {
        self.engine.remove(reference).await
    }
}

#[async_trait]
impl Builder for RemoteImages {
    async fn build(&self, request: &BuildRequest, log: &dyn LogSink) -> Result<Image> {
        self.engine.build(request, log).await
    }

    async fn change_config(&self, config: &ImageConfig, text: &str) -> Result<ImageConfig> {
        self.engine.change_config(config, text).await
    }

    async fn load(&self, request: &LayerRequest) -> Result<Image> {
        let made = kind_and_key(&request.config);
        let (Some(below), Some((kind, key))) = (self.parent_there(request).await?, made) else {
            return self.engine.load(request).await;
        };
        let added = self.registry.add((kind, &key), (below.0, &below.1), request).await;
        let image = added.inspect_err(|error| {
            if matches!(error, EngineError::NoSuchImage { .. }) {
                self.remote.forget();
            }
        })?;
        let remote = &self.remote;
        remote.added.lock().expect("no holder panics").insert(key, image.clone());
        Ok(image)
    }

    async fn run(&self, reference: &str, command: &[String], log: &dyn LogSink) -> Result<i64> {
        let here = self.engine.inspect(reference).await?;
        let (None, Some((kind, key))) = (here, self.left(reference)) else {
            return self.engine.run(reference, command, log).await;
        };
        let words: Vec<String> = command.iter().map(|word| shell_quote(word)).collect();
        let missing = || EngineError::NoSuchImage { reference: reference.to_owned() };
        let image = self.registry.digest_reference(kind, &key).await?.ok_or_else(missing)?;
        let labels = BTreeMap::from([(label::RUN.to_owned(), self.run_id.clone())]);
        let request = run::request_of(image, words.join(" "), LOOK, labels);
        let tests = Tests { request: &request, key: &key, environment: None, tell: &|_| {} };
        match run::run(&self.shared, &tests, log, &NoLog).await? {
            SandboxEnd::Exited(code) => Ok(code),
            end => Err(lost("look into an image", format!("the command ended otherwise: {end:?}"))),
        }
    }
}
