//! What stands on sandbox sessions, the same on every engine: output that is kept within bounds, and
//! shells that keep their state.
//!
//! The session itself is [`crate::engine::SandboxSession`].

mod access_key;
mod capture;
pub mod checkpoints;
pub mod directory;
pub mod egress;
pub mod git;
mod host;
mod kept;
pub mod order;
pub(crate) mod ports;
pub mod rpc;
mod shell;
mod start;
mod warnings;

pub use access_key::AccessKey;
pub use capture::{Capture, Captured, Keep, Run, run};
pub(crate) use host::sleep_for as sleep;
pub use host::{Lifetime, keep};
pub use kept::{Kept, Remember};
pub use ports::{NoPort, Publish};
pub use shell::{Running, Shell, ShellEnd, ShellOptions};
pub use start::{OfHost, StartError, Started, start, start_on};
pub use warnings::Warnings;
