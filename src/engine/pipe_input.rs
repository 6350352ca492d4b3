//! The input of a command that is a pipe.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;
use tokio::net::unix::pipe;

/// The end of a pipe that is closed by shutting it down: the reader sees the end of the input.
pub(super) struct PipeInput(Option<pipe::Sender>);

impl PipeInput {
    /// Takes over the end of a pipe.
    pub(super) fn new(end: io::PipeWriter) -> io::Result<PipeInput> {
        Ok(PipeInput(Some(pipe::Sender::from_owned_fd(end.into())?)))
    }
}

impl AsyncWrite for PipeInput {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Some(end) => Pin::new(end).poll_write(cx, bytes),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0 = None;
        Poll::Ready(Ok(()))
    }
}
