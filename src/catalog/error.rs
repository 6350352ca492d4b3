//! What can be wrong with a catalog, always with the place where it is wrong.

use std::fmt;
use std::path::PathBuf;

/// A place in a catalog file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceLocation {
    /// The file, as it was named.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The key, such as `base.python39.from`.
    pub key: String,
}

impl fmt::Display for SourceLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: `{}`", self.file, self.line, self.key)
    }
}

/// Why a catalog cannot be used, or has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// A catalog file cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong type.
    #[error("{file}:{line}: {message}")]
    Form {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// What the parser says.
        message: String,
        /// The known key that resembles the unknown one.
        nearest: Option<String>,
    },
    /// A file that an entry names is not there or is not text.
    #[error("{at}: cannot read `{path}`")]
    MissingFile {
        /// Where it is named.
        at: SourceLocation,
        /// As it is spelled there.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A base that no file defines.
    #[error("{at}: there is no base `{name}`")]
    UnknownBase {
        /// Where it is named.
        at: SourceLocation,
        /// The name.
        name: String,
        /// The base that resembles it.
        nearest: Option<String>,
    },
    /// A base stands on itself.
    #[error("{at}: the base stands on itself: {}", chain.join(" -> "))]
    BaseCycle {
        /// One `from` of the cycle.
        at: SourceLocation,
        /// The names along the cycle, the first one again at the end.
        chain: Vec<String>,
    },
    /// A base without a Dockerfile of its own or from the base that it stands on.
    #[error("{at}: the base has no `dockerfile`")]
    NoDockerfile {
        /// The base.
        at: SourceLocation,
    },
    /// No base offers the Python that an entry asks for.
    #[error("{at}: no base has Python {python}")]
    PythonWithoutBase {
        /// Where it is asked for.
        at: SourceLocation,
        /// The version.
        python: String,
    },
    /// An entry that says neither `python` nor `base`.
    #[error("{at}: version `{version}` says neither `python` nor `base`")]
    NoPython {
        /// Where the version is defined.
        at: SourceLocation,
        /// The version.
        version: String,
    },
    /// One file defines a version twice.
    #[error("{at}: version `{version}` is defined before, in line {first}")]
    DuplicateVersion {
        /// The second definition.
        at: SourceLocation,
        /// The version.
        version: String,
        /// The line of the first.
        first: usize,
    },
    /// A repo that the catalog does not know.
    #[error("the catalog has no repo `{repo}`")]
    UnknownRepo {
        /// `owner/name`.
        repo: String,
        /// The repo that resembles it.
        nearest: Option<String>,
    },
    /// A version that the catalog does not know.
    #[error("{}", no_version(repo, version))]
    UnknownVersion {
        /// `owner/name`.
        repo: String,
        /// The version.
        version: String,
        /// The version that resembles it.
        nearest: Option<String>,
    },
    /// A row has requirements that cannot be had here.
    #[error("`{instance_id}` has requirements that cannot be had here:{lines}")]
    Requirements {
        /// The row.
        instance_id: String,
        /// Every such line, with what to write instead.
        lines: String,
    },
    /// A row is installed with conda.
    #[error("`{instance_id}` is installed with conda, which is not here: {what}")]
    Conda {
        /// The row.
        instance_id: String,
        /// What says so.
        what: String,
    },
    /// A row asks for a Python that no base has.
    #[error("`{instance_id}`: no base has Python {python}")]
    RowPython {
        /// The row.
        instance_id: String,
        /// What it asks for.
        python: String,
    },
}

fn no_version(repo: &str, version: &str) -> String {
    match version {
        "" => format!("the row has no `version`, which names the environment of `{repo}`"),
        version => format!("the catalog has no version `{version}` of `{repo}`"),
    }
}

impl CatalogError {
    /// Returns what would help, for a line of its own below the error.
    pub fn hint(&self) -> Option<String> {
        match self {
            CatalogError::Form { nearest: Some(name), .. }
            | CatalogError::UnknownBase { nearest: Some(name), .. }
            | CatalogError::UnknownRepo { nearest: Some(name), .. }
            | CatalogError::UnknownVersion { nearest: Some(name), .. } => {
                Some(format!("did you mean `{name}`?"))
            }
            CatalogError::PythonWithoutBase { python, .. }
            | CatalogError::RowPython { python, .. } => Some(format!(
                "add a base with `python = \"{python}\"`, or let another stand in: `[stand-in] \"{python}\" = \"3.9\"`"
            )),
            CatalogError::Requirements { .. } => {
                Some("or evaluate it on its published image, with `--namespace`".to_owned())
            }
            CatalogError::Conda { .. } => Some(
                "evaluate it on its published image, with `--namespace`; or give the row \
                 `requirements`: what `pip freeze` prints in that environment"
                    .to_owned(),
            ),
            CatalogError::UnknownRepo { .. } | CatalogError::UnknownVersion { .. } => {
                Some("add it to `images.local.toml`".to_owned())
            }
            _ => None,
        }
    }
}
