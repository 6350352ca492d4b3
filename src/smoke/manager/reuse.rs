//! Going on in the sandbox of an earlier run that had equal fixes made.

use std::path::Path;

use crate::causes::in_one_line;
use crate::engine::EngineError;
use crate::key::Digest;
use crate::session::checkpoints::CheckpointRecord;
use crate::session::order::SessionOrder;

use super::super::cached;
use super::super::secrets::is_secret;
use super::super::verdict::Fault;
use super::Manager;

/// Whether the sandbox is that of an earlier run, which had equal fixes made.
pub(super) enum Reused {
    /// It is not, and is not kept for others.
    No,
    /// None with this key is known: this one becomes it.
    New(Digest),
    /// This one is to be taken.
    Found(Digest, Box<CheckpointRecord>),
    /// It was taken.
    Taken(Digest),
}

impl Reused {
    /// Says that a stage needs nothing to be done, where it does not.
    pub(super) fn remark(&self) -> Option<String> {
        match self {
            Reused::Found(key, _) | Reused::Taken(key) => Some(format!("cached: {key}")),
            Reused::No | Reused::New(_) => None,
        }
    }
}

impl Manager {
    /// Returns the id that checkpoints of the sandbox name: that of a session, twelve digits of a digest of
    /// the run's name.
    pub(super) fn session_id(&self) -> String {
        let mut digits = Digest::of(&self.facts.run_id).to_string();
        digits.truncate(12);
        digits
    }

    /// Looks for the sandbox of an earlier run with equal fixes. Without fixes there is nothing to save.
    pub(super) fn reusable(&self, commit: &str) -> Reused {
        let (Some(known), Some(sandbox)) = (&self.means.cached, &self.sandbox) else {
            return Reused::No;
        };
        let tree = Path::new(&self.config.sandbox.workdir);
        let fixes = &self.config.repo.compat;
        let has_fixes = fixes.iter().any(|fix| !fix.commands(tree, false).is_empty());
        let image = self.facts.image.digest.as_deref().unwrap_or_default();
        if self.facts.dry_run || sandbox.stays.is_some() || !has_fixes || image.is_empty() {
            return Reused::No;
        }
        let key = cached::key(&self.config, image, commit);
        match known.find(&key, sandbox.session().engine()) {
            Some(record) => Reused::Found(key, Box::new(record)),
            None => Reused::New(key),
        }
    }

    /// Goes on in the sandbox of an earlier run; tells whether it did.
    pub(super) async fn reuse(&mut self) -> Result<bool, Fault> {
        let (key, record) = match std::mem::replace(&mut self.reused, Reused::No) {
            Reused::Found(key, record) => (key, record),
            other => {
                self.reused = other;
                return Ok(false);
            }
        };
        let sandbox = self.sandbox.as_ref().expect("it was started");
        match sandbox.kept.reset(Some(&record.image)).await {
            Ok(()) => {
                self.reused = Reused::Taken(key);
                Ok(true)
            }
            Err(EngineError::NoSuchImage { .. }) => {
                // Somebody removed it meanwhile.
                self.reused = Reused::New(key);
                let commit = self.facts.repo.commit.clone().expect("it was found");
                self.bring(commit).await?;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Keeps the sandbox as it is for later runs. That it cannot be kept is remarkable, and no failure.
    pub(super) async fn keep_for_others(&self, key: &Digest) -> Option<String> {
        let (Some(known), Some(sandbox)) = (&self.means.cached, &self.sandbox) else { return None };
        let why = match sandbox.kept.checkpoint().await {
            Ok(checkpoint) => known.keep(key, &checkpoint.id).err().map(|error| error.to_string()),
            Err(error) => Some(in_one_line(&error)),
        };
        why.map(|why| format!("the sandbox is not kept for later runs: {why}"))
    }
}

/// Takes the variables of secrets out of what is written down of a sandbox.
pub(super) fn without_secrets(mut order: SessionOrder) -> SessionOrder {
    order.request.variables.retain(|name, _| !is_secret(name));
    order
}
