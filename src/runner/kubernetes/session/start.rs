//! Starting a session: its image in the registry, its pod, and what is known of its container.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::engine::{
    EngineError, EngineKind, ExecEnd, ExecRequest, ImageConfig, LogSink, Quotas, Result,
    SandboxNetwork, SandboxRequest, SandboxSession, SessionEnd, SessionHost, SessionRequest,
    SessionSettings, label,
};
use crate::key::KeyDocument;
use crate::key::Kind;
use crate::plan::name;
use crate::runner::{POD_SESSION, Tests};

use super::super::client::lost;
use super::super::cluster::Cluster;
use super::super::pod::{PodOrder, Work};
use super::super::run::{self, Placed};
use super::super::shared::Shared;
use super::super::state::{self, Ours, PodState, Seen};
use super::super::watch::{Told, Watched};
use super::super::{canary, pod};
use super::exec::ODD_NAMES;
use super::{PodContainer, Session, script};

const ACTION: &str = "keep a session in a pod";

/// How long a probe of the network may take.
const PROBE: Duration = Duration::from_secs(60);

#[async_trait]
impl SessionHost for Cluster {
    async fn start_session(
        &self,
        request: &SessionRequest,
        log: &dyn LogSink,
    ) -> Result<Box<dyn SandboxSession>> {
        check(request)?;
        let image = self.image(request).await?;
        let shared = self.shared();
        let mut named = request.labels.clone();
        named.insert(label::RUN.to_owned(), self.run_id().to_owned());
        let sandbox = SandboxRequest {
            image: image.reference,
            files: Vec::new(),
            command: String::new(),
            time_limit: POD_SESSION,
            memory: request.memory,
            milli_cpus: request.milli_cpus,
            pids: None,
            quotas: request.quotas,
            network: request.network,
            loopback_names: request.loopback_names.clone(),
            variables: request.variables.clone(),
            labels: named,
        };
        let (placed, watched, began, ours) = place(shared, &sandbox, log).await?;
        let container = Arc::new(PodContainer {
            shared: shared.clone(),
            pod: placed.name().to_owned(),
            user: image.user,
            directory: image.directory,
            over: watch::channel(None).0,
            placed: Mutex::new(Some(placed)),
        });
        let watching = tokio::spawn(watch_over(container.clone(), watched, began, ours));
        let session = Session { container, watching };
        if request.network == SandboxNetwork::None {
            let asked = || reached(&session, shared);
            let reached = shared.reached.get_or_try_init(asked).await?;
            self.check_closed(reached)?;
        }
        Ok(Box::new(session))
    }

    fn beforehand(&self) -> Option<EngineKind> {
        Some(EngineKind::Kubernetes)
    }

    async fn directory(&self, image: &str) -> Result<String> {
        let found = self.found(image).await?;
        Ok(found.map(|(config, _)| config.working_dir).unwrap_or_default())
    }

    async fn forget(&self, _: &str) -> Result<()> {
        Err(EngineKind::Kubernetes.without("remove a checkpoint of a session"))
    }
}

/// Refuses what a pod cannot have.
fn check(request: &SessionRequest) -> Result<()> {
    let SessionRequest { settings, network, pids, quotas, .. } = request;
    let SessionSettings {
        hostname,
        working_dir: _,
        binds,
        volumes,
        tmpfs,
        directories,
        groups,
        read_only,
        hosts,
        dropped_capabilities,
        process_limits,
    } = settings;
    let Quotas { disk: _, files, file, log: _ } = quotas;
    let action = match () {
        () if !binds.is_empty() => "give a session files of this machine",
        () if !volumes.is_empty() || !directories.is_empty() => "give a session volumes",
        () if !tmpfs.is_empty() => "give a session directories in memory",
        () if *read_only => "start a session that is read-only",
        () if hostname.is_some() => "give a session another host name",
        () if !hosts.is_empty() => "give a session further names of hosts",
        () if !groups.is_empty() => "give the user of a session further groups",
        () if *dropped_capabilities != 0 => "take capabilities from a session",
        () if !process_limits.is_empty() => "limit the processes of a session one by one",
        () if !request.variables.keys().all(|name| script::is_name(name)) => ODD_NAMES,
        () if pids.is_some() => "limit how many processes a session has",
        () if files.is_some() || file.is_some() => "limit the files of a session",
        () if *network == SandboxNetwork::Host => "give a session the network of this machine",
        () if *network == SandboxNetwork::SilentPeer => "give a session a silent network",
        () => return Ok(()),
    };
    Err(EngineKind::Kubernetes.without(action))
}

/// An image as the nodes of the cluster find it.
struct Found {
    reference: String,
    user: String,
    directory: String,
}

impl Cluster {
    /// Returns what runs in an image by default, and whether the image is here; one by its key may be in the
    /// registry alone.
    async fn found(&self, image: &str) -> Result<Option<(ImageConfig, bool)>> {
        if let Some(config) = self.engine().config(image).await? {
            return Ok(Some((config, true)));
        }
        let Some((kind, key)) = name::parse(image) else { return Ok(None) };
        let there = self.registry().image(kind, &key).await?;
        Ok(there.map(|there| (there.config, false)))
    }

    /// Brings the image of a session to the registry.
    async fn image(&self, request: &SessionRequest) -> Result<Found> {
        let image = &request.image;
        let refused = |reason: String| EngineError::Refused { action: ACTION.to_owned(), reason };
        let asked = request.settings.working_dir.clone();
        if image.contains("@sha256:") {
            // Who it names is known to the node alone.
            let Some(user) = request.user.clone() else {
                return Err(refused(format!(
                    "whom `{image}` names as its user is not known here: say whom commands run as, such \
                     as `--user root`"
                )));
            };
            let directory = asked.unwrap_or_else(|| "/".to_owned());
            return Ok(Found { reference: image.clone(), user, directory });
        }
        let Some((kind, key)) = name::parse(image) else {
            return Err(refused(format!(
                "pods get an image from a registry by its digest, and `{image}` has none: name an \
                 instance, or REGISTRY/NAME@sha256:DIGEST"
            )));
        };
        let missing = || EngineError::NoSuchImage { reference: image.clone() };
        let (config, is_here) = self.found(image).await?.ok_or_else(missing)?;
        let reference = match is_here {
            true => self.offered(kind, key).await?,
            false => {
                let there = self.registry().digest_reference(kind, &key).await?;
                there.ok_or_else(missing)?
            }
        };
        let working_dir = Some(config.working_dir).filter(|directory| !directory.is_empty());
        Ok(Found {
            reference,
            user: request.user.clone().unwrap_or(config.user),
            directory: asked.or(working_dir).unwrap_or_else(|| "/".to_owned()),
        })
    }
}

/// Makes the pod, and waits until its container runs.
async fn place(
    shared: &Arc<Shared>,
    sandbox: &SandboxRequest,
    log: &dyn LogSink,
) -> Result<(Placed, Watched, Instant, Ours)> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let number = shared.next_number();
    let key = KeyDocument::new(Kind::Evaluation).with("session", &shared.lease.owner.uid).key();
    let named = |label: &str| sandbox.labels.get(label).map(String::as_str).unwrap_or_default();
    let order = PodOrder {
        request: sandbox,
        work: Work::Session,
        owner: &shared.lease.owner,
        run_id: named(label::RUN),
        instance: named(label::INSTANCE),
        key: &key,
        environment: None,
        number,
        architecture: &shared.architecture,
        now: now.as_secs(),
        more: 0,
    };
    let pod = shared.settings.template.merge(pod::pod(&order, &shared.settings)?);
    let pod_name = pod::name(order.owner, order.key, number);
    let mut watched = shared.watch.pod(&pod_name);
    let placed = Placed::of(shared, &pod_name, 0);
    let said = Mutex::new(String::new());
    let tell = |text: String| *said.lock().expect("no holder panics") = text;
    let tests = Tests { request: sandbox, key: &key, environment: None, tell: &tell };
    let started = async {
        run::place(shared, &pod, &[], &tests).await?;
        watched.created();
        let began = Instant::now();
        let mut ours = Ours::new(shared.settings.start_limit, POD_SESSION);
        loop {
            shared.check_lease()?;
            let told = watched.told.borrow_and_update().clone();
            match state_of(&told, &mut ours, began) {
                Some(PodState::Running) => return Ok((began, ours)),
                Some(PodState::Lost(loss)) => return Err(lost(ACTION, loss.reason)),
                Some(PodState::Refused(reason)) => {
                    return Err(EngineError::Refused { action: ACTION.to_owned(), reason });
                }
                Some(PodState::NoSuchImage(reason)) => {
                    shared.forget_offers();
                    return Err(EngineError::NotFound { reference: sandbox.image.clone(), reason });
                }
                Some(PodState::PullDenied(reason)) => {
                    return Err(EngineError::Pull { reference: sandbox.image.clone(), reason });
                }
                Some(PodState::Ended(_)) => return Err(lost(ACTION, "it ended at once")),
                None if began.elapsed() > shared.settings.start_limit => {
                    let why = watched.trouble();
                    return Err(lost(ACTION, why.unwrap_or("nothing is told of it".to_owned())));
                }
                _ => {}
            }
            if let (Told::Pod(pod), true) = (&told, began.elapsed() > Duration::from_secs(10)) {
                ours.warning = run::newest_warning(shared, &pod_name).await.or(ours.warning.take());
                let why = state::not_started(pod, &ours);
                log.write(format!("wait for the pod to start: {why}\n").as_bytes());
            }
            let _ = tokio::time::timeout(Duration::from_secs(5), watched.told.changed()).await;
        }
    };
    match started.await {
        Ok((began, ours)) => Ok((placed, watched, began, ours)),
        Err(error) => {
            placed.remove(0).await;
            Err(error)
        }
    }
}

fn state_of(told: &Told, ours: &mut Ours, began: Instant) -> Option<PodState> {
    let now = began.elapsed();
    let seen = match told {
        Told::Nothing => return None,
        Told::Pod(pod) => {
            ours.observe(pod, now);
            Seen::Pod(pod)
        }
        Told::Gone(pod) => Seen::Gone(pod.as_deref()),
    };
    Some(state::state(seen, now, ours))
}

/// Ends a session whose pod is gone, or runs no more.
async fn watch_over(
    container: Arc<PodContainer>,
    mut watched: Watched,
    began: Instant,
    mut ours: Ours,
) {
    loop {
        let told = watched.told.borrow_and_update().clone();
        let how = match state_of(&told, &mut ours, began) {
            Some(PodState::Lost(loss)) => Some(SessionEnd::Lost(loss.reason)),
            Some(PodState::Ended(state::End::OutOfMemory { .. })) => Some(SessionEnd::OutOfMemory),
            Some(PodState::Ended(_)) => Some(SessionEnd::Killed),
            Some(PodState::Refused(reason)) => Some(SessionEnd::Lost(reason)),
            _ if container.shared.lease.is_gone() => {
                Some(SessionEnd::Lost("somebody deleted its Lease".to_owned()))
            }
            _ => None,
        };
        if let Some(how) = how {
            container.kill(how).await;
            return;
        }
        let _ = tokio::time::timeout(Duration::from_secs(5), watched.told.changed()).await;
    }
}

/// Tries what the container of a session reaches; empty where that is nothing.
async fn reached(session: &Session, shared: &Shared) -> Result<String> {
    let output = canary::Kept::default();
    let request = ExecRequest {
        time_limit: Some(PROBE),
        working_dir: Some("/".to_owned()),
        variables: BTreeMap::new(),
        ..ExecRequest::of(&["/bin/sh", "-c", &canary::probe(&shared.server)])
    };
    let ended = session.exec(&request, &output, &output).await?;
    let code = match ended.end {
        ExecEnd::Exited(code) => code.into(),
        _ => -1,
    };
    canary::judge(code, &output)
}
