//! The way to a client: answers and notifications, a line each.

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::fault::Fault;

/// What a request comes to.
pub(super) type Answer = Result<Value, Fault>;

/// The way to a client.
#[derive(Clone)]
pub(super) struct Lines(pub mpsc::Sender<String>);

impl Lines {
    /// Sends a notification; tells whether the client is still there.
    pub(super) async fn notify(&self, method: &str, params: &Value) -> bool {
        let line = json!({ "jsonrpc": "2.0", "method": method, "params": params });
        self.0.send(line.to_string()).await.is_ok()
    }

    /// Answers a request.
    pub(super) async fn answer(&self, id: &Value, answer: Answer) {
        let line = match answer {
            Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
            Err(fault) => json!({ "jsonrpc": "2.0", "id": id, "error": fault.document() }),
        };
        let _ = self.0.send(line.to_string()).await;
    }
}
