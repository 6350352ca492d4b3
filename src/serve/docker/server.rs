//! The server: its containers, its commands, its networks.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;

use crate::engine::{Engine, EngineInfo, HostAccess, Result as EngineResult, SandboxNetwork};

use super::allowed_binds::AllowedBinds;
use super::answer::Refusal;
use super::container::Container;
use super::count::Count;
use super::events::Events;
use super::exec::ContainerExec;
use super::hosts;
use super::mounts::Mounts;
use super::networks::Networks;
use super::state::{Change, Status};
use super::volumes::Volumes;

/// How a server behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What containers reach that ask for Docker's default network.
    pub default_network: SandboxNetwork,
    /// Which directories of the host containers may have.
    pub allowed_binds: AllowedBinds,
    /// A directory for files that are written on the way to an image.
    pub scratch_dir: PathBuf,
    /// How long a command of `exec` goes on whose client has broken off; without it for ever, as on Docker.
    pub abandoned_execs: Option<Duration>,
    /// Whether what is asked for and not given is an error.
    pub is_strict: bool,
    /// What the steps of a build get from the host.
    pub host: HostAccess,
}

impl Settings {
    /// Refuses what is asked for and not given, where that is wanted.
    ///
    /// # Errors
    /// The warnings, as one.
    pub(super) fn check(&self, warnings: &[String]) -> Result<(), Refusal> {
        match self.is_strict && !warnings.is_empty() {
            true => {
                Err(Refusal::bad(format!("not served (--strict-api): {}", warnings.join("; "))))
            }
            false => Ok(()),
        }
    }
}

/// A server of the Docker Engine API.
pub struct Server {
    /// Keeps the sessions.
    pub(super) engine: Arc<dyn Engine>,
    /// What it is.
    pub(super) info: EngineInfo,
    /// How the server behaves.
    pub(super) settings: Settings,
    /// The networks.
    pub(super) networks: Networks,
    /// The volumes.
    pub(super) volumes: Volumes,
    /// How many images there are.
    pub(super) image_count: Count,
    /// What happens.
    pub(super) events: Arc<Events>,
    containers: Mutex<Vec<Arc<Container>>>,
    execs: Mutex<HashMap<String, Arc<ContainerExec>>>,
    /// Whoever creates a container has this, so that no name is taken twice.
    pub(super) names: tokio::sync::Mutex<()>,
}

impl Server {
    /// Makes a server over an engine.
    ///
    /// # Errors
    /// Where the engine does not say what it is.
    pub async fn new(engine: Arc<dyn Engine>, settings: Settings) -> EngineResult<Arc<Server>> {
        let info = engine.info().await?;
        let state = info.root.clone().unwrap_or_else(|| settings.scratch_dir.clone());
        let volumes = Volumes::new(state.join("volumes"));
        Ok(Arc::new(Server {
            engine,
            info,
            settings,
            networks: Networks::new(),
            volumes,
            image_count: Count::default(),
            events: Arc::new(Events::new()),
            containers: Mutex::default(),
            execs: Mutex::default(),
            names: tokio::sync::Mutex::default(),
        }))
    }

    /// Ends every container. Named volumes stay.
    pub async fn close(&self) {
        let all = std::mem::take(&mut *self.containers());
        join_all(all.iter().map(|container| container.session.stop())).await;
        for container in &all {
            container.volumes.release();
        }
        for container in &all {
            self.remove_anonymous(&container.mounts).await;
        }
    }

    fn containers(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Container>>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns all containers, the oldest first.
    pub(super) fn all(&self) -> Vec<Arc<Container>> {
        self.containers().clone()
    }

    /// Adds a container.
    pub(super) fn add(&self, container: Arc<Container>) {
        self.containers().push(container);
    }

    /// Finds a container by its id, its name, or the beginning of its id.
    ///
    /// # Errors
    /// Where there is none, or several begin so.
    pub(super) fn find(&self, called: &str) -> Result<Arc<Container>, Refusal> {
        let name = called.strip_prefix('/').unwrap_or(called);
        let all = self.containers();
        let exact = all.iter().find(|one| one.id == name || one.name() == name);
        if let Some(container) = exact {
            return Ok(container.clone());
        }
        let mut begins = all.iter().filter(|one| !name.is_empty() && one.id.starts_with(name));
        match (begins.next(), begins.next()) {
            (Some(container), None) => Ok(container.clone()),
            (Some(_), Some(_)) => {
                Err(Refusal::bad(format!("multiple IDs found with provided prefix: {called}")))
            }
            (None, _) => Err(Refusal::absent(format!("No such container: {called}"))),
        }
    }

    /// Removes a container; one that runs only by force. Its anonymous volumes go with it where that is
    /// asked for.
    ///
    /// # Errors
    /// Where it runs.
    pub(super) async fn remove(
        &self,
        container: &Arc<Container>,
        force: bool,
        with_volumes: bool,
    ) -> Result<(), Refusal> {
        let _turn = container.turn.lock().await;
        let status = container.state.now().status;
        if status.is_alive() && !force {
            let (name, status) = (container.name(), status.name());
            return Err(Refusal::conflict(format!(
                "cannot remove container \"/{name}\": container is {status}: stop the container \
                 before removing or force remove"
            )));
        }
        let ends = container.state.now().ends;
        container.restarting.give_up();
        container.session.stop().await?;
        if status == Status::Restarting {
            container.state.set(Change::StaysEnded);
        } else if status.is_alive() {
            container.state.until(|state| state.ends > ends).await;
        }
        self.containers().retain(|one| one.id != container.id);
        self.execs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, exec| exec.container.id != container.id);
        let touched = self.networks.of(&container.id);
        self.networks.leave(&container.id);
        container.state.set(Change::Removed);
        container.tell("destroy", &[]);
        container.output.close();
        container.volumes.release();
        if with_volumes {
            self.remove_anonymous(&container.mounts).await;
        }
        hosts::refresh(&self.networks, &self.all(), &touched).await;
        Ok(())
    }

    /// Removes the anonymous volumes of a container that is gone.
    pub(super) async fn remove_anonymous(&self, mounts: &Mounts) {
        for mount in mounts.volumes.iter().filter(|mount| mount.is_anonymous) {
            if !mount.name.is_empty() {
                // One that another container has as well stays.
                let _ = self.volumes.remove(&*self.engine, &mount.name).await;
            }
        }
    }

    /// Adds a command, and forgets the oldest ended ones of its container beyond `most`.
    pub(super) fn add_exec(&self, exec: Arc<ContainerExec>, most: usize) {
        let mut execs = self.execs.lock().unwrap_or_else(PoisonError::into_inner);
        let of_it = |one: &Arc<ContainerExec>| one.container.id == exec.container.id;
        if execs.values().filter(|one| of_it(one)).count() >= most {
            execs.retain(|_, one| !of_it(one) || !one.has_ended());
        }
        execs.insert(exec.id.clone(), exec);
    }

    /// Finds a command.
    pub(super) fn find_exec(&self, id: &str) -> Result<Arc<ContainerExec>, Refusal> {
        let execs = self.execs.lock().unwrap_or_else(PoisonError::into_inner);
        let absent = || Refusal::absent(format!("No such exec instance: {id}"));
        execs.get(id).cloned().ok_or_else(absent)
    }
}
