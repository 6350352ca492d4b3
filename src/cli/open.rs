//! What commands open: the catalog, the state, an engine.

use crate::cli::out::errln;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum as _;

use crate::cache::Collector;
use crate::cache::check::Checker;
use crate::catalog::Catalog;
use crate::engine::docker::{self, DockerEngine};
use crate::engine::embedded::{EmbeddedEngine, Settings, Storage};
use crate::engine::{Engine, EngineError, EngineInfo, LogSink};
use crate::file_system;
use crate::key::Key;
use crate::owner;
use crate::store::{self, OnNetwork, Store, StoreError};
use crate::words;

use super::variables::{self, STATE_ON_NETWORK};
use super::{EngineChoice, Failure, Global};

/// Reads an environment variable; empty is absent.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Reads the catalog.
pub fn catalog(global: &Global) -> Result<Catalog, Failure> {
    Catalog::load(global.config.as_deref(), &global.overlay).map_err(|error| {
        let hint = error.hint();
        Failure::input(error).hint(hint)
    })
}

/// Returns the state directory: the one that is named, or the default one.
pub fn state_dir(global: &Global) -> PathBuf {
    global.state_dir.clone().unwrap_or_else(|| store::default_dir(variable))
}

/// Opens the state directory.
pub fn open_store(global: &Global) -> Result<Arc<Store>, Failure> {
    Store::open_on(&state_dir(global), on_network()).map(Arc::new).map_err(|error| {
        let hint = error.hint().to_owned();
        Failure::environment(error).hint(Some(hint))
    })
}

/// Tells whether the state directory may be on a network.
pub fn on_network() -> OnNetwork {
    // What is neither on nor off was refused when the command began.
    match variable(STATE_ON_NETWORK).map(|text| variables::switch(&text)) {
        Some(Ok(true)) => OnNetwork::Allowed,
        _ => OnNetwork::Refused,
    }
}

/// Connects to the engine: the one that was chosen, or Docker where it answers and else the embedded
/// one. A daemon that was named (`DOCKER_HOST`, a context) is meant.
pub async fn connect(global: &Global) -> Result<Arc<dyn Engine>, EngineError> {
    connect_to(global, false).await
}

/// Connects to the engine as [`connect`] does; with `probe` the embedded one tries anew what this
/// machine allows.
pub async fn connect_to(global: &Global, probe: bool) -> Result<Arc<dyn Engine>, EngineError> {
    let choice = engine_choice(global)?;
    if choice == EngineChoice::Embedded {
        return Ok(Arc::new(embedded(global, probe).await?));
    }
    let refusal = match DockerEngine::connect(variable, owner::name()).await {
        Ok(engine) => {
            if choice == EngineChoice::Auto && !global.quiet {
                let info = engine.info().await?;
                errln!("engine: docker {} ({})", info.version, info.store);
            }
            return Ok(Arc::new(engine));
        }
        Err(error) => error,
    };
    if choice == EngineChoice::Docker || docker::is_chosen(variable) {
        return Err(refusal);
    }
    let engine = embedded(global, probe).await?;
    if !global.quiet {
        let why = match refusal {
            EngineError::Unreachable { .. } => "no Docker daemon answers".to_owned(),
            other => other.to_string(),
        };
        errln!("engine: embedded, {} ({why})", engine.describe());
    }
    Ok(Arc::new(engine))
}

/// Returns the engine of the flag or its variable, else the catalog's.
fn engine_choice(global: &Global) -> Result<EngineChoice, EngineError> {
    if global.engine != EngineChoice::Auto {
        return Ok(global.engine);
    }
    // A catalog with mistakes is reported by the commands that need it.
    let named = catalog(global).ok().and_then(|catalog| catalog.defaults().engine.clone());
    let Some(name) = named else { return Ok(EngineChoice::Auto) };
    EngineChoice::from_str(&name, true).map_err(|_| EngineError::Refused {
        action: "choose an engine".to_owned(),
        reason: format!("`{name}` in the catalog is none of auto, docker and embedded"),
    })
}

async fn embedded(global: &Global, probe: bool) -> Result<EmbeddedEngine, EngineError> {
    EmbeddedEngine::open(Settings { probe, ..embedded_settings(global)? }).await
}

/// Returns what the embedded engine is opened with.
pub fn embedded_settings(global: &Global) -> Result<Settings, EngineError> {
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
    let state_dir = state_dir(global);
    if on_network() == OnNetwork::Refused
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

/// Makes a failure of an engine that cannot be used.
pub fn engine_failure(error: EngineError) -> Failure {
    let hint = error.hint();
    Failure::environment(error).hint(hint)
}

/// Prints a log to the standard error, or not.
pub struct LogLines {
    shown: bool,
}

impl LogLines {
    /// Makes a log that is shown or not.
    pub fn new(shown: bool) -> LogLines {
        LogLines { shown }
    }
}

impl LogSink for LogLines {
    fn write(&self, bytes: &[u8]) {
        if self.shown {
            let _ = std::io::Write::write_all(&mut std::io::stderr(), bytes);
        }
    }
}

/// Returns the name under which images of an engine are recorded.
pub fn engine_identity(info: &EngineInfo) -> String {
    let root = info.root.as_ref().map_or(String::new(), |root| root.display().to_string());
    format!("{} {} {root}", info.kind, info.store)
}

/// An engine, with the state that its images are recorded in: what commands on the cache open.
pub struct Opened {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// What it is.
    pub info: EngineInfo,
    /// Its name in the index.
    pub identity: String,
    /// The state.
    pub store: Arc<Store>,
}

/// Opens state and engine.
pub async fn open(global: &Global) -> Result<Opened, Failure> {
    let store = open_store(global)?;
    let engine = connect(global).await.map_err(engine_failure)?;
    let info = engine.info().await.map_err(engine_failure)?;
    let identity = engine_identity(&info);
    if !global.quiet && store.indexed(&identity).map_err(Failure::environment)?.is_empty() {
        say_elsewhere(&store, &info, None).map_err(Failure::environment)?;
    }
    Ok(Opened { identity, engine, info, store })
}

/// Says which images the index knows on another engine: of `keys`, or all.
pub fn say_elsewhere(
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
        errln!("note: {images}{of} {are} on the {name} engine: --engine {name}");
    }
    Ok(())
}

impl Opened {
    /// Returns what checks images.
    pub fn checker(&self) -> Result<Checker<'_>, Failure> {
        let known = self.store.verified_images(&self.identity);
        Ok(Checker::new(&*self.engine, known.map_err(Failure::environment)?))
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

/// Where build logs are, below [`output_dir`].
pub const BUILD_LOGS: &str = "logs/build_images";

/// Returns where a run leaves its files.
pub fn output_dir(global: &Global) -> PathBuf {
    global.output_dir.clone().unwrap_or_default()
}
