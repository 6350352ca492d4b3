//! A configuration as it is written: its keys and its formats. What the values mean together is checked where it is
//! read.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::nearest::nearest;

use super::config::{COMMAND_TIMEOUT, CommandLine, Network, STAGE_TIMEOUT};
use super::values;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    pub name: Option<String>,
    pub sandbox: Option<Sandbox>,
    pub repo: Option<Repo>,
    pub task: Option<Task>,
    #[serde(default, deserialize_with = "values::filled")]
    pub runs: Option<Vec<Run>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Run {
    pub name: Option<String>,
    pub sandbox: Option<Sandbox>,
    pub repo: Option<Repo>,
    pub task: Option<Task>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sandbox {
    pub image: String,
    pub name: Option<String>,
    pub workdir: Option<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    #[serde(default)]
    pub timeouts: Times,
    #[serde(default)]
    pub resources: Limits,
    #[serde(default, deserialize_with = "values::network")]
    pub network: Network,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Times {
    #[serde(deserialize_with = "values::duration")]
    pub command: Duration,
    #[serde(deserialize_with = "values::duration")]
    pub stage: Duration,
}

impl Default for Times {
    fn default() -> Times {
        Times { command: COMMAND_TIMEOUT, stage: STAGE_TIMEOUT }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Limits {
    #[serde(deserialize_with = "values::memory")]
    pub memory: Option<u64>,
    #[serde(deserialize_with = "values::milli_cpus")]
    pub cpus: Option<u64>,
    #[serde(deserialize_with = "values::pids")]
    pub pids: Option<u64>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Repo {
    pub url: Option<String>,
    pub path: Option<PathBuf>,
    #[serde(rename = "ref")]
    pub reference: String,
    #[serde(default, deserialize_with = "values::filled")]
    pub patches: Option<Vec<String>>,
    #[serde(default, deserialize_with = "values::filled")]
    pub compat: Option<Vec<String>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Task {
    #[serde(default, deserialize_with = "values::filled")]
    pub setup: Option<Vec<CommandLine>>,
    pub test: CommandLine,
    #[serde(default)]
    pub expected_fail: bool,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

/// How a configuration is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// TOML 1.0.
    Toml,
    /// YAML 1.2, one document.
    Yaml,
    /// JSON.
    Json,
}

impl Format {
    /// Returns the format that the ending of a file's name says, without the point.
    pub fn of_ending(ending: &str) -> Option<Format> {
        match ending {
            "toml" => Some(Format::Toml),
            "yaml" | "yml" => Some(Format::Yaml),
            "json" => Some(Format::Json),
            _ => None,
        }
    }

    /// Reads a text; the error has the path of the key, and what is wrong there.
    pub(super) fn parse(self, text: &str) -> Result<Document, (String, String)> {
        let located = |path: String, message: String| {
            let key = if path == "." { String::new() } else { path };
            (key, message)
        };
        match self {
            Format::Toml => {
                let whole = |error: toml::de::Error| (String::new(), error.to_string());
                let parsed = toml::Deserializer::parse(text).map_err(whole)?;
                serde_path_to_error::deserialize(parsed).map_err(|error| {
                    located(error.path().to_string(), error.inner().message().to_owned())
                })
            }
            Format::Json => {
                let mut parsed = serde_json::Deserializer::from_str(text);
                let document = serde_path_to_error::deserialize(&mut parsed);
                let document = document.map_err(|error| {
                    located(error.path().to_string(), error.inner().to_string())
                })?;
                parsed.end().map_err(|error| (String::new(), error.to_string()))?;
                Ok(document)
            }
            Format::Yaml => {
                // By way of values: a number is no text, as in the other two.
                let mut options = serde_saphyr::Options::default();
                options.with_snippet = false;
                // As YAML 1.2 has it: `y` and `no` are texts.
                options.strict_booleans = true;
                let value: serde_json::Value =
                    serde_saphyr::from_str_with_options(text, options)
                        .map_err(|error| (String::new(), error.to_string()))?;
                serde_path_to_error::deserialize(value)
                    .map_err(|error| located(error.path().to_string(), error.inner().to_string()))
            }
        }
    }
}

/// Finds the nearest of the known keys that serde lists: "unknown field `a`, expected one of …".
pub(super) fn nearest_key(message: &str) -> Option<String> {
    let start = message.find("unknown field ")?;
    let mut names = message[start..].split('`').skip(1).step_by(2);
    let unknown = names.next()?;
    nearest(unknown, names)
}
