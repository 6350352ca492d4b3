//! What tests of engines share.

use std::sync::Mutex;

use super::LogSink;

/// Keeps what is written to it.
#[derive(Default)]
pub(crate) struct Kept(pub Mutex<Vec<u8>>);

impl LogSink for Kept {
    fn write(&self, bytes: &[u8]) {
        self.0.lock().unwrap().extend_from_slice(bytes);
    }
}
