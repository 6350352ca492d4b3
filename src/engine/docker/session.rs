//! Sessions: a container whose first process does nothing, and commands beside it.
//!
//! The container lives as long as its standard input is open: it ends with the session, and with this
//! process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bollard::container::AttachContainerResults;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, ContainerArchiveInfoOptionsBuilder, CreateContainerOptions,
    DownloadFromContainerOptionsBuilder, EventsOptionsBuilder, StartContainerOptions,
    UploadToContainerOptionsBuilder, WaitContainerOptions,
};
use futures_util::StreamExt as _;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::io::ReaderStream;

use crate::engine::{
    Checkpoint, EngineError, EngineKind, Exec, ExecEnd, ExecRequest, HostBind, NoLog, Quotas,
    Result, SandboxNetwork, SandboxSession, SessionEnd, SessionRequest, SessionSettings, Tmpfs,
};
use crate::in_use::{self, InUse};

use super::DockerEngine;
use super::checkpoint::ImageOfSession;
use super::errors::{failed, is_not_found};
use super::in_memory;
use super::quota::Gauge;
use super::scratch;
use super::session_container::SessionContainer;

const ACTION: &str = "keep a session";

/// How long the end of a container may take that was killed.
const END_GRACE: Duration = Duration::from_secs(30);

/// Bytes of an archive that are sent at once.
const PIECE: usize = 1 << 16;

/// What the first process runs: it waits for the end of its input. What a command of the container
/// kills is started again, and the shell itself, as the first process, cannot be killed from there.
const WAIT: &str = "command -v cat >/dev/null || exit 1\nuntil cat >/dev/null 2>&1; do :; done\n";

/// The bit of a directory in the mode of a file as Go has it.
const DIRECTORY: u32 = 1 << 31;

impl DockerEngine {
    pub(super) async fn start_session(
        &self,
        request: &SessionRequest,
    ) -> Result<Box<dyn SandboxSession>> {
        check(&request.settings)?;
        if request.network == SandboxNetwork::SilentPeer {
            self.ensure_silent_network().await?;
        }
        let cpus = match request.milli_cpus {
            Some(_) => Some(self.facts().await?.cpus),
            None => None,
        };
        let image = self.image_of_session(&request.image).await?;
        loop {
            let ipv6 = !self.without_ipv6.load(Ordering::Relaxed);
            let mut body = self.body(&request.sandbox(), cpus, ipv6);
            settle(&mut body, &request.settings);
            let started = self.start_once(request, &image, body).await;
            let asked = ipv6 && request.network != SandboxNetwork::Host;
            if started.is_ok() || !asked || !self.lacks_ipv6(&request.image).await {
                return started;
            }
            self.without_ipv6.store(true, Ordering::Relaxed);
        }
    }

    async fn start_once(
        &self,
        request: &SessionRequest,
        image: &ImageOfSession,
        body: ContainerCreateBody,
    ) -> Result<Box<dyn SandboxSession>> {
        let docker = &self.docker;
        let in_use = in_use::begin().await;
        let id = match docker.create_container(None::<CreateContainerOptions>, body).await {
            Ok(created) => created.id,
            Err(error) if is_not_found(&error) => {
                return Err(EngineError::NoSuchImage { reference: request.image.clone() });
            }
            Err(error) => return Err(failed("create a session", error)),
        };
        let options = AttachContainerOptionsBuilder::new().stdin(true).stream(true).build();
        let started = async {
            let attached = docker.attach_container(&id, Some(options)).await?;
            docker.start_container(&id, None::<StartContainerOptions>).await?;
            Ok(attached)
        };
        let attached: AttachContainerResults = match started.await {
            Ok(attached) => attached,
            Err(error) => {
                // What is left of it is found by its label.
                let _ = scratch::remove_container(docker, &id).await;
                return Err(failed("start a session", error));
            }
        };
        let shared = Arc::new(SessionContainer {
            docker: docker.clone(),
            way: self.endpoint.way.clone(),
            id,
            user: request.user.clone().unwrap_or_else(|| image.config.user.clone()),
            env: request.variables.iter().map(|(name, value)| format!("{name}={value}")).collect(),
            in_memory: request.settings.tmpfs.iter().map(|one| one.target.clone()).collect(),
            limits_memory: request.memory.is_some(),
            memory_kills: AtomicU64::new(0),
            is_stopped: AtomicBool::new(false),
            over: Mutex::default(),
        });
        let (tell, outcome) = watch::channel(None);
        let mut tasks = vec![tokio::spawn(watch_over(shared.clone(), tell))];
        if shared.limits_memory {
            tasks.push(tokio::spawn(count_memory_kills(shared.clone())));
        }
        if request.quotas.disk.is_some() || request.quotas.files.is_some() {
            tasks.push(tokio::spawn(bound(self.gauge(), shared.clone(), request.quotas)));
        }
        Ok(Box::new(Session {
            shared,
            outcome,
            tasks,
            parent: request.image.clone(),
            image: image.clone(),
            _attached: Mutex::new(attached),
            _in_use: in_use,
        }))
    }
}

/// Refuses what a session on Docker cannot have.
fn check(settings: &SessionSettings) -> Result<()> {
    let SessionSettings { hosts, dropped_capabilities, process_limits, .. } = settings;
    let action = match () {
        () if !hosts.is_empty() => "give a session further names of hosts",
        () if *dropped_capabilities != 0 => "take capabilities from a session",
        () if !process_limits.is_empty() => "limit the processes of a session one by one",
        () => return Ok(()),
    };
    let why = "the embedded engine can: `--engine embedded`";
    Err(EngineError::Unsupported { engine: EngineKind::Docker, action, why })
}

/// Makes a container one of a session with these settings.
fn settle(body: &mut ContainerCreateBody, settings: &SessionSettings) {
    body.cmd = Some(vec![WAIT.to_owned()]);
    body.env = None;
    body.working_dir.clone_from(&settings.working_dir);
    if settings.hostname.is_some() {
        body.hostname.clone_from(&settings.hostname);
    }
    let Some(host) = &mut body.host_config else { return };
    host.init = Some(false);
    host.readonly_rootfs = Some(settings.read_only);
    let bind = |bind: &HostBind| {
        let mode = if bind.read_only { "ro" } else { "rw" };
        format!("{}:{}:{mode}", bind.source.display(), bind.target)
    };
    host.binds = Some(settings.binds.iter().map(bind).collect());
    let in_memory = |tmpfs: &Tmpfs| {
        let Tmpfs { target, size, mode, executable, read_only } = tmpfs;
        let size = size.map_or_else(String::new, |size| format!(",size={size}"));
        let programs = if *executable { "exec" } else { "noexec" };
        let writes = if *read_only { "ro" } else { "rw" };
        (target.clone(), format!("mode={mode:o}{size},{programs},{writes}"))
    };
    host.tmpfs = Some(settings.tmpfs.iter().map(in_memory).collect());
}

/// Waits for the end of a session and tells it.
async fn watch_over(shared: Arc<SessionContainer>, tell: watch::Sender<Option<SessionEnd>>) {
    let mut waited = shared.docker.wait_container(&shared.id, None::<WaitContainerOptions>);
    while waited.next().await.is_some_and(|answer| answer.is_ok()) {}
    let _ = tell.send(Some(shared.how()));
}

/// Counts how often the kernel killed for memory.
async fn count_memory_kills(shared: Arc<SessionContainer>) {
    let filters = HashMap::from([("container", vec![shared.id.as_str()]), ("event", vec!["oom"])]);
    // From the beginning: what came before the engine took this request counts too.
    let options = EventsOptionsBuilder::new().since("1").filters(&filters).build();
    let mut events = shared.docker.events(Some(options));
    while let Some(Ok(_)) = events.next().await {
        shared.memory_kills.fetch_add(1, Ordering::Release);
    }
}

/// Kills a session that writes more than it may.
async fn bound(gauge: Gauge, shared: Arc<SessionContainer>, quotas: Quotas) {
    let quota = gauge.measure(&shared.id, quotas, &NoLog).await;
    let _ = shared.kill(SessionEnd::OverQuota(quota)).await;
}

/// A session of this process.
struct Session {
    shared: Arc<SessionContainer>,
    outcome: watch::Receiver<Option<SessionEnd>>,
    tasks: Vec<JoinHandle<()>>,
    /// What it was started from.
    parent: String,
    image: ImageOfSession,
    /// Its input, whose end is that of the container.
    _attached: Mutex<AttachContainerResults>,
    _in_use: InUse,
}

impl Drop for Session {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        if self.shared.is_stopped.load(Ordering::Acquire) {
            return;
        }
        // It ends by itself; what is left of it is found by its label where nothing runs any more.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let shared = self.shared.clone();
            runtime
                .spawn(async move { scratch::remove_container(&shared.docker, &shared.id).await });
        }
    }
}

impl Session {
    async fn end(&self) -> Result<SessionEnd> {
        let mut outcome = self.outcome.clone();
        match tokio::time::timeout(END_GRACE, outcome.wait_for(Option::is_some)).await {
            Ok(Ok(end)) => Ok(end.clone().expect("it was waited for")),
            Ok(Err(_)) => Ok(self.shared.how()),
            Err(_) => Err(EngineError::Transient {
                action: ACTION.to_owned(),
                source: "its container does not end".into(),
            }),
        }
    }

    /// Makes the error of a request that failed, or that of a session that has ended.
    async fn failed_or_ended(&self, action: &str, error: bollard::errors::Error) -> EngineError {
        if !self.has_ended(&error).await {
            return failed(action, error);
        }
        match self.end().await {
            Ok(how) => EngineError::SessionEnded { session: self.shared.id.clone(), how },
            Err(error) => error,
        }
    }

    /// Tells whether a request failed because the container runs no more.
    async fn has_ended(&self, error: &bollard::errors::Error) -> bool {
        super::attach::has_ended(error) && !self.shared.is_running().await
    }
}

#[async_trait]
impl SandboxSession for Session {
    fn id(&self) -> &str {
        &self.shared.id
    }

    fn engine(&self) -> EngineKind {
        EngineKind::Docker
    }

    async fn spawn(&self, request: &ExecRequest) -> Result<Exec> {
        request.check()?;
        match super::exec::spawn(&self.shared, request, self.outcome.clone()).await {
            Ok(exec) => Ok(exec),
            Err(error) if self.has_ended(&error).await => Ok(Exec::of_ended(self.end().await?)),
            Err(error) => Err(failed("start a command", error)),
        }
    }

    async fn put(
        &self,
        directory: &str,
        make: bool,
        tar: &mut (dyn AsyncRead + Send + Unpin),
    ) -> Result<()> {
        let SessionContainer { docker, id, .. } = &*self.shared;
        let missing = || EngineError::NoSuchPath { path: directory.to_owned() };
        if make {
            let command = ExecRequest {
                user: Some("0:0".to_owned()),
                ..ExecRequest::of(&["/bin/mkdir", "-p", "--", directory])
            };
            let made = self.exec(&command, &NoLog, &NoLog).await?;
            if !matches!(made.end, ExecEnd::Exited(0) | ExecEnd::SessionEnded(_)) {
                return Err(missing());
            }
        }
        if in_memory::has(&self.shared.in_memory, directory) {
            return in_memory::put(self, directory, tar).await;
        }
        let options = ContainerArchiveInfoOptionsBuilder::new().path(directory).build();
        match docker.get_container_archive_info(id, Some(options)).await {
            // A link is followed by the upload.
            Ok(found) if found.file_mode & DIRECTORY == 0 && found.link_target.is_empty() => {
                return Err(missing());
            }
            Ok(_) => {}
            Err(error) if is_not_found(&error) && self.shared.is_running().await => {
                return Err(missing());
            }
            Err(error) => return Err(self.failed_or_ended("look into a session", error).await),
        }
        let (theirs, mut ours) = tokio::io::duplex(PIECE);
        let options = UploadToContainerOptionsBuilder::new().path(directory).build();
        let body = bollard::body_try_stream(ReaderStream::with_capacity(theirs, PIECE));
        let send = async {
            let copied = tokio::io::copy(tar, &mut ours).await;
            let _ = ours.shutdown().await;
            copied
        };
        let upload = docker.upload_to_container(id, Some(options), body);
        let (copied, uploaded) = tokio::join!(send, upload);
        match uploaded {
            Ok(()) => {}
            Err(error) => {
                return Err(self.failed_or_ended("write files into a session", error).await);
            }
        }
        copied.map(|_| ()).map_err(|error| EngineError::Refused {
            action: "read an archive".to_owned(),
            reason: error.to_string(),
        })
    }

    async fn get(&self, path: &str, tar: &mut (dyn AsyncWrite + Send + Unpin)) -> Result<()> {
        let SessionContainer { docker, id, .. } = &*self.shared;
        if in_memory::has(&self.shared.in_memory, path) {
            return in_memory::get(self, path, tar).await;
        }
        let options = DownloadFromContainerOptionsBuilder::new().path(path).build();
        let mut pieces = Box::pin(docker.download_from_container(id, Some(options)));
        while let Some(piece) = pieces.next().await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) if is_not_found(&error) && self.shared.is_running().await => {
                    return Err(EngineError::NoSuchPath { path: path.to_owned() });
                }
                Err(error) => {
                    return Err(self.failed_or_ended("read files of a session", error).await);
                }
            };
            tar.write_all(&piece).await.map_err(|error| EngineError::Refused {
                action: "write an archive".to_owned(),
                reason: error.to_string(),
            })?;
        }
        Ok(())
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        if !self.shared.is_running().await {
            let (session, how) = (self.shared.id.clone(), self.end().await?);
            return Err(EngineError::SessionEnded { session, how });
        }
        super::checkpoint::commit(&self.shared, &self.parent, &self.image).await
    }

    async fn ended(&self) -> Result<SessionEnd> {
        match self.outcome.clone().wait_for(Option::is_some).await {
            Ok(end) => Ok(end.clone().expect("it was waited for")),
            Err(_) => Ok(self.shared.how()),
        }
    }

    async fn stop(&self) -> Result<SessionEnd> {
        if self.outcome.borrow().is_none() {
            self.shared.is_stopped.store(true, Ordering::Release);
        }
        scratch::remove_container(&self.shared.docker, &self.shared.id).await?;
        self.end().await
    }
}
