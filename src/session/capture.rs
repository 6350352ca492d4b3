//! Output of a command that is kept within bounds.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Mutex;

use crate::engine::{ExecRequest, ExecSummary, LogSink, Result, SandboxSession};

/// Which part of an output is kept that is longer than it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The last bytes of it.
    Tail(usize),
    /// As many bytes of its beginning as of its end: half of this number each.
    HeadTail(usize),
    /// All of it, however long it is.
    All,
}

impl Default for Keep {
    /// The last 10 MiB.
    fn default() -> Keep {
        Keep::Tail(10 << 20)
    }
}

/// Takes an output and keeps what may be kept of it.
pub struct Capture {
    keep: Keep,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    dropped: u64,
    spill: Option<File>,
    failure: Option<io::Error>,
}

/// What was kept of an output.
#[derive(Debug, Default)]
pub struct Captured {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// How many bytes are missing, between the head and the tail, or before the tail.
    pub dropped: u64,
    /// Why the file does not have all of it.
    pub spill_failure: Option<io::Error>,
}

impl Capture {
    /// Keeps a part of an output.
    pub fn new(keep: Keep) -> Capture {
        Capture { keep, held: Mutex::default() }
    }

    /// Writes all of it to a new file as well.
    ///
    /// # Errors
    /// Where the file cannot be made.
    pub fn with_spill(self, path: &Path) -> io::Result<Capture> {
        self.held.lock().expect("no writer panics").spill = Some(File::create(path)?);
        Ok(self)
    }

    /// Returns what was kept.
    pub fn finish(self) -> Captured {
        let held = self.held.into_inner().expect("no writer panics");
        let mut bytes = held.head;
        bytes.extend(held.tail);
        Captured { bytes, dropped: held.dropped, spill_failure: held.failure }
    }
}

impl LogSink for Capture {
    fn write(&self, bytes: &[u8]) {
        let mut held = self.held.lock().expect("no writer panics");
        if let Some(spill) = &mut held.spill
            && let Err(error) = spill.write_all(bytes)
        {
            (held.spill, held.failure) = (None, Some(error));
        }
        let (head, tail) = match self.keep {
            Keep::All => return held.head.extend_from_slice(bytes),
            Keep::Tail(most) => (0, most),
            Keep::HeadTail(most) => (most / 2, most - most / 2),
        };
        let (first, rest) = bytes.split_at(bytes.len().min(head - held.head.len()));
        held.head.extend_from_slice(first);
        // Of a piece that is longer than the tail, only its end counts.
        let skipped = rest.len().saturating_sub(tail);
        held.tail.extend(&rest[skipped..]);
        let over = held.tail.len().saturating_sub(tail);
        held.tail.drain(..over);
        held.dropped += (skipped + over) as u64;
    }
}

/// A command that ran, and what it printed.
#[derive(Debug)]
pub struct Run {
    /// How it ended.
    pub summary: ExecSummary,
    /// Its standard output, or both.
    pub out: Captured,
    /// Its standard error, or its control descriptor.
    pub error: Captured,
}

/// Runs a command to its end and keeps what it prints.
pub async fn run(session: &dyn SandboxSession, request: &ExecRequest, keep: Keep) -> Result<Run> {
    let (out, error) = (Capture::new(keep), Capture::new(keep));
    let summary = session.exec(request, &out, &error).await?;
    Ok(Run { summary, out: out.finish(), error: error.finish() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(keep: Keep, pieces: &[&[u8]]) -> (Vec<u8>, u64) {
        let capture = Capture::new(keep);
        for piece in pieces {
            capture.write(piece);
        }
        let Captured { bytes, dropped, .. } = capture.finish();
        (bytes, dropped)
    }

    #[test]
    fn an_output_is_cut_where_it_is_to_be_cut_however_it_comes() {
        let all = b"0123456789";
        for cut in 0..=all.len() {
            let pieces = [&all[..cut], &all[cut..]];
            assert_eq!(captured(Keep::All, &pieces), (all.to_vec(), 0));
            assert_eq!(captured(Keep::Tail(4), &pieces), (b"6789".to_vec(), 6), "{cut}");
            assert_eq!(captured(Keep::HeadTail(5), &pieces), (b"01789".to_vec(), 5), "{cut}");
            assert_eq!(captured(Keep::Tail(10), &pieces), (all.to_vec(), 0), "{cut}");
            assert_eq!(captured(Keep::HeadTail(10), &pieces), (all.to_vec(), 0), "{cut}");
            assert_eq!(captured(Keep::Tail(0), &pieces), (Vec::new(), 10), "{cut}");
        }
    }

    #[test]
    fn the_file_has_all_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let capture = Capture::new(Keep::Tail(2)).with_spill(&path).unwrap();
        capture.write(b"abc");
        capture.write(b"def");
        let captured = capture.finish();
        assert_eq!((captured.bytes.as_slice(), captured.dropped), (b"ef".as_slice(), 4));
        assert!(captured.spill_failure.is_none());
        assert_eq!(std::fs::read(path).unwrap(), b"abcdef");
    }
}
