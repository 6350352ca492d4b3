//! The stream of a connection, which keeps the head of an upgrade apart from what follows.
//!
//! Some clients (docker-py) read the head through a buffer, and what follows past it: what came together
//! with the head is lost to them. Docker is slow enough that this seldom happens; a session is not. The
//! kernel ends a read behind a message that carries a file descriptor, so the head carries one, which
//! the reader does not take.

use std::fs::File;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

/// How the head of an upgrade begins.
const UPGRADE: &[u8] = b"HTTP/1.1 101 ";

/// A connection.
pub struct Stream(UnixStream);

impl Stream {
    /// Takes a connection over.
    pub fn new(stream: UnixStream) -> Stream {
        Stream(stream)
    }
}

/// Sends bytes that no reader gets together with what follows.
fn send_apart(stream: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    let nothing = File::open("/dev/null")?;
    let descriptors = [nothing.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let pushed = control.push(SendAncillaryMessage::ScmRights(&descriptors));
    debug_assert!(pushed, "the space is for one descriptor");
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !bytes.starts_with(UPGRADE) {
            return Pin::new(&mut self.0).poll_write(context, bytes);
        }
        loop {
            ready!(self.0.poll_write_ready(context))?;
            match self.0.try_io(Interest::WRITABLE, || send_apart(&self.0, bytes)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn the_head_of_an_upgrade_is_read_without_what_follows() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut stream = Stream::new(ours);
        let head = b"HTTP/1.1 101 UPGRADED\r\n\r\n";
        stream.write_all(head).await.unwrap();
        stream.write_all(b"what follows").await.unwrap();
        drop(stream);
        let mut buffer = [0; 8192];
        assert_eq!(theirs.read(&mut buffer).await.unwrap(), head.len());
        let mut rest = String::new();
        theirs.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "what follows");
    }
}
