//! A client: its requests, what is done of them, and the answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::codec::{FramedRead, FramedWrite, LinesCodec, LinesCodecError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::client::Client;
use super::fault::{Fault, Kind};
use super::lines::{Answer, Lines};
use super::params::{self, OfExec, OfSession, OfShell};
use super::queue::Queue;
use super::served::{Served, Use};
use super::sessions::Sessions;
use super::under_way::ControlKind;
use super::{LINE, PROTOCOL, checkpoints, commands, environments, files, patches, shells, start};

/// How many lines wait for a client that does not read: whoever writes more waits.
const WAITING: usize = 64;

/// How long what was asked for may go on when the client has gone.
const GRACE: Duration = Duration::from_secs(5);

/// What a client can do with this server.
const FEATURES: [&str; 10] =
    ["exec", "shell", "file", "patch", "checkpoint", "network", "grade", "events", "smoke", "env"];

/// Every method.
const METHODS: [&str; 47] = [
    "hello",
    "session.start",
    "session.ls",
    "session.stats",
    "session.processes",
    "session.diff",
    "session.pause",
    "session.resume",
    "session.wait",
    "session.stop",
    "session.network",
    "session.exec",
    "session.patch",
    "session.apply",
    "session.grade",
    "session.checkpoint",
    "session.fork",
    "session.reset",
    "exec.wait",
    "exec.input",
    "exec.close_input",
    "exec.resize",
    "exec.kill",
    "shell.open",
    "shell.run",
    "shell.interrupt",
    "shell.kill",
    "shell.close",
    "file.read",
    "file.write",
    "file.stat",
    "file.list",
    "file.put",
    "file.data",
    "file.get",
    "instance.grade",
    "checkpoint.ls",
    "checkpoint.remove",
    "smoke.open",
    "smoke.stage",
    "smoke.report",
    "smoke.close",
    "env.open",
    "env.add_commands",
    "env.step",
    "env.reset",
    "env.close",
];

/// A request, or a notification where it has no id.
struct Request {
    id: Option<Value>,
    method: String,
    params: Value,
    /// Whether it waits for nobody.
    is_async: bool,
}

/// When something is done, and what.
enum Turn {
    /// At once, beside all else.
    Now(BoxFuture<'static, Answer>),
    /// After the earlier requests of a session.
    Of(Arc<Served>, BoxFuture<'static, Answer>),
    /// After what waits in a queue.
    Behind(Queue, BoxFuture<'static, Answer>),
}

/// A client that is connected.
pub(super) struct Connection {
    client: Client,
    has_greeted: AtomicBool,
    tasks: TaskTracker,
}

impl Connection {
    /// Serves a client until it goes, and ends what it started.
    pub(super) async fn serve(
        sessions: Arc<Sessions>,
        number: u64,
        reader: impl AsyncRead + Send + Unpin + 'static,
        writer: impl AsyncWrite + Send + Unpin + 'static,
    ) {
        let (lines, waiting) = mpsc::channel(WAITING);
        let over = CancellationToken::new();
        let client =
            Client { sessions: sessions.clone(), number, lines: Lines(lines), over: over.clone() };
        let (has_greeted, tasks) = (AtomicBool::new(false), TaskTracker::new());
        let connection = Arc::new(Connection { client, has_greeted, tasks });
        let writing = tokio::spawn(write(writer, waiting, over.clone()));
        connection.read(reader).await;
        over.cancel();
        connection.tasks.close();
        sessions.stop_those_of(number).await;
        // Sessions that are being started end when they are; what belongs to none is given up.
        let _ = tokio::time::timeout(GRACE, connection.tasks.wait()).await;
        sessions.stop_those_of(number).await;
        drop(connection);
        let _ = tokio::time::timeout(GRACE, writing).await;
    }

    async fn read(self: &Arc<Self>, reader: impl AsyncRead + Send + Unpin + 'static) {
        let mut source = FramedRead::new(reader, LinesCodec::new_with_max_length(LINE));
        loop {
            let line = tokio::select! {
                () = self.client.over.cancelled() => return,
                line = source.next() => line,
            };
            match line {
                Some(Ok(line)) if line.trim().is_empty() => {}
                Some(Ok(line)) => self.take(&line).await,
                Some(Err(LinesCodecError::MaxLineLengthExceeded)) => {
                    let message = format!("a line has more than {} MiB", LINE >> 20);
                    let fault = Fault::no_request(message)
                        .hint("send files in pieces, by `file.put` and `file.data`");
                    self.client.lines.answer(&Value::Null, Err(fault)).await;
                }
                // What is not UTF-8 ends the stream, as its end does.
                Some(Err(LinesCodecError::Io(error))) => {
                    if error.kind() == std::io::ErrorKind::InvalidData {
                        let fault = Fault::no_json("a line is not UTF-8");
                        self.client.lines.answer(&Value::Null, Err(fault)).await;
                    }
                    return;
                }
                None => return,
            }
        }
    }

    /// Takes a line: what it asks for has its place in the order when this returns.
    async fn take(self: &Arc<Self>, line: &str) {
        let request = match request(line) {
            Ok(request) => request,
            Err((id, fault)) => return self.client.lines.answer(&id, Err(fault)).await,
        };
        let Request { id, method, params, is_async } = request;
        let turn = self.turn(&method, params).map_err(|fault| in_method(&method, fault));
        let lines = self.client.lines.clone();
        let (work, queue) = match turn {
            Err(fault) => {
                if let Some(id) = id {
                    lines.answer(&id, Err(fault)).await;
                }
                return;
            }
            Ok(Turn::Now(work)) => (work, None),
            Ok(Turn::Of(served, work)) => {
                let queue = served.queue.clone();
                let used = Use::of(served);
                (work.inspect(move |_| drop(used)).boxed(), Some(queue))
            }
            Ok(Turn::Behind(queue, work)) => (work, Some(queue)),
        };
        let over = self.client.over.clone();
        let is_kept =
            ["session.start", "session.fork", "smoke.stage", "smoke.close"].contains(&&*method);
        let work = async move {
            let answer = tokio::select! {
                answer = work => answer,
                // A session that is being started is ended by whoever starts it; a stage of a smoke
                // run, by what ends the run.
                () = gone(&over, is_kept) => return,
            };
            if let Some(id) = id {
                lines.answer(&id, answer).await;
            }
        };
        let work = self.tasks.track_future(work);
        match queue.filter(|_| !is_async) {
            Some(queue) => queue.add(work.boxed()),
            None => drop(tokio::spawn(work)),
        }
    }

    /// Says what is to be done, and when.
    fn turn(self: &Arc<Self>, method: &str, params: Value) -> Result<Turn, Fault> {
        if method == "hello" {
            let answer = self.greet(&read::<params::Hello>(params)?);
            return Ok(Turn::Now(std::future::ready(answer).boxed()));
        }
        if !self.has_greeted.load(Ordering::Acquire) {
            let fault = Fault::no_request("the first request is `hello`");
            return Err(fault.hint(format!("send {{\"protocol\": {PROTOCOL}}} with it")));
        }
        let Client { sessions, lines, .. } = self.client.clone();
        let find = |id: &str| self.client.sessions.find(id);
        Ok(match method {
            "session.start" => {
                let params = read::<params::Start>(params)?;
                Turn::Now(start::start(self.client.clone(), params).boxed())
            }
            "session.ls" => {
                read::<params::Nothing>(params)?;
                let all: Vec<Value> = sessions.list().iter().map(|one| one.listed()).collect();
                done(Ok(json!({ "sessions": all })))
            }
            "session.stats" => {
                let served = find(&read::<OfSession>(params)?.session)?;
                let work = async move { Ok(served.session().usage().await?.document()) };
                Turn::Now(work.boxed())
            }
            "session.processes" => {
                let served = find(&read::<OfSession>(params)?.session)?;
                let work = async move {
                    let processes = served.session().processes().await?;
                    Ok(json!({ "processes": processes }))
                };
                Turn::Now(work.boxed())
            }
            "session.diff" => {
                let served = find(&read::<OfSession>(params)?.session)?;
                Turn::Of(served.clone(), patches::diff(served).boxed())
            }
            "session.pause" | "session.resume" => {
                let signal = if method == "session.pause" { libc::SIGSTOP } else { libc::SIGCONT };
                let served = find(&read::<OfSession>(params)?.session)?;
                let work = async move {
                    served.session().signal_all(signal).await?;
                    Ok(json!({}))
                };
                Turn::Now(work.boxed())
            }
            "session.wait" => {
                let served = find(&read::<OfSession>(params)?.session)?;
                let work = async move { Ok(json!({ "how": served.kept.ended().await?.reason() })) };
                Turn::Now(work.boxed())
            }
            "session.stop" => {
                let served = find(&read::<OfSession>(params)?.session)?;
                let work =
                    async move { Ok(json!({ "how": sessions.stop(&served).await?.reason() })) };
                Turn::Now(work.boxed())
            }
            "session.network" => {
                let params = read::<params::NetworkOf>(params)?;
                let served = find(&params.session)?;
                let of = served.clone();
                let work = async move { start::network(&of, params.allow) };
                Turn::Of(served, work.boxed())
            }
            "session.exec" => {
                let mut params = read::<params::Exec>(params)?;
                let served = find(&params.session)?;
                commands::announce(&served, &mut params)?;
                Turn::Of(served.clone(), commands::exec(served, params, lines).boxed())
            }
            "session.patch" => {
                let params = read::<params::Patch>(params)?;
                let served = find(&params.session)?;
                Turn::Of(served.clone(), patches::patch(served, params).boxed())
            }
            "session.apply" => {
                let params = read::<params::Apply>(params)?;
                let served = find(&params.session)?;
                Turn::Of(served.clone(), patches::apply(served, params).boxed())
            }
            "session.grade" => {
                let params = read::<params::GradeSession>(params)?;
                let served = find(&params.session)?;
                let instances = sessions.instances.clone();
                Turn::Of(served.clone(), patches::grade(served, instances, params, lines).boxed())
            }
            "instance.grade" => {
                let params = read::<params::GradePatch>(params)?;
                let instances = sessions.instances.clone();
                Turn::Now(patches::grade_patch(instances, params, lines).boxed())
            }
            "session.checkpoint" => {
                let params = read::<params::CheckpointOf>(params)?;
                let served = find(&params.session)?;
                let work = checkpoints::checkpoint(sessions, served.clone(), params);
                Turn::Of(served, work.boxed())
            }
            "session.fork" => {
                let params = read::<params::Fork>(params)?;
                let served = params.session.as_deref().map(find).transpose()?;
                let work = checkpoints::fork(self.client.clone(), served.clone(), params).boxed();
                match served {
                    Some(served) => Turn::Of(served, work),
                    None => Turn::Now(work),
                }
            }
            "session.reset" => {
                let params = read::<params::Reset>(params)?;
                let served = find(&params.session)?;
                let work = checkpoints::reset(sessions, served.clone(), params);
                Turn::Of(served, work.boxed())
            }
            "checkpoint.ls" => {
                read::<params::Nothing>(params)?;
                done(checkpoints::list(&sessions))
            }
            "checkpoint.remove" => {
                let params = read::<params::OfCheckpoint>(params)?;
                Turn::Now(checkpoints::remove(sessions, params).boxed())
            }
            "exec.wait" => {
                let params = read::<OfExec>(params)?;
                Turn::Now(commands::wait(find(&params.session)?, params).boxed())
            }
            "exec.input" => {
                let params = read::<params::ExecInput>(params)?;
                Turn::Now(commands::input(&*find(&params.session)?, params)?.boxed())
            }
            "exec.close_input" => {
                let params = read::<OfExec>(params)?;
                Turn::Now(commands::close_input(&*find(&params.session)?, params)?.boxed())
            }
            "exec.resize" => {
                let params = read::<params::ExecResize>(params)?;
                Turn::Now(commands::resize(find(&params.session)?, params).boxed())
            }
            "exec.kill" => {
                let params = read::<params::ExecKill>(params)?;
                Turn::Now(commands::kill(find(&params.session)?, params).boxed())
            }
            "shell.open" => {
                let params = read::<params::ShellOpen>(params)?;
                let served = find(&params.session)?;
                Turn::Of(served.clone(), shells::open(served, params).boxed())
            }
            "shell.run" => {
                let params = read::<params::ShellRun>(params)?;
                let served = find(&params.session)?;
                Turn::Of(served.clone(), shells::run_in(served, params, lines).boxed())
            }
            "shell.interrupt" | "shell.kill" => {
                let kind = match method {
                    "shell.kill" => ControlKind::Kill,
                    _ => ControlKind::Interrupt,
                };
                let params = read::<OfShell>(params)?;
                Turn::Now(shells::control(find(&params.session)?, params, kind).boxed())
            }
            "shell.close" => {
                let params = read::<OfShell>(params)?;
                done(shells::close(&*find(&params.session)?, &params))
            }
            "file.read" => {
                let params = read::<params::FileRead>(params)?;
                let served = find(&params.session)?;
                Turn::Of(served.clone(), files::read(served, params).boxed())
            }
            "file.write" => {
                let params = read::<params::FileWrite>(params)?;
                let served = find(&params.session)?;
                Turn::Of(served.clone(), files::write(served, params).boxed())
            }
            "file.stat" => {
                let params = read::<params::OfPath>(params)?;
                let served = find(&params.session)?;
                Turn::Of(served.clone(), files::stat(served, params).boxed())
            }
            "file.list" => {
                let params = read::<params::OfPath>(params)?;
                let served = find(&params.session)?;
                Turn::Of(served.clone(), files::list(served, params).boxed())
            }
            "file.put" => {
                let params = read::<params::FilePut>(params)?;
                let served = find(&params.session)?;
                let pieces = files::announce(&served, &params)?;
                Turn::Of(served.clone(), files::put(served, params, pieces).boxed())
            }
            "file.data" => {
                let params = read::<params::FileData>(params)?;
                Turn::Now(files::data(&*find(&params.session)?, params)?.boxed())
            }
            "file.get" => {
                let params = read::<params::FileGet>(params)?;
                let served = find(&params.session)?;
                Turn::Of(served.clone(), files::get(served, params, lines).boxed())
            }
            "smoke.open" => {
                let params = read::<params::SmokeOpen>(params)?;
                let number = self.client.number;
                Turn::Now(async move { sessions.smokes.open(number, params) }.boxed())
            }
            "smoke.stage" => {
                let params = read::<params::SmokeStage>(params)?;
                let opened = sessions.smokes.find(&params.smoke)?;
                Turn::Behind(opened.queue.clone(), opened.stage(params.stage).boxed())
            }
            "smoke.report" => {
                let opened = sessions.smokes.find(&read::<params::OfSmoke>(params)?.smoke)?;
                Turn::Behind(opened.queue.clone(), opened.report().boxed())
            }
            "smoke.close" => {
                let opened = sessions.smokes.find(&read::<params::OfSmoke>(params)?.smoke)?;
                Turn::Now(async move { sessions.smokes.close(&opened).await }.boxed())
            }
            "env.open" => {
                let params = read::<params::EnvOpen>(params)?;
                let served = find(&params.session)?;
                Turn::Of(served.clone(), environments::open(served, params).boxed())
            }
            "env.add_commands" => {
                let params = read::<params::EnvAddCommands>(params)?;
                let served = find(&params.session)?;
                Turn::Of(served.clone(), environments::add_commands(served, params).boxed())
            }
            "env.step" => {
                let params = read::<params::EnvStep>(params)?;
                let served = find(&params.session)?;
                Turn::Of(served.clone(), environments::step(served, params).boxed())
            }
            "env.reset" => {
                let served = find(&read::<OfSession>(params)?.session)?;
                Turn::Of(served.clone(), environments::reset(served).boxed())
            }
            "env.close" => {
                let served = find(&read::<OfSession>(params)?.session)?;
                Turn::Of(served.clone(), environments::close(served).boxed())
            }
            other => return Err(Fault::no_method(other, &METHODS)),
        })
    }

    fn greet(&self, hello: &params::Hello) -> Answer {
        if hello.protocol != PROTOCOL {
            return Err(Fault::protocol(hello.protocol, PROTOCOL));
        }
        self.has_greeted.store(true, Ordering::Release);
        Ok(json!({
            "protocol": PROTOCOL,
            "version": env!("CARGO_PKG_VERSION"),
            "engine": self.client.sessions.kind,
            "features": FEATURES,
        }))
    }
}

/// Waits until a client has gone; with `is_kept` for ever.
async fn gone(over: &CancellationToken, is_kept: bool) {
    match is_kept {
        true => std::future::pending().await,
        false => over.cancelled().await,
    }
}

/// Something that is done already.
fn done(answer: Answer) -> Turn {
    Turn::Now(std::future::ready(answer).boxed())
}

/// Writes lines to a client until there are no more; a client that cannot be written to has gone.
async fn write(
    writer: impl AsyncWrite + Send + Unpin + 'static,
    mut waiting: mpsc::Receiver<String>,
    over: CancellationToken,
) {
    let mut sink = FramedWrite::new(writer, LinesCodec::new());
    while let Some(line) = waiting.recv().await {
        // What waits is written at once.
        let mut written = sink.feed(line).await;
        while let (Ok(()), Ok(line)) = (&written, waiting.try_recv()) {
            written = sink.feed(line).await;
        }
        if written.is_err() || futures_util::SinkExt::<String>::flush(&mut sink).await.is_err() {
            over.cancel();
            return;
        }
    }
}

/// Reads the parameters of a method.
fn read<T: DeserializeOwned>(params: Value) -> Result<T, Fault> {
    serde_json::from_value(params).map_err(|error| Fault::bad_params(error.to_string()))
}

/// Says in which method parameters are wrong.
fn in_method(method: &str, fault: Fault) -> Fault {
    match fault.kind() {
        Kind::Invalid => fault.in_place(method),
        _ => fault,
    }
}

/// Reads a request; an error comes with the id that its answer has.
fn request(line: &str) -> Result<Request, (Value, Fault)> {
    let value: Value = serde_json::from_str(line)
        .map_err(|error| (Value::Null, Fault::no_json(format!("no JSON: {error}"))))?;
    let Value::Object(mut object) = value else {
        let what = match value {
            Value::Array(_) => "requests come one a line, not as a list",
            _ => "a request is an object",
        };
        return Err((Value::Null, Fault::no_request(what)));
    };
    let id = object.remove("id");
    let wrong = |message: &str| {
        let id = id.clone().filter(|id| id.is_string() || id.is_number());
        Err((id.unwrap_or(Value::Null), Fault::no_request(message)))
    };
    if !matches!(&id, None | Some(Value::String(_) | Value::Number(_))) {
        return wrong("`id` is a text or a number");
    }
    if object.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return wrong("`jsonrpc` is \"2.0\"");
    }
    let Some(Value::String(method)) = object.remove("method") else {
        return wrong("`method` is a text");
    };
    let mut params = match object.remove("params") {
        None => Map::new(),
        Some(Value::Object(params)) => params,
        Some(_) => return wrong("`params` is an object"),
    };
    let is_async = match params.remove("async") {
        None => false,
        Some(Value::Bool(is_async)) => is_async,
        Some(_) => return wrong("`async` is true or false"),
    };
    Ok(Request { id, method, params: Value::Object(params), is_async })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_and_what_is_none_says_why() {
        let line = r#"{"jsonrpc":"2.0","id":7,"method":"a","params":{"async":true,"b":1}}"#;
        let read = request(line).unwrap_or_else(|_| panic!("it is a request"));
        assert_eq!((read.id, read.method.as_str(), read.is_async), (Some(json!(7)), "a", true));
        assert_eq!(read.params, json!({ "b": 1 }));
        for (line, id, code) in [
            ("{", Value::Null, -32700),
            ("[]", Value::Null, -32600),
            ("3", Value::Null, -32600),
            (r#"{"id":1,"method":"a"}"#, json!(1), -32600),
            (r#"{"jsonrpc":"2.0","id":[],"method":"a"}"#, Value::Null, -32600),
            (r#"{"jsonrpc":"2.0","id":"x"}"#, json!("x"), -32600),
            (r#"{"jsonrpc":"2.0","id":1,"method":"a","params":[1]}"#, json!(1), -32600),
            (r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"async":1}}"#, json!(1), -32600),
        ] {
            let Err((found, fault)) = request(line) else { panic!("{line} is no request") };
            assert_eq!((found, &fault.document()["code"]), (id, &json!(code)), "{line}");
        }
    }
}
