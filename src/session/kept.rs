//! A session that its keeper can start anew, and that stays the same one for whoever uses it.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::engine::{
    Checkpoint, EngineError, LogSink, NoLog, Result, SandboxSession, SessionEnd, SessionHost,
    SessionRequest,
};

use super::directory::DirectoryError;
use super::egress::{self, AllowList, Egress};

/// A container that was started, and where it asks for its way out.
type Started = (Arc<dyn SandboxSession>, Option<TcpListener>);

/// Writes down that a checkpoint was made, with the hosts that its session may reach, where it has a way
/// out.
pub type Remember =
    dyn Fn(&Checkpoint, Option<AllowList>) -> std::result::Result<(), DirectoryError> + Send + Sync;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Listens where a container asks for its way out, if it has one.
async fn listener(
    egress: Option<&Arc<Egress>>,
    session: &Arc<dyn SandboxSession>,
) -> Result<Option<TcpListener>> {
    if egress.is_none() {
        return Ok(None);
    }
    let listens = session.listen(egress::PORT).await;
    if listens.is_err() {
        // Before this process ends, and with it what would remove it later.
        session.stop().await?;
    }
    listens.map(Some)
}

/// A session, whichever container it has now.
pub struct Kept {
    session: Mutex<Arc<dyn SandboxSession>>,
    /// How many containers it had.
    count: watch::Sender<u64>,
    /// What starts a container for it, and how the first was started.
    starter: Option<(Arc<dyn SessionHost>, SessionRequest)>,
    /// What writes down its checkpoints.
    remember: OnceLock<Box<Remember>>,
    /// The way out of each container.
    egress: Option<Arc<Egress>>,
    /// What serves that in the container which it has now.
    serving: Mutex<Option<AbortHandle>>,
    /// One change at a time.
    turn: tokio::sync::Mutex<()>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.serve(None);
    }
}

impl Kept {
    /// Keeps a session that nothing can start anew.
    pub fn of(session: Arc<dyn SandboxSession>) -> Kept {
        Kept {
            session: Mutex::new(session),
            count: watch::channel(1).0,
            starter: None,
            remember: OnceLock::new(),
            egress: None,
            serving: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Starts a session that can be started anew, with a way out where there is one. What it takes to get
    /// there goes to `log`.
    pub async fn start(
        host: Arc<dyn SessionHost>,
        request: SessionRequest,
        egress: Option<Arc<Egress>>,
        log: &dyn LogSink,
    ) -> Result<Kept> {
        let session: Arc<dyn SandboxSession> = host.start_session(&request, log).await?.into();
        let listener = listener(egress.as_ref(), &session).await?;
        let mut kept = Kept::of(session);
        kept.starter = Some((host, request));
        kept.egress = egress;
        kept.serve(listener);
        Ok(kept)
    }

    /// Has checkpoints written down from now on, before anybody is told of them: whoever asked for one may
    /// be gone when it is made.
    pub fn remember(&self, remember: Box<Remember>) {
        // There is one keeper.
        let _ = self.remember.set(remember);
    }

    fn note(&self, checkpoint: &Checkpoint) -> Result<()> {
        let Some(remember) = self.remember.get() else { return Ok(()) };
        let allowed = self.egress.as_ref().map(|egress| egress.report().allowed);
        remember(checkpoint, allowed).map_err(|error| EngineError::Refused {
            action: format!("write down checkpoint `{}`", checkpoint.reference()),
            reason: crate::causes::in_one_line(&error),
        })
    }

    /// The way out of it.
    pub fn egress(&self) -> Option<&Arc<Egress>> {
        self.egress.as_ref()
    }

    /// Serves the way out to a container, and to the last one no more.
    fn serve(&self, listener: Option<TcpListener>) {
        let served = listener.zip(self.egress.clone());
        let served = served.map(|(listener, egress)| tokio::spawn(egress.serve(listener)));
        let served = served.map(|task| task.abort_handle());
        let last = std::mem::replace(&mut *locked(&self.serving), served);
        if let Some(last) = last {
            last.abort();
        }
    }

    /// Returns the session as it is now.
    pub fn now(&self) -> Arc<dyn SandboxSession> {
        locked(&self.session).clone()
    }

    /// Makes a checkpoint, and goes on where it was. One that cannot be written down is removed again.
    pub async fn checkpoint(&self) -> Result<Checkpoint> {
        let _turn = self.turn.lock().await;
        let checkpoint = self.now().checkpoint().await?;
        if let Err(error) = self.note(&checkpoint) {
            if let Some((host, _)) = &self.starter {
                host.forget(checkpoint.reference().as_str()).await?;
            }
            return Err(error);
        }
        Ok(checkpoint)
    }

    /// Makes a checkpoint, and goes on from that: nothing that ran runs any more.
    ///
    /// # Errors
    /// Where the checkpoint is made and nothing can be started from it, the session has ended. The error
    /// names the checkpoint; so it does where the session goes on and the checkpoint cannot be written down.
    pub async fn move_to_checkpoint(&self) -> Result<Checkpoint> {
        let _turn = self.turn.lock().await;
        // Before anything ends.
        self.starter()?;
        let checkpoint = self.now().end_as_checkpoint().await?;
        // What the session did is in it alone: it stays, whatever happens.
        let noted = self.note(&checkpoint);
        match self.start_anew(checkpoint.reference().as_str()).await {
            Ok(started) => {
                self.replace(started);
                noted.map(|()| checkpoint)
            }
            Err(error) => Err(EngineError::Refused {
                action: format!("go on from checkpoint `{}`", checkpoint.id),
                reason: crate::causes::in_one_line(&error),
            }),
        }
    }

    /// Goes back to a checkpoint, or to what the session was started from.
    pub async fn reset(&self, to: Option<&str>) -> Result<()> {
        let _turn = self.turn.lock().await;
        let (_, request) = self.starter()?;
        let started = self.start_anew(to.unwrap_or(&request.image)).await?;
        let last = self.replace(started);
        last.stop().await.map(drop)
    }

    /// Waits until the session ends, which it does not while it is started anew.
    pub async fn ended(&self) -> Result<SessionEnd> {
        let mut count = self.count.subscribe();
        loop {
            let session = {
                count.borrow_and_update();
                self.now()
            };
            let end = session.ended().await;
            // Who replaces it holds the turn from before its end.
            let _turn = self.turn.lock().await;
            if !count.has_changed().unwrap_or(false) {
                return end;
            }
        }
    }

    fn starter(&self) -> Result<&(Arc<dyn SessionHost>, SessionRequest)> {
        self.starter.as_ref().ok_or_else(|| EngineError::Unsupported {
            engine: self.now().engine(),
            action: "start a session anew",
            why: "start it by `imgforge session start`",
        })
    }

    async fn start_anew(&self, image: &str) -> Result<Started> {
        let (host, request) = self.starter()?;
        let request = SessionRequest { image: image.to_owned(), ..request.clone() };
        let session: Arc<dyn SandboxSession> = host.start_session(&request, &NoLog).await?.into();
        let listener = listener(self.egress.as_ref(), &session).await?;
        Ok((session, listener))
    }

    fn replace(&self, (session, listener): Started) -> Arc<dyn SandboxSession> {
        let last = std::mem::replace(&mut *locked(&self.session), session);
        self.serve(listener);
        self.count.send_modify(|count| *count += 1);
        last
    }
}
