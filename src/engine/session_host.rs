//! Where sessions are started: on an engine, or as pods of a cluster.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Engine, EngineKind, LogSink, Result, SandboxSession, SessionRequest};

/// What starts sessions.
#[async_trait]
pub trait SessionHost: Send + Sync {
    /// Starts a session, as [`super::Runner::start`] does.
    async fn start_session(
        &self,
        request: &SessionRequest,
        log: &dyn LogSink,
    ) -> Result<Box<dyn SandboxSession>>;

    /// Returns what the sessions are where that is known before one is started, and no engine.
    fn beforehand(&self) -> Option<EngineKind> {
        None
    }

    /// Returns where commands of an image start; empty where it does not say.
    async fn directory(&self, image: &str) -> Result<String>;

    /// Removes the image of a checkpoint.
    async fn forget(&self, image: &str) -> Result<()>;
}

/// Starts sessions on an engine.
pub struct OnEngine(pub Arc<dyn Engine>);

#[async_trait]
impl SessionHost for OnEngine {
    async fn start_session(
        &self,
        request: &SessionRequest,
        log: &dyn LogSink,
    ) -> Result<Box<dyn SandboxSession>> {
        self.0.start(request, log).await
    }

    async fn directory(&self, image: &str) -> Result<String> {
        let config = self.0.config(image).await?;
        Ok(config.map(|config| config.working_dir).unwrap_or_default())
    }

    async fn forget(&self, image: &str) -> Result<()> {
        self.0.remove(image).await.map(drop)
    }
}
