//! Connections that become streams, and the frames in which two outputs travel as one.

use std::io;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::{Duration, timeout};

use super::answer::{Body, streamed, whole};
use super::call::Call;
use super::output::Stream;
use super::stream::Stream as Connection;

/// The media type of one output, or of a terminal.
pub(super) const RAW: &str = "application/vnd.docker.raw-stream";

/// The media type of two outputs in frames.
pub(super) const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";

/// How long a client may take to close a stream that has ended.
const CLOSING: Duration = Duration::from_secs(1);

/// A client of a stream.
pub(super) struct Client {
    /// Takes what is sent to it; fails once it has left.
    pub(super) output: mpsc::Sender<Bytes>,
    /// Gives what it sends, until it closes its half.
    pub(super) input: mpsc::Receiver<Bytes>,
}

/// Makes a stream of the connection where the client asked for that (status 101), else of the body of
/// the answer (200), which has no input.
pub(super) fn open(call: &mut Call, has_terminal: bool) -> (Response<Body>, Client) {
    let content_type = if has_terminal { RAW } else { MULTIPLEXED };
    let (output, to_send) = mpsc::channel(8);
    let (received, input) = mpsc::channel(8);
    let client = Client { output, input };
    let wanted = call.request.headers().get(UPGRADE).cloned();
    let Some(protocol) = wanted else {
        let pieces = stream::unfold(to_send, |mut to_send| async {
            let bytes = to_send.recv().await?;
            Some((Ok::<_, io::Error>(bytes), to_send))
        });
        return (streamed(content_type, pieces), client);
    };
    tokio::spawn(carry(hyper::upgrade::on(&mut call.request), to_send, received));
    let mut response = Response::new(whole(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, protocol);
    (response, client)
}

/// Carries bytes between a connection and its two channels, until there is nothing more to send.
async fn carry(
    upgrade: OnUpgrade,
    mut to_send: mpsc::Receiver<Bytes>,
    received: mpsc::Sender<Bytes>,
) {
    let Ok(upgraded) = upgrade.await else { return };
    // It is the stream of `connections`, and nothing else.
    let Ok(parts) = upgraded.downcast::<TokioIo<Connection>>() else { return };
    let stream = parts.io.into_inner();
    let hung_up = stream.hung_up();
    let (read, mut write) = tokio::io::split(stream);
    let mut read = std::io::Cursor::new(parts.read_buf).chain(read);
    let receive = async move {
        let mut buffer = vec![0; 1 << 15];
        loop {
            match read.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                // What nobody takes is dropped, so that the end is seen.
                Ok(count) => drop(received.send(Bytes::copy_from_slice(&buffer[..count])).await),
            }
        }
    };
    let send = async move {
        while let Some(bytes) = to_send.recv().await {
            if write.write_all(&bytes).await.is_err() || write.flush().await.is_err() {
                return;
            }
        }
        let _ = write.shutdown().await;
    };
    tokio::pin!(receive, send);
    tokio::select! {
        () = &mut send => {}
        () = &mut receive => {
            // One that closed its half waits for its answer, one that is gone does not.
            tokio::select! {
                () = send => {}
                () = hung_up => {}
            }
            return;
        }
    }
    // A connection that is closed with bytes unread looks broken to the client.
    let _ = timeout(CLOSING, receive).await;
}

/// Makes a frame of a piece of output; on a terminal there are none.
pub(super) fn frame(has_terminal: bool, stream: Stream, bytes: Bytes) -> Bytes {
    if has_terminal {
        return bytes;
    }
    let mut frame = BytesMut::with_capacity(8 + bytes.len());
    frame.put_slice(&[stream as u8, 0, 0, 0]);
    frame.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    frame.put_slice(&bytes);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_says_which_output_and_how_long() {
        let bytes = frame(false, Stream::Error, "abc".into());
        assert_eq!(&bytes[..], b"\x02\0\0\0\0\0\0\x03abc");
        assert_eq!(frame(true, Stream::Out, "abc".into()), "abc");
    }
}
