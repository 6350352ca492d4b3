//! `attach`: the ends of a container's main command.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::answer::Answer;
use super::call::Call;
use super::container::Container;
use super::detach::DetachKeys;
use super::hijack::{self, frame};
use super::output::{Reader, Stream};

/// Attaches a client. Where the main command does not run yet, it waits for it.
pub(super) fn attach(call: &mut Call, container: Arc<Container>) -> Answer {
    let has_terminal = container.has_terminal();
    let keys = DetachKeys::read(call.parameter("detachKeys"))?;
    let keys = has_terminal.then_some(keys);
    let follows = call.is_set("stream");
    let (out, error) = (call.is_set("stdout"), call.is_set("stderr"));
    let wants_input = follows && call.is_set("stdin") && container.has_input();
    let mut reader = container.output.attach(call.is_set("logs"));
    if !follows {
        let (_, _, ends) = container.output.kept();
        reader = container.output.read(0, Some(ends));
    }
    let (response, client) = hijack::open(call, has_terminal);
    let wanted = move |stream| if stream == Stream::Out { out } else { error };
    container.tell("attach", &[]);
    let (leave, left) = oneshot::channel();
    tokio::spawn(async move {
        tokio::select! {
            () = show(reader, client.output, has_terminal, wanted) => {}
            Ok(()) = left => {}
        }
    });
    if wants_input {
        tokio::spawn(async move {
            if feed(client.input, &container, keys).await {
                container.tell("detach", &[]);
                // Whoever is shown nothing any more has left already.
                let _ = leave.send(());
            }
        });
    }
    Ok(response)
}

/// Shows an output to a client, until it ends or the client leaves.
async fn show(
    mut reader: Reader,
    client: mpsc::Sender<bytes::Bytes>,
    has_terminal: bool,
    wanted: impl Fn(Stream) -> bool,
) {
    loop {
        let piece = tokio::select! {
            piece = reader.next() => piece,
            () = client.closed() => return,
        };
        let Some(piece) = piece else { return };
        if wanted(piece.stream)
            && client.send(frame(has_terminal, piece.stream, piece.bytes)).await.is_err()
        {
            return;
        }
    }
}

/// Gives what a client sends to the main command, once that runs. Tells whether the client leaves by
/// its keys.
async fn feed(
    mut client: mpsc::Receiver<bytes::Bytes>,
    container: &Container,
    mut keys: Option<DetachKeys>,
) -> bool {
    let ends = container.state.now().ends;
    container
        .state
        .until(|state| state.status.is_alive() || state.is_removed || state.ends > ends)
        .await;
    while let Some(bytes) = client.recv().await {
        match &mut keys {
            None => container.write(&bytes).await,
            Some(keys) => {
                let (passed, leaves) = keys.take(&bytes);
                container.write(&passed).await;
                if leaves {
                    return true;
                }
            }
        }
    }
    if container.closes_input() {
        container.end_input().await;
    }
    false
}
