//! Opening what everything stands on: the catalog, the state, an engine.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum as _;

use crate::cache::Collector;
use crate::cache::check::Checker;
use crate::catalog::Catalog;
use crate::engine::docker::{self, DockerEngine};
use crate::engine::embedded::{EmbeddedEngine, Settings, Storage};
use crate::engine::{Engine, EngineError, EngineInfo, Runner as _};
use crate::file_system;
use crate::key::Key;
use crate::owner;
use crate::store::{self, OnNetwork, Store, StoreError};
use crate::words;

use super::{EngineChoice, Error, ForgeOptions, Notices};

/// Reads an environment variable; empty is absent.
pub fn variable(name: &str) -> Option<String> {
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
        let choice = self.engine_choice()?;
        if choice == EngineChoice::Embedded {
            return Ok(Arc::new(self.embedded(probe).await?));
        }
        let refusal = match DockerEngine::connect(variable, owner::name()).await {
            Ok(engine) => {
                if choice == EngineChoice::Auto {
                    let info = engine.info().await?;
                    let text = format!("engine: docker {} ({})", info.version, info.store);
                    self.notices.remark(text);
                }
                return Ok(Arc::new(engine));
            }
            Err(error) => error,
        };
        if choice == EngineChoice::Docker || docker::is_chosen(variable) {
            return Err(refusal);
        }
        let engine = self.embedded(probe).await?;
        let why = match refusal {
            EngineError::Unreachable { .. } => "no Docker daemon answers".to_owned(),
            other => other.to_string(),
        };
        self.notices.remark(format!("engine: embedded, {} ({why})", engine.describe()));
        Ok(Arc::new(engine))
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

    async fn embedded(&self, probe: bool) -> Result<EmbeddedEngine, EngineError> {
        EmbeddedEngine::open(Settings { probe, ..self.embedded_settings()? }).await
    }

    /// Returns what the embedded engine is opened with.
    pub fn embedded_settings(&self) -> Result<Settings, EngineError> {
        let storage = match variable("IMGFORGE_EMBEDDED_STORAGE").as_deref() {
            None => None,
            Some("overlay") => Some(Storage::Overlay),
            Some("copy") => Some(Storage::Copy),
            Some(other) => {
                return Err(EngineError::Refused {
                    action: "read IMGFORGE_EMBEDDED_STORAGE".to_owned(),
                    reason: format!("`{other}` is neither overlay nor copy"),
                });
            }
        };
        let state_dir = self.state_dir();
        if self.on_network() == OnNetwork::Refused
            && let Ok(Some(kind)) = file_system::network(&state_dir)
        {
            return Err(EngineError::Refused {
                action: format!("keep images in `{}`", state_dir.display()),
                reason: format!("it is on a network file system ({kind})"),
            });
        }
        let program = std::env::current_exe()
            .map_err(|source| EngineError::File { path: "/proc/self/exe".into(), source })?;
        Ok(Settings {
            state_dir,
            helper: program,
            owner: owner::name().to_owned(),
            client_config: docker::config_directory(variable),
            storage,
            probe: false,
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
pub fn engine_error(error: EngineError) -> Error {
    let hint = error.hint();
    Error::environment(error).with_hint(hint)
}

/// Returns the name under which images of an engine are recorded.
pub fn engine_identity(info: &EngineInfo) -> String {
    let root = info.root.as_ref().map_or(String::new(), |root| root.display().to_string());
    format!("{} {} {root}", info.kind, info.store)
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
        let name = engine.split(' ').next().unwrap_or_default();
        if name == info.kind.name() || !matches!(name, "docker" | "embedded") {
            continue;
        }
        let of = if keys.is_some() { " of these" } else { "" };
        let (images, are) = (words::count(images, "image"), words::are(images));
        notices.remark(format!("note: {images}{of} {are} on the {name} engine: --engine {name}"));
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
pub fn collector<'a>(
    engine: &'a dyn Engine,
    info: &EngineInfo,
    identity: &'a str,
    store: &'a Store,
) -> Collector<'a> {
    let root = info.root.clone().filter(|root| crate::disk::free(root).is_ok());
    Collector { engine, identity, root, store }
}
