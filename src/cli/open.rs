//! What commands open: the catalog, the state, an engine, a forge.

use std::path::PathBuf;
use std::sync::Arc;

use crate::catalog::Catalog;
use crate::cli::out::errln;
use crate::config;
use crate::engine::{Engine, EngineError, LogSink};
use crate::forge::{self, Forge, ForgeOptions, Notice, Notices, Opened};
use crate::proxy::Proxies;
use crate::session::OfHost;
use crate::smoke::Repositories;
use crate::store::Store;

use super::variables::{self, STATE_ON_NETWORK};
use super::{Error, Global, interrupt, keys, progress, render};

pub(super) use crate::forge::open::variable;

/// Reads the catalog.
pub(super) fn catalog(global: &Global) -> Result<Catalog, Error> {
    global.forge_options().catalog()
}

/// Finds out where the repositories of smoke runs come from: `git_mirror`, or what the catalog says.
pub(super) fn repositories(global: &Global, git_mirror: &[String]) -> Result<Repositories, Error> {
    let catalog = catalog(global)?;
    let git_mirrors = match git_mirror.is_empty() {
        true => catalog.defaults().git_mirrors.clone().unwrap_or_default(),
        false => git_mirror.to_vec(),
    };
    let state_dir = state_dir(global);
    Ok(Repositories { state_dir, git_mirrors, by_repo: catalog.mirrors().clone() })
}

/// Returns the state directory: the one that is named, or the default one.
pub(super) fn state_dir(global: &Global) -> PathBuf {
    global.forge_options().state_dir()
}

/// Opens the state directory.
pub(super) fn open_store(global: &Global) -> Result<Arc<Store>, Error> {
    global.forge_options().open_store()
}

/// Opens state and engine.
pub(super) async fn open(global: &Global) -> Result<Opened, Error> {
    global.forge_options().open().await
}

/// Opens the state for what is done with instances.
pub(super) fn forge(global: &Global) -> Result<Forge, Error> {
    Forge::open(global.forge_options())
}

/// Connects to the engine, see [`ForgeOptions::connect`].
pub(super) async fn connect(global: &Global) -> Result<Arc<dyn Engine>, EngineError> {
    global.forge_options().connect().await
}

/// Connects to the engine; with `probe` the embedded one tries anew what this machine allows.
pub(super) async fn connect_to(
    global: &Global,
    probe: bool,
) -> Result<Arc<dyn Engine>, EngineError> {
    global.forge_options().connect_to(probe).await
}

/// Makes a failure of an engine that cannot be used.
pub(super) fn engine_failure(error: EngineError) -> Error {
    forge::open::engine_error(error)
}

/// Makes a failure of a container that is not started. What does not name an image is bad input; how images
/// come to be is said of one that is missing.
pub(super) fn start_failure(error: EngineError) -> Error {
    match error {
        EngineError::NoSuchImage { .. } => {
            let hint = "`imgforge build` makes the images of instances, and `imgforge base bootstrap` base \
                        images; Docker's own come by `docker pull`";
            Error::environment(error).with_hint(Some(hint.to_owned()))
        }
        EngineError::Reference(_) => Error::input(error),
        error => engine_failure(error),
    }
}

/// Returns where a run leaves its files.
pub(super) fn output_dir(global: &Global) -> PathBuf {
    global.output_dir.clone().unwrap_or_default()
}

/// Returns what a session with a way out gets of this machine.
pub(super) fn of_host() -> Result<OfHost, Error> {
    let proxies = Proxies::of_process().map_err(Error::input)?;
    let host = config::host_access(variable, None, None).map_err(Error::environment)?;
    Ok(OfHost { proxies, ca_bundle: host.ca_bundle })
}

/// Prints a log to the standard error, or not.
pub(super) struct LogLines {
    shown: bool,
}

impl LogLines {
    /// Makes a log that is shown or not.
    pub(super) fn new(shown: bool) -> LogLines {
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

impl Global {
    /// Returns what a forge is opened with.
    pub(super) fn forge_options(&self) -> ForgeOptions {
        ForgeOptions {
            catalog: self.config.clone(),
            overlays: self.overlay.clone(),
            state_dir: self.state_dir.clone(),
            // What is neither on nor off was refused when the command began.
            state_on_network: variable(STATE_ON_NETWORK)
                .is_some_and(|text| variables::switch(&text) == Ok(true)),
            output_dir: output_dir(self),
            engine: self.engine,
            notices: self.notices(),
            interrupts: Arc::new(interrupt::watched),
            password: Arc::new(|| keys::password(false)),
        }
    }

    /// Returns what prints warnings and remarks.
    pub(super) fn notices(&self) -> Notices {
        let quiet = self.quiet;
        let told = move |notice, text: &str| match notice {
            Notice::Warning => render::warn(text),
            Notice::Advice if !quiet => render::warn(text),
            Notice::Remark if !quiet => errln!("{text}"),
            // What is waited for has a line of its own.
            Notice::Advice | Notice::Remark | Notice::Waiting => {}
        };
        let notices = Notices::new(told).waiting(progress::waiting());
        notices.log_to(Arc::new(LogLines::new(!quiet)))
    }
}
