//! A cluster as a runner of tests: what the evaluations of a run share.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;

use crate::cache::check::Checker;
use crate::cache::registry::{Pushed, RegistryCache, ToPush};
use crate::engine::{
    Builder, Engine, EngineError, Image, LogSink, Result, SandboxEnd, SandboxNetwork,
};
use crate::key::{Key, Kind};
use crate::plan::name;
use crate::platform::Platform;
use crate::runner::{Offer, TestRunner, Tests};
use crate::store::Store;

use super::client::{ClusterError, cluster_error};
use super::config::Settings;
use super::remote::{Remote, RemoteImages};
use super::shared::Shared;
use super::{canary, run};

/// A cluster that runs the tests of one run.
pub struct Cluster {
    shared: Arc<Shared>,
    registry: Arc<RegistryCache>,
    engine: Arc<dyn Engine>,
    store: Arc<Store>,
    engine_identity: String,
    run_id: String,
    /// The images that this machine does not have.
    remote: Arc<Remote>,
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
        let architecture = opening.platform.architecture();
        let shared = Shared::open(settings, opening.run_id, architecture, told).await?;
        Ok(Cluster {
            shared: Arc::new(shared),
            registry: Arc::new(opening.registry),
            engine: opening.engine,
            store: opening.store,
            engine_identity: opening.engine_identity,
            run_id: opening.run_id.to_owned(),
            remote: Arc::default(),
        })
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// Returns the name of the run.
    pub fn run_id(&self) -> &str {
        &self.run_id
    }

    /// Says which cluster it is, for people.
    pub fn describe(&self) -> String {
        let server = &self.shared.server;
        format!("kubernetes {} (namespace {})", server.address, server.namespace)
    }

    /// Deletes the Lease of the run and all that is left of it; where pods are kept, all of it stays.
    /// Returns their names.
    ///
    /// # Errors
    /// The API server does not do it: the next run does.
    pub async fn end(&self) -> std::result::Result<Vec<String>, ClusterError> {
        let (server, lease) = (&self.shared.server, &self.shared.lease);
        let kept = std::mem::take(&mut *self.shared.kept.lock().expect("no holder panics"));
        let ended = match kept.is_empty() {
            true => lease.end(server).await,
            false => lease.keep(server).await,
        };
        let error = |failure| cluster_error(server, "end the Lease of the run", failure);
        ended.map(|()| kept).map_err(error)
    }

    pub(super) fn registry(&self) -> &RegistryCache {
        &self.registry
    }

    /// Pushes an image, unless the registry has it; returns its reference by digest.
    async fn push(&self, kind: Kind, key: Key) -> Result<String> {
        let known = self.store.verified_images(&self.engine_identity);
        let known = known.map_err(|error| EngineError::Refused {
            action: "push an image".to_owned(),
            reason: error.to_string(),
        })?;
        let checker = Checker::new(&*self.engine, known);
        let image = name::image(kind, &key);
        if self.stays_there(kind, &key).await? {
            let added = self.remote.added(&key);
            if let Some(added) = &added {
                self.registry.sign_added(&checker, (kind, key), added).await?;
            }
            let Some(reference) = self.registry.digest_reference(kind, &key).await? else {
                self.remote.forget();
                return Err(EngineError::NoSuchImage { reference: image });
            };
            // The one that was looked at, and no other that has its name by now.
            let known = added.or_else(|| self.remote.known(&key));
            let digest = |reference: &str| reference.rsplit('@').next().map(str::to_owned);
            let is_other = |known: Image| {
                known.repo_digests.first().is_some_and(|one| digest(one) != digest(&reference))
            };
            return match known.is_some_and(is_other) {
                false => Ok(reference),
                true => Err(EngineError::Refused {
                    action: format!("run the tests in `{reference}`"),
                    reason: "somebody exchanged the image in the registry".to_owned(),
                }),
            };
        }
        let pushed = self.registry.push(&checker, &[ToPush { kind, key }], &|_| {}).await?;
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

    /// Tells whether the registry has an image, or gets it without this machine having it.
    async fn stays_there(&self, kind: Kind, key: &Key) -> Result<bool> {
        let is_left = self.remote.is_left(key);
        Ok(is_left && self.engine.inspect(&name::image(kind, key)).await?.is_none())
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

    fn builder(self: Arc<Self>, engine: Arc<dyn Engine>, left: HashSet<Key>) -> Arc<dyn Builder> {
        if left.is_empty() {
            return engine;
        }
        self.remote.leave(left);
        Arc::new(RemoteImages {
            engine,
            registry: self.registry.clone(),
            remote: self.remote.clone(),
            shared: self.shared.clone(),
            run_id: self.run_id.clone(),
        })
    }

    async fn offer(&self, offer: &Offer<'_>) -> Result<String> {
        let Some(((kind, key), below)) = offer.chain.split_last() else {
            return Err(EngineError::Refused {
                action: "run the tests in a pod".to_owned(),
                reason: format!("`{}` is an image that somebody else published", offer.name),
            });
        };
        // The lowest first: what others share is on its way once.
        for (kind, key) in below {
            if !self.stays_there(*kind, key).await? {
                self.offered(*kind, *key).await?;
            }
        }
        self.offered(*kind, *key).await
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
        let ended = run::run(&self.shared, tests, log, control).await;
        if let Err(EngineError::NoSuchImage { .. }) = &ended {
            self.remote.forget();
        }
        ended
    }
}
