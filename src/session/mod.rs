//! What stands on sandbox sessions, the same on every engine: output that is kept within bounds, and
//! shells that keep their state.
//!
//! The session itself is [`crate::engine::SandboxSession`].

mod capture;
pub mod directory;
mod host;
pub mod rpc;
mod shell;

pub use capture::{Capture, Captured, Keep, Run, run};
pub use host::{Lifetime, keep};
pub use shell::{Shell, ShellEnd, ShellOptions};
