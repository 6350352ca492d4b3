//! The stream of a connection, which keeps the head of an upgrade apart from what follows.
//!
//! docker-py reads the head through a buffer, and what follows past it: what came together with the head
//! is lost to it. Docker is slow enough that this seldom happens; a session is not. The kernel ends a read
//! behind a message that carries a file descriptor, so the head carries one, which the reader does not
//! take. Other clients do not get that: tokio takes a short read for all that there is, and would wait.

use std::fs::File;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::Request;
use hyper::header::USER_AGENT;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

/// How the head of an upgrade begins.
const UPGRADE: &[u8] = b"HTTP/1.1 101 ";

/// How often it is looked whether somebody is gone who closed his half.
const TICK: Duration = Duration::from_millis(100);

/// How docker-py calls itself.
const LOSES: &str = "docker-sdk-python";

/// Whether the heads of upgrades are kept apart.
#[derive(Debug, Clone, Default)]
pub(super) struct Apart(Arc<AtomicBool>);

impl Apart {
    /// Looks at who the client is.
    pub(super) fn look<T>(&self, request: &Request<T>) {
        let agent = request.headers().get(USER_AGENT).and_then(|agent| agent.to_str().ok());
        let loses = agent.is_some_and(|agent| agent.contains(LOSES));
        self.0.store(loses, Ordering::Relaxed);
    }
}

/// A connection.
pub(super) struct Stream(UnixStream, Apart);

impl Stream {
    /// Takes a connection over.
    pub(super) fn new(stream: UnixStream, apart: Apart) -> Stream {
        Stream(stream, apart)
    }
}

impl Stream {
    /// Waits until the other end is gone, and not only its half. What is not known for want of a
    /// descriptor is waited for, for ever.
    pub(super) fn hung_up(&self) -> impl Future<Output = ()> + Send + use<> {
        let descriptor = self.0.as_fd().try_clone_to_owned();
        async move {
            let Ok(descriptor) = descriptor else { return std::future::pending().await };
            loop {
                let mut watched = [PollFd::new(&descriptor, PollFlags::empty())];
                let now = Timespec { tv_sec: 0, tv_nsec: 0 };
                if poll(&mut watched, Some(&now)).is_ok()
                    && watched[0].revents().contains(PollFlags::HUP)
                {
                    return;
                }
                tokio::time::sleep(TICK).await;
            }
        }
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
        if !bytes.starts_with(UPGRADE) || !self.1.0.load(Ordering::Relaxed) {
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
    async fn docker_py_reads_the_head_of_an_upgrade_without_what_follows() {
        let head = "HTTP/1.1 101 UPGRADED\r\n\r\n";
        for (agent, first) in
            [("docker-sdk-python/7.2.0", head.len()), ("bollard", head.len() + 12)]
        {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let apart = Apart::default();
            apart.look(&Request::builder().header(USER_AGENT, agent).body(()).unwrap());
            let mut stream = Stream::new(ours, apart);
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(b"what follows").await.unwrap();
            drop(stream);
            assert_eq!(theirs.read(&mut [0; 8192]).await.unwrap(), first, "{agent}");
        }
    }
}
