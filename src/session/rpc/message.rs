//! The messages, by name and shape.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

use crate::engine::{Ended, EngineError, ExecEnd, Outputs, SessionEnd, WindowSize};
use crate::session::egress::AllowList;

/// The version of the protocol. Another one is refused by [`Call::Hello`].
pub const PROTOCOL: u32 = 1;

/// A call of a client: a request where it has an id, else a notification.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "method", content = "params")]
pub(super) enum Call {
    /// The first one: `{"protocol": 1}`. The result has the version of imgforge and the id of the
    /// session.
    #[serde(rename = "hello")]
    Hello {
        /// [`PROTOCOL`].
        protocol: u32,
    },
    /// Starts a command. The result comes when it was started; [`Notice`] has the rest.
    #[serde(rename = "exec.start")]
    Start(Start),
    /// A piece of its input. The result comes when it was written.
    #[serde(rename = "exec.input")]
    Input { exec: u64, data: Base64 },
    /// The end of its input.
    #[serde(rename = "exec.close_input")]
    CloseInput { exec: u64 },
    /// Another size of its terminal.
    #[serde(rename = "exec.resize")]
    Resize { exec: u64, size: WindowSize },
    /// A signal, by its number; 9 kills every process of it.
    #[serde(rename = "exec.signal")]
    Signal { exec: u64, signal: i32 },
    /// Kills every process of it, and forgets it.
    #[serde(rename = "exec.drop")]
    Drop { exec: u64 },
    /// Unpacks a tar, which comes by [`Call::Data`]. The result comes at its end.
    #[serde(rename = "files.put")]
    Put { transfer: u64, directory: String, make: bool },
    /// A piece of a tar; without data it is the end.
    #[serde(rename = "files.data")]
    Data { transfer: u64, data: Option<Base64> },
    /// Writes a tar, which comes by [`Notice::Data`]. The result comes at its end.
    #[serde(rename = "files.get")]
    Get { transfer: u64, path: String },
    /// Lists the paths that differ from the image.
    #[serde(rename = "session.changes")]
    Changes {},
    /// Lists the processes of the container.
    #[serde(rename = "session.processes")]
    Processes {},
    /// Keeps what differs from the image as a checkpoint: the result has its id and what it stands on.
    /// With `move` nothing is copied: all that runs ends, and the session goes on from the checkpoint.
    #[serde(rename = "session.checkpoint")]
    Checkpoint {
        #[serde(rename = "move", default)]
        moves: bool,
    },
    /// Ends all that runs and goes back to an image, by its name; without one to that which the session
    /// was started from.
    #[serde(rename = "session.reset")]
    Reset {
        #[serde(default)]
        to: Option<String>,
    },
    /// Lets these hosts be reached and no others; without a list it stays as it is. The result has the list
    /// and what was denied.
    #[serde(rename = "session.network")]
    Network {
        #[serde(default)]
        allow: Option<AllowList>,
    },
    /// Measures what the container uses.
    #[serde(rename = "session.usage")]
    Usage {},
    /// Waits for the end of the session. The result says how it ended.
    #[serde(rename = "session.wait")]
    Wait {},
    /// Ends the session. The result says how it ended.
    #[serde(rename = "session.stop")]
    Stop {},
}

/// A command to start, as [`crate::engine::ExecRequest`] has it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Start {
    pub exec: u64,
    pub command: Vec<String>,
    #[serde(default)]
    pub variables: BTreeMap<String, String>,
    #[serde(default)]
    pub working_dir: Option<String>,
    #[serde(default)]
    pub user: Option<String>,
    /// Whether [`Call::Input`] follows; else it is `/dev/null`.
    #[serde(default)]
    pub has_input: bool,
    #[serde(default)]
    pub outputs: Outputs,
}

/// A notification of the server.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "method", content = "params")]
pub(super) enum Notice {
    /// A piece of what a command writes.
    #[serde(rename = "exec.output")]
    Output { exec: u64, stream: Stream, data: Base64 },
    /// Nobody can write to the outputs of a command any more, or they cannot be read.
    #[serde(rename = "exec.closed")]
    Closed { exec: u64, error: Option<Fault> },
    /// A command ended, or nobody knows how; what its children write may still come.
    #[serde(rename = "exec.ended")]
    Ended { exec: u64, end: Option<ExecEnd>, error: Option<Fault>, cpu_ms: Option<u64> },
    /// A piece of a tar.
    #[serde(rename = "files.data")]
    Data { transfer: u64, data: Base64 },
}

/// Which output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stream {
    /// The standard output, both, or the terminal.
    Out,
    /// The standard error, or the control descriptor.
    Error,
}

/// Bytes, as base64 with padding.
#[derive(Debug, Clone)]
pub(super) struct Base64(pub Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Base64, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        STANDARD.decode(&*text).map(Base64).map_err(serde::de::Error::custom)
    }
}

/// The error of a call, as it travels.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Fault {
    /// As JSON-RPC has it: -32700 to -32600 for what is no call, -32000 for the rest.
    pub code: i32,
    /// For people.
    pub message: String,
    /// For programs.
    pub data: Kind,
}

/// What kind of error it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Kind {
    /// What was sent is no call.
    Invalid,
    /// A file that is not there.
    NoSuchPath { path: String },
    /// The session has ended.
    SessionEnded { session: String, how: SessionEnd },
    /// It cannot be done, now and later.
    Refused { action: String, reason: String },
    /// No space is left.
    NoSpace { action: String },
    /// It failed, and says nothing of what runs in the session.
    Infra { action: String, reason: String },
}

/// The code of errors that are not JSON-RPC's own.
const FAILED: i32 = -32000;

impl Fault {
    /// What was sent is no call.
    pub(super) fn invalid(code: i32, message: String) -> Fault {
        Fault { code, message, data: Kind::Invalid }
    }

    pub(super) fn of(error: &EngineError) -> Fault {
        let data = match error {
            EngineError::NoSuchPath { path } => Kind::NoSuchPath { path: path.clone() },
            EngineError::SessionEnded { session, how } => {
                Kind::SessionEnded { session: session.clone(), how: how.clone() }
            }
            EngineError::Refused { action, reason } => {
                Kind::Refused { action: action.clone(), reason: reason.clone() }
            }
            EngineError::Unsupported { action, why, .. } => {
                Kind::Refused { action: (*action).to_owned(), reason: (*why).to_owned() }
            }
            EngineError::NoSpace { action } => Kind::NoSpace { action: action.clone() },
            error => Kind::Infra {
                action: "keep a session".to_owned(),
                reason: crate::causes::in_one_line(error),
            },
        };
        Fault { code: FAILED, message: crate::causes::in_one_line(error), data }
    }

    pub(super) fn into_error(self) -> EngineError {
        match self.data {
            Kind::Invalid => {
                EngineError::Refused { action: "take a call".to_owned(), reason: self.message }
            }
            Kind::NoSuchPath { path } => EngineError::NoSuchPath { path },
            Kind::SessionEnded { session, how } => EngineError::SessionEnded { session, how },
            Kind::Refused { action, reason } => EngineError::Refused { action, reason },
            Kind::NoSpace { action } => EngineError::NoSpace { action },
            Kind::Infra { action, reason } => {
                EngineError::Transient { action, source: reason.into() }
            }
        }
    }
}

/// The end of a command, as it travels.
pub(super) fn ended(exec: u64, ended: Result<Ended, EngineError>) -> Notice {
    let cpu_ms = ended.as_ref().ok().and_then(|ended| ended.cpu_time);
    let cpu_ms = cpu_ms.map(|time| time.as_millis() as u64);
    let (end, error) = match ended {
        Ok(ended) => (Some(ended.end), None),
        Err(error) => (None, Some(Fault::of(&error))),
    };
    Notice::Ended { exec, end, error, cpu_ms }
}

/// The end of a command that came.
pub(super) fn end_of(end: ExecEnd, cpu_ms: Option<u64>) -> Ended {
    Ended { end, cpu_time: cpu_ms.map(Duration::from_millis) }
}

/// Returns the line of a call; without an id it is a notification.
pub(super) fn call_line(id: Option<u64>, call: &Call) -> String {
    let mut message = serde_json::to_value(call).expect("a call is valid JSON");
    message["jsonrpc"] = json!("2.0");
    if let Some(id) = id {
        message["id"] = json!(id);
    }
    message.to_string()
}

/// Returns the line of a notification of the server.
pub(super) fn notice_line(notice: &Notice) -> String {
    let mut message = serde_json::to_value(notice).expect("a notification is valid JSON");
    message["jsonrpc"] = json!("2.0");
    message.to_string()
}

/// Returns the line of an answer.
pub(super) fn answer_line(id: &Value, answer: Result<Value, Fault>) -> String {
    let answer = match answer {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err(fault) => json!({ "jsonrpc": "2.0", "id": id, "error": fault }),
    };
    answer.to_string()
}
