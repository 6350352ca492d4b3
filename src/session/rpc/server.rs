//! Serving one client of a session.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{SinkExt as _, StreamExt as _};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::codec::{Framed, LinesCodec};
use tokio_util::io::StreamReader;
use tokio_util::sync::CancellationToken;

use crate::engine::{EngineError, Exec, ExecHandle, ExecRequest, Input, Output};

use super::super::egress::{AllowList, EgressReport};
use super::super::kept::Kept;
use super::message::{
    Base64, Call, Fault, Notice, PROTOCOL, Start, Stream, answer_line, ended, notice_line,
};
use super::{LINE, PIECE};

/// How many messages wait for a client that does not read: whoever writes more waits.
const WAITING: usize = 64;

type Answer = Result<Value, Fault>;

/// What a client has under way.
struct Client {
    session: Arc<Kept>,
    lines: mpsc::Sender<String>,
    execs: Mutex<HashMap<u64, Running>>,
    puts: Mutex<HashMap<u64, mpsc::Sender<Bytes>>>,
}

/// A command under way. When this is dropped it is killed, unless it has ended: what its children
/// write from then on is read and forgotten, so that a server that it started lives on.
struct Running {
    handle: Arc<dyn ExecHandle>,
    input: mpsc::UnboundedSender<Piece>,
    has_ended: Arc<AtomicBool>,
    is_muted: Arc<AtomicBool>,
    reading: AbortHandle,
    _tasks: JoinSet<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.is_muted.store(true, Ordering::Release);
        if !self.has_ended.load(Ordering::Acquire) {
            self.reading.abort();
        }
    }
}

/// What may be done beside the calls that come.
enum Work {
    Call(Call),
    Put { transfer: u64, directory: String, make: bool, archive: mpsc::Receiver<Bytes> },
}

/// A piece of input, and the call that brought it; without bytes it is the end.
struct Piece {
    id: Value,
    bytes: Option<Vec<u8>>,
}

/// Serves a client until it goes, then ends all that it started. Tells `stopped` when it asked for the
/// end of the session.
pub async fn serve(session: Arc<Kept>, stream: UnixStream, stopped: mpsc::Sender<()>) {
    let (mut sink, mut source) = Framed::new(stream, LinesCodec::new_with_max_length(LINE)).split();
    let (lines, mut waiting) = mpsc::channel::<String>(WAITING);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Some(line) = waiting.recv().await {
            if sink.send(line).await.is_err() {
                return;
            }
        }
    });
    let client = Arc::new(Client {
        session,
        lines: lines.clone(),
        execs: Mutex::default(),
        puts: Mutex::default(),
    });
    while let Some(Ok(line)) = source.next().await {
        let (id, call) = match read(&line) {
            Ok(read) => read,
            Err((id, fault)) => {
                let _ = lines.send(answer_line(&id, Err(fault))).await;
                continue;
            }
        };
        let Some(work) = client.note(&id, call).await else { continue };
        let (client, stopped) = (client.clone(), stopped.clone());
        tasks.spawn(async move {
            let is_stop = matches!(work, Work::Call(Call::Stop {}));
            let answer = client.answer(work).await;
            client.say(&id, answer).await;
            if is_stop {
                let _ = stopped.send(()).await;
            }
        });
        while tasks.try_join_next().is_some() {}
    }
    tasks.shutdown().await;
    client.held(&client.execs).clear();
}

/// Makes the answer of what was found.
fn found<T: Serialize>(found: Result<T, EngineError>) -> Answer {
    let found = found.map_err(|error| Fault::of(&error))?;
    Ok(serde_json::to_value(found).expect("it is valid JSON"))
}

/// Reads a line; the id is null where there is none.
fn read(line: &str) -> Result<(Value, Call), (Value, Fault)> {
    let mut message: Value = serde_json::from_str(line)
        .map_err(|error| (Value::Null, Fault::invalid(-32700, error.to_string())))?;
    let id = message.get("id").cloned().unwrap_or(Value::Null);
    if let Some(call) = message.as_object_mut() {
        call.entry("params").or_insert_with(|| json!({}));
    }
    match serde_json::from_value(message) {
        Ok(call) => Ok((id, call)),
        Err(error) => Err((id, Fault::invalid(-32600, error.to_string()))),
    }
}

impl Client {
    fn held<'a, T>(&self, of: &'a Mutex<T>) -> std::sync::MutexGuard<'a, T> {
        of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn say(&self, id: &Value, answer: Answer) {
        // Nobody waits for the answer to a notification, nor where the client is gone.
        if !id.is_null() {
            let _ = self.lines.send(answer_line(id, answer)).await;
        }
    }

    async fn notify(&self, notice: &Notice) -> bool {
        self.lines.send(notice_line(notice)).await.is_ok()
    }

    /// Does what has to be done in the order in which it comes; returns what may be done beside.
    async fn note(&self, id: &Value, call: Call) -> Option<Work> {
        match call {
            Call::Input { exec, data } => self.pass(exec, id, Some(data.0)).await,
            Call::CloseInput { exec } => self.pass(exec, id, None).await,
            Call::Data { transfer, data } => {
                let found = self.held(&self.puts).get(&transfer).cloned();
                match (found, data) {
                    (Some(put), Some(data)) => drop(put.send(data.0.into()).await),
                    (Some(_), None) => drop(self.held(&self.puts).remove(&transfer)),
                    // It has failed already, and its answer says why.
                    (None, _) => {}
                }
            }
            Call::Put { transfer, directory, make } => {
                let (pieces, archive) = mpsc::channel(4);
                self.held(&self.puts).insert(transfer, pieces);
                return Some(Work::Put { transfer, directory, make, archive });
            }
            Call::Drop { exec } => {
                drop(self.held(&self.execs).remove(&exec));
                self.say(id, Ok(Value::Null)).await;
            }
            call => return Some(Work::Call(call)),
        }
        None
    }

    async fn pass(&self, exec: u64, id: &Value, bytes: Option<Vec<u8>>) {
        let passed = {
            let execs = self.held(&self.execs);
            let piece = Piece { id: id.clone(), bytes };
            execs.get(&exec).is_some_and(|running| running.input.send(piece).is_ok())
        };
        if !passed {
            // It has ended, or reads no more.
            self.say(id, Ok(Value::Null)).await;
        }
    }

    async fn answer(self: &Arc<Self>, work: Work) -> Answer {
        let call = match work {
            Work::Call(call) => call,
            Work::Put { transfer, directory, make, archive } => {
                let answer = self.put(&directory, make, archive).await;
                self.held(&self.puts).remove(&transfer);
                return answer;
            }
        };
        match call {
            Call::Hello { protocol: PROTOCOL } => Ok(json!({
                "protocol": PROTOCOL,
                "version": env!("CARGO_PKG_VERSION"),
                "session": self.session.now().id(),
                "engine": self.session.now().engine(),
            })),
            Call::Hello { protocol } => {
                let why = format!("protocol {protocol} is not known here, {PROTOCOL} is");
                Err(Fault::invalid(-32602, why))
            }
            Call::Start(start) => self.start(start).await,
            Call::Resize { exec, size } => {
                let Some(handle) = self.handle(exec) else { return Ok(Value::Null) };
                let resized = handle.resize(size).await;
                resized.map(|()| Value::Null).map_err(|error| Fault::of(&error))
            }
            Call::Signal { exec, signal } => {
                let Some(handle) = self.handle(exec) else { return Ok(Value::Null) };
                let sent = handle.signal(signal).await;
                sent.map(|()| Value::Null).map_err(|error| Fault::of(&error))
            }
            Call::Get { transfer, path } => self.get(transfer, &path).await,
            Call::Changes {} => found(self.session.now().changes().await),
            Call::Processes {} => found(self.session.now().processes().await),
            Call::Checkpoint { moves: false } => found(self.session.checkpoint().await),
            Call::Checkpoint { moves: true } => found(self.session.move_to_checkpoint().await),
            Call::Reset { to } => found(self.session.reset(to.as_deref()).await),
            Call::Network { allow } => found(self.network(allow)),
            Call::Usage {} => found(self.session.now().usage().await),
            Call::Wait {} => {
                let end = self.session.ended().await.map_err(|error| Fault::of(&error))?;
                Ok(json!({ "end": end }))
            }
            Call::Stop {} => {
                let end = self.session.now().stop().await.map_err(|error| Fault::of(&error))?;
                Ok(json!({ "end": end }))
            }
            // `note` has done them.
            Call::Input { .. }
            | Call::CloseInput { .. }
            | Call::Drop { .. }
            | Call::Data { .. }
            | Call::Put { .. } => Ok(Value::Null),
        }
    }

    fn network(&self, allow: Option<AllowList>) -> Result<EgressReport, EngineError> {
        let egress = self.session.egress().ok_or_else(|| EngineError::Refused {
            action: "change what the session can reach".to_owned(),
            reason: "it was started without `--network proxy`".to_owned(),
        })?;
        if let Some(allow) = allow {
            egress.allow(allow);
        }
        Ok(egress.report())
    }

    fn handle(&self, exec: u64) -> Option<Arc<dyn ExecHandle>> {
        Some(self.held(&self.execs).get(&exec)?.handle.clone())
    }

    async fn start(self: &Arc<Self>, start: Start) -> Answer {
        let number = start.exec;
        let input = if start.has_input { Input::Held } else { Input::Null };
        let request = ExecRequest {
            command: start.command,
            variables: start.variables,
            working_dir: start.working_dir,
            user: start.user,
            input,
            outputs: start.outputs,
            ..ExecRequest::default()
        };
        let Exec { input, output, handle } =
            self.session.now().spawn(&request).await.map_err(|error| Fault::of(&error))?;
        let (pieces, to_write) = mpsc::unbounded_channel();
        let (has_ended, is_muted) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let closed = CancellationToken::new();
        let reading = {
            let (client, is_muted, closed) = (self.clone(), is_muted.clone(), closed.clone());
            tokio::spawn(async move {
                client.pass_on(number, output, is_muted).await;
                closed.cancel();
            })
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(self.clone().feed(input, to_write));
        let (client, waited, told) = (self.clone(), handle.clone(), has_ended.clone());
        tasks.spawn(async move {
            let end = waited.end().await;
            told.store(true, Ordering::Release);
            // What it wrote goes before its end.
            let _ = tokio::time::timeout(waited.output_lag(), closed.cancelled()).await;
            client.notify(&ended(number, end)).await;
        });
        let reading = reading.abort_handle();
        let running =
            Running { handle, input: pieces, has_ended, is_muted, reading, _tasks: tasks };
        self.held(&self.execs).insert(number, running);
        Ok(Value::Null)
    }

    /// Passes on what a command writes; what nobody wants is read nevertheless.
    async fn pass_on(
        self: Arc<Self>,
        exec: u64,
        mut output: BoxStream<'static, Result<Output, EngineError>>,
        is_muted: Arc<AtomicBool>,
    ) {
        let mut error = None;
        while let Some(piece) = output.next().await {
            let (stream, bytes) = match piece {
                Ok(Output::Out(bytes)) => (Stream::Out, bytes),
                Ok(Output::Error(bytes)) => (Stream::Error, bytes),
                Err(failure) => {
                    error = Some(Fault::of(&failure));
                    break;
                }
            };
            if !is_muted.load(Ordering::Acquire) {
                let data = Base64(bytes.to_vec());
                self.notify(&Notice::Output { exec, stream, data }).await;
            }
        }
        if !is_muted.load(Ordering::Acquire) {
            self.notify(&Notice::Closed { exec, error }).await;
        }
    }

    async fn feed(
        self: Arc<Self>,
        input: Option<Box<dyn AsyncWrite + Send + Unpin>>,
        mut pieces: mpsc::UnboundedReceiver<Piece>,
    ) {
        let mut input = input;
        while let Some(Piece { id, bytes }) = pieces.recv().await {
            match (&mut input, bytes) {
                (Some(to), Some(bytes)) => {
                    // A command that reads no more is not at fault.
                    let _ = to.write_all(&bytes).await;
                    let _ = to.flush().await;
                }
                (Some(to), None) => {
                    let _ = to.shutdown().await;
                    input = None;
                }
                (None, _) => {}
            }
            self.say(&id, Ok(Value::Null)).await;
        }
    }

    async fn put(&self, directory: &str, make: bool, archive: mpsc::Receiver<Bytes>) -> Answer {
        let pieces = futures_util::stream::unfold(archive, async |mut archive| {
            let piece = archive.recv().await?;
            Some((Ok::<Bytes, std::io::Error>(piece), archive))
        });
        let mut tar = StreamReader::new(Box::pin(pieces));
        let put = self.session.now().put(directory, make, &mut tar).await;
        put.map(|()| Value::Null).map_err(|error| Fault::of(&error))
    }

    async fn get(&self, transfer: u64, path: &str) -> Answer {
        let (mut write, mut read) = tokio::io::duplex(PIECE);
        let got = async {
            let got = self.session.now().get(path, &mut write).await;
            drop(write);
            got
        };
        let passed = async move {
            let mut buffer = vec![0; PIECE];
            while let Ok(count) = read.read(&mut buffer).await {
                let data = Base64(buffer[..count].to_vec());
                if count == 0 || !self.notify(&Notice::Data { transfer, data }).await {
                    break;
                }
            }
        };
        let (got, ()) = tokio::join!(got, passed);
        got.map(|()| Value::Null).map_err(|error| Fault::of(&error))
    }
}
