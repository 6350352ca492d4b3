//! What stands on sandbox sessions, the same on every engine: output that is kept within bounds, and
//! shells that keep their state.
//!
//! The session itself is [`crate::engine::SandboxSession`].

mod access_key;
mod capture;
pub mod checkpoints;
pub mod directory;
pub mod egress;
mod host;
mod kept;
pub mod order;
pub(crate) mod ports;
pub mod rpc;
mod shell;

pub use access_key::AccessKey;
pub use capture::{Capture, Captured, Keep, Run, run};
pub use host::{Lifetime, keep};
pub use kept::{Kept, Remember};
pub use ports::{NoPort, Publish};
pub use shell::{Running, Shell, ShellEnd, ShellOptions};
