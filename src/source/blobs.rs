//! Which blobs a repository had up to a commit: those that `git apply` finds in the harness's clone.
//!
//! A mirror has later ones as well. A patch that names one must not find it: `git apply` takes the
//! content of a binary file from the repository when it is there, and that would be the fix itself.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};

use super::SourceError;
use super::listing::{EntryKind, Listing};
use super::mirror::Mirror;

impl Mirror {
    /// Lists the blobs of `commit`, whose tree is `listing`, and of its ancestors whose ids begin with
    /// one of `prefixes`.
    ///
    /// # Errors
    /// The history is read only for a blob that the mirror has and the commit's tree has not; where
    /// objects are missing then, nobody can tell.
    pub(super) fn blobs_up_to(
        &self,
        commit: &str,
        listing: &Listing,
        prefixes: &BTreeSet<String>,
    ) -> Result<BTreeSet<[u8; 20]>, SourceError> {
        if prefixes.is_empty() {
            return Ok(BTreeSet::new());
        }
        let files = listing.files.values().filter(|(kind, _)| *kind != EntryKind::Submodule);
        let at_commit: BTreeSet<[u8; 20]> = files.map(|(_, id)| *id).collect();
        let local = self.local();
        let mut found = BTreeSet::new();
        let mut others = BTreeSet::new();
        for prefix in prefixes.iter().filter(|prefix| prefix.bytes().any(|digit| digit != b'0')) {
            for id in local.blobs_with(prefix)? {
                if at_commit.contains(&id) {
                    found.insert(id);
                } else {
                    others.insert(id);
                }
            }
        }
        if !others.is_empty() {
            found.extend(self.reachable(commit, others)?);
        }
        Ok(found)
    }

    /// Keeps those of `wanted` that a commit or an ancestor has.
    fn reachable(
        &self,
        commit: &str,
        mut wanted: BTreeSet<[u8; 20]>,
    ) -> Result<BTreeSet<[u8; 20]>, SourceError> {
        let failed = |source| SourceError::NoProgram { program: "git".to_owned(), source };
        let mut child = Command::new("git")
            .args(["rev-list", "--objects", "--end-of-options", commit])
            .env("GIT_DIR", self.path())
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let mut lines = BufReader::new(child.stdout.take().expect("the output is piped"));
        let mut found = BTreeSet::new();
        let mut line = Vec::new();
        while !wanted.is_empty() {
            line.clear();
            if lines.read_until(b'\n', &mut line).map_err(failed)? == 0 {
                break;
            }
            let mut id = [0; 20];
            if line.get(..40).is_some_and(|digits| hex::decode_to_slice(digits, &mut id).is_ok())
                && wanted.remove(&id)
            {
                found.insert(id);
            }
        }
        if wanted.is_empty() {
            // Nothing more is of interest, so how it ends is not either.
            drop(lines);
            child.kill().map_err(failed)?;
            child.wait().map_err(failed)?;
            return Ok(found);
        }
        let mut said = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            stderr.read_to_string(&mut said).map_err(failed)?;
        }
        if child.wait().map_err(failed)?.success() {
            return Ok(found);
        }
        Err(SourceError::Git { command: "rev-list".to_owned(), said: said.trim().to_owned() })
    }
}
