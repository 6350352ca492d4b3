//! `wait`: the exit code of a container, when it comes.

use std::sync::Arc;

use futures_util::stream;
use hyper::Response;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde_json::json;

use super::answer::{Answer, Refusal, stream};
use super::call::Call;
use super::container::Container;

/// Waits for a condition. The head of the answer is sent at once: clients wait for it before they
/// start the container.
pub(super) fn wait(call: &Call, container: Arc<Container>) -> Answer {
    let ends = container.state.now().ends;
    let condition = call.parameter("condition").unwrap_or("not-running").to_owned();
    if !matches!(condition.as_str(), "not-running" | "next-exit" | "removed") {
        return Err(Refusal::bad(format!("invalid condition: {condition:?}")));
    }
    let ended = async move {
        let state = container
            .state
            .until(|state| match condition.as_str() {
                "removed" => state.is_removed,
                "next-exit" => state.ends > ends || state.is_removed,
                // Also one that is about to be started again has ended.
                _ => !state.status.is_alive() || state.ends > ends || state.is_removed,
            })
            .await;
        Ok(format!("{}\n", json!({ "StatusCode": state.exit_code })).into())
    };
    let mut response = Response::new(stream(stream::once(ended)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
