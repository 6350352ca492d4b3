//! What the main command of a container wrote: kept within bounds, given to whoever is attached.
//!
//! A reader that is attached holds the command up when it does not read, as on Docker; one of the log
//! misses what was dropped meanwhile.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::watch;

/// Bytes that are kept; older ones are dropped.
const KEPT: usize = 16 << 20;

/// Bytes that an attached reader may be behind.
const BEHIND: usize = 4 << 20;

/// Which output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    /// The standard output, or the terminal.
    Out = 1,
    /// The standard error.
    Error = 2,
}

/// A piece of output.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    /// When it came.
    pub(super) time: Timestamp,
    /// Where it was written to.
    pub(super) stream: Stream,
    /// What was written.
    pub(super) bytes: Bytes,
}

#[derive(Default)]
struct Kept {
    pieces: VecDeque<Piece>,
    /// The number of the first piece that is kept.
    first: u64,
    bytes: usize,
    /// How often the main command has ended.
    ends: u64,
    is_gone: bool,
    /// Where attached readers are, by their number.
    attached: HashMap<u64, u64>,
    next_reader: u64,
}

impl Kept {
    fn end(&self) -> u64 {
        self.first + self.pieces.len() as u64
    }

    /// Tells whether an attached reader is too far behind.
    fn is_held_up(&self) -> bool {
        let Some(last) = self.attached.values().min() else { return false };
        let read = usize::try_from(last.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.pieces.iter().skip(read).map(|piece| piece.bytes.len()).sum::<usize>() > BEHIND
    }
}

/// The output of a container.
#[derive(Default)]
pub(super) struct Output {
    kept: Mutex<Kept>,
    changed: watch::Sender<()>,
}

impl Output {
    fn with<T>(&self, work: impl FnOnce(&mut Kept) -> T) -> T {
        let done = work(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.send_replace(());
        done
    }

    /// Adds a piece, once all attached readers are near.
    pub(super) async fn add(&self, stream: Stream, bytes: Bytes) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            if !self.kept.lock().unwrap_or_else(PoisonError::into_inner).is_held_up() {
                break;
            }
            // The sender lives as long as this value.
            let _ = changed.changed().await;
        }
        self.with(|kept| {
            kept.bytes += bytes.len();
            kept.pieces.push_back(Piece { time: Timestamp::now(), stream, bytes });
            while kept.bytes > KEPT {
                let Some(dropped) = kept.pieces.pop_front() else { break };
                kept.bytes -= dropped.bytes.len();
                kept.first += 1;
            }
        });
    }

    /// Says that the main command has ended, and wrote its last.
    pub(super) fn end(&self) {
        self.with(|kept| kept.ends += 1);
    }

    /// Says that the container is gone.
    pub(super) fn close(&self) {
        self.with(|kept| kept.is_gone = true);
    }

    /// Reads what is written from now on, until the main command ends; where it does not run, that is
    /// its next run. With `from_start` also what is kept.
    pub(super) fn attach(self: &Arc<Output>, from_start: bool) -> Reader {
        self.with(|kept| {
            let number = kept.next_reader;
            kept.next_reader += 1;
            let position = if from_start { kept.first } else { kept.end() };
            kept.attached.insert(number, position);
            let until = Some(kept.ends + 1);
            Reader { output: self.clone(), position, until, attached: Some(number) }
        })
    }

    /// Reads what is kept from a piece on, and what follows while the main command runs (`ends` is how
    /// often it has ended when it does not).
    pub(super) fn read(self: &Arc<Output>, from: u64, until: Option<u64>) -> Reader {
        Reader { output: self.clone(), position: from, until, attached: None }
    }

    /// Returns the pieces that are kept, with the number of the first one, and how often the main
    /// command has ended.
    pub(super) fn kept(&self) -> (u64, Vec<Piece>, u64) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        (kept.first, kept.pieces.iter().cloned().collect(), kept.ends)
    }
}

/// Reads an output.
pub(super) struct Reader {
    output: Arc<Output>,
    position: u64,
    /// It ends when the main command has ended so often.
    until: Option<u64>,
    attached: Option<u64>,
}

impl Reader {
    /// Returns the next piece; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Piece> {
        let mut changed = self.output.changed.subscribe();
        loop {
            changed.mark_unchanged();
            if let Some(piece) = self.take() {
                return piece;
            }
            changed.changed().await.ok()?;
        }
    }

    /// Takes the next piece, or the end; `None` where there is neither yet.
    fn take(&mut self) -> Option<Option<Piece>> {
        let mut kept = self.output.kept.lock().unwrap_or_else(PoisonError::into_inner);
        self.position = self.position.max(kept.first);
        let at = usize::try_from(self.position - kept.first).unwrap_or(usize::MAX);
        if let Some(piece) = kept.pieces.get(at).cloned() {
            self.position += 1;
            if let Some(number) = self.attached {
                kept.attached.insert(number, self.position);
                drop(kept);
                self.output.changed.send_replace(());
            }
            return Some(Some(piece));
        }
        let has_ended = kept.is_gone || self.until.is_some_and(|until| kept.ends >= until);
        has_ended.then_some(None)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(number) = self.attached {
            self.output.with(|kept| kept.attached.remove(&number));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn an_attached_reader_gets_what_follows_and_the_end() {
        let output = Arc::new(Output::default());
        output.add(Stream::Out, "before".into()).await;
        let mut reader = output.attach(false);
        output.add(Stream::Error, "after".into()).await;
        output.end();
        let piece = reader.next().await.unwrap();
        assert_eq!((piece.stream, &piece.bytes[..]), (Stream::Error, &b"after"[..]));
        assert!(reader.next().await.is_none());
        let mut all = output.attach(true);
        assert_eq!(all.next().await.unwrap().bytes, "before");
    }

    #[tokio::test]
    async fn a_reader_that_does_not_read_holds_the_command_up_until_it_leaves() {
        let output = Arc::new(Output::default());
        let reader = output.attach(false);
        let piece = Bytes::from(vec![b'x'; BEHIND + 1]);
        output.add(Stream::Out, piece.clone()).await;
        let add = output.add(Stream::Out, piece);
        tokio::pin!(add);
        let waited = tokio::time::timeout(Duration::from_millis(50), &mut add).await;
        assert!(waited.is_err(), "the reader is behind");
        drop(reader);
        add.await;
    }

    #[tokio::test]
    async fn the_oldest_pieces_are_dropped() {
        let output = Arc::new(Output::default());
        for number in 0..20_u8 {
            output.add(Stream::Out, vec![number; 1 << 20].into()).await;
        }
        let (first, pieces, _) = output.kept();
        assert_eq!((first, pieces.len()), (4, 16));
        assert_eq!(output.read(0, Some(0)).next().await.unwrap().bytes[0], 4);
    }
}
