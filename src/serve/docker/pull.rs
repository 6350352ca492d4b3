//! `images/create`: an image from its registry, with what happens meanwhile.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::engine::LogSink;
use crate::platform::Platform;

use super::answer::{Answer, Refusal, streamed};
use super::call::Call;
use super::events::Kind;
use super::images::reference_of;
use super::server::Server;
use super::told::{Failure, Told};

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
    let from = call.parameter("fromImage").ok_or_else(|| Refusal::bad("no image is named"))?;
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
    let (sender, lines) = mpsc::unbounded_channel();
    let server = server.clone();
    let (tell, early) = oneshot::channel();
    let work = tokio::spawn(async move {
        let image = match server.engine.pull(&name, &platform, &Lines(sender.clone())).await {
            Ok(image) => image,
            Err(error) => {
                let failure = Failure::of(&error);
                // Nobody asks for it once something was told.
                let _ = tell.send(Refusal::from(error));
                return Err(failure);
            }
        };
        server.events.tell(Kind::Image, "pull", name.as_str(), &[("name", name.as_str())]);
        let _ = sender.send(json!({ "status": format!("Digest: {}", image.id) }));
        let _ = sender.send(json!({ "status": format!("Status: Image is here as {name}") }));
        Ok(())
    });
    let told = Told { lines, work, first: None };
    match told.begun().await {
        Ok(told) => Ok(streamed("application/json", told.stream())),
        Err(refusal) => Err(early.await.unwrap_or(refusal)),
    }
}
