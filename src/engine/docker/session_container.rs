//! The container of a session, which its commands share.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bollard::Docker;
use bollard::errors::Error;
use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::ExecConfig;
use bollard::query_parameters::InspectContainerOptions;
use futures_util::StreamExt as _;

use crate::engine::{Result, SessionEnd};

use super::scratch;
use super::transport::Way;

/// A container that commands run in.
pub(super) struct SessionContainer {
    pub docker: Docker,
    pub way: Way,
    pub id: String,
    /// Whom commands run as.
    pub user: String,
    /// `NAME=value`, for each command. The container has them not, so that no checkpoint has them.
    pub env: Vec<String>,
    /// Its directories in memory.
    pub in_memory: Vec<String>,
    /// Whether the kernel may kill for memory.
    pub limits_memory: bool,
    /// How often it did.
    pub memory_kills: AtomicU64,
    /// The session was stopped.
    pub is_stopped: AtomicBool,
    /// Why this process killed it.
    pub over: Mutex<Option<SessionEnd>>,
}

impl SessionContainer {
    /// Kills the container.
    pub(super) async fn kill(&self, why: SessionEnd) -> Result<()> {
        self.over.lock().expect("no holder panics").get_or_insert(why);
        scratch::remove_container(&self.docker, &self.id).await
    }

    /// Says how it ended, or would.
    pub(super) fn how(&self) -> SessionEnd {
        let over = self.over.lock().expect("no holder panics").clone();
        match (over, self.is_stopped.load(Ordering::Acquire)) {
            (Some(why), _) => why,
            (None, true) => SessionEnd::Stopped,
            // Files in memory stay when the kernel kills who wrote them: then it kills the first process.
            (None, false) if self.memory_kills.load(Ordering::Acquire) > 0 => {
                SessionEnd::OutOfMemory
            }
            (None, false) => SessionEnd::Killed,
        }
    }
}

impl SessionContainer {
    /// Tells whether the container runs.
    pub(super) async fn is_running(&self) -> bool {
        let options = None::<InspectContainerOptions>;
        let found = self.docker.inspect_container(&self.id, options).await;
        found.is_ok_and(|found| found.state.is_some_and(|state| state.running == Some(true)))
    }

    /// Tells whether commands can be run: a container whose first process is gone may still be said
    /// to run.
    pub(super) async fn is_alive(&self) -> bool {
        matches!(self.run_script(":", &[], "0:0").await, Ok(Some(0)))
    }

    /// Runs a script of our own to its end, and returns its exit code.
    pub(super) async fn run_script(
        &self,
        script: &str,
        arguments: &[&str],
        user: &str,
    ) -> std::result::Result<Option<i64>, Error> {
        let words = ["/bin/sh", "-c", script, "sh"].into_iter().chain(arguments.iter().copied());
        let config = ExecConfig {
            cmd: Some(words.map(str::to_owned).collect()),
            user: Some(user.to_owned()),
            working_dir: Some("/".to_owned()),
            // Without an output the engine does not say when it is over.
            attach_stdout: Some(true),
            ..ExecConfig::default()
        };
        let id = self.docker.create_exec(&self.id, config).await?.id;
        let started = self.docker.start_exec(&id, None::<StartExecOptions>).await?;
        if let StartExecResults::Attached { mut output, .. } = started {
            while output.next().await.is_some() {}
        }
        Ok(self.docker.inspect_exec(&id).await?.exit_code)
    }
}
