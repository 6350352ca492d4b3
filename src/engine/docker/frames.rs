//! What commands in containers write, as it comes over a connection that the engine handed over.

use std::collections::VecDeque;

use bytes::BytesMut;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::engine::{EngineError, Output, Result};

/// The head of a frame: which output, three zeros, the number of bytes.
const HEAD: usize = 8;

/// How much is read at once.
const PIECE: usize = 1 << 14;

fn broken(error: std::io::Error) -> EngineError {
    EngineError::Transient { action: "read what a command prints".to_owned(), source: error.into() }
}

/// Reads what a terminal shows.
pub(super) fn raw(
    connection: impl AsyncRead + Send + Unpin + 'static,
) -> BoxStream<'static, Result<Output>> {
    let pieces = tokio_util::io::ReaderStream::new(connection);
    pieces.map(|piece| piece.map(Output::Out).map_err(broken)).boxed()
}

/// Reads two outputs that come in frames of one stream. A piece of a frame is given out as it comes.
pub(super) fn frames(
    connection: impl AsyncRead + Send + Unpin + 'static,
) -> BoxStream<'static, Result<Output>> {
    let frames = Frames::default();
    stream::try_unfold((connection, frames), |(mut connection, mut frames)| async move {
        loop {
            if let Some(piece) = frames.ready.pop_front() {
                return Ok(Some((piece, (connection, frames))));
            }
            frames.bytes.reserve(PIECE);
            if connection.read_buf(&mut frames.bytes).await.map_err(broken)? == 0 {
                return Ok(None);
            }
            frames.take();
        }
    })
    .boxed()
}

#[derive(Default)]
struct Frames {
    bytes: BytesMut,
    /// Whether the frame under way is of the standard error, and how much of it is to come.
    under_way: (bool, usize),
    ready: VecDeque<Output>,
}

impl Frames {
    /// Takes out what is there of frames.
    fn take(&mut self) {
        loop {
            let (of_error, rest) = self.under_way;
            if rest > 0 {
                let count = rest.min(self.bytes.len());
                if count == 0 {
                    return;
                }
                let piece = self.bytes.split_to(count).freeze();
                self.ready.push_back(match of_error {
                    true => Output::Error(piece),
                    false => Output::Out(piece),
                });
                self.under_way.1 -= count;
            } else {
                if self.bytes.len() < HEAD {
                    return;
                }
                let head = self.bytes.split_to(HEAD);
                let size = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
                self.under_way = (head[0] == 2, size as usize);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_are_told_apart_however_they_are_cut() {
        let mut sent = Vec::new();
        for (of, text) in [(1, "out"), (2, "error"), (1, ""), (1, "\x01\x02")] {
            sent.extend([of, 0, 0, 0]);
            sent.extend((text.len() as u32).to_be_bytes());
            sent.extend(text.as_bytes());
        }
        for cut in 1..sent.len() {
            let (first, second) = sent.split_at(cut);
            let source = in_two(first, second);
            let (mut out, mut error) = (Vec::new(), Vec::new());
            let mut pieces = frames(source);
            while let Some(piece) = pieces.next().await {
                match piece.unwrap() {
                    Output::Out(bytes) => out.extend(bytes),
                    Output::Error(bytes) => error.extend(bytes),
                }
            }
            assert_eq!((out.as_slice(), error.as_slice()), (&b"out\x01\x02"[..], &b"error"[..]));
        }
    }

    fn in_two(first: &[u8], second: &[u8]) -> impl AsyncRead + Send + Unpin + use<> {
        let chain = std::io::Cursor::new(first.to_vec());
        chain.chain(std::io::Cursor::new(second.to_vec()))
    }
}
