//! What the evaluations of a run share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::OnceCell;

use crate::engine::{EngineError, Result};
use crate::key::Key;

use super::client::{ClusterError, Server, cluster_error};
use super::config::Settings;
use super::label;
use super::lease::{self, RunLease};
use super::state::{Loss, LossKind};
use super::watch::Watch;

/// How many pods in a row may be lost, with none between them whose tests ended, before the cluster is
/// taken to be at fault.
const LOSSES: u64 = 200;

/// What the evaluations share.
pub(super) struct Shared {
    pub server: Server,
    pub settings: Settings,
    pub lease: RunLease,
    pub watch: Watch,
    /// Such as `amd64`: so Kubernetes writes it, too.
    pub architecture: String,
    pub numbers: AtomicU64,
    /// How many pods were lost since tests ended.
    pub losses: AtomicU64,
    /// How often pods of a key were evicted.
    pub evicted: Mutex<HashMap<Key, u32>>,
    /// The images that the registry has, each with its name there.
    pub offered: Mutex<HashMap<Key, Arc<OnceCell<String>>>>,
    /// The pods that are kept for people to look at.
    pub kept: Mutex<Vec<String>>,
    /// What a pod without a network reached.
    pub reached: OnceCell<String>,
}

impl Shared {
    /// Connects to the cluster, removes what dead runs left there, and takes the Lease of a run. `told` hears
    /// of what was removed.
    ///
    /// # Errors
    /// There is no cluster, or it does not let us.
    pub(super) async fn open(
        settings: Settings,
        run_id: &str,
        architecture: &str,
        told: impl Fn(String),
    ) -> std::result::Result<Shared, ClusterError> {
        let server = Server::connect(&settings).await?;
        server.check().await?;
        let lease = RunLease::take(&server, run_id).await.map_err(|failure| {
            let action = format!("make a Lease in namespace `{}`", server.namespace);
            cluster_error(&server, &action, failure)
        })?;
        let swept = lease::sweep(&server, lease.server_time, None).await;
        for run in swept.map_err(|failure| cluster_error(&server, "remove old Leases", failure))? {
            told(format!("removed what run `{run}` left in namespace `{}`", server.namespace));
        }
        let watch = Watch::start(server.pods(), &format!("{}={}", label::OWNER, lease.owner.uid));
        Ok(Shared {
            settings,
            lease,
            watch,
            architecture: architecture.to_owned(),
            server,
            numbers: AtomicU64::new(0),
            losses: AtomicU64::new(0),
            evicted: Mutex::default(),
            offered: Mutex::default(),
            kept: Mutex::default(),
            reached: OnceCell::new(),
        })
    }

    pub(super) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns how much more than usual a pod asks for.
    pub(super) fn more(&self, key: &Key) -> u32 {
        self.evicted.lock().expect("no holder panics").get(key).copied().unwrap_or(0)
    }

    /// Takes note that tests ended.
    pub(super) fn note_success(&self) {
        self.losses.store(0, Ordering::Relaxed);
    }

    /// Makes the error of a pod that was lost.
    pub(super) fn lost(&self, key: &Key, loss: Loss) -> EngineError {
        if loss.kind == LossKind::Disrupted {
            *self.evicted.lock().expect("no holder panics").entry(*key).or_default() += 1;
        }
        let action = "run the tests in a pod".to_owned();
        if loss.kind.is_final() {
            let reason = format!("{}: it wrote more than it may", loss.reason);
            return EngineError::Refused { action, reason };
        }
        if self.losses.fetch_add(1, Ordering::Relaxed) + 1 >= LOSSES {
            return EngineError::Cluster {
                reason: format!(
                    "{LOSSES} pods in a row were lost, the last one so: {}",
                    loss.reason
                ),
                hint: "`kubectl get events` and `kubectl describe node` say more".to_owned(),
            };
        }
        EngineError::Transient { action, source: loss.reason.into() }
    }

    /// Fails when the Lease of the run was taken away: no pod of it would live.
    pub(super) fn check_lease(&self) -> Result<()> {
        match self.lease.is_gone() {
            false => Ok(()),
            true => Err(EngineError::Refused {
                action: "run the tests in a pod".to_owned(),
                reason: format!(
                    "somebody deleted the Lease `{}`, which all pods of this run belong to",
                    self.lease.owner.name
                ),
            }),
        }
    }

    /// Forgets which images the registry has: somebody removed one.
    pub(super) fn forget_offers(&self) {
        self.offered.lock().expect("no holder panics").clear();
    }
}
