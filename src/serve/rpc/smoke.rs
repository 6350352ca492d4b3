//! Smoke runs: opened, done stage by stage, and told of.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures_util::future::join_all;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::causes;
use crate::smoke::{
    ArtifactsError, Configured, Events, Format, Manager, Means, OutOfOrder, RunOptions, Stage,
    StageStatus, read_text,
};

use super::fault::{Fault, Kind};
use super::lines::Answer;
use super::locked::locked;
use super::params;
use super::queue::Queue;

/// What errors call the configuration.
const CONFIG: &str = "config";

/// How much of each output is kept in results where nothing else is asked for, in bytes.
const MAX_OUTPUT: usize = 1 << 20;

/// A run that was opened.
pub(super) struct Opened {
    /// Its name.
    id: String,
    /// The connection that opened it.
    connection: u64,
    manager: tokio::sync::Mutex<Manager>,
    events: Option<Arc<Events>>,
    /// Ends what is under way.
    stop: CancellationToken,
    /// Its requests.
    pub queue: Queue,
}

/// The runs of a server.
pub(super) struct Smokes {
    means: Means,
    list: Mutex<HashMap<String, Arc<Opened>>>,
}

impl From<ArtifactsError> for Fault {
    fn from(error: ArtifactsError) -> Fault {
        Fault::new(Kind::Infra, causes::in_one_line(&error))
    }
}

impl From<OutOfOrder> for Fault {
    fn from(error: OutOfOrder) -> Fault {
        Fault::bad_params(error.to_string())
    }
}

impl Smokes {
    /// Makes an empty list; runs stand on `means`, but for what ends them.
    pub(super) fn new(means: Means) -> Smokes {
        Smokes { means, list: Mutex::default() }
    }

    /// Opens a run: its configuration is checked, and nothing is started.
    pub(super) fn open(&self, connection: u64, params: params::SmokeOpen) -> Answer {
        let base = match params.base_dir {
            Some(directory) => directory,
            None => std::env::current_dir().map_err(unusable("the working directory"))?,
        };
        let read = read_text(
            CONFIG,
            &serde_json::Value::Object(params.config).to_string(),
            Format::Json,
            &base,
        );
        let Configured { mut runs, is_list } = read.map_err(|error| {
            let (fault, hint) = (Fault::bad_params(error.to_string()), error.hint());
            match hint {
                Some(hint) => fault.hint(hint),
                None => fault,
            }
        })?;
        let Some(run) = runs.pop().filter(|_| !is_list) else {
            let fault = Fault::bad_params("`config` has `runs`, and one run is opened at a time");
            return Err(fault.hint("send `smoke.open` for each of them"));
        };
        let now = jiff::Zoned::now().strftime("%Y%m%d-%H%M%S");
        let run_id = format!("{now}-{:08x}", rand::random::<u32>());
        let events = match &params.events {
            Some(path) => Some(Arc::new(Events::append(&base.join(path)).map_err(|error| {
                Fault::bad_params(format!("cannot write `{}`: {error}", path.display()))
            })?)),
            None => None,
        };
        let artifacts = params.artifacts.map(|path| base.join(path).join(&run_id));
        let stop = CancellationToken::new();
        let means = Means { stop: stop.clone(), ..self.means.clone() };
        let options = RunOptions {
            run_id: run_id.clone(),
            artifacts: artifacts.clone(),
            events: events.clone(),
            max_output: params.max_output.unwrap_or(MAX_OUTPUT),
            dry_run: params.dry_run,
        };
        let manager = tokio::sync::Mutex::new(Manager::open(run, means, options)?);
        let id = run_id.clone();
        let opened = Opened { id, connection, manager, events, stop, queue: Queue::new() };
        locked(&self.list).insert(run_id.clone(), Arc::new(opened));
        Ok(json!({ "smoke": run_id, "artifacts": artifacts }))
    }

    /// Finds a run.
    pub(super) fn find(&self, id: &str) -> Result<Arc<Opened>, Fault> {
        locked(&self.list).get(id).cloned().ok_or_else(|| {
            let message = format!("there is no smoke run `{id}`, or it was closed");
            Fault::new(Kind::NoSuchSmoke, message).hint("`smoke.open` opens one")
        })
    }

    /// Ends a run, whatever it does, and forgets it.
    pub(super) async fn close(&self, opened: &Opened) -> Answer {
        opened.stop.cancel();
        let closed = opened.close().await;
        locked(&self.list).remove(&opened.id);
        closed.map(|()| json!({}))
    }

    /// Ends the runs that a connection opened.
    pub(super) async fn close_those_of(&self, connection: u64) {
        self.close_all(|opened| opened.connection == connection).await;
    }

    /// Ends all runs that are chosen.
    pub(super) async fn close_all(&self, which: impl Fn(&Opened) -> bool) {
        let chosen: Vec<_> =
            locked(&self.list).values().filter(|opened| which(opened)).cloned().collect();
        join_all(chosen.iter().map(|opened| self.close(opened))).await;
    }
}

impl Opened {
    /// Does a stage.
    pub(super) async fn stage(self: Arc<Self>, stage: Stage) -> Answer {
        let mut manager = self.manager.lock().await;
        Ok(json!(manager.stage(stage).await?))
    }

    /// Tells what was done so far.
    pub(super) async fn report(self: Arc<Self>) -> Answer {
        Ok(json!(self.manager.lock().await.report()))
    }

    /// Ends the sandbox, and says where files of the run could not be written.
    async fn close(&self) -> Result<(), Fault> {
        let mut manager = self.manager.lock().await;
        if !matches!(manager.next(), None | Some(Stage::Start)) {
            let ended = manager.teardown().await?;
            if ended.status != StageStatus::Ok {
                let why = ended.reason.clone().unwrap_or_else(|| "the teardown failed".to_owned());
                return Err(Fault::new(Kind::Infra, why));
            }
        }
        if let Some(error) = manager.artifacts_failure() {
            return Err(error.into());
        }
        match self.events.as_ref().and_then(|events| events.failure()) {
            Some(error) => Err(unusable("the file of events")(error)),
            None => Ok(()),
        }
    }
}

fn unusable(what: &'static str) -> impl Fn(std::io::Error) -> Fault {
    move |error| Fault::new(Kind::Infra, format!("cannot use {what}: {error}"))
}
