//! A connection to an engine on another host through the `ssh` program, which runs
//! `docker system dial-stdio` there, as the `docker` command does.

use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio_util::task::AbortOnDropHandle;

use crate::engine::SshEnded;
use crate::engine::address::Destination;

/// The most that is kept of what ssh says.
const MOST_SAID: usize = 16 << 10;

/// How long ssh may take to end after its output did.
const END: Duration = Duration::from_secs(10);

/// How long the rest of its words may take after it ended. What it left running may hold them open.
const WORDS: Duration = Duration::from_millis(300);

/// A connection.
pub(super) struct Connection {
    input: Option<ChildStdin>,
    output: ChildStdout,
    end: End,
    asked: Asked,
}

/// Whether something was asked. Until then nothing is read: an end that comes before would be the
/// answer to no request, and its reason would be lost.
enum Asked {
    No(Option<Waker>),
    Yes,
}

/// The end of the program.
enum End {
    /// Whoever waits for it, and ends it when the connection is dropped.
    Awaited(Pin<Box<dyn Future<Output = io::Result<()>> + Send>>),
    /// It ended well.
    Well,
    /// It did not.
    Ill(SshEnded),
}

/// Starts ssh. Whether it gets through shows when something is read.
pub(super) fn connect(to: &Destination) -> io::Result<Connection> {
    let mut command = std::process::Command::new("ssh");
    crate::child::in_own_session(command.args(to.arguments()));
    let mut child = Command::from(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let missing = || io::Error::from(io::ErrorKind::BrokenPipe);
    let input = child.stdin.take().ok_or_else(missing)?;
    let output = child.stdout.take().ok_or_else(missing)?;
    let errors = child.stderr.take().ok_or_else(missing)?;
    let waiter = AbortOnDropHandle::new(tokio::spawn(wait(child, errors)));
    let end = async { tokio::time::timeout(END, waiter).await?? };
    Ok(Connection {
        input: Some(input),
        output,
        end: End::Awaited(Box::pin(end)),
        asked: Asked::No(None),
    })
}

/// Waits for the program, and makes an error of an end that is none of a connection.
async fn wait(mut child: Child, errors: ChildStderr) -> io::Result<()> {
    let said = Arc::new(Mutex::new(Vec::new()));
    let reader = AbortOnDropHandle::new(tokio::spawn(listen(errors, said.clone())));
    let status = child.wait().await?;
    if status.success() {
        return Ok(());
    }
    // Words that do not end are as many as came.
    let _ = tokio::time::timeout(WORDS, reader).await;
    let said = said.lock().expect("no holder panics");
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    Err(io::Error::other(SshEnded { code: status.code(), said }))
}

/// Reads all that ssh says, and keeps the beginning.
async fn listen(mut errors: ChildStderr, said: Arc<Mutex<Vec<u8>>>) {
    let mut piece = vec![0; 4096];
    while let Ok(count @ 1..) = errors.read(&mut piece).await {
        let mut said = said.lock().expect("no holder panics");
        let room = MOST_SAID.saturating_sub(said.len());
        said.extend_from_slice(&piece[..count.min(room)]);
    }
}

impl Connection {
    /// Finds out how the program ended, once its streams did.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let End::Awaited(end) = &mut self.end {
            let ended = ready!(end.as_mut().poll(cx));
            self.end = match ended {
                Ok(()) => End::Well,
                Err(error) => match error.get_ref().and_then(|error| error.downcast_ref()) {
                    Some(ended) => End::Ill(SshEnded::clone(ended)),
                    None => return Poll::Ready(Err(error)),
                },
            };
        }
        Poll::Ready(match &self.end {
            End::Ill(ended) => Err(io::Error::other(ended.clone())),
            _ => Ok(()),
        })
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Asked::No(waker) = &mut this.asked {
            *waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.output).poll_read(cx, buffer))?;
        // An end is one only where ssh says so too: else the connection was cut off.
        if buffer.filled().len() == before && buffer.remaining() > 0 {
            return this.poll_end(cx);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Asked::No(Some(waker)) = std::mem::replace(&mut this.asked, Asked::Yes) {
            waker.wake();
        }
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        let Some(input) = &mut this.input else { return Poll::Ready(Err(broken())) };
        match ready!(Pin::new(input).poll_write(cx, bytes)) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                ready!(this.poll_end(cx))?;
                Poll::Ready(Err(error))
            }
            written => Poll::Ready(written),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().input {
            Some(input) => Pin::new(input).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The pipe's end is the connection's on the other side.
        self.get_mut().input = None;
        Poll::Ready(Ok(()))
    }
}
