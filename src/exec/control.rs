//! The control channel of a sandbox: what root says in it, and under the strict rules the output of
//! the tests.
//!
//! Only root has the channel's end, so lines on it can be believed. Under the strict rules root
//! writes a nonce to it, a line that was made for this run, and then gives the channel to the tests as
//! their output: bytes before the nonce are root's, bytes after it are theirs, and nothing that they or
//! the model's code print can be taken for something else.

use std::fs::File;
use std::io::Write as _;
use std::sync::Mutex;

use tokio::sync::Notify;

use crate::engine::LogSink;
use crate::progress::NodeLog;
use crate::recipe::marks::{CHANGE_MARK, REMOVED_MARK, RESTORED_MARK};
use crate::tree::{Change, TreeNotes};

/// The most that is kept of what root says; more is written to the log alone.
const MOST_SAID: usize = 8 << 20;

/// Takes the control channel.
pub(super) struct Control<'a> {
    log: &'a NodeLog,
    state: Mutex<State>,
    failed: Notify,
}

struct State {
    /// The line before the output of the tests; `None` where they have no channel of their own.
    nonce: Option<Vec<u8>>,
    /// The file that gets the output of the tests.
    tests: Option<File>,
    began: bool,
    said: Vec<u8>,
    /// How much of `said` is in the log.
    logged: usize,
    error: Option<std::io::Error>,
}

impl<'a> Control<'a> {
    /// Takes a channel. With a nonce, the bytes after it are written to the file.
    pub(super) fn new(log: &'a NodeLog, tests: Option<(String, File)>) -> Self {
        let (nonce, tests) = tests.map(|(nonce, file)| (nonce.into_bytes(), file)).unzip();
        let state = State { nonce, tests, began: false, said: Vec::new(), logged: 0, error: None };
        Control { log, state: Mutex::new(state), failed: Notify::new() }
    }

    /// Waits until the output of the tests cannot be written.
    pub(super) async fn failure(&self) -> std::io::Error {
        loop {
            if let Some(error) = self.state.lock().expect("no writer panics").error.take() {
                return error;
            }
            self.failed.notified().await;
        }
    }

    /// Returns what root said, and whether the tests began.
    pub(super) fn finish(self) -> std::io::Result<(TreeNotes, bool)> {
        let mut state = self.state.into_inner().expect("no writer panics");
        self.log.write(&state.said[state.logged..]);
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        let mut notes = TreeNotes::default();
        for line in String::from_utf8_lossy(&state.said).lines() {
            take(&mut notes, line);
        }
        Ok((notes, state.began))
    }
}

fn take(notes: &mut TreeNotes, line: &str) {
    for (mark, list) in [
        (CHANGE_MARK, &mut notes.changed),
        (RESTORED_MARK, &mut notes.restored),
        (REMOVED_MARK, &mut notes.removed),
    ] {
        // Written anew, so that there is one form.
        if let Some(change) = line.strip_prefix(mark).and_then(Change::parse) {
            list.push(change.to_string());
        }
    }
}

impl State {
    fn tests_said(&mut self, bytes: &[u8]) -> bool {
        let Some(file) = &mut self.tests else { return true };
        let written = if self.error.is_none() { file.write_all(bytes) } else { Ok(()) };
        written.map_err(|error| self.error = Some(error)).is_ok()
    }
}

impl LogSink for Control<'_> {
    fn write(&self, bytes: &[u8]) {
        let mut state = self.state.lock().expect("no writer panics");
        let state = &mut *state;
        if state.began {
            if let Some(watcher) = self.log.watcher() {
                watcher.write(bytes);
            }
            if !state.tests_said(bytes) {
                self.failed.notify_one();
            }
            return;
        }
        if state.nonce.is_none() && state.said.len() > MOST_SAID {
            self.log.write(bytes);
            return;
        }
        state.said.extend_from_slice(bytes);
        let Some(nonce) = state.nonce.clone() else {
            self.log.write(bytes);
            state.logged = state.said.len();
            return;
        };
        let from = state.logged.saturating_sub(nonce.len());
        if let Some(at) = memchr::memmem::find(&state.said[from..], &nonce) {
            let rest = state.said.split_off(from + at);
            self.log.write(&state.said[state.logged.min(from + at)..]);
            state.logged = state.said.len();
            state.began = true;
            if !state.tests_said(&rest[nonce.len()..]) {
                self.failed.notify_one();
            }
            return;
        }
        // The beginning of the nonce may have come.
        let sure = state.said.len().saturating_sub(nonce.len() - 1).max(state.logged);
        self.log.write(&state.said[state.logged..sure]);
        state.logged = sure;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_the_word_is_of_the_tests_however_it_is_cut() {
        let text = "imgforge-change: A \"a.py\"\nimgforge-restored: M \"b\\\"c\"\nWORD\
                    imgforge-change: A \"forged\"\nWORDx";
        for cut in 0..=text.len() {
            let dir = tempfile::tempdir().unwrap();
            let log = NodeLog::at(&dir.path().join("log")).unwrap();
            let path = dir.path().join("tests");
            let file = File::create(&path).unwrap();
            let control = Control::new(&log, Some(("WORD".to_owned(), file)));
            control.write(&text.as_bytes()[..cut]);
            control.write(&text.as_bytes()[cut..]);
            let (notes, began) = control.finish().unwrap();
            assert!(began, "{cut}");
            assert_eq!(notes.changed, ["A a.py"], "{cut}");
            assert_eq!(notes.restored, [r#"M "b\"c""#], "{cut}");
            let theirs = std::fs::read_to_string(&path).unwrap();
            assert_eq!(theirs, "imgforge-change: A \"forged\"\nWORDx", "{cut}");
            let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
            assert_eq!(log, text[..text.find("WORD").unwrap()], "{cut}");
        }
    }

    #[test]
    fn without_a_word_all_of_it_is_roots() {
        let dir = tempfile::tempdir().unwrap();
        let log = NodeLog::at(&dir.path().join("log")).unwrap();
        let control = Control::new(&log, None);
        control.write(b"imgforge-change: D \"a\"\nmore");
        let (notes, began) = control.finish().unwrap();
        assert!(!began);
        assert_eq!(notes.changes()[0].path, b"a");
    }
}
