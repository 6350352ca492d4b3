//! The sessions of a server.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::engine::{Engine, EngineKind, SessionEnd, SessionHost};
use crate::session::OfHost;
use crate::session::checkpoints::CheckpointDirectory;
use crate::smoke::{CachedSandboxes, Means, OfProcess, Repositories};

use super::fault::{Fault, Kind};
use super::instances::Instances;
use super::locked::locked;
use super::served::Served;
use super::smoke::Smokes;

/// What a server stands on.
pub struct Settings {
    /// The engine that smoke runs are on.
    pub engine: Arc<dyn Engine>,
    /// What starts sessions.
    pub host: Arc<dyn SessionHost>,
    /// What they are.
    pub kind: EngineKind,
    /// The checkpoints of the state directory.
    pub checkpoints: CheckpointDirectory,
    /// A directory of the server's own, for what sessions need of files.
    pub scratch_dir: PathBuf,
    /// What sessions with a way out get of this machine.
    pub of_host: OfHost,
    /// Who knows datasets.
    pub instances: Arc<dyn Instances>,
    /// Where the repositories of smoke runs come from.
    pub repositories: Repositories,
}

/// Sessions, all on one engine. They end with this.
pub(super) struct Sessions {
    pub(super) host: Arc<dyn SessionHost>,
    pub(super) kind: EngineKind,
    pub(super) checkpoints: CheckpointDirectory,
    pub(super) scratch_dir: PathBuf,
    pub(super) of_host: OfHost,
    pub(super) instances: Arc<dyn Instances>,
    pub(super) smokes: Smokes,
    list: Mutex<HashMap<String, Arc<Served>>>,
}

impl Sessions {
    /// Makes an empty list.
    pub(super) fn new(settings: Settings) -> Arc<Sessions> {
        let Settings {
            engine,
            host,
            kind,
            checkpoints,
            scratch_dir,
            of_host,
            instances,
            repositories,
        } = settings;
        let sandboxes = OfProcess {
            engine: engine.clone(),
            host: of_host.clone(),
            directory: scratch_dir.clone(),
        };
        let smokes = Smokes::new(Means {
            engine: engine.clone(),
            sandboxes: Arc::new(sandboxes),
            cached: Some(CachedSandboxes::of(&repositories.state_dir)),
            repositories,
            scratch: scratch_dir.clone(),
            stop: CancellationToken::new(),
        });
        let list = Mutex::default();
        Arc::new(Sessions {
            host,
            kind,
            checkpoints,
            scratch_dir,
            of_host,
            instances,
            smokes,
            list,
        })
    }

    /// Ends all sessions and smoke runs.
    pub(super) async fn close(&self) {
        tokio::join!(self.stop_all(|_| true), self.smokes.close_all(|_| true));
    }

    /// Ends the sessions that a connection started, and its smoke runs.
    pub(super) async fn stop_those_of(&self, connection: u64) {
        let sessions = self.stop_all(|served| served.connection == connection);
        tokio::join!(sessions, self.smokes.close_those_of(connection));
    }

    async fn stop_all(&self, which: impl Fn(&Served) -> bool) {
        let chosen: Vec<_> =
            locked(&self.list).values().filter(|served| which(served)).cloned().collect();
        join_all(chosen.iter().map(|served| self.stop(served))).await;
    }

    /// Takes a session up, and ends it when its time is over.
    pub(super) fn add(self: &Arc<Self>, served: Arc<Served>) {
        locked(&self.list).insert(served.id.clone(), served.clone());
        let limit = |seconds: Option<f64>| seconds.map(Duration::from_secs_f64);
        let (ttl, idle) = (limit(served.order.ttl_seconds), limit(served.order.idle_seconds));
        if ttl.is_none() && idle.is_none() {
            return;
        }
        let (sessions, watched) = (Arc::downgrade(self), served.clone());
        let watch = tokio::spawn(async move {
            let over = async {
                match ttl {
                    Some(ttl) => crate::session::sleep(ttl).await,
                    None => std::future::pending().await,
                }
            };
            let unused = async {
                match idle {
                    Some(idle) => watched.uses.none_for(idle).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => {}
                () = unused => {}
            }
            // Who ends a session ends what watches it.
            if let Some(own) = locked(&watched.watch).take() {
                own.detach();
            }
            if let Some(sessions) = sessions.upgrade() {
                let _ = sessions.stop(&watched).await;
            }
        });
        *locked(&served.watch) = Some(AbortOnDropHandle::new(watch));
    }

    /// Finds a session.
    pub(super) fn find(&self, id: &str) -> Result<Arc<Served>, Fault> {
        let found = locked(&self.list).get(id).cloned();
        found.ok_or_else(|| {
            Fault::new(Kind::NoSuchSession, format!("there is no session `{id}`, or it has ended"))
                .hint("`session.ls` lists them")
        })
    }

    /// Lists the sessions, the oldest first.
    pub(super) fn list(&self) -> Vec<Arc<Served>> {
        let mut all: Vec<_> = locked(&self.list).values().cloned().collect();
        all.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        all
    }

    /// Ends a session, and forgets it.
    pub(super) async fn stop(&self, served: &Served) -> Result<SessionEnd, Fault> {
        let end = served.stop().await;
        locked(&self.list).remove(&served.id);
        let _ = std::fs::remove_dir_all(self.scratch_dir.join(&served.id));
        end
    }
}
