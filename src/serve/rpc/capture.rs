//! What is passed on while it is kept.

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::engine::{self, LogSink, Output};
use crate::session::{Capture, Captured};

use super::lines::Lines;
use super::params::Base64;

/// Which output, by the name that it has for clients.
fn name(output: &Output) -> (&'static str, &[u8]) {
    match output {
        Output::Out(bytes) => ("stdout", bytes),
        Output::Error(bytes) => ("stderr", bytes),
    }
}

/// Sends what a command writes to a client, before it is kept. A client that does not read has the command
/// wait.
pub(super) fn passed_on(
    output: BoxStream<'static, engine::Result<Output>>,
    lines: Lines,
    session: String,
    exec: String,
) -> BoxStream<'static, engine::Result<Output>> {
    let pass = move |piece: engine::Result<Output>| {
        let (lines, session, exec) = (lines.clone(), session.clone(), exec.clone());
        async move {
            if let Ok(output) = &piece {
                let (stream, bytes) = name(output);
                let data = Base64(bytes.to_vec());
                let params =
                    json!({ "session": session, "exec": exec, "stream": stream, "data": data });
                lines.notify("output", &params).await;
            }
            piece
        }
    };
    output.then(pass).boxed()
}

/// Keeps what a shell prints, and passes it on.
pub(super) struct Printed {
    capture: Capture,
    pieces: Option<mpsc::UnboundedSender<Vec<u8>>>,
}

impl Printed {
    /// Keeps in `capture`, and passes on where there is somewhere to.
    pub(super) fn new(capture: Capture, pieces: Option<mpsc::UnboundedSender<Vec<u8>>>) -> Printed {
        Printed { capture, pieces }
    }

    /// Returns what was kept.
    pub(super) fn finish(self) -> Captured {
        self.capture.finish()
    }
}

impl LogSink for Printed {
    fn write(&self, bytes: &[u8]) {
        if let Some(pieces) = &self.pieces {
            let _ = pieces.send(bytes.to_vec());
        }
        self.capture.write(bytes);
    }
}

/// Sends the pieces of a shell's output to a client until there are no more.
pub(super) async fn send_pieces(
    mut pieces: mpsc::UnboundedReceiver<Vec<u8>>,
    lines: Lines,
    session: String,
    shell: String,
) {
    while let Some(bytes) = pieces.recv().await {
        let data = Base64(bytes);
        let params =
            json!({ "session": session, "shell": shell, "stream": "stdout", "data": data });
        lines.notify("output", &params).await;
    }
}

/// Says how many bytes are missing of two outputs.
pub(super) fn dropped(out: &Captured, error: &Captured) -> Value {
    json!({ "stdout": out.dropped, "stderr": error.dropped })
}
