//! Serving sandbox sessions to programs that speak another protocol.
//!
//! [`docker`] is the Docker Engine API over a unix socket, so that what was written for Docker runs on
//! sessions of an engine. The room knows nothing of datasets, plans or the command line.

mod answer;
mod connection;
pub mod docker;
mod socket;
pub mod swerex;

pub use socket::{Address, Listening, SocketError, default_address, process_of};
