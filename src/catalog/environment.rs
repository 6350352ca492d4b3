//! The environment of one (repo, version): the answer of the catalog.

use std::collections::BTreeMap;

use crate::context_file::ContextFile;

/// How one (repo, version) is built and tested, with every file that it names already read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// `owner/name`.
    pub repo: String,
    /// The version, as the dataset spells it.
    pub version: String,
    /// What the environment stands on.
    pub base: Base,
    /// The language version that the benchmark asks for, to the patch level where it is known.
    pub wanted_python: String,
    /// The language version that the base offers; another than `wanted_python` stands in for it.
    pub python: String,
    /// Pinned lockfiles, installed in this order. When there are any, `requirements` is empty.
    pub locks: Vec<TextFile>,
    /// Requirement specifiers that are installed as they are (unpinned ones need `cutoff`).
    pub packages: Vec<String>,
    /// Requirement files of the repository, read at the environment's setup commit; of each group
    /// the first that exists there is used.
    pub requirements: Vec<Vec<String>>,
    /// Packages uploaded after this date (`YYYY-MM-DD`) are not considered.
    pub cutoff: Option<String>,
    /// Debian packages that the environment installs.
    pub system_packages: Vec<String>,
    /// Shell commands that end the making of the environment.
    pub env_commands: Vec<String>,
    /// Environment variables of the environment's image (and so of the tests).
    pub variables: BTreeMap<String, String>,
    /// Shell commands in the checkout before the installation.
    pub pre_install: Vec<String>,
    /// Shell commands that install the checkout; empty when nothing is to be done.
    pub install: Vec<String>,
    /// The test command.
    pub test_command: String,
    /// Shell commands before the test command (`eval_commands` of the benchmark).
    pub eval_commands: Vec<String>,
    /// The network that tests need.
    pub network: Network,
    /// Limits of a test run.
    pub limits: Limits,
    /// What a person should know of it, such as a requirement that was replaced.
    pub notes: Vec<String>,
}

/// A base image: a Dockerfile with its context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The name in `images.toml`, for people.
    pub name: String,
    /// Where the Dockerfile is, for people.
    pub path: String,
    /// The Dockerfile's text as it is on disk.
    pub dockerfile: String,
    /// The other files beside the Dockerfile.
    pub context: Vec<ContextFile>,
    /// Build arguments.
    pub args: BTreeMap<String, String>,
}

/// A text file that a catalog entry names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextFile {
    /// As the catalog spells it: what people are shown.
    pub path: String,
    /// The text.
    pub text: String,
}

/// The network of a test run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Only loopback.
    #[default]
    None,
    /// The engine's default network.
    Bridge,
    /// The network of the host.
    Host,
    /// Only loopback, with an httpbin server on it.
    Httpbin,
}

/// Limits of a test run; `None` leaves it to `[defaults]`, or to what is built in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Seconds.
    pub timeout: Option<u64>,
    /// Bytes.
    pub memory: Option<u64>,
    /// Processors, in thousandths.
    pub milli_cpus: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

impl Limits {
    /// Takes from `other` what is not set here.
    #[must_use]
    pub fn or(self, other: Limits) -> Limits {
        Limits {
            timeout: self.timeout.or(other.timeout),
            memory: self.memory.or(other.memory),
            milli_cpus: self.milli_cpus.or(other.milli_cpus),
            pids: self.pids.or(other.pids),
        }
    }
}
