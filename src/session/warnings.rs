//! What an engine warns of while it starts a session.

use std::sync::{Mutex, PoisonError};

use crate::engine::LogSink;

/// Takes what an engine says, for the warnings in it.
#[derive(Default)]
pub struct Warnings(Mutex<Vec<u8>>);

impl LogSink for Warnings {
    fn write(&self, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
    }
}

impl Warnings {
    /// Returns the warnings by now, in their order, without the word `warning`.
    pub fn list(&self) -> Vec<String> {
        let said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&said);
        text.lines().filter_map(|line| line.strip_prefix("warning: ")).map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_warning_is_left_out() {
        let warnings = Warnings::default();
        for piece in ["pulling\nwarn", "ing: no limits\nwarning: old\n", "a warning: no\n"] {
            warnings.write(piece.as_bytes());
        }
        assert_eq!(warnings.list(), ["no limits", "old"]);
    }
}
