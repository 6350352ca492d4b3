//! Opening what everything stands on: the catalog, the state, an engine.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum as _;

use crate::cache::Collector;
use crate::cache::check::Checker;
use crate::catalog::Catalog;
use crate::engine::{Engine, EngineError, EngineInfo, EngineKind};
use crate::key::Key;
use crate::store::{self, OnNetwork, Store, StoreError};
use crate::words;

use super::{EngineChoice, Error, ForgeOptions, Notices};

/// Reads an environment variable; empty is absent.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl ForgeOptions {
    /// Reads the catalog with its overlays, anew with each call.
    pub fn catalog(&self) -> Result<Catalog, Error> {
        Catalog::load(self.catalog.as_deref(), &self.overlays).map_err(|error| {
            let hint = error.hint();
            Error::input(error).with_hint(hint)
        })
    }

    /// Returns the state directory: the one that is named, or the default one.
    pub fn state_dir(&self) -> PathBuf {
        self.state_dir.clone().unwrap_or_else(|| store::default_dir(variable))
    }

    /// Tells whether the state directory may be on a network.
    pub(crate) fn on_network(&self) -> OnNetwork {
        match self.state_on_network {
            true => OnNetwork::Allowed,
            false => OnNetwork::Refused,
        }
    }

    /// Opens the state directory.
    pub fn open_store(&self) -> Result<Arc<Store>, Error> {
        Store::open_on(&self.state_dir(), self.on_network()).map(Arc::new).map_err(|error| {
            let hint = error.hint().to_owned();
            Error::environment(error).with_hint(Some(hint))
        })
    }

    /// Connects to the engine: the one that was chosen, or Docker where it answers and else the embedded
    /// one. A daemon that was named (`DOCKER_HOST`, a context) is meant.
    pub async fn connect(&self) -> Result<Arc<dyn Engine>, EngineError> {
        self.connect_to(false).await
    }

    /// Connects to the engine as [`connect`] does; with `probe` the embedded one tries anew what this
    /// machine allows.
    pub async fn connect_to(&self, probe: bool) -> Result<Arc<dyn Engine>, EngineError> {
        match self.engine_choice()? {
            EngineChoice::Docker => self.docker().await,
            EngineChoice::Embedded => self.embedded(probe, None).await,
            EngineChoice::Auto => self.any_engine(probe).await,
        }
    }

    /// Connects to Docker where it is chosen or answers, and else opens the embedded engine.
    async fn any_engine(&self, probe: bool) -> Result<Arc<dyn Engine>, EngineError> {
        let refusal = match self.docker().await {
            Ok(engine) => {
                let info = engine.info().await?;
                self.notices.remark(format!("engine: docker {} ({})", info.version, info.store));
                return Ok(engine);
            }
            Err(error) => error,
        };
        if self.is_docker_chosen() || cfg!(not(feature = "embedded")) {
            return Err(refusal);
        }
        let why = match refusal {
            EngineError::Unreachable { .. } => "no Docker daemon answers".to_owned(),
            other => other.to_string(),
        };
        self.embedded(probe, Some(&why)).await
    }

    /// Returns the engine of the flag or its variable, else the catalog's.
    fn engine_choice(&self) -> Result<EngineChoice, EngineError> {
        if self.engine != EngineChoice::Auto {
            return Ok(self.engine);
        }
        // A catalog with mistakes is reported by the commands that need it.
        let named = self.catalog().ok().and_then(|catalog| catalog.defaults().engine.clone());
        let Some(name) = named else { return Ok(EngineChoice::Auto) };
        EngineChoice::from_str(&name, true).map_err(|_| EngineError::Refused {
            action: "choose an engine".to_owned(),
            reason: format!("`{name}` in the catalog is none of auto, docker and embedded"),
        })
    }

    /// Opens state and engine.
    pub async fn open(&self) -> Result<Opened, Error> {
        let store = self.open_store()?;
        let engine = self.connect().await.map_err(engine_error)?;
        let info = engine.info().await.map_err(engine_error)?;
        let identity = engine_identity(&info);
        if store.indexed(&identity).map_err(Error::environment)?.is_empty() {
            say_elsewhere(&self.notices, &store, &info, None).map_err(Error::environment)?;
        }
        Ok(Opened { identity, engine, info, store })
    }
}

/// Makes an error of an engine that cannot be used.
pub(crate) fn engine_error(error: EngineError) -> Error {
    let hint = error.hint();
    let error = match error {
        EngineError::NotBuilt { .. } => Error::input(error),
        _ => Error::environment(error),
    };
    error.with_hint(hint)
}

/// Returns the name under which images of an engine are recorded.
pub(crate) fn engine_identity(info: &EngineInfo) -> String {
    let root = info.root.as_ref().map_or(String::new(), |root| root.display().to_string());
    format!("{} {} {root}", info.kind, info.store)
}

/// Returns the kind of engine in such a name; `None` where an older imgforge knew another kind.
fn kind_of(identity: &str) -> Option<EngineKind> {
    EngineKind::named(identity.split(' ').next().unwrap_or_default())
}

/// An engine, with the state that its images are recorded in: what commands on the cache open.
pub struct Opened {
    /// The engine that answered.
    pub engine: Arc<dyn Engine>,
    /// The kind, version and platform of the engine.
    pub info: EngineInfo,
    /// The name of the engine in the index of images.
    pub identity: String,
    /// The state directory, open.
    pub store: Arc<Store>,
}

/// Says which images the index knows on another engine: of `keys`, or all.
pub(super) fn say_elsewhere(
    notices: &Notices,
    store: &Store,
    info: &EngineInfo,
    keys: Option<&HashSet<Key>>,
) -> Result<(), StoreError> {
    for (engine, images) in store.elsewhere(&engine_identity(info), keys)? {
        let Some(kind) = kind_of(&engine) else { continue };
        if kind == info.kind || kind == EngineKind::Fake {
            continue;
        }
        let of = if keys.is_some() { " of these" } else { "" };
        let (images, are) = (words::count(images, "image"), words::are(images));
        notices.remark(format!("note: {images}{of} {are} on the {kind} engine: --engine {kind}"));
    }
    Ok(())
}

impl Opened {
    /// Returns what checks images.
    pub fn checker(&self) -> Result<Checker<'_>, Error> {
        let known = self.store.verified_images(&self.identity);
        Ok(Checker::new(&*self.engine, known.map_err(Error::environment)?))
    }

    /// Returns what takes images away.
    pub fn collector(&self) -> Collector<'_> {
        collector(&*self.engine, &self.info, &self.identity, &self.store)
    }
}

/// Returns what takes images of an engine away.
pub(crate) fn collector<'a>(
    engine: &'a dyn Engine,
    info: &EngineInfo,
    identity: &'a str,
    store: &'a Store,
) -> Collector<'a> {
    let root = info.root.clone().filter(|root| crate::disk::free(root).is_ok());
    Collector { engine, identity, root, store }
}
