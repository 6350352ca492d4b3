//! A command in a fresh container whose ends the caller holds: its input, its outputs, its terminal.
//!
//! What `docker run -it --rm` is made of. The container is closed off as that of an evaluation is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWrite;

use super::{Quotas, Result, SandboxEnd, SandboxNetwork, SandboxRequest};

/// A command to attach to.
#[derive(Debug, Clone)]
pub struct AttachRequest {
    /// The image.
    pub image: String,
    /// Program and arguments; the image's own command does not count.
    pub command: Vec<String>,
    /// Files that are written before it starts: path and content, readable by root only. The
    /// directories exist.
    pub files: Vec<(String, Vec<u8>)>,
    /// Environment variables, beside the image's. Nothing of the host's environment is passed.
    pub variables: BTreeMap<String, String>,
    /// Where it starts; without it where the image says.
    pub working_dir: Option<String>,
    /// `user`, `user:group`, by name or number; without it whom the image names.
    pub user: Option<String>,
    /// What the container can reach.
    pub network: SandboxNetwork,
    /// Bytes of memory, swap included.
    pub memory: Option<u64>,
    /// Thousandths of a processor; more than the engine has is all of them.
    pub milli_cpus: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// The size of its terminal; without one it gets pipes.
    pub terminal: Option<WindowSize>,
    /// As in [`SandboxRequest::labels`].
    pub labels: BTreeMap<String, String>,
}

impl AttachRequest {
    /// Returns the sandbox that the command gets.
    pub(super) fn sandbox(&self) -> SandboxRequest {
        SandboxRequest {
            image: self.image.clone(),
            files: self.files.clone(),
            command: String::new(),
            time_limit: Duration::ZERO,
            memory: self.memory,
            milli_cpus: self.milli_cpus,
            pids: self.pids,
            quotas: Quotas::default(),
            network: self.network,
            loopback_names: Vec::new(),
            variables: self.variables.clone(),
            labels: self.labels.clone(),
        }
    }
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters of a line.
    pub columns: u16,
}

/// A command under way, and its ends.
pub struct Attached {
    /// Its input; shutting it down is the end of the input, unless it is a terminal.
    pub input: Box<dyn AsyncWrite + Send + Unpin>,
    /// What it writes, as it comes, until nobody can write any more.
    pub output: BoxStream<'static, Result<Output>>,
    /// The command itself.
    pub command: Arc<dyn AttachedCommand>,
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Of the standard output, or of the terminal.
    Out(Bytes),
    /// Of the standard error.
    Error(Bytes),
}

/// A command under way. Without it the container ends, now or by [`super::Engine::remove_scratch`].
#[async_trait]
pub trait AttachedCommand: Send + Sync {
    /// Gives its terminal another size.
    async fn resize(&self, size: WindowSize) -> Result<()>;

    /// Sends it a signal, by its number; `SIGKILL` ends all that runs in the container. One that
    /// comes after the end is lost.
    async fn signal(&self, signal: i32) -> Result<()>;

    /// Waits for its end, which is that of all processes of the container, and removes the container.
    /// May be called once.
    async fn end(&self) -> Result<SandboxEnd>;
}
