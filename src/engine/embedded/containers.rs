//! Running commands in containers, and finding what interrupted ones left.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::engine::{
    EngineError, EngineKind, LogSink, Quotas, Removed, Result, SandboxEnd, SandboxNetwork,
    SandboxRequest, SessionSettings, label,
};
use crate::owner::{Judge, Liveness, Owner, proc_is_ours};
use crate::run_id::RunId;

use super::capabilities::{DEFAULT, SANDBOX};
use super::checkpoints::Origin;
use super::layout::file_error;
use super::protocol::{Container, Ends, Limits, Network};
use super::{EmbeddedEngine, delegation};

/// The search path where an image sets none.
pub(super) const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is known of a container while it runs, in its directory.
#[derive(Serialize, Deserialize)]
struct Running {
    run: Option<String>,
    instance: Option<String>,
    /// The processes of imgforge, for people.
    owner: String,
}

/// The file of [`Running`].
const RUNNING: &str = "running.json";

impl EmbeddedEngine {
    pub(super) async fn run_command(
        &self,
        reference: &str,
        command: &[String],
        log: &dyn LogSink,
    ) -> Result<i64> {
        let origin = self.origin(reference)?;
        let stored = &origin.stored;
        self.unpack(stored, log).await?;
        let container = Container {
            root: self.snapshots.root(origin.lowers(), true)?,
            command: command.to_vec(),
            env: with_path(&stored.config.env),
            working_dir: stored.config.working_dir.clone(),
            user: stored.config.user.clone(),
            network: Network::None,
            loopback_names: Vec::new(),
            binds: Vec::new(),
            files: Vec::new(),
            capabilities: DEFAULT,
            no_new_privileges: false,
            ends: Ends::Log,
            limits: Limits::default(),
            quotas: Quotas::default(),
            settings: SessionSettings::default(),
        };
        Ok(self.helper_client.run(container, &[], None, log, None).await?.code)
    }

    pub(super) async fn run_in_sandbox(
        &self,
        request: &SandboxRequest,
        log: &dyn LogSink,
        control: &dyn LogSink,
    ) -> Result<SandboxEnd> {
        let origin = self.origin(&request.image)?;
        self.unpack(&origin.stored, control).await?;
        let container = self.sandbox(request, &origin)?;
        let ran = self.helper_client.run(
            container,
            &request.files,
            Some(request.time_limit),
            log,
            Some(control),
        );
        let ended = ran.await?;
        for warning in &ended.warnings {
            control.write(format!("warning: {warning}\n").as_bytes());
        }
        let code = ended.code;
        Ok(if ended.timed_out {
            SandboxEnd::TimedOut
        } else if let Some(quota) = ended.over {
            SandboxEnd::OverQuota(quota)
        } else if ended.out_of_memory {
            SandboxEnd::OutOfMemory(code)
        } else if ended.killed {
            SandboxEnd::Killed(code)
        } else {
            SandboxEnd::Exited(code)
        })
    }

    pub(super) fn sandbox(&self, request: &SandboxRequest, origin: &Origin) -> Result<Container> {
        let stored = &origin.stored;
        let network = match request.network {
            SandboxNetwork::None => Network::None,
            SandboxNetwork::SilentPeer => Network::SilentPeer,
            SandboxNetwork::Host => Network::Host,
            SandboxNetwork::Bridge => {
                return Err(EngineError::Unsupported {
                    engine: EngineKind::Embedded,
                    action: "make a bridged network",
                    why: "the embedded engine has none: use `--network host`, or `none`",
                });
            }
        };
        let root = self.snapshots.root(origin.lowers(), true)?;
        let scratch = self.snapshots.scratch(&root);
        let running = Running {
            run: request.labels.get(label::RUN).cloned(),
            instance: request.labels.get(label::INSTANCE).cloned(),
            owner: self.owner.clone(),
        };
        let text = serde_json::to_vec(&running).expect("labels are valid JSON");
        let path = scratch.join(RUNNING);
        fs::write(&path, text).map_err(file_error("make a container", &path))?;
        let mut env = with_path(&stored.config.env);
        env.extend(request.variables.iter().map(|(name, value)| format!("{name}={value}")));
        let cpus = std::thread::available_parallelism().map_or(1, usize::from) as u64;
        let limited =
            request.memory.is_some() || request.milli_cpus.is_some() || request.pids.is_some();
        if limited {
            tokio::task::block_in_place(|| delegation::prepare(&self.helper_client, &self.dir));
        }
        let name = scratch.file_name().expect("a container has a name").to_string_lossy();
        Ok(Container {
            root,
            command: vec!["/bin/sh".into(), "-c".into(), bootstrap(&request.command)],
            env,
            working_dir: stored.config.working_dir.clone(),
            user: String::new(),
            network,
            loopback_names: request.loopback_names.clone(),
            binds: Vec::new(),
            files: request.files.iter().map(|(path, bytes)| (path.clone(), bytes.len())).collect(),
            capabilities: SANDBOX,
            no_new_privileges: true,
            ends: Ends::LogAndControl,
            limits: Limits {
                memory: request.memory,
                milli_cpus: request.milli_cpus.map(|wanted| wanted.min(cpus * 1000)),
                pids: request.pids,
                group: if limited { name.into_owned() } else { String::new() },
            },
            quotas: request.quotas,
            settings: SessionSettings::default(),
        })
    }

    pub(super) fn remove_containers_of_run(
        &self,
        run_id: &RunId,
        judge: &Judge<'_>,
    ) -> Result<Removed> {
        let mut found = Removed::default();
        for (name, path) in self.containers()? {
            let Ok(text) = fs::read(path.join(RUNNING)) else { continue };
            let Ok(running) = serde_json::from_slice::<Running>(&text) else { continue };
            if running.run.as_deref() != Some(run_id.as_str()) {
                continue;
            }
            // What runs here is meant, whatever it does; elsewhere nothing can be ended.
            let here = Owner::parse(&running.owner).is_some_and(|owner| owner.is_here());
            let made = fs::metadata(&path).and_then(|found| found.modified()).ok();
            if here || judge(&running.owner, made) == Liveness::Dead {
                kill_helpers(&name);
                self.snapshots.take_away(&path)?;
                found.removed.push(format!("container {name}"));
            } else {
                found.kept.push(format!("container {name}"));
            }
        }
        Ok(found)
    }

    fn containers(&self) -> Result<Vec<(String, PathBuf)>> {
        let dir = self.snapshots.containers();
        let entries = fs::read_dir(&dir).map_err(file_error("look at containers", &dir))?;
        Ok(entries
            .flatten()
            .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
            .collect())
    }

    /// Blocks.
    pub(super) fn remove_left_scratch(&self, judge: &Judge<'_>) -> Result<Removed> {
        for (name, path) in self.containers()? {
            let made = fs::metadata(&path).and_then(|found| found.modified()).ok();
            let owner = name.rsplit_once('-').map(|(owner, _)| owner);
            if owner.is_some_and(|owner| judge(owner, made) == Liveness::Dead) {
                kill_helpers(&name);
            }
        }
        let mut found = self.snapshots.remove_leftovers(judge)?;
        for name in found.removed.iter_mut().chain(&mut found.kept) {
            *name = format!("container {name}");
        }
        let files = self.layout.remove_leftovers(judge)?;
        found.removed.extend(files.iter().map(|path| path.display().to_string()));
        delegation::remove_groups(&self.dir, judge);
        Ok(found)
    }
}

/// Returns the environment of an image with a search path.
pub(super) fn with_path(env: &[String]) -> Vec<String> {
    let mut env = env.to_vec();
    if !env.iter().any(|variable| variable.starts_with("PATH=")) {
        env.insert(0, PATH.to_owned());
    }
    env
}

/// What a sandbox runs before its work: as on Docker, the work starts with this mask.
fn bootstrap(command: &str) -> String {
    format!("umask 022\n{command}\n")
}

/// Kills the helper processes of a container, which belong to whoever started it; everything in
/// the container goes with them.
fn kill_helpers(container: &str) {
    // Numbers of another namespace are other processes here.
    if !proc_is_ours() {
        return;
    }
    let mount = format!("../c/{container}/");
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(mounts) = fs::read_to_string(entry.path().join("mounts")) else { continue };
        if mounts.contains(&mount)
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}
