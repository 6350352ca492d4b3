//! Sessions as pods: the pod of an evaluation whose container waits, and commands beside it.
//!
//! The pod belongs to the Lease of this process, as those of evaluations do. When the cluster takes it away
//! the session has ended as [`SessionEnd::Lost`], and no command of it has a result.

mod exec;
mod files;
mod marks;
mod script;
mod start;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::engine::{
    Began, EngineError, EngineKind, Exec, ExecRequest, ExecSummary, Input, LogSink, NoLog, Result,
    SandboxSession, SessionEnd,
};

use super::run::Placed;
use super::shared::Shared;

/// The container of a session, which its commands share.
struct PodContainer {
    shared: Arc<Shared>,
    /// The name of the pod.
    pod: String,
    /// Whom commands run as.
    user: String,
    /// Where commands start.
    directory: String,
    /// How the session ended.
    over: watch::Sender<Option<SessionEnd>>,
    placed: Mutex<Option<Placed>>,
}

impl PodContainer {
    fn unsupported(&self, action: &'static str) -> EngineError {
        EngineKind::Kubernetes.without(action)
    }

    /// Fails where the session has ended.
    fn check(&self) -> Result<()> {
        match &*self.over.borrow() {
            None => Ok(()),
            Some(how) => {
                Err(EngineError::SessionEnded { session: self.pod.clone(), how: how.clone() })
            }
        }
    }

    async fn spawn(self: &Arc<Self>, request: &ExecRequest) -> Result<Exec> {
        request.check()?;
        if let Some(how) = self.over.borrow().clone() {
            return Ok(Exec::of_ended(how));
        }
        let spawned = async {
            let file = match &request.input {
                Input::Bytes(bytes) => Some(files::stage(self, bytes).await?),
                Input::Null | Input::Held => None,
            };
            exec::spawn(self, request, file.as_deref()).await
        };
        let mut over = self.over.subscribe();
        tokio::select! {
            spawned = spawned => match (spawned, self.over.borrow().clone()) {
                (Err(_), Some(how)) => Ok(Exec::of_ended(how)),
                (spawned, _) => spawned,
            },
            _ = over.wait_for(Option::is_some) => {
                Ok(Exec::of_ended(self.over.borrow().clone().unwrap_or(SessionEnd::Stopped)))
            }
        }
    }

    async fn exec(
        self: &Arc<Self>,
        request: &ExecRequest,
        out: &dyn LogSink,
        error: &dyn LogSink,
    ) -> Result<ExecSummary> {
        let began = Began::now();
        self.spawn(request).await?.attend(request, began, out, error).await
    }

    /// Runs a script whose output nobody wants.
    fn run(self: Arc<Self>, request: ExecRequest) -> BoxFuture<'static, Result<ExecSummary>> {
        async move { self.exec(&request, &NoLog, &NoLog).await }.boxed()
    }

    /// Ends the session, and removes the pod.
    async fn kill(&self, why: SessionEnd) {
        self.over.send_if_modified(|over| {
            let is_first = over.is_none();
            if is_first {
                *over = Some(why);
            }
            is_first
        });
        let placed = self.placed.lock().expect("no holder panics").take();
        if let Some(placed) = placed {
            placed.remove(0).await;
        }
    }
}

/// A session of this process.
struct Session {
    container: Arc<PodContainer>,
    /// Watches for the end of the pod.
    watching: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.watching.abort();
        self.container.over.send_if_modified(|over| {
            let is_first = over.is_none();
            over.get_or_insert(SessionEnd::Stopped);
            is_first
        });
        // Its pod goes when that is dropped.
        drop(self.container.placed.lock().expect("no holder panics").take());
    }
}

#[async_trait]
impl SandboxSession for Session {
    fn id(&self) -> &str {
        &self.container.pod
    }

    fn engine(&self) -> EngineKind {
        EngineKind::Kubernetes
    }

    async fn spawn(&self, request: &ExecRequest) -> Result<Exec> {
        self.container.spawn(request).await
    }

    async fn put(
        &self,
        directory: &str,
        make: bool,
        tar: &mut (dyn AsyncRead + Send + Unpin),
    ) -> Result<()> {
        files::put(&self.container, directory, make, tar).await
    }

    async fn get(&self, path: &str, tar: &mut (dyn AsyncWrite + Send + Unpin)) -> Result<()> {
        files::get(&self.container, path, tar).await
    }

    async fn ended(&self) -> Result<SessionEnd> {
        let mut over = self.container.over.subscribe();
        let how = over.wait_for(Option::is_some).await;
        Ok(how.ok().and_then(|how| how.clone()).unwrap_or(SessionEnd::Stopped))
    }

    async fn stop(&self) -> Result<SessionEnd> {
        self.container.kill(SessionEnd::Stopped).await;
        self.ended().await
    }
}
