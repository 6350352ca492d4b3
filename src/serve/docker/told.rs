//! Work that tells how it goes: a document a line, and at the end why it failed.

use std::io;

use bytes::Bytes;
use futures_util::{Stream, stream};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::answer::Refusal;

/// Why work failed.
pub(super) struct Failure {
    /// In words.
    pub(super) message: String,
    /// The exit code, where it is that of a command.
    pub(super) code: Option<i64>,
}

impl Failure {
    /// A failure without a code.
    pub(super) fn of(error: &(dyn std::error::Error + 'static)) -> Failure {
        Failure { message: crate::causes::in_one_line(error), code: None }
    }

    fn document(&self) -> Value {
        let mut detail = json!({ "message": self.message });
        if let Some(code) = self.code {
            detail["code"] = json!(code);
        }
        json!({ "errorDetail": detail, "error": self.message })
    }
}

/// Work under way.
pub(super) struct Told {
    /// What it has told, beginning with `first`.
    pub(super) lines: mpsc::UnboundedReceiver<Value>,
    /// The work itself.
    pub(super) work: JoinHandle<Result<(), Failure>>,
    /// What was read of it already.
    pub(super) first: Option<Value>,
}

impl Told {
    /// Returns what it tells, and its failure.
    pub(super) fn stream(self) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        stream::unfold((self, false), |(mut told, is_over)| async move {
            if is_over {
                return None;
            }
            let line = match told.first.take() {
                Some(line) => Some(line),
                None => told.lines.recv().await,
            };
            if let Some(line) = line {
                return Some((Ok(as_line(&line)), (told, false)));
            }
            let failure = match (&mut told.work).await {
                Ok(Ok(())) => return None,
                Ok(Err(failure)) => failure,
                Err(error) => Failure::of(&error),
            };
            Some((Ok(as_line(&failure.document())), (told, true)))
        })
    }

    /// Waits until something is told. Where the work fails before, it is an error of the request.
    pub(super) async fn begun(mut self) -> Result<Told, Refusal> {
        self.first = self.lines.recv().await;
        if self.first.is_some() {
            return Ok(self);
        }
        match self.work.await {
            Ok(Ok(())) => Err(Refusal::failed("the work said nothing")),
            Ok(Err(failure)) => Err(Refusal::failed(failure.message)),
            Err(error) => Err(Refusal::failed(error.to_string())),
        }
    }
}

fn as_line(value: &Value) -> Bytes {
    format!("{value}\n").into()
}
