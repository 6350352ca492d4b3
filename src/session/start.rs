//! Starting a session as it was ordered: its container, its way out, its ports, and where it works.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::engine::{
    CA_VARIABLES, Engine, EngineError, EngineKind, HostBind, LogSink, OnEngine, SandboxSession,
    SessionHost, SessionRequest,
};
use crate::proxy::Proxies;

use super::egress::Egress;
use super::order::{Repository, SessionOrder};
use super::{Kept, Publish, git, ports};

/// Where the authorities are that this machine trusts, for a session with a way out.
const CA_BUNDLE: &str = "/dev/imgforge/ca.pem";

/// What a session with a way out gets of this machine.
#[derive(Debug, Clone, Default)]
pub struct OfHost {
    /// The proxies that lead out of this process.
    pub(crate) proxies: Proxies,
    /// The authorities that this machine trusts, in PEM: what leads out may have one of its own.
    pub(crate) ca_bundle: Option<Vec<u8>>,
}

/// A session that was started.
pub struct Started {
    /// The session.
    pub kept: Arc<Kept>,
    /// Where its ports are reached.
    pub ports: Vec<Publish>,
    /// The repository that it works in.
    pub repository: Option<Repository>,
}

/// Why a session cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The engine cannot do it.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A file that the session needs cannot be written.
    #[error("cannot write `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A port cannot be published.
    #[error("cannot publish port {port} of the session at `{address}`")]
    Publish {
        /// In the container.
        port: u16,
        /// On this machine.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl StartError {
    /// Returns what would help.
    pub fn hint(&self) -> Option<String> {
        match self {
            StartError::Engine(error) => error.hint(),
            StartError::File { .. } => None,
            StartError::Publish { .. } => {
                Some("leave the port of this machine out: one is chosen".to_owned())
            }
        }
    }
}

/// Starts a session on an engine, see [`start_on`].
pub async fn start(
    engine: Arc<dyn Engine>,
    order: &SessionOrder,
    host: &OfHost,
    directory: &Path,
    log: &dyn LogSink,
) -> Result<Started, StartError> {
    start_on(Arc::new(OnEngine(engine)), order, host, directory, log).await
}

/// Starts a session. What its container is made by says goes to `log`, what the session needs of files is
/// written to `directory`, which has to stay as long as the session.
pub async fn start_on(
    sessions: Arc<dyn SessionHost>,
    order: &SessionOrder,
    host: &OfHost,
    directory: &Path,
    log: &dyn LogSink,
) -> Result<Started, StartError> {
    if let Some(kind) = sessions.beforehand() {
        if order.allowed.is_some() {
            return Err(kind.without("let a session reach some hosts").into());
        }
        if !order.publish.is_empty() {
            return Err(kind.without("publish a port of a session").into());
        }
    }
    let (request, egress) = way_out(order, host, directory)?;
    let kept = Arc::new(Kept::start(sessions.clone(), request, egress, log).await?);
    let ports = match publish(&kept, &order.publish).await {
        Ok(ports) => ports,
        Err(error) => {
            // Before this process ends, and with it what would remove it later.
            kept.now().stop().await?;
            return Err(error);
        }
    };
    let repository = match &order.repository {
        Some(repository) => Some(repository.clone()),
        None => repository(&*sessions, &*kept.now(), &order.request.image).await?,
    };
    Ok(Started { kept, ports, repository })
}

/// Gives a session its way out, where it has one, and the authorities that this machine trusts.
fn way_out(
    order: &SessionOrder,
    host: &OfHost,
    directory: &Path,
) -> Result<(SessionRequest, Option<Arc<Egress>>), StartError> {
    let mut request = order.request.clone();
    let Some(allowed) = &order.allowed else { return Ok((request, None)) };
    let add = |variables: &mut BTreeMap<String, String>, name: String, value: String| {
        variables.entry(name).or_insert(value);
    };
    for (name, value) in Egress::variables() {
        add(&mut request.variables, name, value);
    }
    if let Some(bundle) = &host.ca_bundle {
        let path = directory.join("ca.pem");
        let written = std::fs::write(&path, bundle).and_then(|()| path.canonicalize());
        let source = written.map_err(|source| StartError::File { path, source })?;
        let target = CA_BUNDLE.to_owned();
        request.settings.binds.push(HostBind { source, target, read_only: true });
        for name in CA_VARIABLES {
            add(&mut request.variables, name.to_owned(), CA_BUNDLE.to_owned());
        }
    }
    Ok((request, Some(Egress::new(allowed.clone(), &host.proxies))))
}

/// Publishes ports of a session; returns where they are reached.
async fn publish(kept: &Arc<Kept>, wanted: &[Publish]) -> Result<Vec<Publish>, StartError> {
    if !wanted.is_empty() && kept.now().engine() != EngineKind::Embedded {
        return Err(StartError::Engine(kept.now().engine().without("publish a port of a session")));
    }
    let mut published = Vec::new();
    for Publish { address, port } in wanted.iter().copied() {
        let failed = |source| StartError::Publish { port, address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let kept = Arc::downgrade(kept);
        let session = move || Some(kept.upgrade()?.now());
        tokio::spawn(ports::serve(listener, port, session));
        published.push(Publish { address, port });
    }
    Ok(published)
}

/// Finds the repository of a session: where its image says that commands start.
async fn repository(
    sessions: &dyn SessionHost,
    session: &dyn SandboxSession,
    image: &str,
) -> Result<Option<Repository>, StartError> {
    let directory = sessions.directory(image).await?;
    if directory.is_empty() {
        return Ok(None);
    }
    let base = git::head(session, Some(&directory)).await;
    Ok(Some(Repository { directory, base }))
}
