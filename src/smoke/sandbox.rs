//! The sandbox of a run: a session of an engine, and who starts it.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use crate::engine::{
    Engine, LogSink, Quotas, SandboxNetwork, SandboxSession, SessionRequest, SessionSettings,
};
use crate::session::order::{Repository, SessionOrder};
use crate::session::{self, Kept, OfHost, StartError};

use super::config::{Network, RunConfig};

/// A sandbox that was started.
pub struct Sandbox {
    /// Its session.
    pub kept: Arc<Kept>,
    /// Its name, where it outlives the run: then nothing of the run ends it.
    pub stays: Option<String>,
}

impl Sandbox {
    /// Returns the session as it is now.
    pub(super) fn session(&self) -> Arc<dyn SandboxSession> {
        self.kept.now()
    }
}

/// Who starts sandboxes.
#[async_trait]
pub trait Sandboxes: Send + Sync {
    /// Starts a sandbox; what it takes to get there goes to `log`.
    async fn start(&self, order: &SessionOrder, log: &dyn LogSink) -> Result<Sandbox, StartError>;
}

/// Starts sandboxes that are of this process, and end with it.
pub struct OfProcess {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// What a sandbox with a way out gets of this machine.
    pub host: OfHost,
    /// An existing directory that stays as long as the sandboxes.
    pub directory: PathBuf,
}

#[async_trait]
impl Sandboxes for OfProcess {
    async fn start(&self, order: &SessionOrder, log: &dyn LogSink) -> Result<Sandbox, StartError> {
        let engine = self.engine.clone();
        let started = session::start(engine, order, &self.host, &self.directory, log).await?;
        Ok(Sandbox { kept: started.kept, stays: None })
    }
}

/// Writes down how the sandbox of a run is started.
pub(super) fn order(config: &RunConfig) -> SessionOrder {
    let sandbox = &config.sandbox;
    let network = match sandbox.network {
        Network::Host => SandboxNetwork::Host,
        Network::Bridge => SandboxNetwork::Bridge,
        Network::None | Network::Hosts(_) => SandboxNetwork::None,
    };
    let allowed = match &sandbox.network {
        Network::Hosts(hosts) => Some(hosts.clone().into()),
        Network::None | Network::Host | Network::Bridge => None,
    };
    let request = SessionRequest {
        memory: sandbox.resources.memory,
        milli_cpus: sandbox.resources.milli_cpus,
        pids: sandbox.resources.pids,
        quotas: Quotas::default(),
        network,
        variables: sandbox.env.clone(),
        settings: SessionSettings {
            working_dir: Some(sandbox.workdir.clone()),
            ..SessionSettings::default()
        },
        ..SessionRequest::of_image(&sandbox.image)
    };
    SessionOrder {
        name: None,
        instance: None,
        request,
        allowed,
        publish: Vec::new(),
        ttl_seconds: None,
        idle_seconds: None,
        repository: Some(Repository { directory: sandbox.workdir.clone(), base: None }),
    }
}
