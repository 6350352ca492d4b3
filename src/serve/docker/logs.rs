//! `logs`: what the main command wrote, as far as it is kept.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use jiff::Timestamp;

use super::answer::{Answer, Refusal, streamed};
use super::call::Call;
use super::container::Container;
use super::hijack::{MULTIPLEXED, RAW, frame};
use super::output::{Piece, Reader, Stream};
use super::times;

/// What a client wants to see.
struct Wanted {
    out: bool,
    error: bool,
    timestamps: bool,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    has_terminal: bool,
    /// Whether the next piece of each output begins a line.
    at_line_start: [bool; 2],
}

impl Wanted {
    fn takes(&self, piece: &Piece) -> bool {
        let is_wanted = if piece.stream == Stream::Out { self.out } else { self.error };
        is_wanted
            && self.since.is_none_or(|since| piece.time >= since)
            && self.until.is_none_or(|until| piece.time <= until)
    }

    /// Returns a piece as it is sent: a frame a line, as Docker keeps them.
    fn shown(&mut self, piece: Piece) -> Bytes {
        let Piece { time, stream, bytes } = piece;
        if self.has_terminal && !self.timestamps {
            return bytes;
        }
        let at_line_start = &mut self.at_line_start[stream as usize - 1];
        let mut frames = BytesMut::new();
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let mut text = BytesMut::new();
            if self.timestamps && *at_line_start {
                text.extend_from_slice(format!("{time:.9} ").as_bytes());
            }
            text.extend_from_slice(line);
            *at_line_start = line.ends_with(b"\n");
            frames.extend_from_slice(&frame(self.has_terminal, stream, text.freeze()));
        }
        frames.freeze()
    }
}

/// Shows the log of a container.
pub(super) fn logs(call: &Call, container: &Arc<Container>) -> Answer {
    let wanted = Wanted {
        out: call.is_set("stdout"),
        error: call.is_set("stderr"),
        timestamps: call.is_set("timestamps"),
        since: time(call, "since")?,
        until: time(call, "until")?,
        has_terminal: container.has_terminal(),
        at_line_start: [true, true],
    };
    if !wanted.out && !wanted.error {
        return Err(Refusal::bad("Bad parameters: you must choose at least one stream"));
    }
    let tail = match call.parameter("tail") {
        None | Some("all") => None,
        Some(_) => call.number::<usize>("tail")?,
    };
    let (first, pieces, ends) = container.output.kept();
    let (from, cut) = match tail {
        Some(lines) => last(&pieces, lines, |piece| wanted.takes(piece)),
        None => (0, 0),
    };
    let follows = call.is_set("follow") && container.state.now().status.is_alive();
    let until = if follows { ends + 1 } else { ends };
    let reader = container.output.read(first + from as u64, Some(until));
    let content_type = match (wanted.has_terminal, call.version) {
        (true, _) => RAW,
        // Before 1.42 the type was the same for both.
        (false, Some(version)) if version < (1, 42) => RAW,
        (false, _) => MULTIPLEXED,
    };
    // Without `follow` it ends with what is there now.
    let most = if follows { usize::MAX } else { pieces.len() - from };
    let show = Show { reader, wanted, cut, most };
    let shown = stream::unfold(show, |mut show| async {
        let bytes = show.next().await?;
        Some((Ok::<_, io::Error>(bytes), show))
    });
    Ok(streamed(content_type, shown))
}

struct Show {
    reader: Reader,
    wanted: Wanted,
    /// Bytes of the first piece that are not shown.
    cut: usize,
    /// How many pieces are looked at.
    most: usize,
}

impl Show {
    async fn next(&mut self) -> Option<Bytes> {
        while self.most > 0 {
            let mut piece = self.reader.next().await?;
            self.most -= 1;
            piece.bytes = piece.bytes.slice(self.cut.min(piece.bytes.len())..);
            self.cut = 0;
            if self.wanted.takes(&piece) {
                return Some(self.wanted.shown(piece));
            }
        }
        None
    }
}

/// Finds where the last lines begin: the piece, and the byte in it.
fn last(pieces: &[Piece], lines: usize, takes: impl Fn(&Piece) -> bool) -> (usize, usize) {
    let (mut left, mut is_last) = (lines, true);
    for (at, piece) in pieces.iter().enumerate().rev().filter(|(_, piece)| takes(piece)) {
        for (offset, _) in piece.bytes.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n')
        {
            // The end of the last line begins none.
            let ends_all = std::mem::take(&mut is_last) && offset + 1 == piece.bytes.len();
            if ends_all && left > 0 {
                continue;
            }
            if left <= 1 {
                return if left == 0 { (pieces.len(), 0) } else { (at, offset + 1) };
            }
            left -= 1;
        }
        is_last = false;
    }
    if lines == 0 { (pieces.len(), 0) } else { (0, 0) }
}

/// Reads a time; `0` is none.
fn time(call: &Call, name: &str) -> Result<Option<Timestamp>, Refusal> {
    let Some(text) = call.parameter(name).filter(|text| *text != "0") else { return Ok(None) };
    let wrong = || Refusal::bad(format!("invalid value for {name}: {text:?}"));
    times::read(text).map(Some).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(texts: &[&'static str]) -> Vec<Piece> {
        let piece = |text: &&'static str| Piece {
            time: Timestamp::UNIX_EPOCH,
            stream: Stream::Out,
            bytes: Bytes::from_static(text.as_bytes()),
        };
        texts.iter().map(piece).collect()
    }

    #[test]
    fn a_line_has_a_frame_and_its_time() {
        let mut wanted = Wanted {
            out: true,
            error: true,
            timestamps: false,
            since: None,
            until: None,
            has_terminal: false,
            at_line_start: [true, true],
        };
        let [piece] = pieces(&["a\nbc"]).try_into().unwrap();
        assert_eq!(
            &wanted.shown(piece.clone())[..],
            b"\x01\0\0\0\0\0\0\x02a\n\x01\0\0\0\0\0\0\x02bc"
        );
        wanted.at_line_start = [true, true];
        (wanted.timestamps, wanted.has_terminal) = (true, true);
        let text = String::from_utf8_lossy(&wanted.shown(piece)).into_owned();
        assert_eq!(text.matches("1970-01-01T00:00:00.000000000Z ").count(), 2, "{text}");
    }

    #[test]
    fn the_last_lines_begin_where_they_were_written() {
        let all = pieces(&["one\ntwo\nth", "ree\n", "four\n"]);
        let cases = [(0, (3, 0)), (1, (2, 0)), (2, (0, 8)), (3, (0, 4)), (4, (0, 0)), (9, (0, 0))];
        for (lines, right) in cases {
            let (at, offset) = last(&all, lines, |_| true);
            // The end of a piece is the beginning of the next.
            let normal = match all.get(at) {
                Some(piece) if piece.bytes.len() == offset => (at + 1, 0),
                _ => (at, offset),
            };
            assert_eq!(normal, right, "{lines} lines");
        }
        let open = pieces(&["one\ntwo"]);
        assert_eq!(last(&open, 1, |_| true), (0, 4));
    }
}
