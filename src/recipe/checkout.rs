//! The checkout image: the repository at its base commit, installed.

use std::fmt::Write as _;

use crate::catalog::Environment;
use crate::key::{Digest, Key, KeyDocument, Kind};
use crate::platform::Platform;

use super::{TESTBED, VIRTUAL_ENV};

/// How much history a checkout holds: every commit that it comes from, without their files, and the
/// tags among them; part of the key.
pub const HISTORY: &str = "commits-and-tags";

/// Of which times the layers are that a checkout shares with others; part of the key.
pub const SHARED: &str = "year-quarter-month";

/// The line that the installation prints when it changed tracked files.
pub const SETUP_CHANGED: &str = "imgforge: the installation changed tracked files";

/// What a checkout image is made of.
#[derive(Debug, Clone)]
pub struct CheckoutRecipe {
    /// The env's key.
    pub parent: Key,
    /// `owner/name`.
    pub repo: String,
    /// 40 hexadecimal digits.
    pub base_commit: String,
    /// Shell commands before the installation.
    pub pre_install: Vec<String>,
    /// Shell commands of the installation.
    pub install: Vec<String>,
    /// Such as `linux/amd64`.
    pub platform: Platform,
}

impl CheckoutRecipe {
    /// Makes the recipe of `repo` at `base_commit` in the environment with key `parent`.
    pub fn new(
        environment: &Environment,
        parent: Key,
        base_commit: &str,
        platform: &Platform,
    ) -> Self {
        CheckoutRecipe {
            parent,
            repo: environment.repo.clone(),
            base_commit: base_commit.to_owned(),
            pre_install: environment.pre_install.clone(),
            install: environment.install.clone(),
            platform: platform.to_owned(),
        }
    }

    /// Tells whether something must run in a container; otherwise the checkout is its layer.
    pub fn needs_container(&self) -> bool {
        !self.pre_install.is_empty() || !self.install.is_empty()
    }

    /// Returns the key document.
    pub fn document(&self) -> KeyDocument {
        KeyDocument::new(Kind::Checkout)
            .with("base_commit", &self.base_commit)
            .with("history", HISTORY)
            .with("install", &self.install)
            .with("parent", self.parent)
            .with("platform", &self.platform)
            .with("pre_install", &self.pre_install)
            .with("repo", self.repo.to_ascii_lowercase())
            .with("shared", SHARED)
            .with("script", self.needs_container().then(|| Digest::of(self.script())))
    }

    /// Returns the key.
    pub fn key(&self) -> Key {
        self.document().key()
    }

    /// Renders the Dockerfile that installs the checkout in the image `uninstalled`.
    pub fn dockerfile(&self, uninstalled: &str) -> String {
        let command = serde_json::to_string(&["bash", "-c", &self.script()])
            .expect("a list of strings is valid JSON");
        format!("FROM {uninstalled}\nWORKDIR {TESTBED}\nRUN {command}\n")
    }

    /// Renders the script of the installation.
    ///
    /// Tracked files that it changes are committed on top of the base commit, as the harness does;
    /// new files that the repository does not ignore are excluded, so that `git status` is clean.
    /// New modules get bytecode that does not refer to times; with an empty list `compileall` would
    /// compile the standard library. The index is left without file numbers and times of this build, which would differ each time.
    fn script(&self) -> String {
        let mut text = format!(
            "set -eo pipefail\ncd {TESTBED}\ntouch /tmp/imgforge-start\n\
             cp -p .git/index /tmp/imgforge-index\n\
             source /opt/miniconda3/bin/activate\nconda activate testbed\n\
             export PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1 GIT_OPTIONAL_LOCKS=0\n"
        );
        for command in self.pre_install.iter().chain(&self.install) {
            text.push_str(command);
            text.push('\n');
        }
        // In two words, so that a log which shows the command does not show the marker.
        let marker = SETUP_CHANGED.replacen(' ', "' '", 1);
        let marker = format!("'{marker}'");
        let _ = write!(
            text,
            "cd {TESTBED}\n\
             find {VIRTUAL_ENV}/lib -newer /tmp/imgforge-start -name '*.py' | LC_ALL=C sort \
             >/tmp/imgforge-new\n\
             if [ -s /tmp/imgforge-new ]; then\n\
             python -m compileall -q -f --invalidation-mode unchecked-hash -i /tmp/imgforge-new \
             >/dev/null || true\nfi\n\
             rm -f /tmp/imgforge-start /tmp/imgforge-new\n\
             git ls-files --others --exclude-standard | sed 's|^|/|' >> .git/info/exclude\n\
             if ! git -c core.fileMode=false diff --quiet HEAD; then\n\
             echo {marker}\n\
             export GIT_AUTHOR_NAME=imgforge GIT_AUTHOR_EMAIL=imgforge@localhost\n\
             export GIT_COMMITTER_NAME=imgforge GIT_COMMITTER_EMAIL=imgforge@localhost\n\
             date=$(git log -1 --format=%ct)\n\
             GIT_AUTHOR_DATE=$date GIT_COMMITTER_DATE=$date git -c core.fileMode=false \
             commit -q -a -m SWE-bench\n\
             rm -rf .git/logs .git/COMMIT_EDITMSG .git/index\ngit read-tree HEAD\n\
             elif ! cmp -s .git/index /tmp/imgforge-index; then\n\
             cp -p /tmp/imgforge-index .git/index\nfi\nrm -f /tmp/imgforge-index\n"
        );
        text
    }
}
