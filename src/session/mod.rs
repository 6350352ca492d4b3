//! What stands on sandbox sessions, the same on every engine: output that is kept within bounds, and
//! shells that keep their state.
//!
//! The session itself is [`crate::engine::SandboxSession`].

mod capture;
mod shell;

pub use capture::{Capture, Captured, Keep, Run, run};
pub use shell::{Shell, ShellEnd, ShellOptions};
