//! What a command in a sandbox prints, as it comes.
//!
//! It is written by a thread: a reader that is slow, or stands still, keeps no time limit waiting.

use tokio::sync::{mpsc, oneshot};

use crate::cli::out;
use crate::engine::Output;
use crate::sandbox::{Live, Sandbox};

/// Pieces that wait to be written.
const PIECES: usize = 16;

/// Writes what is printed, or not.
pub(super) struct Printed {
    sender: Option<Live>,
    /// Says that all was written.
    written: Option<oneshot::Receiver<()>>,
}

/// Starts to write; with `to_stderr` all goes to the standard error.
pub(super) fn start(is_shown: bool, to_stderr: bool) -> Printed {
    if !is_shown {
        return Printed { sender: None, written: None };
    }
    let (sender, mut receiver) = mpsc::channel(PIECES);
    let (done, written) = oneshot::channel();
    std::thread::spawn(move || {
        while let Some(piece) = receiver.blocking_recv() {
            match piece {
                Output::Out(bytes) if !to_stderr => drop(out::bytes(&bytes)),
                Output::Out(bytes) | Output::Error(bytes) => out::error_bytes(&bytes),
            }
        }
        let _ = done.send(());
    });
    Printed { sender: Some(sender), written: Some(written) }
}

impl Printed {
    /// Returns what takes the pieces.
    pub(super) fn sender(&self) -> Option<Live> {
        self.sender.clone()
    }

    /// Waits until all is written. The sandbox ends first: what it left behind could print for ever.
    pub(super) async fn finish(self, sandbox: &Sandbox) {
        let Printed { sender, written } = self;
        drop(sender);
        if let Some(written) = written {
            // Its own failure is told when it is stopped again.
            let _ = sandbox.stop().await;
            let _ = written.await;
        }
    }
}
