//! `imgforge session checkpoint`, `fork`, `reset` and `rm`.

use std::time::Instant;

use anyhow::anyhow;
use clap::Args;
use serde_json::json;

use crate::cli::out::outln;
use crate::engine::reference::Reference;
use crate::engine::{Checkpoint, EngineKind, SandboxSession as _};
use crate::forge::EngineChoice;
use crate::session::checkpoints::{CheckpointDirectory, CheckpointRecord};
use crate::session::directory::{DirectoryError, SessionRecord};
use crate::session::order::SessionOrder;

use super::super::{CommandResult, Error, Exit, Global, open, render};
use super::launch::launch;
use super::{chain, failed, found, not_found};

/// Arguments of `session checkpoint`.
#[derive(Debug, Args)]
pub(in crate::cli) struct CheckpointArgs {
    /// The session: its name, its id or the beginning of that
    #[arg(value_name = "SESSION", help_heading = None)]
    session: String,
    /// Copy nothing: what runs ends, and the session goes on from the checkpoint
    #[arg(long = "move")]
    moves: bool,
    /// Give it this name as an image, which stays when the checkpoint goes
    #[arg(long, value_name = "REF")]
    tag: Option<Reference>,
}

/// Arguments of `session fork`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ForkArgs {
    /// The session, of which a checkpoint is made first, or a checkpoint
    #[arg(value_name = "SESSION|CHECKPOINT", help_heading = None)]
    of: String,
    /// How many sessions are started
    #[arg(short, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    number: u32,
    /// A name to find it by
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// Arguments of `session reset`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ResetArgs {
    /// The session: its name, its id or the beginning of that
    #[arg(value_name = "SESSION", help_heading = None)]
    session: String,
    /// The checkpoint to go back to [default: what the session was started from]
    #[arg(long, value_name = "CHECKPOINT")]
    to: Option<String>,
}

/// Arguments of `session rm`.
#[derive(Debug, Args)]
pub(in crate::cli) struct RmArgs {
    /// The checkpoints: their ids or the beginnings of those
    #[arg(value_name = "CHECKPOINT", help_heading = None, required_unless_present = "all")]
    checkpoints: Vec<String>,
    /// Remove all
    #[arg(short, long, conflicts_with = "checkpoints")]
    all: bool,
}

/// The checkpoints of the state directory.
pub(in crate::cli) fn checkpoints(global: &Global) -> CheckpointDirectory {
    CheckpointDirectory::of(&open::state_dir(global))
}

/// Runs `session checkpoint`.
pub(super) async fn checkpoint(global: &Global, args: CheckpointArgs) -> CommandResult {
    let (record, session) = found(global, &args.session).await?;
    let began = Instant::now();
    let made = match args.moves {
        true => session.move_to_checkpoint().await,
        false => session.checkpoint().await,
    };
    let checkpoint = written(global, &made.map_err(failed)?)?;
    let milliseconds = began.elapsed().as_secs_f64() * 1000.0;
    if let Some(tag) = &args.tag {
        let engine = open::connect(&of_engine(global, record.engine)).await;
        let engine = engine.map_err(open::engine_failure)?;
        engine.tag(&checkpoint.image, tag).await.map_err(open::engine_failure)?;
    }
    if global.json {
        let mut document = listed(&checkpoint);
        document["checkpoint_ms"] = json!(milliseconds);
        render::json(&document);
    } else {
        outln!("{}", checkpoint.id);
    }
    Ok(Exit::Success)
}

/// Returns what the keeper of a session has written down of a checkpoint.
fn written(global: &Global, checkpoint: &Checkpoint) -> Result<CheckpointRecord, Error> {
    checkpoints(global).find(&checkpoint.id).map_err(not_found)
}

/// Returns what is told of a checkpoint. Its order may have secrets.
pub(super) fn listed(record: &CheckpointRecord) -> serde_json::Value {
    let CheckpointRecord { id, image, parent, session, engine, created, order } = record;
    json!({
        "id": id,
        "image": image,
        "parent": parent,
        "session": session,
        "engine": engine,
        "created": created,
        "instance": order.instance,
    })
}

/// Returns the options with the engine that has something.
fn of_engine(global: &Global, engine: EngineKind) -> Global {
    let engine = match engine {
        EngineKind::Docker => EngineChoice::Docker,
        EngineKind::Embedded => EngineChoice::Embedded,
        // Pods have no checkpoints.
        EngineKind::Fake | EngineKind::Kubernetes => global.engine,
    };
    Global { engine, ..global.clone() }
}

/// Runs `session fork`.
pub(super) async fn fork(global: &Global, args: ForkArgs) -> CommandResult {
    if args.name.is_some() && args.number > 1 {
        let error = anyhow!("{} sessions cannot have one name", args.number);
        return Err(Error::input(error).into());
    }
    let began = Instant::now();
    let record = match checkpoints(global).find(&args.of) {
        Ok(record) => record,
        Err(DirectoryError::NoCheckpoint(_)) => {
            let (_, session) = found(global, &args.of).await?;
            written(global, &session.checkpoint().await.map_err(failed)?)?
        }
        Err(error) => return Err(not_found(error).into()),
    };
    checkpoints(global).note_use(&record).map_err(not_found)?;
    let order = SessionOrder { name: args.name, ..record.order.clone() };
    let started: Vec<Result<SessionRecord, Error>> = std::thread::scope(|scope| {
        let launched: Vec<_> = (0..args.number)
            .map(|_| scope.spawn(|| launch(global, Some(record.engine), &order, &[])))
            .collect();
        let joined = launched.into_iter().map(|one| one.join().expect("it does not panic"));
        joined.collect()
    });
    let milliseconds = began.elapsed().as_secs_f64() * 1000.0;
    let (mut sessions, mut failures) = (Vec::new(), Vec::new());
    for one in started {
        match one {
            Ok(session) => sessions.push(session),
            Err(error) => failures.push(error),
        }
    }
    if global.json {
        render::json(&json!({
            "checkpoint": listed(&record),
            "sessions": sessions,
            "fork_ms": milliseconds,
        }));
    } else {
        sessions.iter().for_each(|session| outln!("{}", session.id));
    }
    let count = failures.len();
    match failures.into_iter().next() {
        None => Ok(Exit::Success),
        Some(error) if args.number == 1 => Err(error.into()),
        Some(error) => {
            render::warn(format!("{count} of {} sessions could not be started", args.number));
            Err(error.into())
        }
    }
}

/// Runs `session reset`.
pub(super) async fn reset(global: &Global, args: ResetArgs) -> CommandResult {
    let (record, session) = found(global, &args.session).await?;
    let to = match &args.to {
        Some(text) => {
            let checkpoint = checkpoints(global).find(text).map_err(not_found)?;
            if checkpoint.engine != record.engine {
                let (has, keeps) = (checkpoint.engine.name(), record.engine.name());
                let error = anyhow!(
                    "checkpoint `{}` is of engine {has}, session `{}` of {keeps}",
                    checkpoint.id,
                    record.id
                );
                return Err(Error::input(error).into());
            }
            checkpoints(global).note_use(&checkpoint).map_err(not_found)?;
            Some(checkpoint.image)
        }
        None => None,
    };
    session.reset(to.as_deref()).await.map_err(failed)?;
    if global.json {
        render::json(&json!({ "id": record.id, "to": to.unwrap_or(record.image) }));
    }
    Ok(Exit::Success)
}

/// Runs `session rm`.
pub(super) async fn rm(global: &Global, args: RmArgs) -> CommandResult {
    let directory = checkpoints(global);
    let records = match args.all {
        true => {
            directory.list().map_err(not_found)?.into_iter().map(|(record, _)| record).collect()
        }
        false => {
            let found = args.checkpoints.iter().map(|text| directory.find(text));
            found.collect::<Result<Vec<_>, _>>().map_err(not_found)?
        }
    };
    let (mut failures, mut removed) = (0, Vec::new());
    for record in &records {
        match remove(global, record).await {
            Ok(()) => removed.push(&record.id),
            Err(error) => {
                failures += 1;
                render::warn(format!("checkpoint `{}`: {}", record.id, chain(&error)));
            }
        }
    }
    if global.json {
        render::json(&json!(removed));
    } else if !global.quiet {
        removed.iter().for_each(|id| outln!("{id}"));
    }
    if failures > 0 {
        let error = anyhow!("{failures} of {} checkpoints could not be removed", records.len());
        return Err(Error::environment(error).into());
    }
    Ok(Exit::Success)
}

/// Removes a checkpoint; sessions that stand on it go on.
pub(in crate::cli) async fn remove(
    global: &Global,
    record: &CheckpointRecord,
) -> Result<(), Error> {
    let engine = open::connect(&of_engine(global, record.engine)).await;
    let engine = engine.map_err(open::engine_failure)?;
    engine.remove(&record.image).await.map_err(open::engine_failure)?;
    checkpoints(global).forget(record).map_err(not_found)
}

/// Finds the checkpoint that a session is to be started from.
pub(super) fn order_of(global: &Global, text: &str) -> Result<CheckpointRecord, Error> {
    let directory = checkpoints(global);
    let record = directory.find(text).map_err(not_found)?;
    directory.note_use(&record).map_err(not_found)?;
    Ok(record)
}
