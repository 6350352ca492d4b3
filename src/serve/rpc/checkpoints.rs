//! Checkpoints of sessions, and sessions that start from them.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::session::checkpoints::CheckpointRecord;
use crate::session::order::SessionOrder;

use super::client::Client;
use super::fault::{Fault, Kind};
use super::lines::Answer;
use super::params::{CheckpointOf, Fork, OfCheckpoint, Reset};
use super::served::Served;
use super::sessions::Sessions;
use super::start::Startup;

/// The most sessions that are started at once.
const MOST_FORKS: u32 = 1000;

/// Returns what is told of a checkpoint. How its session was started may have secrets.
fn document(record: &CheckpointRecord) -> Value {
    let CheckpointRecord { id, image, parent, session, engine, created, order } = record;
    json!({
        "checkpoint": id,
        "image": image,
        "parent": parent,
        "session": session,
        "engine": engine,
        "created": created,
        "instance": order.instance,
    })
}

/// Keeps what a session changed as a checkpoint.
async fn checkpoint_of(
    sessions: &Sessions,
    served: &Served,
    moves: bool,
) -> Result<CheckpointRecord, Fault> {
    let made = match moves {
        true => served.kept.move_to_checkpoint().await?,
        false => served.kept.checkpoint().await?,
    };
    Ok(sessions.checkpoints.find(&made.id)?)
}

/// Runs `session.checkpoint`.
pub(super) async fn checkpoint(
    sessions: Arc<Sessions>,
    served: Arc<Served>,
    params: CheckpointOf,
) -> Answer {
    let began = Instant::now();
    let record = checkpoint_of(&sessions, &served, params.moves).await?;
    let mut answer = document(&record);
    answer["ms"] = json!(began.elapsed().as_secs_f64() * 1e3);
    Ok(answer)
}

/// Runs `session.fork`: of a session, of which a checkpoint is made, or of a checkpoint.
pub(super) async fn fork(client: Client, served: Option<Arc<Served>>, params: Fork) -> Answer {
    let number = params.n.unwrap_or(1);
    if !(1..=MOST_FORKS).contains(&number) {
        return Err(Fault::bad_params(format!("`n` is a number of 1 to {MOST_FORKS}")));
    }
    let sessions = &client.sessions;
    let record = match (served, &params.checkpoint) {
        (Some(served), None) => checkpoint_of(sessions, &served, false).await?,
        (None, Some(id)) => sessions.checkpoints.find(id)?,
        _ => return Err(Fault::bad_params("one of `session` and `checkpoint` is needed")),
    };
    sessions.has(&record)?;
    sessions.checkpoints.note_use(&record)?;
    let started = (0..number).map(|_| {
        let order = SessionOrder { name: None, ..record.order.clone() };
        client.start(Startup { order, labels: Default::default(), kept: None })
    });
    // All or none: who cannot have all of them would not know what to do with some.
    let mut forks = Vec::new();
    let mut failure = None;
    for one in join_all(started).await {
        match one {
            Ok(started) => forks.push(started),
            Err(fault) => failure = Some(fault),
        }
    }
    if let Some(fault) = failure {
        join_all(forks.iter().map(|(served, _)| sessions.stop(served))).await;
        return Err(fault);
    }
    let forks: Vec<Value> = forks.into_iter().map(|(_, document)| document).collect();
    Ok(json!({ "checkpoint": record.id, "sessions": forks }))
}

/// Runs `session.reset`.
pub(super) async fn reset(sessions: Arc<Sessions>, served: Arc<Served>, params: Reset) -> Answer {
    let to = match &params.to {
        Some(id) => {
            let record = sessions.checkpoints.find(id)?;
            sessions.has(&record)?;
            sessions.checkpoints.note_use(&record)?;
            Some(record.image)
        }
        None => None,
    };
    served.kept.reset(to.as_deref()).await?;
    Ok(json!({}))
}

/// Runs `checkpoint.ls`.
pub(super) fn list(sessions: &Sessions) -> Answer {
    let all = sessions.checkpoints.list()?;
    let all: Vec<Value> = all.iter().map(|(record, _)| document(record)).collect();
    Ok(json!({ "checkpoints": all }))
}

/// Runs `checkpoint.remove`.
pub(super) async fn remove(sessions: Arc<Sessions>, params: OfCheckpoint) -> Answer {
    let record = sessions.checkpoints.find(&params.checkpoint)?;
    sessions.has(&record)?;
    sessions.host.forget(&record.image).await?;
    sessions.checkpoints.forget(&record)?;
    Ok(json!({}))
}

impl Sessions {
    /// Refuses a checkpoint that another engine has.
    fn has(&self, record: &CheckpointRecord) -> Result<(), Fault> {
        if record.engine == self.kind {
            return Ok(());
        }
        let (has, is) = (record.engine.name(), self.kind.name());
        let message = format!("checkpoint `{}` is of engine {has}, this is {is}", record.id);
        Err(Fault::new(Kind::Refused, message))
    }
}
