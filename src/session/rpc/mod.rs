//! A session in another process: the native protocol, its server and its client.
//!
//! The protocol is JSON-RPC 2.0, one object a line, over a stream socket. Bytes are base64. A client
//! numbers its commands and transfers; what a command writes comes as notifications. All that a client
//! started ends with its connection. [`message`] has the names and shapes.

mod client;
mod message;
mod server;

pub use client::RemoteSession;
pub use message::PROTOCOL;
pub use server::serve;

/// The longest line, in bytes: a piece of [`PIECE`] bytes as base64 is well below it.
const LINE: usize = 16 << 20;

/// The bytes of a piece of an archive.
const PIECE: usize = 1 << 16;
