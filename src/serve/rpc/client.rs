//! Who is connected: what its requests know of it.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::lines::Lines;
use super::sessions::Sessions;

/// A client, and the sessions that it sees.
#[derive(Clone)]
pub(super) struct Client {
    /// All sessions of the server.
    pub sessions: Arc<Sessions>,
    /// Which client it is.
    pub number: u64,
    /// The way to it.
    pub lines: Lines,
    /// Whether it has gone.
    pub over: CancellationToken,
}
