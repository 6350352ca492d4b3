//! The other end of a terminal in a container.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncWrite, Interest};

use crate::engine::{EngineError, Output, Result, WindowSize};

/// The other end of a terminal in the container.
pub(super) struct Terminal(AsyncFd<OwnedFd>);

impl Terminal {
    /// Gives it another size.
    pub(super) fn resize(&self, size: WindowSize) -> io::Result<()> {
        let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(tcsetwinsize(self.0.get_ref(), size)?)
    }

    /// Takes it over.
    pub(super) fn new(descriptor: OwnedFd) -> io::Result<Terminal> {
        rustix::io::ioctl_fionbio(&descriptor, true)?;
        // SAFETY: an owned descriptor is the same and open as long as it lives.
        Ok(Terminal(unsafe { AsyncFd::register(descriptor) }?))
    }

    async fn read(&self) -> io::Result<Bytes> {
        let mut buffer = vec![0; 1 << 14];
        let count = self
            .0
            .async_io(Interest::READABLE, |terminal| Ok(rustix::io::read(terminal, &mut buffer)?))
            .await;
        match count {
            Ok(count) => buffer.truncate(count),
            // Nobody in the container has it open any more.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => buffer.clear(),
            Err(error) => return Err(error),
        }
        Ok(buffer.into())
    }

    /// Returns what is shown, until nobody in the container has it open any more.
    pub(super) fn output(terminal: Arc<Terminal>) -> BoxStream<'static, Result<Output>> {
        stream::try_unfold(terminal, |terminal| async move {
            let bytes = terminal.read().await.map_err(unreadable)?;
            Ok((!bytes.is_empty()).then_some((Output::Out(bytes), terminal)))
        })
        .boxed()
    }
}

/// What is typed at a terminal.
pub(super) struct Typing(pub(super) Arc<Terminal>);

impl AsyncWrite for Typing {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.0.poll_write_ready(cx))?;
            match guard.try_io(|terminal| Ok(rustix::io::write(terminal, bytes)?)) {
                Ok(written) => return Poll::Ready(written),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn unreadable(error: io::Error) -> EngineError {
    EngineError::Transient { action: "read a terminal".to_owned(), source: error.into() }
}
