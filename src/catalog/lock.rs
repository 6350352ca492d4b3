//! `imgforge lock`: resolves the requirements of an environment as of a date, with uv.
//!
//! Takes the requirement files as text; where they come from is the caller's business.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::process::Stdio;

use super::TextFile;

/// What is resolved.
#[derive(Debug, Clone)]
pub struct LockRequest {
    /// `owner/name`, for the header.
    pub repo: String,
    /// The version, for the header.
    pub version: String,
    /// The Python version that the packages must suit, such as `3.9`.
    pub python: String,
    /// Packages uploaded after this date (`YYYY-MM-DD`) are not considered.
    pub date: String,
    /// Requirement specifiers.
    pub packages: Vec<String>,
    /// Requirement files, by their path in the repository.
    pub requirements: Vec<TextFile>,
    /// Files that `requirements` include with `-r` or `-c`.
    pub included: Vec<TextFile>,
    /// The `uv` to use.
    pub uv: PathBuf,
    /// Variables that lead uv to package indexes.
    pub variables: BTreeMap<String, String>,
    /// Whether no index may be asked.
    pub no_index: bool,
}

/// Why there is no lockfile.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The environment has nothing that could be resolved.
    #[error("`{repo}` {version} names no packages and no requirement files")]
    Empty {
        /// `owner/name`.
        repo: String,
        /// The version.
        version: String,
    },
    /// Not a date.
    #[error("`{0}` is not a date in the form YYYY-MM-DD")]
    Date(String),
    /// A requirement file lies outside the repository.
    #[error("the requirement file `{0}` lies outside the repository")]
    Outside(String),
    /// uv cannot be started.
    #[error("cannot run `{}`", uv.display())]
    NoUv {
        /// The program.
        uv: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The inputs cannot be written to a temporary folder.
    #[error("cannot write the requirement files to a temporary folder")]
    Write(#[from] std::io::Error),
    /// uv finds no set of packages.
    #[error("uv cannot resolve `{repo}` {version} as of {date}: {message}")]
    Unsolved {
        /// `owner/name`.
        repo: String,
        /// The version.
        version: String,
        /// The date.
        date: String,
        /// What uv says.
        message: String,
    },
}

impl LockError {
    /// Returns what would help, for a line of its own below the error.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            LockError::NoUv { .. } => {
                Some("install uv (`pip install uv`), or name it with IMGFORGE_UV")
            }
            _ => None,
        }
    }
}

/// Returns the `uv` to use: `IMGFORGE_UV`, else the one on PATH.
pub fn uv_program() -> PathBuf {
    std::env::var_os("IMGFORGE_UV").filter(|path| !path.is_empty()).map_or("uv".into(), Into::into)
}

/// Returns the text of a lockfile with hashes.
pub async fn lock(request: LockRequest) -> Result<String, LockError> {
    let LockRequest { repo, version, python, date, .. } = &request;
    if date.len() != 10 || date.parse::<jiff::civil::Date>().is_err() {
        return Err(LockError::Date(date.clone()));
    }
    if request.packages.is_empty() && request.requirements.is_empty() {
        return Err(LockError::Empty { repo: repo.clone(), version: version.clone() });
    }
    let folder = tempfile::tempdir()?;
    let mut inputs = Vec::new();
    if !request.packages.is_empty() {
        let name = "packages.in";
        std::fs::write(folder.path().join(name), request.packages.join("\n") + "\n")?;
        inputs.push(name.to_owned());
    }
    for file in request.requirements.iter().chain(&request.included) {
        write_inside(folder.path(), file)?;
    }
    inputs.extend(request.requirements.iter().map(|file| file.path.clone()));

    let output = tokio::process::Command::new(&request.uv)
        .args(["pip", "compile", "--generate-hashes", "--no-header", "--no-annotate", "--quiet"])
        .args(["--exclude-newer", date, "--python-version", python])
        .args(if request.no_index { &["--no-index"][..] } else { &[] })
        .args(&inputs)
        .envs(&request.variables)
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|source| LockError::NoUv { uv: request.uv.clone(), source })?;
    if !output.status.success() {
        return Err(LockError::Unsolved {
            repo: repo.clone(),
            version: version.clone(),
            date: date.clone(),
            message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    Ok(format!(
        "# {repo} {version}, Python {python}, packages as of {date}.\n\
         # imgforge lock {repo} {version} --date {date} --python {python}\n{}",
        String::from_utf8_lossy(&output.stdout)
    ))
}

fn write_inside(folder: &Path, file: &TextFile) -> Result<(), LockError> {
    let path = Path::new(&file.path);
    if !path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(LockError::Outside(file.path.clone()));
    }
    let path = folder.join(path);
    std::fs::create_dir_all(path.parent().unwrap_or(folder))?;
    std::fs::write(path, &file.text)?;
    Ok(())
}
