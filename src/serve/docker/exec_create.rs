//! The making of a command, which is started later.

use std::sync::Arc;

use bollard_stubs::models::ExecConfig;
use hyper::StatusCode;
use serde_json::json;

use super::answer::{Answer, Refusal, document};
use super::call::{Call, not_a_document, words_as_lists};
use super::container::Container;
use super::exec::ContainerExec;
use super::server::Server;

/// How many commands of one container that have ended are remembered.
const REMEMBERED: usize = 256;

/// Makes a command, which is started later.
pub(super) async fn create(
    server: &Server,
    call: &mut Call,
    container: Arc<Container>,
    called: &str,
) -> Answer {
    let mut value = call.value().await?;
    words_as_lists(&mut value, &["Cmd"]);
    let config: ExecConfig =
        serde_json::from_value(value).map_err(|error| not_a_document(&error))?;
    if config.cmd.as_ref().is_none_or(Vec::is_empty) {
        return Err(Refusal::bad("No exec command specified"));
    }
    container.running(called)?;
    let words = config.cmd.clone().unwrap_or_default().join(" ");
    let exec = ContainerExec::new(container, config);
    exec.container.tell(&format!("exec_create: {words}"), &[("execID", &exec.id)]);
    let id = exec.id.clone();
    server.add_exec(Arc::new(exec), REMEMBERED);
    Ok(document(StatusCode::CREATED, &json!({ "Id": id })))
}
