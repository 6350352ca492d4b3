//! Brings a repository into a sandbox, and applies patches there.
//!
//! On this machine its objects are read by this process, and files are written from them: no hook, filter
//! or setting of the repository counts. See [`crate::source`].

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::engine::{EngineError, ExecEnd, ExecRequest, Input};
use crate::source::{CheckoutLayer, CheckoutOptions, Mirror};

use super::container::Sandbox;
use super::error::SandboxError;
use super::results::ExecResult;
use super::settings::{OWNER, WORKSPACE};

/// Where a repository is in a sandbox.
pub const DIRECTORY: &str = "/workspace/repo";

impl Sandbox {
    /// Writes a repository as it is at a commit (40 hexadecimal digits) to [`DIRECTORY`], where commands
    /// start from then on. Its history is that of a checkout: the commits that it comes from, without their
    /// files, and their tags; nothing later. `scratch` is an existing directory for an archive of it.
    ///
    /// # Errors
    /// [`SandboxError::Source`] where the mirror lacks the commit, [`SandboxError::Write`] where the
    /// workspace is too small.
    pub async fn put_repository(
        &mut self,
        mirror: Arc<Mirror>,
        commit: &str,
        scratch: &Path,
    ) -> Result<CheckoutLayer, SandboxError> {
        let name = DIRECTORY.strip_prefix(WORKSPACE).expect("it is there").trim_start_matches('/');
        let options = CheckoutOptions::new(name).owned_by(OWNER);
        let (path, commit) = (scratch.join("repository.tar"), commit.to_owned());
        let out = path.clone();
        let written =
            tokio::task::spawn_blocking(move || mirror.write_checkout(&commit, &options, &out));
        let layer = written.await.expect("writing a checkout does not panic")?;
        let file = tokio::fs::File::open(&path).await;
        let mut file = file.map_err(|source| EngineError::File { path: path.clone(), source })?;
        let put = self.session().put(WORKSPACE, false, &mut file).await;
        // Nothing reads it again.
        let _ = tokio::fs::remove_file(&path).await;
        put.map_err(SandboxError::Write)?;
        self.directory = DIRECTORY;
        Ok(layer)
    }

    /// Applies a patch to the repository, as a whole or not at all. One that does not apply is a result.
    ///
    /// # Errors
    /// [`SandboxError::SetUp`] where the image has no git.
    pub async fn apply_patch(&self, patch: Bytes) -> Result<ExecResult, SandboxError> {
        let command = ["git", "apply", "--verbose", "--whitespace=nowarn", "-"];
        let request = ExecRequest { input: Input::Bytes(patch), ..ExecRequest::of(&command) };
        let ran = self.attempt(request, None).await?;
        if let ExecEnd::NotStarted(why) = &ran.end {
            return Err(SandboxError::SetUp { said: format!("git: {}", why.reason) });
        }
        self.settle(&ran).await?;
        Ok(self.told("git apply".to_owned(), &ran))
    }
}
