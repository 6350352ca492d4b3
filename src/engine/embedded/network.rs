//! Networks that sessions share: a helper makes the namespaces, gives them away, and ends.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use crate::engine::{EngineError, Result, SharedNetwork};

use super::helper_client::{HelperClient, vanished};
use super::passing::{self, Received};
use super::protocol::{Operation, Response};
use super::{EmbeddedEngine, blocking};

const ACTION: &str = "make a network";

fn lost(error: io::Error) -> EngineError {
    EngineError::Transient { action: ACTION.to_owned(), source: error.into() }
}

impl EmbeddedEngine {
    pub(super) async fn make_shared_network(&self) -> Result<SharedNetwork> {
        let client = self.helper_client.clone();
        blocking(move || make(&client)).await
    }
}

/// Makes a network. Blocks.
fn make(client: &HelperClient) -> Result<SharedNetwork> {
    let (mut ours, theirs) = UnixStream::pair().map_err(lost)?;
    let mut command = client.command(theirs);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| client.not_started(error))?;
    drop(command);
    // Whatever it does not take, its answer says why.
    let _ = ours.write_all(&client.request(Operation::Network));
    let (mut descriptors, mut said) = (Vec::new(), Vec::new());
    while descriptors.len() < 2 {
        match passing::receive(&ours).map_err(lost)? {
            Received::Descriptor(descriptor) => descriptors.push(descriptor),
            Received::Bytes(bytes) => {
                said = bytes;
                break;
            }
            Received::End => break,
        }
    }
    let _ = ours.read_to_end(&mut said);
    let mut words = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        let _ = stderr.read_to_string(&mut words);
    }
    let status = child.wait().ok();
    match client.answer(&said, &words, status)? {
        Response::Failed { step, action, errno, reason } => {
            Err(client.failure(step, action, errno, reason))
        }
        Response::Vanished => Err(vanished()),
        Response::Done | Response::Ended { .. } => {
            let mut descriptors = descriptors.into_iter();
            match (descriptors.next(), descriptors.next()) {
                (Some(user), Some(network)) => Ok(SharedNetwork::of(user, network)),
                _ => Err(lost(io::Error::other("the helper did not give it"))),
            }
        }
    }
}
