//! Sessions for programs, by JSON-RPC over a pipe or a unix socket: what `docs/protocol.md` says.
//!
//! A [`Server`] has the sessions, all of them on one engine and in this process. A connection, see
//! [`Server::serve`], reads requests, one a line, and has them done: those of a session one after another, so
//! that a client may send the next before the last is answered. What a connection started ends with it.

mod capture;
mod checkpoints;
mod client;
mod commands;
mod connection;
mod environments;
mod events;
mod fault;
mod files;
mod instances;
mod lines;
mod locked;
mod params;
mod patches;
mod queue;
mod served;
mod server;
mod sessions;
mod shells;
mod smoke;
mod start;
mod under_way;

pub use events::EventSink;
pub use fault::{Fault, Kind};
pub use instances::{GradeOrder, Graded, ImageOfInstance, Instances};
pub use server::Server;
pub use sessions::Settings;

/// The version of the protocol.
pub const PROTOCOL: u32 = 1;

/// The longest line of a client, in bytes.
const LINE: usize = 64 << 20;
