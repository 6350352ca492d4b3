//! Serving sandbox sessions to programs that speak another protocol.
//!
//! [`docker`] is the Docker Engine API over a unix socket, so that what was written for Docker runs on
//! sessions of an engine; [`rpc`] is imgforge's own protocol, for its clients. The room knows nothing of datasets, plans or the command line.

mod answer;
mod connection;
pub mod docker;
pub mod rpc;
mod socket;
pub mod swerex;

pub use socket::{Address, Listening, SocketError, default_address, process_of};
