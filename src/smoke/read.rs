//! Reading the configuration of smoke runs: TOML, YAML or JSON, by the ending of the file. A file that is
//! read names no unknown key, and every file that it names was there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::nearest::nearest;
use crate::run_id::names_a_directory;

use super::compat::Fix;
use super::config::{
    COMMAND_TIMEOUT, CommandLine, Network, Origin, Patch, RepoSpec, Resources, RunConfig,
    STAGE_TIMEOUT, SandboxConfig, TaskSpec, Timeouts, WORKDIR,
};
use super::values;

/// What is wrong with a configuration, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub file: String,
    /// The path of the key, such as `sandbox.timeouts.command`; empty for the whole file.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// The known name that resembles a mistaken one.
    pub nearest: Option<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: ", self.file)?;
        if !self.key.is_empty() {
            write!(f, "`{}`: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

impl ConfigError {
    /// Returns what would help.
    pub fn hint(&self) -> Option<String> {
        self.nearest.as_ref().map(|name| format!("did you mean `{name}`?"))
    }
}

/// The runs of a configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Configured {
    /// The runs, in their order; one at least.
    pub runs: Vec<RunConfig>,
    /// Whether the file has a list `runs`: then the report is of a list too.
    pub is_list: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    name: Option<String>,
    sandbox: Option<Sandbox>,
    repo: Option<Repo>,
    task: Option<Task>,
    #[serde(default, deserialize_with = "values::filled")]
    runs: Option<Vec<Run>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Run {
    name: Option<String>,
    sandbox: Option<Sandbox>,
    repo: Option<Repo>,
    task: Option<Task>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sandbox {
    image: String,
    name: Option<String>,
    workdir: Option<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    timeouts: Times,
    #[serde(default)]
    resources: Limits,
    #[serde(default, deserialize_with = "values::network")]
    network: Network,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Times {
    #[serde(deserialize_with = "values::duration")]
    command: Duration,
    #[serde(deserialize_with = "values::duration")]
    stage: Duration,
}

impl Default for Times {
    fn default() -> Times {
        Times { command: COMMAND_TIMEOUT, stage: STAGE_TIMEOUT }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Limits {
    #[serde(deserialize_with = "values::memory")]
    memory: Option<u64>,
    #[serde(deserialize_with = "values::milli_cpus")]
    cpus: Option<u64>,
    #[serde(deserialize_with = "values::pids")]
    pids: Option<u64>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Repo {
    url: Option<String>,
    path: Option<PathBuf>,
    #[serde(rename = "ref")]
    reference: String,
    #[serde(default, deserialize_with = "values::filled")]
    patches: Option<Vec<String>>,
    #[serde(default, deserialize_with = "values::filled")]
    compat: Option<Vec<String>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Task {
    #[serde(default, deserialize_with = "values::filled")]
    setup: Option<Vec<CommandLine>>,
    test: CommandLine,
    #[serde(default)]
    expected_fail: bool,
    #[serde(default)]
    env: BTreeMap<String, String>,
}

/// Where in a file something stands.
struct Place<'a> {
    file: &'a str,
    /// Relative paths are below it.
    base: &'a Path,
    /// The path of the run, with a point at its end; empty where the file has no list.
    run: String,
}

impl Place<'_> {
    fn wrong(&self, key: &str, message: impl Into<String>) -> ConfigError {
        let key = format!("{}{key}", self.run);
        ConfigError { file: self.file.to_owned(), key, message: message.into(), nearest: None }
    }
}

/// Reads a configuration file.
///
/// # Errors
/// The first thing that is wrong with it, with the path of the key.
pub fn read_file(path: &Path) -> Result<Configured, ConfigError> {
    let file = path.display().to_string();
    let failed = |message: String| ConfigError {
        file: file.clone(),
        key: String::new(),
        message,
        nearest: None,
    };
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let format = Format::of_ending(ending).ok_or_else(|| {
        failed("the name of a configuration ends with .toml, .yaml, .yml or .json".to_owned())
    })?;
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let base = path.parent().unwrap_or(Path::new("."));
    read_text(&file, &text, format, base)
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
    fn parse(self, text: &str) -> Result<Document, (String, String)> {
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
                let value: serde_json::Value =
                    serde_saphyr::from_str_with_options(text, options)
                        .map_err(|error| (String::new(), error.to_string()))?;
                serde_path_to_error::deserialize(value)
                    .map_err(|error| located(error.path().to_string(), error.inner().to_string()))
            }
        }
    }
}

/// Reads the text of a configuration. `file` is its name in errors, and relative paths are below `base`.
///
/// # Errors
/// As for [`read_file`].
pub fn read_text(
    file: &str,
    text: &str,
    format: Format,
    base: &Path,
) -> Result<Configured, ConfigError> {
    let document = format.parse(text).map_err(|(key, message)| ConfigError {
        file: file.to_owned(),
        key,
        nearest: nearest_key(&message),
        message,
    })?;
    let Document { name, sandbox, repo, task, runs } = document;
    let whole = Place { file, base, run: String::new() };
    let Some(runs) = runs else {
        let run = checked(Run { name, sandbox, repo, task }, &whole)?;
        return Ok(Configured { runs: vec![run], is_list: false });
    };
    if name.is_some() {
        return Err(whole.wrong("name", "a file with `runs` has a name for each of them"));
    }
    let mut names = BTreeSet::new();
    let mut all = Vec::new();
    for (index, run) in runs.into_iter().enumerate() {
        let place = Place { file, base, run: format!("runs[{index}].") };
        let run = Run {
            sandbox: run.sandbox.or_else(|| sandbox.clone()),
            repo: run.repo.or_else(|| repo.clone()),
            task: run.task.or_else(|| task.clone()),
            name: run.name,
        };
        let mut run = checked(run, &place)?;
        let name = run.name.get_or_insert_with(|| (index + 1).to_string());
        if !names.insert(name.clone()) {
            return Err(place.wrong("name", format!("two runs are called `{name}`")));
        }
        all.push(run);
    }
    Ok(Configured { runs: all, is_list: true })
}

/// Finds the nearest of the known keys that serde lists: "unknown field `a`, expected one of …".
fn nearest_key(message: &str) -> Option<String> {
    let start = message.find("unknown field ")?;
    let mut names = message[start..].split('`').skip(1).step_by(2);
    let unknown = names.next()?;
    nearest(unknown, names)
}

/// Checks what one value alone cannot say.
fn checked(run: Run, place: &Place<'_>) -> Result<RunConfig, ConfigError> {
    let missing = |key: &str| place.wrong(key, "it is missing");
    let Run { name, sandbox, repo, task } = run;
    let sandbox = sandbox.ok_or_else(|| missing("sandbox"))?;
    let repo = repo.ok_or_else(|| missing("repo"))?;
    let task = task.ok_or_else(|| missing("task"))?;
    for (key, env) in [("sandbox.env", &sandbox.env), ("task.env", &task.env)] {
        for (name, value) in env {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return Err(place.wrong(&format!("{key}.{name}"), "it is no variable"));
            }
        }
    }
    let name = name.or_else(|| sandbox.name.clone());
    if let Some(name) = name.as_deref().filter(|name| !is_name(name)) {
        let message = format!("`{name}` is no name: write letters, digits, `_`, `.` and `-`");
        return Err(place.wrong("name", message));
    }
    if sandbox.image.trim().is_empty() {
        return Err(place.wrong("sandbox.image", "it is empty"));
    }
    let workdir = sandbox.workdir.unwrap_or_else(|| WORKDIR.to_owned());
    let parts = workdir.trim_matches('/').split('/');
    if !workdir.starts_with('/')
        || workdir.contains('\0')
        || parts.into_iter().any(|part| matches!(part, "" | "." | ".."))
    {
        let message = "it is an absolute path without `.` and `..`, and not `/` itself";
        return Err(place.wrong("sandbox.workdir", message));
    }
    let workdir = workdir.trim_end_matches('/').to_owned();
    let Times { command, stage } = sandbox.timeouts;
    let Limits { memory, cpus, pids } = sandbox.resources;
    let sandbox = SandboxConfig {
        image: sandbox.image,
        workdir,
        env: sandbox.env,
        timeouts: Timeouts { command, stage },
        resources: Resources { memory, milli_cpus: cpus, pids },
        network: sandbox.network,
    };
    let Task { setup, test, expected_fail, env } = task;
    let task = TaskSpec { setup: setup.unwrap_or_default(), test, expected_fail, env };
    Ok(RunConfig { name, sandbox, repo: checked_repo(repo, place)?, task })
}

fn is_name(name: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    names_a_directory(name) && !name.starts_with(['.', '-']) && name.chars().all(known)
}

fn checked_repo(repo: Repo, place: &Place<'_>) -> Result<RepoSpec, ConfigError> {
    let Repo { url, path, reference, patches, compat } = repo;
    let origin = match (url, path) {
        (Some(url), None) if url.trim().is_empty() => {
            return Err(place.wrong("repo.url", "it is empty"));
        }
        (Some(url), None) if crate::source::local_path(&url).is_some() && !is_short(&url) => {
            let message = format!("`{url}` is no URL: a directory of this machine is `repo.path`");
            return Err(place.wrong("repo.url", message));
        }
        (Some(url), None) => Origin::Url(url),
        (None, Some(path)) => {
            let path = place.base.join(path);
            let path = path.canonicalize().map_err(|error| {
                place.wrong("repo.path", format!("`{}`: {error}", path.display()))
            })?;
            if !path.is_dir() {
                let message = format!("`{}` is no directory", path.display());
                return Err(place.wrong("repo.path", message));
            }
            Origin::Path(path)
        }
        (Some(_), Some(_)) => {
            return Err(place.wrong("repo", "it has both `url` and `path`: one is needed"));
        }
        (None, None) => return Err(place.wrong("repo", "it has neither `url` nor `path`")),
    };
    if reference.is_empty() || reference.starts_with('-') || reference.contains(char::is_whitespace)
    {
        let message = format!("`{reference}` is no branch, tag or commit");
        return Err(place.wrong("repo.ref", message));
    }
    let mut read = Vec::new();
    for (index, file) in patches.unwrap_or_default().into_iter().enumerate() {
        let key = format!("repo.patches[{index}]");
        let bytes = std::fs::read(place.base.join(&file))
            .map_err(|error| place.wrong(&key, format!("`{file}`: {error}")))?;
        if bytes.trim_ascii().is_empty() {
            return Err(place.wrong(&key, format!("`{file}` is empty")));
        }
        read.push(Patch { file, bytes });
    }
    let fix = |(index, text): (usize, &String)| {
        let key = format!("repo.compat[{index}]");
        text.parse::<Fix>().map_err(|error| place.wrong(&key, error.to_string()))
    };
    let compat = compat.unwrap_or_default();
    let compat = compat.iter().enumerate().map(fix).collect::<Result<Vec<_>, _>>()?;
    Ok(RepoSpec { origin, reference, patches: read, compat })
}

/// Tells whether a text is `owner/name`.
pub(super) fn is_short(url: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let is_part =
        |part: &str| !part.is_empty() && !part.starts_with(['.', '-']) && part.chars().all(known);
    url.split_once('/').is_some_and(|(owner, name)| is_part(owner) && is_part(name))
}
