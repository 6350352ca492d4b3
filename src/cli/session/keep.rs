//! `imgforge session keep`: the process that keeps a session, started by `session start`.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::engine::LogSink;
use crate::forge::Sessions;
use crate::session::checkpoints::CheckpointDirectory;
use crate::session::directory::{Claim, Ended, SessionRecord, Why};
use crate::session::order::{Repository, SessionOrder};
use crate::session::{Kept, Lifetime, OfHost, StartError, Started, Warnings, keep, start_on};

use super::super::runner::RunnerArgs;
use super::super::{CommandResult, Error, Exit, Global, Sources, open};
use super::{chain, directory, not_found};

/// Arguments of `session keep`.
#[derive(Debug, Args)]
pub(in crate::cli) struct KeepArgs {
    #[command(flatten)]
    runner: RunnerArgs,
    #[command(flatten)]
    sources: Sources,
}

/// What is answered when it is kept, or cannot be.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Started { record: Box<SessionRecord>, warnings: Vec<String> },
    Failed { message: String, hint: Option<String>, is_input: bool },
}

/// Runs `session keep`.
pub(super) async fn run(global: &Global, args: KeepArgs) -> CommandResult {
    // Signals of the terminal, and its end, are meant for whoever started it.
    let _ = rustix::process::setsid();
    let mut text = Vec::new();
    std::io::stdin().read_to_end(&mut text).map_err(Error::environment)?;
    let order: SessionOrder = serde_json::from_slice(&text).map_err(Error::input)?;
    let lifetime = Lifetime {
        at_most: order.ttl_seconds.map(Duration::from_secs_f64),
        idle: order.idle_seconds.map(Duration::from_secs_f64),
    };
    let heard = Warnings::default();
    let started = started(global, &args, order, &heard).await;
    let (mut record, claim, session, listener, sessions) = match started {
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
    answer(&Answer::Started { record: Box::new(record.clone()), warnings: heard.list() });
    release_outputs();
    let why = keep(session, listener, lifetime).await;
    sessions.end().await;
    let Some(why) = why else {
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

type Claimed = (SessionRecord, Claim, Arc<Kept>, tokio::net::UnixListener, Sessions);

async fn started(
    global: &Global,
    args: &KeepArgs,
    mut order: SessionOrder,
    heard: &Warnings,
) -> Result<Claimed, Error> {
    let now = jiff::Timestamp::now();
    let runner = args.runner.choice(global)?;
    let run_id = format!("session-{:08x}", rand::random::<u32>());
    let (options, sources) = (global.forge_options(), args.sources.options());
    let sessions = runner.sessions(&options, &sources, &run_id, &|_| {}).await?;
    let expires = order.ttl_seconds.and_then(|ttl| {
        now.checked_add(jiff::SignedDuration::try_from(Duration::from_secs_f64(ttl)).ok()?).ok()
    });
    let mut record = SessionRecord {
        id: String::new(),
        name: order.name.clone(),
        engine: sessions.kind,
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
        let log: &dyn LogSink = heard;
        let host = match order.allowed {
            Some(_) => open::of_host()?,
            None => OfHost::default(),
        };
        let started = start_on(sessions.host.clone(), &order, &host, claim.path(), log).await;
        let Started { kept, ports, repository } = started.map_err(start_failed)?;
        record.ports = ports;
        if let Some(Repository { directory, base }) = repository.clone() {
            (record.repository, record.base) = (Some(directory), base);
        }
        order.repository = repository;
        let listener = claim.listen().map_err(not_found)?;
        claim.write_order(&order).map_err(not_found)?;
        claim.write(&record).map_err(not_found)?;
        let checkpoints = CheckpointDirectory::of(&open::state_dir(global));
        kept.remember(checkpoints.remember(order, &record.id, record.engine));
        Ok((kept, listener))
    };
    match started.await {
        Ok((session, listener)) => Ok((record, claim, session, listener, sessions)),
        Err(error) => {
            sessions.end().await;
            claim.remove().map_err(not_found)?;
            Err(error)
        }
    }
}

/// Makes an error of a session that cannot be started.
fn start_failed(error: StartError) -> Error {
    match error {
        StartError::Engine(error) => open::start_failure(error),
        error => {
            let hint = error.hint();
            Error::environment(error).with_hint(hint)
        }
    }
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
