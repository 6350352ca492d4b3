//! The runtime of SWE-ReX over the sessions of a state directory.
//!
//! Every session that has a key is served at `/s/<id>/` by the calls that SWE-ReX's `RemoteRuntime` makes:
//! no program of SWE-ReX is in the container, and no port of the container is open. A session of
//! SWE-ReX's is a shell here, which lives as long as this server and its session; a container is what
//! imgforge calls a session. The protocol is SWE-ReX's own, so that it works as it is.
//!
//! [`routes`] says what is served. Errors travel by the names of SWE-ReX's classes, see [`failure`].

mod address;
mod archive;
mod connections;
mod execute;
mod failure;
mod files;
mod interrupt;
mod once;
mod program;
mod registration;
mod requests;
mod routes;
mod runtime;
mod server;
mod shell_task;
mod syntax;
mod text;
mod upload;

pub use address::{LoopbackAddress, NotLoopback};
pub use connections::serve;
pub use registration::{Registration, RegistrationError, Serving};
pub use server::Server;
