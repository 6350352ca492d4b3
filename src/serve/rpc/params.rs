//! The parameters of the methods, by their names.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::engine::{HostBind, Tmpfs};
use crate::session::egress::Allowed;
use crate::session::{Keep, Publish};
use crate::smoke::Stage;

/// The longest time that is taken: some thirty years. A clock has an end.
const MOST_SECONDS: f64 = 1e9;

/// Bytes, as base64 with padding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Base64(pub Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Base64, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text);
        bytes.map(Base64).map_err(|error| serde::de::Error::custom(format!("no base64: {error}")))
    }
}

/// A time in seconds, more than none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seconds(pub Duration);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Seconds, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        match seconds > 0.0 && seconds <= MOST_SECONDS {
            true => Ok(Seconds(Duration::from_secs_f64(seconds))),
            false => Err(serde::de::Error::custom("a time is more than 0 seconds")),
        }
    }
}

/// Something that is written as a text of its own form, such as a port to publish.
#[derive(Debug, Clone)]
pub(super) struct Text<T>(pub T);

impl<'de, T> Deserialize<'de> for Text<T>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text<T>, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Text).map_err(serde::de::Error::custom)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hello {
    pub protocol: u32,
    #[serde(default, rename = "client")]
    pub _client: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// An instance of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Instance {
    pub dataset: String,
    pub instance_id: String,
    #[serde(default = "test_split")]
    pub split: String,
}

fn test_split() -> String {
    "test".to_owned()
}

/// What a session can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Network {
    None,
    Proxy,
    Host,
    Bridge,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Start {
    pub image: Option<String>,
    pub instance: Option<Instance>,
    pub checkpoint: Option<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    pub workdir: Option<String>,
    pub user: Option<String>,
    pub network: Option<Network>,
    #[serde(default)]
    pub allow: Vec<Allowed>,
    #[serde(default)]
    pub publish: Vec<Text<Publish>>,
    #[serde(default)]
    pub bind: Vec<Text<HostBind>>,
    #[serde(default)]
    pub tmpfs: Vec<Text<Tmpfs>>,
    #[serde(default)]
    pub read_only: bool,
    pub memory: Option<u64>,
    pub cpus: Option<f64>,
    pub pids: Option<u64>,
    pub ttl: Option<Seconds>,
    pub idle: Option<Seconds>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    pub events: Option<String>,
}

/// A smoke run.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SmokeOpen {
    /// What a configuration file says.
    pub config: serde_json::Map<String, serde_json::Value>,
    /// Relative paths are below it.
    pub base_dir: Option<PathBuf>,
    pub artifacts: Option<PathBuf>,
    pub events: Option<PathBuf>,
    pub max_output: Option<usize>,
    #[serde(default)]
    pub dry_run: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SmokeStage {
    pub smoke: String,
    pub stage: Stage,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfSmoke {
    pub smoke: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfSession {
    pub session: String,
}

/// The size of a terminal.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Terminal {
    pub rows: u16,
    pub columns: u16,
}

/// Which part of an output is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Part {
    #[default]
    Tail,
    HeadTail,
    All,
}

/// The bytes of an output that are kept, where nothing is said of it.
const MOST_OUTPUT: usize = 10 << 20;

/// Returns what is kept of an output.
pub(super) fn keep(part: Part, most: Option<usize>) -> Keep {
    let most = most.unwrap_or(MOST_OUTPUT);
    match part {
        Part::Tail => Keep::Tail(most),
        Part::HeadTail => Keep::HeadTail(most),
        Part::All => Keep::All,
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Exec {
    pub session: String,
    pub command: Option<Vec<String>>,
    pub shell: Option<String>,
    #[serde(default)]
    pub login: bool,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    pub workdir: Option<String>,
    pub user: Option<String>,
    pub stdin: Option<Base64>,
    pub timeout: Option<Seconds>,
    pub idle_timeout: Option<Seconds>,
    pub max_output: Option<usize>,
    #[serde(default)]
    pub keep: Part,
    #[serde(default)]
    pub merge: bool,
    #[serde(default)]
    pub stream: bool,
    pub exec: Option<String>,
    #[serde(default)]
    pub open_stdin: bool,
    pub tty: Option<Terminal>,
    #[serde(default)]
    pub detach: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfExec {
    pub session: String,
    pub exec: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExecInput {
    pub session: String,
    pub exec: String,
    pub data: Base64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExecResize {
    pub session: String,
    pub exec: String,
    pub rows: u16,
    pub columns: u16,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExecKill {
    pub session: String,
    pub exec: String,
    pub signal: Option<i32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ShellOpen {
    pub session: String,
    pub shell: Option<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    pub workdir: Option<String>,
    pub user: Option<String>,
    #[serde(default)]
    pub interactive: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ShellRun {
    pub session: String,
    pub shell: String,
    pub command: String,
    pub timeout: Option<Seconds>,
    pub max_output: Option<usize>,
    #[serde(default)]
    pub keep: Part,
    #[serde(default)]
    pub stream: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfShell {
    pub session: String,
    pub shell: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileRead {
    pub session: String,
    pub path: String,
    pub max: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileWrite {
    pub session: String,
    pub path: String,
    pub data: Base64,
    pub mode: Option<u32>,
    pub user: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfPath {
    pub session: String,
    pub path: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FilePut {
    pub session: String,
    pub directory: String,
    #[serde(default)]
    pub make: bool,
    pub transfer: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileData {
    pub session: String,
    pub transfer: String,
    pub data: Option<Base64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileGet {
    pub session: String,
    pub path: String,
    pub transfer: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Patch {
    pub session: String,
    pub base: Option<String>,
    #[serde(default)]
    pub exclude: Vec<String>,
    #[serde(default = "yes")]
    pub untracked: bool,
    pub workdir: Option<String>,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Apply {
    pub session: String,
    pub patch: Base64,
    #[serde(default)]
    pub reverse: bool,
    pub workdir: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GradeSession {
    pub session: String,
    pub model: Option<String>,
    pub timeout: Option<u64>,
    #[serde(default)]
    pub strict: bool,
    pub events: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GradePatch {
    pub instance: Instance,
    pub patch: Base64,
    pub model: Option<String>,
    pub timeout: Option<u64>,
    #[serde(default)]
    pub strict: bool,
    pub events: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NetworkOf {
    pub session: String,
    pub allow: Option<Vec<Allowed>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckpointOf {
    pub session: String,
    #[serde(default, rename = "move")]
    pub moves: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fork {
    pub session: Option<String>,
    pub checkpoint: Option<String>,
    pub n: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reset {
    pub session: String,
    pub to: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfCheckpoint {
    pub checkpoint: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EnvOpen {
    pub session: String,
    pub workdir: Option<String>,
    pub timeout: Option<Seconds>,
}

/// A file of commands.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NamedFile {
    pub name: String,
    pub data: Base64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EnvAddCommands {
    pub session: String,
    pub files: Vec<NamedFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EnvStep {
    pub session: String,
    pub action: String,
    pub timeout: Option<Seconds>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_known_is_an_error_that_names_it() {
        let start = |value| serde_json::from_value::<Start>(value).map_err(|e| e.to_string());
        assert!(start(json!({ "image": "a", "network": "none", "cpus": 1.5 })).is_ok());
        for (value, part) in [
            (json!({ "imgae": "a" }), "unknown field `imgae`"),
            (json!({ "image": "a", "network": "all" }), "unknown variant `all`"),
            (json!({ "image": "a", "publish": ["x"] }), "`x` is no port"),
            (json!({ "image": "a", "tmpfs": ["/a:size=much"] }), "much"),
            (json!({ "image": "a", "bind": ["/nowhere:/a"] }), "/nowhere"),
            (json!({ "image": "a", "allow": ["10.0.0.1"] }), "is an address"),
            (json!({ "image": "a", "ttl": 0 }), "more than 0 seconds"),
            (json!({ "image": "a", "ttl": 1e300 }), "more than 0 seconds"),
        ] {
            let error = start(value.clone()).unwrap_err();
            assert!(error.contains(part), "{value}: {error}");
        }
    }

    #[test]
    fn bytes_are_base64_with_padding() {
        let read = |text: &str| serde_json::from_value::<Base64>(json!(text));
        assert_eq!(read("AP8K").unwrap(), Base64(vec![0, 255, 10]));
        assert!(read("AA").is_err());
        assert!(read("*").is_err());
    }
}
