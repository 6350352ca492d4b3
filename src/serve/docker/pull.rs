//! `images/create`: an image from its registry, with what happens meanwhile.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::causes;
use crate::engine::LogSink;
use crate::platform::Platform;

use super::answer::{Answer, Refusal, streamed};
use super::call::Call;
use super::images::reference_of;
use super::server::Server;

/// Gives what an engine says to a client, a document a line.
struct Lines(mpsc::UnboundedSender<Value>);

impl LogSink for Lines {
    fn write(&self, bytes: &[u8]) {
        for line in String::from_utf8_lossy(bytes).lines().filter(|line| !line.is_empty()) {
            // A client that has left is told nothing.
            let _ = self.0.send(json!({ "status": line }));
        }
    }
}

/// Pulls an image. What fails before there is something to tell is an error of the request.
pub(super) async fn pull(server: &Arc<Server>, call: &Call) -> Answer {
    let from = call.parameter("fromImage");
    let from = from.ok_or_else(|| Refusal::unserved("images are pulled, and not imported"))?;
    let name = match call.parameter("tag") {
        Some(digest) if digest.starts_with("sha256:") => format!("{from}@{digest}"),
        Some(tag) => format!("{from}:{tag}"),
        None => from.to_owned(),
    };
    let name = reference_of(&name)?;
    let platform = match call.parameter("platform") {
        Some(text) => text
            .parse::<Platform>()
            .map_err(|_| Refusal::bad(format!("invalid platform: {text}")))?,
        None => server.info.platform.clone(),
    };
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let server = server.clone();
    let work = tokio::spawn(async move {
        let pulled = server.engine.pull(&name, &platform, &Lines(sender.clone())).await;
        let image = pulled?;
        let _ = sender.send(json!({ "status": format!("Digest: {}", image.id) }));
        let _ = sender.send(json!({ "status": format!("Status: Image is here as {name}") }));
        Ok::<_, crate::engine::EngineError>(())
    });
    let first = receiver.recv().await;
    let Some(first) = first else {
        return match work.await {
            Ok(Err(error)) => Err(error.into()),
            Ok(Ok(())) => Err(Refusal::failed("the pull said nothing")),
            Err(error) => Err(Refusal::failed(error.to_string())),
        };
    };
    let state = (Some(first), receiver, Some(work));
    let lines = stream::unfold(state, |(first, mut receiver, mut work)| async {
        let line = match first {
            Some(line) => Some(line),
            None => receiver.recv().await,
        };
        let line = match (line, work.take()) {
            (Some(line), left) => {
                work = left;
                line
            }
            (None, Some(ended)) => match ended.await {
                Ok(Ok(())) => return None,
                Ok(Err(error)) => failure(&causes::in_one_line(&error)),
                Err(error) => failure(&error.to_string()),
            },
            (None, None) => return None,
        };
        let bytes = Bytes::from(format!("{line}\n"));
        Some((Ok::<_, io::Error>(bytes), (None, receiver, work)))
    });
    Ok(streamed("application/json", lines))
}

fn failure(message: &str) -> Value {
    json!({ "errorDetail": { "message": message }, "error": message })
}
