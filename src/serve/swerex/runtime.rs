//! What a client of SWE-ReX calls a runtime: one session, and the shells in it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use crate::causes;
use crate::session::AccessKey;
use crate::session::directory::Directory;
use crate::session::rpc::RemoteSession;

use super::failure::{Class, Failure};
use super::interrupt::{Interruption, Outcome};
use super::once::Once;
use super::requests::{Action, CloseSession, CreateSession};
use super::shell_task::{Inbox, Order, attend};

/// How many commands wait for a shell.
const WAITING: usize = 64;

/// A session that is served.
pub(super) struct Runtime {
    id: String,
    key: AccessKey,
    directory: Directory,
    /// The requests that were seen.
    pub(super) once: Arc<Once>,
    shells: Mutex<HashMap<String, Slot>>,
}

/// A shell, or the place of one that is being started.
enum Slot {
    Starting,
    There(Handle),
}

/// The ends of a shell that others hold. It ends when the last of them goes.
#[derive(Clone)]
struct Handle {
    orders: mpsc::Sender<Order>,
    interruptions: mpsc::Sender<Interruption>,
    task: Arc<AbortOnDropHandle<()>>,
}

impl Runtime {
    /// Makes the runtime of a session.
    pub(super) fn new(directory: Directory, id: String, key: AccessKey) -> Runtime {
        let (once, shells) = (Arc::default(), Mutex::default());
        Runtime { id, key, directory, once, shells }
    }

    /// Tells whether somebody showed the key of the session.
    pub(super) fn admits(&self, shown: &str) -> bool {
        self.key.is(shown)
    }

    fn shells(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.shells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects to the session.
    pub(super) async fn connect(&self) -> Result<RemoteSession, Failure> {
        let lost = |error: &(dyn std::error::Error + 'static)| {
            Failure::raised(Class::Swerex, causes::in_one_line(error))
        };
        let record = self.directory.with_id(&self.id).map_err(|error| lost(&error))?;
        let stream = self.directory.connect(&record).await.map_err(|error| lost(&error))?;
        Ok(RemoteSession::connect(stream).await?)
    }

    /// Tells whether the session answers.
    pub(super) async fn is_alive(&self) -> Value {
        let (is_alive, message) = match self.connect().await {
            Ok(_) => (true, String::new()),
            Err(Failure::Raised { message, .. } | Failure::Refused { detail: message, .. }) => {
                (false, message)
            }
        };
        json!({ "is_alive": is_alive, "message": message })
    }

    /// Starts a shell.
    pub(super) async fn create(&self, create: CreateSession) -> Outcome {
        let name = create.session.clone();
        {
            let mut shells = self.shells();
            let is_there = match shells.get(&name) {
                Some(Slot::There(handle)) => !handle.orders.is_closed(),
                Some(Slot::Starting) => true,
                None => false,
            };
            if is_there {
                let message = format!("session {name} already exists");
                return Err(Failure::raised(Class::SessionExists, message));
            }
            shells.insert(name.clone(), Slot::Starting);
        }
        let started = self.start(create).await;
        let mut shells = self.shells();
        match started {
            Ok((handle, document)) => {
                shells.insert(name, Slot::There(handle));
                Ok(document)
            }
            Err(failure) => {
                shells.remove(&name);
                Err(failure)
            }
        }
    }

    async fn start(&self, create: CreateSession) -> Result<(Handle, Value), Failure> {
        let session = self.connect().await?;
        let (orders, for_shell) = mpsc::channel(WAITING);
        let (interruptions, to_shell) = mpsc::channel(WAITING);
        let inbox = Inbox { orders: for_shell, interruptions: to_shell };
        let (tell, told) = oneshot::channel();
        let task = tokio::spawn(attend(session, create, tell, inbox));
        let task = Arc::new(AbortOnDropHandle::new(task));
        let failed = || Failure::raised(Class::Swerex, "the shell could not be started");
        let document = told.await.map_err(|_| failed())??;
        Ok((Handle { orders, interruptions, task }, document))
    }

    /// Finds a shell that lives.
    fn find(&self, name: &str) -> Result<Handle, Failure> {
        let mut shells = self.shells();
        let message = match shells.get(name) {
            Some(Slot::There(handle)) if !handle.orders.is_closed() => return Ok(handle.clone()),
            Some(Slot::There(_)) => {
                shells.remove(name);
                format!("session {name:?} does not exist any more: its shell has ended")
            }
            Some(Slot::Starting) | None => format!("session {name:?} does not exist"),
        };
        Err(Failure::raised(Class::SessionDoesNotExist, message))
    }

    /// Runs a command in a shell, or interrupts what runs there.
    pub(super) async fn act(&self, action: Action) -> Outcome {
        let (tell, told) = oneshot::channel();
        let name = match &action {
            Action::Run(run) => run.session.clone(),
            Action::Interrupt(interrupt) => interrupt.session.clone(),
        };
        let handle = self.find(&name)?;
        let is_sent = match action {
            Action::Run(action) => handle.orders.send(Order { action, tell }).await.is_ok(),
            Action::Interrupt(action) => {
                handle.interruptions.send(Interruption { action, tell }).await.is_ok()
            }
        };
        let ended = || {
            let message = format!("the shell of session {name:?} has ended");
            Failure::raised(Class::SessionDoesNotExist, message)
        };
        match is_sent {
            true => told.await.map_err(|_| ended())?,
            false => Err(ended()),
        }
    }

    /// Ends a shell, and all that it runs.
    pub(super) fn close(&self, close: &CloseSession) -> Outcome {
        // Who waits for a command of it has a handle too.
        self.find(&close.session)?.task.abort();
        self.shells().remove(&close.session);
        Ok(json!({ "session_type": "bash" }))
    }

    /// Ends all shells. The session stays.
    pub(super) fn close_all(&self) -> Value {
        for (_, slot) in self.shells().drain() {
            if let Slot::There(handle) = slot {
                handle.task.abort();
            }
        }
        json!({})
    }
}
