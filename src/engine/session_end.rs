//! How a sandbox session ended.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::Quota;

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionEnd {
    /// It was stopped.
    Stopped,
    /// Its processes had more memory than they may, and the kernel could not limit them.
    OutOfMemory,
    /// It was killed because more was written than may be.
    OverQuota(Quota),
    /// A command of it made processes faster than they could be killed, so all were killed.
    Unkillable,
    /// Somebody else killed it: the engine, or a person.
    Killed,
    /// The cluster took its pod away, or its node is not heard of any more; the words of the cluster. What
    /// ran in it has no result.
    Lost(String),
}

impl SessionEnd {
    /// Says it in words, such as `it was stopped`.
    pub fn reason(&self) -> Cow<'static, str> {
        let text = match self {
            SessionEnd::Stopped => "it was stopped",
            SessionEnd::OutOfMemory => "its processes had more memory than they may",
            SessionEnd::OverQuota(_) => "its processes wrote more than they may",
            SessionEnd::Unkillable => "a command of it could not be killed by itself",
            SessionEnd::Killed => "it was killed from outside",
            SessionEnd::Lost(why) => return format!("its pod was lost: {why}").into(),
        };
        text.into()
    }
}
