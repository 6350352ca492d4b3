//! Sandboxes as they were after the stage `compat`, by the key of what they were made of.
//!
//! A run whose key is known goes on in such a sandbox: nothing is fetched, written or fixed again. The sandbox
//! is a checkpoint of the engine, see [`crate::session::checkpoints`]; what is kept here is which one. A
//! checkpoint that was removed, or is of another engine, counts as absent.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::atomic;
use crate::engine::EngineKind;
use crate::key::Digest;
use crate::session::checkpoints::{CheckpointDirectory, CheckpointRecord};

use super::config::{Network, RunConfig};

/// Below the state directory.
const DIRECTORY: &str = "smoke";

/// The version of the key derivation.
const SCHEMA: u32 = 1;

/// The sandboxes of a state directory.
#[derive(Debug, Clone)]
pub struct CachedSandboxes {
    directory: PathBuf,
    checkpoints: CheckpointDirectory,
}

/// The file of a sandbox.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    checkpoint: String,
}

/// Returns the key of a sandbox after the stage `compat`: the image, the commit, what was applied to it,
/// and all that the fixes see.
pub(super) fn key(config: &RunConfig, image: &str, commit: &str) -> Digest {
    let patches = config.repo.patches.iter().map(|patch| Digest::of(&patch.bytes));
    let network = match &config.sandbox.network {
        Network::None => json!("none"),
        Network::Host => json!("host"),
        Network::Bridge => json!("bridge"),
        Network::Hosts(hosts) => json!(hosts),
    };
    // Variables may have secrets: their digest says whether they are the same.
    let env = serde_json::to_vec(&config.sandbox.env).expect("texts are valid JSON");
    let document = json!({
        "kind": "smoke",
        "schema": SCHEMA,
        "image": image,
        "commit": commit,
        "patches": patches.collect::<Vec<_>>(),
        "compat": config.repo.compat.iter().map(|fix| fix.digest()).collect::<Vec<_>>(),
        "workdir": config.sandbox.workdir,
        "network": network,
        "env": Digest::of(env),
    });
    Digest::of(document.to_string())
}

impl CachedSandboxes {
    /// The sandboxes of a state directory, where nothing needs to be yet.
    pub fn of(state_dir: &Path) -> CachedSandboxes {
        CachedSandboxes {
            directory: state_dir.join(DIRECTORY),
            checkpoints: CheckpointDirectory::of(state_dir),
        }
    }

    /// Returns the checkpoints of the state directory.
    pub(super) fn checkpoints(&self) -> CheckpointDirectory {
        self.checkpoints.clone()
    }

    fn path(&self, key: &Digest) -> PathBuf {
        self.directory.join(format!("{key}.json"))
    }

    /// Finds the sandbox of a key, and notes that it is used.
    pub(super) fn find(&self, key: &Digest, engine: EngineKind) -> Option<CheckpointRecord> {
        let text = std::fs::read(self.path(key)).ok()?;
        let entry: Entry = serde_json::from_slice(&text).ok()?;
        let found = self.checkpoints.find(&entry.checkpoint);
        let Ok(found) = found else {
            // It was removed: nobody needs to look for it again.
            let _ = std::fs::remove_file(self.path(key));
            return None;
        };
        if found.engine != engine || self.checkpoints.note_use(&found).is_err() {
            return None;
        }
        Some(found)
    }

    /// Remembers the sandbox of a key.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn keep(&self, key: &Digest, checkpoint: &str) -> std::io::Result<()> {
        let entry = Entry { checkpoint: checkpoint.to_owned() };
        let text = serde_json::to_vec(&entry).expect("texts are valid JSON");
        atomic::write(&self.path(key), &text, false)
    }
}
