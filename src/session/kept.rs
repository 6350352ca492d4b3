//! A session that its keeper can start anew, and that stays the same one for whoever uses it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::engine::{
    Checkpoint, EngineError, NoLog, Result, Runner, SandboxSession, SessionEnd, SessionRequest,
};

/// A session, whichever container it has now.
pub struct Kept {
    session: Mutex<Arc<dyn SandboxSession>>,
    /// How many containers it had.
    count: watch::Sender<u64>,
    /// What starts a container for it, and how the first was started.
    starter: Option<(Arc<dyn Runner>, SessionRequest)>,
    /// One change at a time.
    turn: tokio::sync::Mutex<()>,
}

impl Kept {
    /// Keeps a session that nothing can start anew.
    pub fn of(session: Arc<dyn SandboxSession>) -> Kept {
        Kept {
            session: Mutex::new(session),
            count: watch::channel(1).0,
            starter: None,
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Keeps a session that was started so.
    pub fn new(
        session: Arc<dyn SandboxSession>,
        runner: Arc<dyn Runner>,
        request: SessionRequest,
    ) -> Kept {
        Kept { starter: Some((runner, request)), ..Kept::of(session) }
    }

    /// Returns the session as it is now.
    pub fn now(&self) -> Arc<dyn SandboxSession> {
        self.held().clone()
    }

    fn held(&self) -> MutexGuard<'_, Arc<dyn SandboxSession>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a checkpoint, and goes on where it was.
    pub async fn checkpoint(&self) -> Result<Checkpoint> {
        let _turn = self.turn.lock().await;
        self.now().checkpoint().await
    }

    /// Makes a checkpoint, and goes on from that: nothing that ran runs any more.
    ///
    /// # Errors
    /// Where the checkpoint is made and nothing can be started from it, the session has ended. The error
    /// names the checkpoint.
    pub async fn move_to_checkpoint(&self) -> Result<Checkpoint> {
        let _turn = self.turn.lock().await;
        // Before anything ends.
        self.starter()?;
        let checkpoint = self.now().end_as_checkpoint().await?;
        match self.start(checkpoint.reference().as_str()).await {
            Ok(session) => {
                self.replace(session);
                Ok(checkpoint)
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
        let session = self.start(to.unwrap_or(&request.image)).await?;
        let last = self.replace(session);
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

    fn starter(&self) -> Result<&(Arc<dyn Runner>, SessionRequest)> {
        self.starter.as_ref().ok_or_else(|| EngineError::Unsupported {
            engine: self.now().engine(),
            action: "start a session anew",
            why: "start it by `imgforge session start`",
        })
    }

    async fn start(&self, image: &str) -> Result<Arc<dyn SandboxSession>> {
        let (runner, request) = self.starter()?;
        let request = SessionRequest { image: image.to_owned(), ..request.clone() };
        Ok(runner.start(&request, &NoLog).await?.into())
    }

    fn replace(&self, session: Arc<dyn SandboxSession>) -> Arc<dyn SandboxSession> {
        let last = std::mem::replace(&mut *self.held(), session);
        self.count.send_modify(|count| *count += 1);
        last
    }
}
