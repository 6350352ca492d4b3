//! The env image: the dependencies of one (repo, version), in a virtual environment at a fixed
//! place.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::catalog::python::{minor, suits};
use crate::catalog::{Environment, Network};
use crate::context_file::ContextFile;
use crate::key::{Digest, Key, KeyDocument, Kind};
use crate::platform::Platform;
use crate::quote::shell_quote;
use crate::requirements::is_pinned;

use super::VIRTUAL_ENV;

/// Where the files of an environment are in its image.
const FILES: &str = "/opt/imgforge/env";

/// What seeds every virtual environment; a lockfile that names one of them overrides it.
const SEED: &str = "pip==24.0 setuptools==68.2.2 wheel==0.41.3";

/// The service of [`Network::Httpbin`], in a virtual environment of its own.
const HTTPBIN: &str = "httpbin==0.10.2 gunicorn==22.0.0 gevent certifi trustme setuptools";

/// Packages of the service are of this date.
const HTTPBIN_DATE: &str = "2024-10-15";

/// Lets login shells keep the search path that the image names: `/etc/profile` sets another one. What
/// scripts of `/etc/profile.d` added stays behind it. A bash that reads `/root/.bashrc`, as it is told
/// by `BASH_ENV` or by a person, has it too, and `conda` where the base has one.
const KEEP_PATH: &str = r#"mkdir -p /etc/profile.d
{
    printf 'imgforge_path=%q\n' "$PATH"
    cat <<'END_OF_PROFILE'
imgforge_rest=$PATH:
while [ -n "$imgforge_rest" ]; do
    case ":$imgforge_path:" in
        *":${imgforge_rest%%:*}:"*) ;;
        *) imgforge_path=$imgforge_path:${imgforge_rest%%:*} ;;
    esac
    imgforge_rest=${imgforge_rest#*:}
done
export PATH="$imgforge_path"
unset imgforge_path imgforge_rest
if [ -r /opt/miniconda3/etc/profile.d/conda.sh ]; then
    . /opt/miniconda3/etc/profile.d/conda.sh
fi
END_OF_PROFILE
} >/etc/profile.d/zz-imgforge.sh
chmod 644 /etc/profile.d/zz-imgforge.sh
{
    echo '. /etc/profile.d/zz-imgforge.sh'
    [ ! -e /root/.bashrc ] || cat /root/.bashrc
} >/root/.bashrc.imgforge
mv /root/.bashrc.imgforge /root/.bashrc
"#;

/// What an env image is made of.
#[derive(Debug, Clone)]
pub struct EnvRecipe {
    /// The base's key.
    pub parent: Key,
    /// The language version that the benchmark asks for.
    pub wanted_python: String,
    /// The language version that is used, to the patch level where it is known.
    pub python: String,
    /// Lockfiles: the path that people are shown, and the text with `\n` line ends.
    pub locks: Vec<(String, String)>,
    /// Requirement specifiers.
    pub packages: Vec<String>,
    /// Requirement files of the repository; of each group the first that exists is used.
    pub requirements: Vec<RepoFiles>,
    /// Packages uploaded after this date are not considered.
    pub cutoff: Option<String>,
    /// Debian packages.
    pub system_packages: Vec<String>,
    /// Shell commands that end the making of the environment.
    pub commands: Vec<String>,
    /// Environment variables of the image.
    pub variables: BTreeMap<String, String>,
    /// Such as `linux/amd64`.
    pub platform: Platform,
    /// What was replaced in what a row asks for; not part of the key, which has the outcome.
    pub replaced: Vec<String>,
}

/// Candidates for one file of a repository at a commit: content that a key can name without
/// having it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoFiles {
    /// `owner/name`.
    pub repo: String,
    /// The commit.
    pub commit: String,
    /// Paths, the first that exists is used.
    pub candidates: Vec<String>,
}

impl EnvRecipe {
    /// Makes the recipe of an environment on the base with key `parent`; `setup_commit` is where
    /// its requirement files are read.
    pub fn new(
        environment: &Environment,
        parent: Key,
        setup_commit: &str,
        platform: &Platform,
    ) -> Self {
        let repo = &environment.repo;
        EnvRecipe {
            parent,
            wanted_python: environment.wanted_python.clone(),
            python: environment.python.clone(),
            locks: environment
                .locks
                .iter()
                .map(|lock| (lock.path.clone(), unix_lines(&lock.text)))
                .collect(),
            packages: environment.packages.clone(),
            requirements: environment
                .requirements
                .iter()
                .map(|candidates| RepoFiles {
                    repo: repo.clone(),
                    commit: setup_commit.to_owned(),
                    candidates: candidates.clone(),
                })
                .collect(),
            cutoff: environment.cutoff.clone(),
            system_packages: environment.system_packages.clone(),
            commands: commands(environment),
            variables: environment.variables.clone(),
            platform: platform.to_owned(),
            replaced: environment.notes.clone(),
        }
    }

    /// Takes the Python that the base's image says of itself: what stands in for an image has its
    /// name.
    pub fn with_python(mut self, said: Option<&str>) -> Self {
        if let Some(said) = said.filter(|said| minor(said) == minor(&self.python)) {
            self.python = said.to_owned();
        }
        self
    }

    /// Tells whether the same key may give different packages on another day.
    pub fn is_unlocked(&self) -> bool {
        let unpinned =
            |specifier: &str| !specifier.starts_with(['-', '#']) && !is_pinned(specifier);
        let in_lock = |(_, text): &(String, String)| {
            text.lines().map(str::trim).filter(|line| !line.is_empty()).any(unpinned)
        };
        self.cutoff.is_none()
            && (!self.requirements.is_empty()
                || self.packages.iter().any(|package| unpinned(package))
                || self.locks.iter().any(in_lock))
    }

    /// Says what stands in for the Python that was asked for; `None` where it is used itself.
    pub fn stand_in(&self) -> Option<String> {
        (!suits(&self.wanted_python, &self.python))
            .then(|| format!("Python {} stands in for {}", self.python, self.wanted_python))
    }

    /// Returns the key document.
    pub fn document(&self) -> KeyDocument {
        let locks: BTreeMap<&str, Digest> =
            self.locks.iter().map(|(path, text)| (path.as_str(), Digest::of(text))).collect();
        let requirements: Vec<String> = self
            .requirements
            .iter()
            .map(|file| format!("{}@{}:{}", file.repo, file.commit, file.candidates.join("|")))
            .collect();
        KeyDocument::new(Kind::Env)
            .with("commands", &self.commands)
            .with("cutoff", &self.cutoff)
            .with("locks", locks)
            .with("packages", &self.packages)
            .with("parent", self.parent)
            .with("platform", &self.platform)
            .with("python", &self.python)
            .with("requirements", requirements)
            .with("script", Digest::of(self.script()))
            .with("system_packages", &self.system_packages)
            .with("variables", &self.variables)
            .with("wanted_python", &self.wanted_python)
    }

    /// Returns the key.
    pub fn key(&self) -> Key {
        self.document().key()
    }

    /// Renders the Dockerfile that makes the image from `base`.
    pub fn dockerfile(&self, base: &str) -> String {
        let mut text = format!("FROM {base}\nCOPY env/ {FILES}/\n");
        for (name, value) in &self.variables {
            let value = value.replace('\\', r"\\").replace('"', "\\\"").replace('$', r"\$");
            let _ = writeln!(text, "ENV {name}=\"{value}\"");
        }
        let _ = writeln!(text, "RUN bash {FILES}/install.sh");
        text
    }

    /// Returns the build context: the script, the lockfiles, and for each of
    /// [`EnvRecipe::requirements`] the files that were read from the repository, the chosen one
    /// first.
    pub fn context(&self, requirements: &[Vec<(String, Vec<u8>)>]) -> Vec<ContextFile> {
        let file = |path: String, bytes: Vec<u8>| ContextFile { path, executable: false, bytes };
        let mut files = vec![file("env/install.sh".into(), self.script().into_bytes())];
        for (index, (_, text)) in self.locks.iter().enumerate() {
            files.push(file(format!("env/lock-{index}.txt"), text.clone().into_bytes()));
        }
        for (index, group) in requirements.iter().enumerate() {
            let place = format!("env/requirements-{index}");
            if let Some((chosen, _)) = group.first() {
                let chosen = format!("{FILES}/requirements-{index}/{chosen}");
                files.push(file(format!("{place}/CHOSEN"), chosen.into_bytes()));
            }
            for (path, bytes) in group {
                files.push(file(format!("{place}/{path}"), bytes.clone()));
            }
        }
        files
    }

    /// Tells whether `uv` knows the language version; older ones are served by `pip`.
    fn has_uv(&self) -> bool {
        let minor = self
            .python
            .strip_prefix("3.")
            .and_then(|rest| rest.split('.').next().and_then(|minor| minor.parse::<u32>().ok()));
        minor.is_some_and(|minor| minor >= 8)
    }

    /// Renders the script that makes the environment.
    fn script(&self) -> String {
        let mut text = String::from("#!/bin/bash\nset -euo pipefail\n");
        text.push_str(KEEP_PATH);
        if !self.system_packages.is_empty() {
            let packages: Vec<String> =
                self.system_packages.iter().map(|package| shell_quote(package)).collect();
            let _ = writeln!(
                text,
                "apt-get update\nDEBIAN_FRONTEND=noninteractive apt-get install -y \
                 --no-install-recommends {}",
                packages.join(" ")
            );
        }
        let python = shell_quote(minor(&self.python));
        let _ = writeln!(text, "export VIRTUAL_ENV={VIRTUAL_ENV}");
        let install = if self.has_uv() {
            let _ = writeln!(text, "uv venv --quiet --python {python} $VIRTUAL_ENV");
            "uv pip install"
        } else {
            let _ = writeln!(text, "python{python} -m venv $VIRTUAL_ENV");
            "python -m pip install"
        };
        text.push_str("export PATH=$VIRTUAL_ENV/bin:$PATH\n");
        if self.has_uv() {
            let _ = writeln!(text, "uv pip install {SEED}");
            if let Some(date) = &self.cutoff {
                let _ = writeln!(text, "export UV_EXCLUDE_NEWER={}", shell_quote(date));
            }
        }
        for index in 0..self.locks.len() {
            let _ = writeln!(text, "{install} --no-deps -r {FILES}/lock-{index}.txt");
        }
        for index in 0..self.requirements.len() {
            let _ = writeln!(text, "{install} -r \"$(cat {FILES}/requirements-{index}/CHOSEN)\"");
        }
        if !self.packages.is_empty() {
            let packages: Vec<String> =
                self.packages.iter().map(|package| shell_quote(package)).collect();
            let _ = writeln!(text, "{install} {}", packages.join(" "));
        }
        for command in &self.commands {
            text.push_str(command);
            text.push('\n');
        }
        // Compiled by content, not by time: equal sources give equal bytes, and the constant file
        // times of layers cannot make stale bytecode look current.
        text.push_str(
            "export PYTHONHASHSEED=0\npython -m compileall -q -f --invalidation-mode \
             unchecked-hash $VIRTUAL_ENV/lib >/dev/null || true\n",
        );
        text
    }
}

/// The commands that end the making of an environment, and of the service that its tests need.
fn commands(environment: &Environment) -> Vec<String> {
    let mut commands = environment.env_commands.clone();
    if environment.network == Network::Httpbin {
        commands.push(format!(
            "uv venv --quiet --python python3 /opt/httpbin\n\
             UV_EXCLUDE_NEWER={HTTPBIN_DATE} uv pip install --python /opt/httpbin/bin/python \
             {HTTPBIN}\n\
             cat >/opt/httpbin/serve.py <<'END_OF_SERVICE'\n{}END_OF_SERVICE\n\
             /opt/httpbin/bin/python -m compileall -q -f --invalidation-mode unchecked-hash \
             /opt/httpbin/lib >/dev/null || true",
            include_str!("httpbin.py")
        ));
    }
    commands
}

fn unix_lines(text: &str) -> String {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.replace("\r\n", "\n")
}
