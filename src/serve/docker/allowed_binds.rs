//! Which directories of the host containers may have.

use std::path::{Path, PathBuf};

use super::answer::Refusal;

/// The directories below which containers may have files of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedBinds(Vec<PathBuf>);

impl AllowedBinds {
    /// Allows what is below these directories, and themselves; links in them are followed. Those that
    /// are not there allow nothing.
    pub fn below(directories: &[PathBuf]) -> AllowedBinds {
        AllowedBinds(directories.iter().filter_map(|path| path.canonicalize().ok()).collect())
    }

    /// Finds what a container asks for. A directory that is not there is made where `make` is set, as
    /// Docker does.
    pub(super) fn find(&self, source: &str, make: bool) -> Result<PathBuf, Refusal> {
        let path = Path::new(source);
        if !path.is_absolute() {
            return Err(Refusal::bad(format!("bind of `{source}`: it is no absolute path")));
        }
        // What is not there is judged by the last directory above it that is.
        let there = path.ancestors().find_map(|path| path.canonicalize().ok());
        let there = there.unwrap_or_default();
        if !self.0.iter().any(|allowed| there.starts_with(allowed)) {
            return Err(Refusal::bad(format!(
                "bind of `{source}` is not allowed: `imgforge serve --allow-bind DIR` names what \
                 containers may have"
            )));
        }
        let failed = |error| Refusal::bad(format!("invalid mount: `{source}`: {error}"));
        if make && !path.exists() {
            std::fs::create_dir_all(path).map_err(failed)?;
        }
        let found = path.canonicalize().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Refusal::bad(format!(
                "invalid mount config for type \"bind\": bind source path does not exist: {source}"
            )),
            _ => failed(error),
        })?;
        match self.0.iter().any(|allowed| found.starts_with(allowed)) {
            true => Ok(found),
            false => Err(Refusal::bad(format!("bind of `{source}` leads out of what is allowed"))),
        }
    }
}
