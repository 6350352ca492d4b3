//! Docker's client configuration. Every engine reads the credentials of registries there.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// A file of the configuration that is there and cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileFault {
    /// It cannot be read.
    #[error("cannot read `{path}`")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no JSON, or not of the form that it has to have.
    #[error("`{path}` is broken")]
    Broken {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl FileFault {
    /// Returns what would help.
    pub fn hint(&self) -> String {
        match self {
            FileFault::Unreadable { .. } => {
                "make it readable, or name another directory in DOCKER_CONFIG".to_owned()
            }
            FileFault::Broken { .. } => {
                "correct it, or move it away; `docker login` writes it anew".to_owned()
            }
        }
    }
}

/// Returns the directory of Docker's client configuration.
pub fn config_directory(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let home = || set("HOME").map(|home| Path::new(&home).join(".docker"));
    set("DOCKER_CONFIG").map(PathBuf::from).or_else(home)
}

/// Reads a file of JSON; none, and an empty one as for `docker`, is `None`.
pub(super) fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>, FileFault> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => return Ok(None),
            _ => return Err(FileFault::Unreadable { path: path.to_owned(), source: error }),
        },
    };
    if text.trim_ascii().is_empty() {
        return Ok(None);
    }
    let parsed = serde_json::from_slice(&text);
    parsed.map(Some).map_err(|source| FileFault::Broken { path: path.to_owned(), source })
}
