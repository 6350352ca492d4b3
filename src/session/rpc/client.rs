//! A session of another process, as one of this.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{StreamExt as _, unfold};
use futures_util::{SinkExt as _, TryFutureExt as _};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::codec::{Framed, LinesCodec};

use crate::engine::{
    Change, Checkpoint, Ended, EngineError, EngineKind, Exec, ExecHandle, ExecRequest, Input,
    Output, Outputs, Process, Result, SandboxSession, SessionEnd, Usage, WindowSize,
};

use super::super::egress::{AllowList, EgressReport};
use super::message::{Base64, Call, Fault, Notice, PROTOCOL, Start, Stream, call_line, end_of};
use super::{LINE, PIECE};

/// How many pieces of an output wait for a reader.
const WAITING: usize = 64;

/// A session that another process keeps. What was started through it ends with it; the session lives
/// on until [`SandboxSession::stop`].
pub struct RemoteSession {
    id: String,
    engine: EngineKind,
    link: Arc<Link>,
    _tasks: JoinSet<()>,
}

/// The connection.
struct Link {
    lines: mpsc::Sender<String>,
    next: AtomicU64,
    state: Mutex<State>,
}

/// What waits for something.
#[derive(Default)]
struct State {
    /// Nothing comes any more.
    is_closed: bool,
    calls: HashMap<u64, oneshot::Sender<std::result::Result<Value, Fault>>>,
    outputs: HashMap<u64, mpsc::Sender<Result<Output>>>,
    ends: HashMap<u64, watch::Sender<Option<End>>>,
    gets: HashMap<u64, mpsc::Sender<Bytes>>,
}

type End = std::result::Result<Ended, Fault>;

/// The answer to what waits for the end of the session.
#[derive(Deserialize)]
struct Ending {
    end: SessionEnd,
}

fn gone() -> EngineError {
    EngineError::Transient {
        action: "ask the process that keeps the session".to_owned(),
        source: "it is gone".into(),
    }
}

impl RemoteSession {
    /// Speaks to the process at the other end of a socket.
    ///
    /// # Errors
    /// [`EngineError::Refused`] where it speaks another protocol.
    pub async fn connect(stream: UnixStream) -> Result<RemoteSession> {
        let (mut sink, mut source) =
            Framed::new(stream, LinesCodec::new_with_max_length(LINE)).split();
        let (lines, mut waiting) = mpsc::channel::<String>(WAITING);
        let link = Arc::new(Link { lines, next: AtomicU64::new(1), state: Mutex::default() });
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Some(line) = waiting.recv().await {
                if sink.send(line).await.is_err() {
                    return;
                }
            }
        });
        let reader = link.clone();
        tasks.spawn(async move {
            while let Some(Ok(line)) = source.next().await {
                reader.take(&line).await;
            }
            *reader.state() = State { is_closed: true, ..State::default() };
        });
        let hello = link.call(&Call::Hello { protocol: PROTOCOL }).await?;
        let id = hello["session"].as_str().unwrap_or_default().to_owned();
        let engine = serde_json::from_value(hello["engine"].clone()).map_err(|_| gone())?;
        Ok(RemoteSession { id, engine, link, _tasks: tasks })
    }

    /// Makes a checkpoint of what it changed, without a copy, and goes on from that: nothing that ran
    /// runs any more.
    pub async fn move_to_checkpoint(&self) -> Result<Checkpoint> {
        self.link.ask(&Call::Checkpoint { moves: true }).await
    }

    /// Lets these hosts be reached and no others; without a list it stays as it is. Tells what may be
    /// reached, and what was denied.
    pub async fn network(&self, allow: Option<&AllowList>) -> Result<EgressReport> {
        self.link.ask(&Call::Network { allow: allow.cloned() }).await
    }

    /// Ends all that runs and goes back to a checkpoint or an image, by its name; without one to that
    /// which the session was started from.
    pub async fn reset(&self, to: Option<&str>) -> Result<()> {
        self.link.ask(&Call::Reset { to: to.map(str::to_owned) }).await
    }
}

impl Link {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    async fn call(&self, call: &Call) -> Result<Value> {
        let id = self.number();
        let (tell, told) = oneshot::channel();
        {
            let mut state = self.state();
            if state.is_closed {
                return Err(gone());
            }
            state.calls.insert(id, tell);
        }
        self.lines.send(call_line(Some(id), call)).await.map_err(|_| gone())?;
        told.await.map_err(|_| gone())?.map_err(Fault::into_error)
    }

    async fn ask<T: DeserializeOwned>(&self, call: &Call) -> Result<T> {
        let answer = self.call(call).await?;
        serde_json::from_value(answer).map_err(|error| EngineError::Transient {
            action: "read the answer of the process that keeps the session".to_owned(),
            source: error.into(),
        })
    }

    async fn notify(&self, call: &Call) -> Result<()> {
        self.lines.send(call_line(None, call)).await.map_err(|_| gone())
    }

    /// Passes on what came.
    async fn take(&self, line: &str) {
        let Ok(message) = serde_json::from_str::<Value>(line) else { return };
        if let Some(id) = message.get("id").and_then(Value::as_u64) {
            let Some(call) = self.state().calls.remove(&id) else { return };
            let answer = match message.get("error") {
                None => Ok(message.get("result").cloned().unwrap_or_default()),
                Some(error) => Err(serde_json::from_value(error.clone())
                    .unwrap_or_else(|_| Fault::invalid(0, error.to_string()))),
            };
            let _ = call.send(answer);
            return;
        }
        // A notification of a newer server is nothing that this one waits for.
        let Ok(notice) = serde_json::from_value::<Notice>(message) else { return };
        match notice {
            Notice::Output { exec, stream, data } => {
                let found = self.state().outputs.get(&exec).cloned();
                let Some(output) = found else { return };
                let bytes = Bytes::from(data.0);
                let piece = match stream {
                    Stream::Out => Output::Out(bytes),
                    Stream::Error => Output::Error(bytes),
                };
                let _ = output.send(Ok(piece)).await;
            }
            Notice::Closed { exec, error } => {
                let found = self.state().outputs.remove(&exec);
                if let (Some(output), Some(fault)) = (found, error) {
                    let _ = output.send(Err(fault.into_error())).await;
                }
            }
            Notice::Ended { exec, end, error, cpu_ms } => {
                let end = match (end, error) {
                    (Some(end), _) => Ok(end_of(end, cpu_ms)),
                    (None, Some(fault)) => Err(fault),
                    (None, None) => Err(Fault::of(&gone())),
                };
                if let Some(tell) = self.state().ends.remove(&exec) {
                    let _ = tell.send(Some(end));
                }
            }
            Notice::Data { transfer, data } => {
                let found = self.state().gets.get(&transfer).cloned();
                if let Some(get) = found {
                    let _ = get.send(data.0.into()).await;
                }
            }
        }
    }

    /// Brings the input of a command there, piece by piece.
    async fn feed(self: Arc<Self>, exec: u64, mut from: tokio::io::DuplexStream) {
        let mut buffer = vec![0; PIECE];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let data = Base64(buffer[..count].to_vec());
            if self.call(&Call::Input { exec, data }).await.is_err() {
                return;
            }
        }
        let _ = self.notify(&Call::CloseInput { exec }).await;
    }
}

/// A command of the session.
struct Handle {
    exec: u64,
    link: Arc<Link>,
    end: watch::Receiver<Option<End>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let call = call_line(None, &Call::Drop { exec: self.exec });
        if let Err(mpsc::error::TrySendError::Full(call)) = self.link.lines.try_send(call) {
            let lines = self.link.lines.clone();
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move { lines.send(call).await });
            }
        }
    }
}

#[async_trait]
impl ExecHandle for Handle {
    async fn resize(&self, size: WindowSize) -> Result<()> {
        self.link.notify(&Call::Resize { exec: self.exec, size }).await
    }

    async fn signal(&self, signal: i32) -> Result<()> {
        self.link.notify(&Call::Signal { exec: self.exec, signal }).await
    }

    async fn end(&self) -> Result<Ended> {
        let mut end = self.end.clone();
        let told = end.wait_for(Option::is_some).await.map_err(|_| gone())?;
        told.clone().expect("it was waited for").map_err(Fault::into_error)
    }
}

#[async_trait]
impl SandboxSession for RemoteSession {
    fn id(&self) -> &str {
        &self.id
    }

    fn engine(&self) -> EngineKind {
        self.engine
    }

    async fn spawn(&self, request: &ExecRequest) -> Result<Exec> {
        let link = &self.link;
        let exec = link.number();
        let (sender, receiver) = mpsc::channel(WAITING);
        let (tell, end) = watch::channel(None);
        {
            let mut state = link.state();
            state.outputs.insert(exec, sender);
            state.ends.insert(exec, tell);
        }
        let has_input = match request.outputs {
            Outputs::Terminal(_) => true,
            _ => !matches!(request.input, Input::Null),
        };
        // From here on the command is dropped with this.
        let handle = Arc::new(Handle { exec, link: link.clone(), end });
        let start = Start {
            exec,
            command: request.command.clone(),
            variables: request.variables.clone(),
            working_dir: request.working_dir.clone(),
            user: request.user.clone(),
            has_input,
            outputs: request.outputs,
        };
        link.call(&Call::Start(start)).await?;
        let input = has_input.then(|| {
            let (ours, theirs) = tokio::io::duplex(PIECE);
            tokio::spawn(link.clone().feed(exec, theirs));
            Box::new(ours) as Box<dyn AsyncWrite + Send + Unpin>
        });
        let next = async |mut receiver: mpsc::Receiver<_>| Some((receiver.recv().await?, receiver));
        // Its reader may ask once more after the end.
        let output = unfold(receiver, next).fuse().boxed();
        Ok(Exec { input, output, handle })
    }

    async fn put(
        &self,
        directory: &str,
        make: bool,
        tar: &mut (dyn AsyncRead + Send + Unpin),
    ) -> Result<()> {
        let transfer = self.link.number();
        let directory = directory.to_owned();
        let put = Call::Put { transfer, directory, make };
        let sent = async {
            let mut buffer = vec![0; PIECE];
            loop {
                let count = tar.read(&mut buffer).await.map_err(|error| EngineError::Refused {
                    action: "read an archive".to_owned(),
                    reason: error.to_string(),
                })?;
                let data = (count > 0).then(|| Base64(buffer[..count].to_vec()));
                self.link.notify(&Call::Data { transfer, data }).await?;
                if count == 0 {
                    return Ok(());
                }
            }
        };
        // The call is on its way before the first piece: it is polled first.
        let answered = self.link.call(&put).map_ok(|_| ());
        tokio::pin!(answered, sent);
        tokio::select! {
            biased;
            answer = &mut answered => answer,
            sent = &mut sent => match sent {
                Ok(()) => answered.await,
                Err(error) => Err(error),
            },
        }
    }

    async fn get(&self, path: &str, tar: &mut (dyn AsyncWrite + Send + Unpin)) -> Result<()> {
        let transfer = self.link.number();
        let (sender, mut receiver) = mpsc::channel::<Bytes>(WAITING);
        self.link.state().gets.insert(transfer, sender);
        let get = Call::Get { transfer, path: path.to_owned() };
        let answered = async {
            let answer = self.link.call(&get).await;
            // All pieces came before it.
            self.link.state().gets.remove(&transfer);
            answer.map(|_| ())
        };
        let written = async {
            while let Some(piece) = receiver.recv().await {
                tar.write_all(&piece).await.map_err(|error| EngineError::Refused {
                    action: "write an archive".to_owned(),
                    reason: error.to_string(),
                })?;
            }
            Ok(())
        };
        tokio::try_join!(answered, written).map(|_| ())
    }

    async fn processes(&self) -> Result<Vec<Process>> {
        self.link.ask(&Call::Processes {}).await
    }

    async fn changes(&self) -> Result<Vec<Change>> {
        self.link.ask(&Call::Changes {}).await
    }

    async fn usage(&self) -> Result<Usage> {
        self.link.ask(&Call::Usage {}).await
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        self.link.ask(&Call::Checkpoint { moves: false }).await
    }

    async fn end_as_checkpoint(&self) -> Result<Checkpoint> {
        let checkpoint = self.move_to_checkpoint().await?;
        self.stop().await?;
        Ok(checkpoint)
    }

    async fn ended(&self) -> Result<SessionEnd> {
        self.link.ask(&Call::Wait {}).await.map(|answer: Ending| answer.end)
    }

    async fn stop(&self) -> Result<SessionEnd> {
        self.link.ask(&Call::Stop {}).await.map(|answer: Ending| answer.end)
    }
}
