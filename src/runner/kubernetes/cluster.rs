//! A cluster as a runner of tests: what the evaluations of a run share.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::OnceCell;

use crate::cache::check::Checker;
use crate::cache::registry::{Pushed, RegistryCache, ToPush};
use crate::engine::{Engine, EngineError, LogSink, Result, SandboxEnd, SandboxNetwork};
use crate::key::{Key, Kind};
use crate::plan::name;
use crate::platform::Platform;
use crate::runner::{Offer, TestRunner, Tests};
use crate::store::Store;

use super::client::{ClusterError, Server, cluster_error};
use super::config::Settings;
use super::lease::{self, RunLease};
use super::shared::Shared;
use super::watch::Watch;
use super::{canary, label, run};

/// A cluster that runs the tests of one run.
pub struct Cluster {
    shared: Arc<Shared>,
    registry: RegistryCache,
    engine: Arc<dyn Engine>,
    store: Arc<Store>,
    engine_identity: String,
    run_id: String,
}

/// What a cluster is opened with.
pub struct Opening<'a> {
    /// The name of the run.
    pub run_id: &'a str,
    /// The platform of its images.
    pub platform: &'a Platform,
    /// The registry that the cluster pulls from.
    pub registry: RegistryCache,
    /// The engine that has the images.
    pub engine: Arc<dyn Engine>,
    /// The state, under which that engine's images are recorded.
    pub store: Arc<Store>,
    /// The name of the engine in the state.
    pub engine_identity: String,
}

impl Cluster {
    /// Connects to the cluster, removes what dead runs left there, and takes the Lease of this run. `told`
    /// hears of what was removed.
    ///
    /// # Errors
    /// There is no cluster, or it does not let us.
    pub async fn open(
        settings: Settings,
        opening: Opening<'_>,
        told: impl Fn(String),
    ) -> std::result::Result<Cluster, ClusterError> {
        let server = Server::connect(&settings).await?;
        server.check().await?;
        let lease = RunLease::take(&server, opening.run_id).await.map_err(|failure| {
            let action = format!("make a Lease in namespace `{}`", server.namespace);
            cluster_error(&server, &action, failure)
        })?;
        let swept = lease::sweep(&server, lease.server_time, None).await;
        for run in swept.map_err(|failure| cluster_error(&server, "remove old Leases", failure))? {
            told(format!("removed what run `{run}` left in namespace `{}`", server.namespace));
        }
        let watch = Watch::start(server.pods(), &format!("{}={}", label::OWNER, lease.owner.uid));
        let shared = Shared {
            settings,
            lease,
            watch,
            architecture: opening.platform.architecture().to_owned(),
            server,
            numbers: AtomicU64::new(0),
            losses: AtomicU64::new(0),
            evicted: Mutex::default(),
            offered: Mutex::default(),
            reached: OnceCell::new(),
        };
        Ok(Cluster {
            shared: Arc::new(shared),
            registry: opening.registry,
            engine: opening.engine,
            store: opening.store,
            engine_identity: opening.engine_identity,
            run_id: opening.run_id.to_owned(),
        })
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    pub(super) fn run_id(&self) -> &str {
        &self.run_id
    }

    /// Says which cluster it is, for people.
    pub fn describe(&self) -> String {
        let server = &self.shared.server;
        format!("kubernetes {} (namespace {})", server.address, server.namespace)
    }

    /// Deletes the Lease of the run and all that is left of it.
    ///
    /// # Errors
    /// The API server does not do it: the next run does.
    pub async fn end(&self) -> std::result::Result<(), ClusterError> {
        let server = &self.shared.server;
        let ended = self.shared.lease.end(server).await;
        ended.map_err(|failure| cluster_error(server, "delete the Lease of the run", failure))
    }

    /// Pushes an image, unless the registry has it; returns its reference by digest.
    async fn push(&self, kind: Kind, key: Key) -> Result<String> {
        let known = self.store.verified_images(&self.engine_identity);
        let known = known.map_err(|error| EngineError::Refused {
            action: "push an image".to_owned(),
            reason: error.to_string(),
        })?;
        let checker = Checker::new(&*self.engine, known);
        let pushed = self.registry.push(&checker, &[ToPush { kind, key }], &|_| {}).await?;
        let image = name::image(kind, &key);
        match pushed.into_iter().next().map(|pushed| pushed.outcome) {
            Some(Pushed::Pushed | Pushed::There) => {}
            Some(Pushed::Failed(reason)) => {
                let action = format!("push `{image}`");
                return Err(EngineError::Transient { action, source: reason.into() });
            }
            Some(Pushed::Differs | Pushed::OnOther) | None => {
                return Err(EngineError::Refused {
                    action: format!("push `{image}`"),
                    reason: "the registry has another build of it, or of what it stands on: \
                             `imgforge cache rm` and `prewarm` exchange the one here"
                        .to_owned(),
                });
            }
        }
        let reference = self.registry.digest_reference(kind, &key).await?;
        reference.ok_or(EngineError::NoSuchImage { reference: image })
    }

    /// Brings an image to the registry once in a run.
    pub(super) async fn offered(&self, kind: Kind, key: Key) -> Result<String> {
        let cell = {
            let mut offered = self.shared.offered.lock().expect("no holder panics");
            offered.entry(key).or_default().clone()
        };
        cell.get_or_try_init(|| self.push(kind, key)).await.cloned()
    }

    /// Fails where pods without a network reach something.
    pub(super) fn check_closed(&self, reached: &str) -> Result<()> {
        if reached.is_empty() {
            return Ok(());
        }
        let namespace = &self.shared.server.namespace;
        Err(EngineError::Cluster {
            reason: format!(
                "network none is not enforced in namespace `{namespace}`: a pod reached {reached}"
            ),
            hint: format!(
                "apply this in the namespace, on a cluster whose network enforces it, or give \
                 `--network bridge` to go on with a network:\n{}",
                canary::POLICY
            ),
        })
    }
}

#[async_trait]
impl TestRunner for Cluster {
    fn is_here(&self) -> bool {
        false
    }

    async fn offer(&self, offer: &Offer<'_>) -> Result<String> {
        let mut last = None;
        // The lowest first: what others share is on its way once.
        for (kind, key) in offer.chain {
            last = Some(self.offered(*kind, *key).await?);
        }
        last.ok_or_else(|| EngineError::Refused {
            action: "run the tests in a pod".to_owned(),
            reason: format!("`{}` is an image that somebody else published", offer.name),
        })
    }

    async fn run_tests(
        &self,
        tests: &Tests<'_>,
        log: &dyn LogSink,
        control: &dyn LogSink,
    ) -> Result<SandboxEnd> {
        if tests.request.network == SandboxNetwork::None {
            let reached = self
                .shared
                .reached
                .get_or_try_init(|| canary::reached(&self.shared, tests))
                .await?;
            self.check_closed(reached)?;
        }
        run::run(&self.shared, tests, log, control).await
    }
}
