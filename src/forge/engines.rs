//! The engines that this program was built with: the cargo features `docker` and `embedded`.

use std::path::PathBuf;
use std::sync::Arc;

use crate::engine::{Engine, EngineError};

use super::ForgeOptions;

#[cfg(not(any(feature = "docker", feature = "embedded")))]
compile_error!("imgforge needs an engine: the cargo feature `docker`, `embedded`, or both");

#[cfg(feature = "docker")]
impl ForgeOptions {
    /// Connects to the Docker engine that is chosen, or to the first socket that answers.
    pub(super) async fn docker(&self) -> Result<Arc<dyn Engine>, EngineError> {
        let engine = crate::engine::docker::DockerEngine::connect(
            super::open::variable,
            crate::owner::name(),
        );
        Ok(Arc::new(engine.await?))
    }

    /// Tells whether somebody chose a Docker engine: then no other will do.
    pub(super) fn is_docker_chosen(&self) -> bool {
        crate::engine::docker::is_chosen(super::open::variable)
    }
}

#[cfg(not(feature = "docker"))]
impl ForgeOptions {
    /// Says that there is no Docker engine in this program.
    pub(super) async fn docker(&self) -> Result<Arc<dyn Engine>, EngineError> {
        Err(EngineError::NotBuilt { engine: "docker" })
    }

    /// Tells that a choice among Docker engines is not read.
    pub(super) fn is_docker_chosen(&self) -> bool {
        false
    }
}

#[cfg(feature = "embedded")]
impl ForgeOptions {
    /// Opens the embedded engine in the state directory; with `probe` it tries anew what this machine
    /// allows. `why` says why it was taken where nobody named one.
    pub(super) async fn embedded(
        &self,
        probe: bool,
        why: Option<&str>,
    ) -> Result<Arc<dyn Engine>, EngineError> {
        use crate::engine::embedded::{EmbeddedEngine, Settings};
        let engine = EmbeddedEngine::open(Settings { probe, ..self.embedded_settings()? }).await?;
        if let Some(why) = why {
            self.notices.remark(format!("engine: embedded, {} ({why})", engine.describe()));
        }
        Ok(Arc::new(engine))
    }

    /// Opens an embedded engine in another state directory.
    pub(crate) async fn embedded_in(
        &self,
        state_dir: PathBuf,
    ) -> Result<Arc<dyn Engine>, EngineError> {
        use crate::engine::embedded::{EmbeddedEngine, Settings};
        let settings = Settings { state_dir, ..self.embedded_settings()? };
        Ok(Arc::new(EmbeddedEngine::open(settings).await?))
    }

    /// Removes everything that the embedded engine keeps; returns its directory.
    pub(crate) async fn destroy_embedded(&self) -> Result<PathBuf, EngineError> {
        crate::engine::embedded::EmbeddedEngine::destroy(self.embedded_settings()?).await
    }

    /// Returns what the embedded engine is opened with.
    pub fn embedded_settings(&self) -> Result<crate::engine::embedded::Settings, EngineError> {
        use crate::engine::embedded::{Settings, Storage};
        use crate::store::OnNetwork;
        let storage = match super::open::variable("IMGFORGE_EMBEDDED_STORAGE").as_deref() {
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
            && let Ok(Some(kind)) = crate::file_system::network(&state_dir)
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
            owner: crate::owner::name().to_owned(),
            client_config: crate::engine::client_config::config_directory(super::open::variable),
            storage,
            probe: false,
        })
    }
}

#[cfg(not(feature = "embedded"))]
impl ForgeOptions {
    /// Says that there is no embedded engine in this program.
    pub(super) async fn embedded(
        &self,
        _probe: bool,
        _why: Option<&str>,
    ) -> Result<Arc<dyn Engine>, EngineError> {
        Err(EngineError::NotBuilt { engine: "embedded" })
    }

    /// Says that there is no embedded engine in this program.
    pub(crate) async fn embedded_in(
        &self,
        _state_dir: PathBuf,
    ) -> Result<Arc<dyn Engine>, EngineError> {
        Err(EngineError::NotBuilt { engine: "embedded" })
    }

    /// Says that there is no embedded engine in this program.
    pub(crate) async fn destroy_embedded(&self) -> Result<PathBuf, EngineError> {
        Err(EngineError::NotBuilt { engine: "embedded" })
    }
}
