//! `imgforge session keep`: the process that keeps a session, started by `session start`.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::config;
use crate::engine::{
    CA_VARIABLES, Engine, EngineError, EngineKind, HostBind, LogSink, SandboxSession,
    SessionRequest,
};
use crate::proxy::Proxies;
use crate::session::checkpoints::{CheckpointDirectory, CheckpointRecord};
use crate::session::directory::{Claim, Ended, SessionRecord, Why};
use crate::session::egress::Egress;
use crate::session::order::{Repository, SessionOrder};
use crate::session::{Kept, Lifetime, Publish, Remember, keep, ports};

use super::super::{CommandResult, Error, Exit, Global, open};
use super::{chain, directory, not_found};

/// Where the authorities are that this machine trusts, for a session with a way out.
const CA_BUNDLE: &str = "/dev/imgforge/ca.pem";

/// What is answered when it is kept, or cannot be.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Started { record: Box<SessionRecord>, warnings: Vec<String> },
    Failed { message: String, hint: Option<String>, is_input: bool },
}

/// Keeps what an engine says while it starts a session.
#[derive(Default)]
struct Said(Mutex<Vec<u8>>);

impl LogSink for Said {
    fn write(&self, bytes: &[u8]) {
        self.0.lock().expect("no writer panics").extend_from_slice(bytes);
    }
}

impl Said {
    fn warnings(&self) -> Vec<String> {
        let said = self.0.lock().expect("no writer panics");
        let text = String::from_utf8_lossy(&said);
        text.lines().filter_map(|line| line.strip_prefix("warning: ")).map(str::to_owned).collect()
    }
}

/// Runs `session keep`.
pub(super) async fn run(global: &Global) -> CommandResult {
    // Signals of the terminal, and its end, are meant for whoever started it.
    let _ = rustix::process::setsid();
    let mut text = Vec::new();
    std::io::stdin().read_to_end(&mut text).map_err(Error::environment)?;
    let order: SessionOrder = serde_json::from_slice(&text).map_err(Error::input)?;
    let lifetime = Lifetime {
        at_most: order.ttl_seconds.map(Duration::from_secs_f64),
        idle: order.idle_seconds.map(Duration::from_secs_f64),
    };
    let said = Said::default();
    let started = start(global, order, &said).await;
    let (mut record, claim, session, listener) = match started {
        Ok(started) => started,
        Err(error) => {
            answer(&Answer::Failed {
                message: chain(&error),
                hint: error.hint().map(str::to_owned),
                is_input: error.kind() == crate::forge::ErrorKind::Input,
            });
            return Ok(Exit::Environment);
        }
    };
    answer(&Answer::Started { record: Box::new(record.clone()), warnings: said.warnings() });
    release_outputs();
    let Some(why) = keep(session, listener, lifetime).await else {
        claim.remove().map_err(not_found)?;
        return Ok(Exit::Success);
    };
    record.ended = Some(Ended { at: jiff::Timestamp::now(), why });
    if matches!(&record.ended, Some(Ended { why: Why::HostEnded, .. })) {
        claim.remove().map_err(not_found)?;
    } else {
        claim.write(&record).map_err(not_found)?;
    }
    Ok(Exit::Success)
}

type Started = (SessionRecord, Claim, Arc<Kept>, tokio::net::UnixListener);

async fn start(global: &Global, mut order: SessionOrder, said: &Said) -> Result<Started, Error> {
    let now = jiff::Timestamp::now();
    let engine = open::connect(global).await.map_err(open::engine_failure)?;
    let info = engine.info().await.map_err(open::engine_failure)?;
    let expires = order.ttl_seconds.and_then(|ttl| {
        now.checked_add(jiff::SignedDuration::try_from(Duration::from_secs_f64(ttl)).ok()?).ok()
    });
    let mut record = SessionRecord {
        id: String::new(),
        name: order.name.clone(),
        engine: info.kind,
        image: order.request.image.clone(),
        instance: order.instance.clone(),
        network: order.request.network,
        allowed: order.allowed.clone(),
        ports: Vec::new(),
        created: now,
        expires,
        idle_seconds: order.idle_seconds.map(|idle| idle as u64),
        host: std::process::id(),
        repository: None,
        base: None,
        ended: None,
    };
    let directory = directory(global);
    let claim = directory.claim(&mut record).map_err(not_found)?;
    let started = async {
        let (request, egress) = way_out(&order, claim.path())?;
        let kept = Kept::start(engine.clone(), request, egress, said).await;
        let kept = kept.map_err(open::engine_failure)?;
        let session = kept.now();
        let kept = Arc::new(kept);
        record.ports = publish(&kept, &order.publish).await?;
        if order.repository.is_none() {
            order.repository = repository(&*engine, &*session, &record.image).await?;
        }
        if let Some(Repository { directory, base }) = order.repository.clone() {
            (record.repository, record.base) = (Some(directory), base);
        }
        let listener = claim.listen().map_err(not_found)?;
        claim.write_order(&order).map_err(not_found)?;
        claim.write(&record).map_err(not_found)?;
        let checkpoints = CheckpointDirectory::of(&open::state_dir(global));
        kept.remember(remember(checkpoints, order, &record));
        Ok((kept, listener))
    };
    match started.await {
        Ok((session, listener)) => Ok((record, claim, session, listener)),
        Err(error) => {
            claim.remove().map_err(not_found)?;
            Err(error)
        }
    }
}

/// Writes down the checkpoints of a session, with what starts another from them.
fn remember(
    checkpoints: CheckpointDirectory,
    order: SessionOrder,
    record: &SessionRecord,
) -> Box<Remember> {
    let (session, engine) = (record.id.clone(), record.engine);
    Box::new(move |checkpoint, allowed| {
        let image = checkpoint.reference().to_string();
        let mut order = SessionOrder { name: None, allowed, ..order.clone() };
        order.request.image.clone_from(&image);
        checkpoints.write(&CheckpointRecord {
            id: checkpoint.id.clone(),
            parent: checkpoint.parent.clone(),
            session: session.clone(),
            engine,
            created: jiff::Timestamp::now(),
            order,
            image,
        })
    })
}

/// Gives a session its way out, where it has one, and the authorities that this machine trusts: what
/// leads out may have one of its own.
fn way_out(
    order: &SessionOrder,
    directory: &Path,
) -> Result<(SessionRequest, Option<Arc<Egress>>), Error> {
    let mut request = order.request.clone();
    let Some(allowed) = &order.allowed else { return Ok((request, None)) };
    let proxies = Proxies::of_process().map_err(Error::input)?;
    let add = |variables: &mut BTreeMap<String, String>, name: String, value: String| {
        variables.entry(name).or_insert(value);
    };
    for (name, value) in Egress::variables() {
        add(&mut request.variables, name, value);
    }
    let host = config::host_access(open::variable, None, None).map_err(Error::environment)?;
    if let Some(bundle) = host.ca_bundle {
        let source = directory.join("ca.pem");
        std::fs::write(&source, bundle).map_err(Error::environment)?;
        let source = source.canonicalize().map_err(Error::environment)?;
        let target = CA_BUNDLE.to_owned();
        request.settings.binds.push(HostBind { source, target, read_only: true });
        for name in CA_VARIABLES {
            add(&mut request.variables, name.to_owned(), CA_BUNDLE.to_owned());
        }
    }
    Ok((request, Some(Egress::new(allowed.clone(), &proxies))))
}

/// Publishes ports of a session; returns where they are reached.
async fn publish(kept: &Arc<Kept>, wanted: &[Publish]) -> Result<Vec<Publish>, Error> {
    if !wanted.is_empty() && kept.now().engine() != EngineKind::Embedded {
        let error = EngineError::Unsupported {
            engine: kept.now().engine(),
            action: "publish a port of a session",
            why: "the embedded engine can: `--engine embedded`",
        };
        return Err(open::engine_failure(error));
    }
    let mut published = Vec::new();
    for Publish { address, port } in wanted.iter().copied() {
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|error| {
            let action = format!("cannot publish port {port} of the session at `{address}`");
            Error::environment(anyhow::Error::from(error).context(action))
                .with_hint(Some("leave the port of this machine out: one is chosen".to_owned()))
        })?;
        let address = listener.local_addr().map_err(Error::environment)?;
        let kept = Arc::downgrade(kept);
        let session = move || Some(kept.upgrade()?.now());
        tokio::spawn(ports::serve(listener, port, session));
        published.push(Publish { address, port });
    }
    Ok(published)
}

/// Finds the repository of a session: where its image says that commands start.
async fn repository(
    engine: &dyn Engine,
    session: &dyn SandboxSession,
    image: &str,
) -> Result<Option<Repository>, Error> {
    let image = engine.inspect(image).await.map_err(open::engine_failure)?;
    let directory = image.map(|image| image.config.working_dir).unwrap_or_default();
    if directory.is_empty() {
        return Ok(None);
    }
    let base = super::git::head(session, Some(&directory)).await;
    Ok(Some(Repository { directory, base }))
}

/// Tells whoever started this process.
fn answer(answer: &Answer) {
    let text = serde_json::to_string(answer).expect("an answer is valid JSON");
    let mut stdout = std::io::stdout().lock();
    // Nobody may wait any more.
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}

/// Lets go of what whoever started this process waits for.
fn release_outputs() {
    let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null") else {
        return;
    };
    let _ = rustix::stdio::dup2_stdin(&null);
    let _ = rustix::stdio::dup2_stdout(&null);
    let _ = rustix::stdio::dup2_stderr(&null);
}
