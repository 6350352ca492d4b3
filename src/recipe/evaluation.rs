//! An evaluation: the tests of an instance, run once in its image.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::dataset::Patch;
use crate::key::{Digest, ImageId, Key, KeyDocument, Kind};
use crate::patch::mentioned;
use crate::platform::Platform;

use super::marks::{
    CHANGE_MARK, NO_SERVICE, NOT_READY, NOT_READY_MARK, PATCH_REFUSED, TEST_PATCH_FILE,
};
use super::strict;

/// Name and version of the way in which scripts are run; part of the key.
const RUNNER: &str = "sandbox/4";

/// Where the index of the repository is kept while `git apply --3way` is tried.
const INDEX: &str = "/tmp/imgforge-index";

/// Where the container's own certificates of the httpbin service are.
const BUNDLE: &str = "/tmp/imgforge-httpbin/bundle.pem";

/// Where the model patch is that is applied in the container.
const PATCH_FILE: &str = "/tmp/patch.diff";

/// What its application said, where nobody listens.
const PATCH_LOG: &str = "/tmp/imgforge-patch.log";

/// Runs a command in the environment that scripts of published images activate.
const ACTIVATE: &str = "if [ -x /bin/bash ] && [ -f /opt/miniconda3/bin/activate ]; then\n\
    exec /bin/bash -c '. /opt/miniconda3/bin/activate && conda activate testbed; exec \"$@\"' \
    bash \"$@\"\nfi\nexec \"$@\"\n";

/// What a run of tests is made of.
#[derive(Debug, Clone)]
pub struct EvaluationRecipe {
    /// The instance image's key.
    pub parent: Key,
    /// For labels and logs; not part of the key.
    pub instance_id: String,
    /// `eval.sh`.
    pub script: Arc<str>,
    /// Where the repository is in the image.
    pub directory: Arc<str>,
    /// `/bin/sh` text that enters it, where that is needed.
    pub enter: Arc<str>,
    /// `/bin/sh` text that runs before it, silently.
    pub prologue: Option<Arc<str>>,
    /// On a published image the model patch is applied in the container.
    pub patch: Option<Patch>,
    /// There the script applies this test patch from [`TEST_PATCH_FILE`].
    pub test_patch: Option<Patch>,
    /// The id of a published image, when it is here: its name says nothing of its content.
    pub image_id: Option<ImageId>,
    /// Limits of the run.
    pub limits: RunLimits,
    /// What the tests can reach.
    pub network: RunNetwork,
    /// The script in its parts, where the strict rules hold: see [`strict`].
    pub strict: Option<Arc<strict::Separated>>,
    /// The paths that the test patch is about: the strict rules leave them to it.
    pub test_paths: Arc<[Vec<u8>]>,
    /// 0 for the first run; a number of its own for every repetition.
    pub repeat: u32,
    /// Such as `linux/amd64`.
    pub platform: Platform,
    /// What runs programs of the platform, where the engine does not by itself.
    pub emulator: Option<String>,
    /// Whether it runs as a pod of a cluster: packets to nowhere are dropped there, where an engine
    /// answers at once that there is no network.
    pub in_pods: bool,
}

/// Limits of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct RunLimits {
    /// Seconds.
    pub timeout: u64,
    /// Bytes; `None` is no limit.
    pub memory: Option<u64>,
    /// Thousandths of a processor; `None` is no limit.
    pub milli_cpus: Option<u64>,
    /// Processes and threads; `None` is no limit.
    pub pids: Option<u64>,
    /// Bytes of files that it writes; `None` is no limit.
    pub disk: Option<u64>,
    /// Files and directories that it makes; `None` is no limit.
    pub files: Option<u64>,
    /// Bytes of its log; `None` is no limit.
    pub log_size: Option<u64>,
}

impl Default for RunLimits {
    fn default() -> Self {
        RunLimits {
            timeout: 1800,
            memory: Some(8 << 30),
            milli_cpus: None,
            pids: Some(4096),
            disk: Some(20 << 30),
            files: Some(1_000_000),
            log_size: Some(1 << 30),
        }
    }
}

/// What tests can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RunNetwork {
    /// Loopback.
    #[default]
    None,
    /// The engine's default network.
    Bridge,
    /// The network of the host.
    Host,
    /// Loopback with an httpbin on it, and a silent peer.
    #[value(skip)]
    Httpbin,
}

impl EvaluationRecipe {
    /// Returns the key document.
    pub fn document(&self) -> KeyDocument {
        KeyDocument::new(Kind::Evaluation)
            .with("command", Digest::of(self.command("")))
            .with("hosts", self.loopback_names())
            .with("image", &self.image_id)
            .with("limits", self.limits)
            .with("network", self.network)
            .with("parent", self.parent)
            .with("patch", self.patch.as_ref().map(|patch| Digest::of(patch.as_bytes())))
            .with("platform", &self.platform)
            .with("prologue", self.prologue.as_ref().map(|text| Digest::of(text.as_bytes())))
            .with("repeat", self.repeat)
            .with("runner", self.runner())
            .with("script", Digest::of(self.script.as_bytes()))
            .with("strict", self.strict_rules())
            .with("test_patch", self.test_patch.as_ref().map(|patch| Digest::of(patch.as_bytes())))
            .with("variables", self.variables())
    }

    /// Returns what the strict rules do, where they hold.
    fn strict_rules(&self) -> Option<Digest> {
        let separated = self.strict.as_ref()?;
        let files = separated.files(&self.directory, &self.test_paths);
        let text: Vec<u8> = files
            .into_iter()
            .flat_map(|(path, bytes)| [path.into_bytes(), vec![0], bytes, vec![0]].concat())
            .collect();
        Some(Digest::of(text))
    }

    /// Returns how the script is run: under an emulator, or in a pod, tests may do otherwise.
    fn runner(&self) -> String {
        let pods = if self.in_pods { ", in pods" } else { "" };
        match &self.emulator {
            None => format!("{RUNNER}{pods}"),
            Some(emulator) => format!("{RUNNER}{pods}, under {emulator}"),
        }
    }

    /// Returns the key: equal keys are one run.
    pub fn key(&self) -> Key {
        self.document().key()
    }

    /// Lists what the container takes: `eval.sh`, or its parts, and the patch.
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        let mut files = match &self.strict {
            None => vec![("/eval.sh".to_owned(), self.script.as_bytes().to_vec())],
            Some(separated) => separated.files(&self.directory, &self.test_paths),
        };
        if let Some(patch) = &self.patch {
            files.push((PATCH_FILE.to_owned(), patch.as_bytes().to_vec()));
        }
        if let Some(patch) = &self.test_patch {
            files.push((TEST_PATCH_FILE.to_owned(), patch.as_bytes().to_vec()));
        }
        files
    }

    /// Renders what the container runs. Under the strict rules the tests get file descriptor 4 as
    /// their output, once `nonce` was written to it; the exit code is theirs.
    pub fn command(&self, nonce: &str) -> String {
        let mut text = String::new();
        if self.strict.is_some() {
            text.push_str(&strict::ready());
        }
        text.push_str(&self.enter);
        if let Some(patch) = &self.patch {
            text.push_str(&apply_in_container(patch));
        }
        if let Some(prologue) = &self.prologue {
            let mark = format!("{NOT_READY_MARK}it does not hold the base commit");
            text.push_str(&format!(
                "(\n{prologue}) >/dev/null 2>&1\n\
                 [ $? -ne {NOT_READY} ] || {{ echo '{mark}'; exit {NOT_READY}; }}\n"
            ));
        }
        if self.network == RunNetwork::Httpbin {
            text.push_str(&start_httpbin());
        }
        match &self.strict {
            None => text.push_str("exec 4>&-\ncd /\nexec /bin/bash /eval.sh\n"),
            Some(separated) => text.push_str(&separated.command(nonce)),
        }
        text
    }

    /// Renders the command that stands for `command` in a published image, and the files that it
    /// takes: the model patch is applied, and the environment is active.
    pub fn around(&self, command: &[String]) -> (Vec<String>, Vec<(String, Vec<u8>)>) {
        let (mut text, mut files) = (String::new(), Vec::new());
        if let Some(patch) = &self.patch {
            let _ = write!(
                text,
                "( exec 4>{PATCH_LOG}\n{}{}) || {{ cat {PATCH_LOG} >&2; exit 125; }}\n",
                self.enter,
                apply_in_container(patch)
            );
            files.push((PATCH_FILE.to_owned(), patch.as_bytes().to_vec()));
        }
        text.push_str(ACTIVATE);
        let words = ["/bin/sh", "-c", &text, "sh"].map(str::to_owned);
        (words.into_iter().chain(command.iter().cloned()).collect(), files)
    }

    /// Returns the names that lead to loopback.
    pub fn loopback_names(&self) -> Vec<String> {
        match self.network {
            RunNetwork::Httpbin => {
                ["httpbin.org", "www.httpbin.org", "www.google.co.uk"].map(str::to_owned).to_vec()
            }
            _ => Vec::new(),
        }
    }

    /// Returns environment variables beside the image's: without a network, the retries of `pip`
    /// only take time.
    pub fn variables(&self) -> std::collections::BTreeMap<String, String> {
        let mut variables = std::collections::BTreeMap::new();
        let mut set = |name: &str, value: &str| {
            variables.insert(name.to_owned(), value.to_owned());
        };
        if matches!(self.network, RunNetwork::None | RunNetwork::Httpbin) {
            set("PIP_RETRIES", "0");
            set("PIP_DISABLE_PIP_VERSION_CHECK", "1");
        }
        if self.network == RunNetwork::Httpbin {
            set("REQUESTS_CA_BUNDLE", BUNDLE);
        }
        variables
    }
}

/// The chain of the harness (5.x), with its cleaning before each retry. What it says goes to file
/// descriptor 4, and after that what the patch changed, by the files before and after it.
///
/// A `--3way` that ends in conflicts leaves unmerged paths in the index, which keep `git checkout`
/// from cleaning: the index is put back as it was, or the next tries would patch conflict markers.
/// `patch` knows nothing of git's own files, so it does not get a patch that names some.
fn apply_in_container(patch: &Patch) -> String {
    let of_git = |path: &Vec<u8>| {
        path.split(|byte| *byte == b'/').any(|part| part.eq_ignore_ascii_case(b".git"))
    };
    let by_patch = match mentioned(patch.as_bytes()).iter().any(of_git) {
        true => "",
        false => "clean; try patch --batch --forward --fuzz=5 -p1 -i && return\n",
    };
    let changes = strict::CHANGES;
    // Without both of them every patch would look refused.
    let mark = format!("{NOT_READY_MARK}it has neither git nor patch, which apply patches");
    format!(
        "git --version >/dev/null 2>&1 || patch --version >/dev/null 2>&1 || \
         {{ echo '{mark}'; exit {NOT_READY}; }}\n\
         clean() {{ git checkout -q -- . ; git clean -fdq; }}\n\
         try() {{ echo \"$ $*\"; \"$@\" /tmp/patch.diff; }}\n\
         apply() {{\n\
         try git apply --verbose && return\n\
         clean; cp -p \"$index\" {INDEX}; try git apply --verbose --3way && return\n\
         mv -f {INDEX} \"$index\"\n\
         clean; try git apply --verbose --reject && return\n\
         {by_patch}\
         try git apply --check --reverse\n}}\n\
         files() {{ find . -xdev -path ./.git -prune -o ! -type d \"$@\" -print0 | LC_ALL=C sort -z; }}\n\
         both() {{ LC_ALL=C comm -z \"$@\"; }}\n\
         index=$(git rev-parse --git-path index)\n\
         files >/imgforge-there; touch /imgforge-then; sleep 0.02\n\
         if apply >&4 2>&4; then rm -f {INDEX}; echo '>>>>> Applied Patch' >&4\n\
         else echo '>>>>> Patch Apply Failed' >&4; exit {PATCH_REFUSED}; fi\n\
         files >/imgforge-here; files -cnewer /imgforge-then >/imgforge-new\n\
         {{ both -13 /imgforge-there /imgforge-here | sed -z 's,^\\./,A ,'\n\
         both -23 /imgforge-there /imgforge-here | sed -z 's,^\\./,D ,'\n\
         both -12 /imgforge-there /imgforge-new | sed -z 's,^\\./,M ,'; }} >{changes}\n\
         sed -z 's/[\\\"]/\\\\&/g; s/\\n/\\\\n/g; s/^\\(.\\) \\(.*\\)$/{CHANGE_MARK}\\1 \"\\2\"/' {changes} \
         | tr '\\0' '\\n' >&4\n\
         [ -s {changes} ] || echo 'no file is known that the patch changed' >&4\n",
    )
}

/// Starts the httpbin of the environment image and waits until it answers.
fn start_httpbin() -> String {
    format!(
        "/opt/httpbin/bin/python /opt/httpbin/serve.py {BUNDLE} >/dev/null 2>&4 4>&- \
         || exit {NO_SERVICE}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> EvaluationRecipe {
        EvaluationRecipe {
            parent: KeyDocument::new(Kind::Instance).key(),
            instance_id: "a__b-1".into(),
            script: "#!/bin/bash\ntrue\n".into(),
            directory: "/testbed".into(),
            enter: "cd /testbed\n".into(),
            prologue: None,
            patch: None,
            test_patch: None,
            image_id: None,
            limits: RunLimits::default(),
            network: RunNetwork::None,
            strict: None,
            test_paths: Arc::new([]),
            repeat: 0,
            platform: Platform::written("linux/amd64"),
            emulator: None,
            in_pods: false,
        }
    }

    #[test]
    fn script_limits_and_network_are_in_the_key_and_the_instance_id_is_not() {
        let key = recipe().key();
        assert_eq!(key, EvaluationRecipe { instance_id: "c__d-2".into(), ..recipe() }.key());
        for other in [
            EvaluationRecipe { script: "false\n".into(), ..recipe() },
            EvaluationRecipe { enter: "cd /app\n".into(), ..recipe() },
            EvaluationRecipe { prologue: Some("x\n".into()), ..recipe() },
            EvaluationRecipe {
                limits: RunLimits { timeout: 1, ..RunLimits::default() },
                ..recipe()
            },
            EvaluationRecipe { network: RunNetwork::Bridge, ..recipe() },
            EvaluationRecipe {
                strict: Some(Arc::new(strict::separate("true\n", "/testbed").unwrap())),
                ..recipe()
            },
            EvaluationRecipe { repeat: 1, ..recipe() },
            EvaluationRecipe { in_pods: true, ..recipe() },
            EvaluationRecipe { patch: Some("p".into()), ..recipe() },
            EvaluationRecipe { test_patch: Some("p".into()), ..recipe() },
            EvaluationRecipe { image_id: Some("sha256:0".into()), ..recipe() },
        ] {
            assert_ne!(key, other.key(), "{other:?}");
        }
    }

    #[test]
    fn on_a_published_image_the_patch_is_applied_before_anything_runs() {
        let recipe = EvaluationRecipe { patch: Some("p".into()), ..recipe() };
        let command = recipe.command("");
        let applied = command.find("git apply --verbose --3way").unwrap();
        assert!(applied < command.find("exec /bin/bash").unwrap());
        assert_eq!(recipe.files()[1], ("/tmp/patch.diff".to_owned(), b"p".to_vec()));
    }
}
