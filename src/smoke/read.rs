//! Reading the configuration of smoke runs: TOML, YAML or JSON, by the ending of the file. A file that is
//! read names no unknown key, and every file that it names was there.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use crate::run_id::names_a_directory;

use super::compat::Fix;
use super::config::{
    Origin, Patch, RepoSpec, Resources, RunConfig, SandboxConfig, TaskSpec, Timeouts, WORKDIR,
};
use super::document::{Document, Format, Limits, Repo, Run, Task, Times, nearest_key};

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
