//! The catalog, `images.toml`: how each (repo, version) is built and tested.
//!
//! Reads and layers the files and answers one question, [`Catalog::environment`]; it does not know
//! what an image is.

mod file;
mod load;
pub mod lock;

use std::collections::BTreeMap;

use crate::dataset::Instance;

pub use file::Defaults;

/// Why a catalog cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// A file cannot be read.
    #[error("cannot read `{file}`")]
    Read {
        /// The file.
        file: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file has a mistake.
    #[error("{file}:{line}: {what}")]
    Parse {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong, with the key.
        what: String,
    },
    /// A stand-in names a Python that no base has.
    #[error(
        "`[stand-in]` says that Python {used} stands in for {wanted}, and no base has Python {used}"
    )]
    StandIn {
        /// The version that is asked for.
        wanted: String,
        /// The version that should stand in.
        used: String,
    },
    /// The catalog has no such repository.
    #[error("the catalog does not have `{repo}`{near}")]
    UnknownRepo {
        /// The repository.
        repo: String,
        /// The nearest that it has, for people.
        near: String,
    },
    /// The catalog has no such version.
    #[error("the catalog does not have version `{version}` of `{repo}`{near}")]
    UnknownVersion {
        /// The repository.
        repo: String,
        /// The version.
        version: String,
        /// The nearest that it has, for people.
        near: String,
    },
    /// A row asks for a Python that no base has.
    #[error("no base has Python `{python}`, which the row of `{instance_id}` asks for")]
    NoPython {
        /// The instance.
        instance_id: String,
        /// The version.
        python: String,
    },
}

/// How every known (repo, version) is built.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    defaults: Defaults,
    bases: BTreeMap<String, Base>,
    by_python: BTreeMap<String, String>,
    stand_in: BTreeMap<String, String>,
    mirrors: BTreeMap<String, Vec<String>>,
    entries: BTreeMap<String, BTreeMap<String, Entry>>,
}

/// What the catalog keeps of one version.
#[derive(Debug, Clone, Default)]
struct Entry {
    base: String,
    wanted_python: String,
    python: String,
    locks: Vec<TextFile>,
    packages: Vec<String>,
    requirements: Vec<Vec<String>>,
    /// Packages and requirement files, whether a lockfile replaces them or not.
    sources: (Vec<String>, Vec<Vec<String>>),
    cutoff: Option<String>,
    system_packages: Vec<String>,
    env_commands: Vec<String>,
    variables: BTreeMap<String, String>,
    pre_install: Vec<String>,
    install: Vec<String>,
    test_command: String,
    eval_commands: Vec<String>,
    network: Network,
    limits: Limits,
}

/// Returns ``; the nearest is `x` `` for an error, or nothing when nothing is near.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a String>) -> String {
    known
        .map(|name| (strsim::jaro_winkler(word, name), name))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map_or(String::new(), |(_, name)| format!("; the nearest is `{name}`"))
}

impl Catalog {
    /// Returns the settings of `[defaults]`.
    pub fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    /// Returns the sources of single repositories, `[mirrors]`.
    pub fn mirrors(&self) -> &BTreeMap<String, Vec<String>> {
        &self.mirrors
    }

    /// Lists every repository with its versions.
    pub fn versions(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().flat_map(|(repo, versions)| {
            versions.keys().map(move |version| (repo.as_str(), version.as_str()))
        })
    }

    /// Returns how a version is built and tested. What `row` says itself goes before the catalog.
    pub fn environment(
        &self,
        repo: &str,
        version: &str,
        row: Option<&Instance>,
    ) -> Result<Environment, CatalogError> {
        let own = row.filter(|row| row.install_config.is_some() || row.requirements.is_some());
        if let Some(row) = own {
            return self.environment_of_row(repo, version, row);
        }
        let entry = self.entry(repo, version)?;
        Ok(self.resolve(repo, version, entry.clone()))
    }

    /// Returns how a version would be built without its lockfile: what a lockfile is made from.
    pub fn unlocked(&self, repo: &str, version: &str) -> Result<Environment, CatalogError> {
        let mut entry = self.entry(repo, version)?.clone();
        entry.locks.clear();
        (entry.packages, entry.requirements) = entry.sources.clone();
        entry.cutoff = entry.cutoff.or_else(|| self.defaults.cutoff.clone());
        Ok(self.resolve(repo, version, entry))
    }

    fn entry(&self, repo: &str, version: &str) -> Result<&Entry, CatalogError> {
        let versions = self.entries.get(repo).ok_or_else(|| CatalogError::UnknownRepo {
            repo: repo.to_owned(),
            near: nearest(repo, self.entries.keys()),
        })?;
        versions.get(version).ok_or_else(|| CatalogError::UnknownVersion {
            repo: repo.to_owned(),
            version: version.to_owned(),
            near: nearest(version, versions.keys()),
        })
    }

    fn resolve(&self, repo: &str, version: &str, entry: Entry) -> Environment {
        Environment {
            repo: repo.to_owned(),
            version: version.to_owned(),
            base: self.bases[&entry.base].clone(),
            wanted_python: entry.wanted_python,
            python: entry.python,
            locks: entry.locks,
            packages: entry.packages,
            requirements: entry.requirements,
            cutoff: entry.cutoff,
            system_packages: entry.system_packages,
            env_commands: entry.env_commands,
            variables: entry.variables,
            pre_install: entry.pre_install,
            install: entry.install,
            test_command: entry.test_command,
            eval_commands: entry.eval_commands,
            network: entry.network,
            limits: entry.limits,
        }
    }

    /// Makes the environment that a row describes itself (SWE-rebench and its relatives).
    fn environment_of_row(
        &self,
        repo: &str,
        version: &str,
        row: &Instance,
    ) -> Result<Environment, CatalogError> {
        let config = row.install_config.clone().unwrap_or_default();
        let mut entry = self.entry(repo, version).cloned().unwrap_or_default();
        let wanted = config.python.clone().unwrap_or_else(|| match entry.wanted_python.as_str() {
            "" => "3.9".to_owned(),
            python => python.to_owned(),
        });
        let used = self.stand_in.get(&wanted).unwrap_or(&wanted).clone();
        entry.base = self.by_python.get(&used).cloned().ok_or_else(|| CatalogError::NoPython {
            instance_id: row.instance_id.clone(),
            python: wanted.clone(),
        })?;
        (entry.wanted_python, entry.python) = (wanted, used);
        entry.locks.clear();
        entry.packages = config.pip_packages;
        entry.requirements.clear();
        match (&row.requirements, config.packages.as_deref()) {
            (Some(text), _) => {
                entry.locks = vec![TextFile { path: "requirements".into(), text: text.clone() }];
            }
            (None, Some("requirements.txt")) => {
                entry.requirements =
                    config.reqs_path.iter().map(|path| vec![path.clone()]).collect();
            }
            (None, Some("environment.yml") | None) => {}
            (None, Some(names)) => {
                entry.packages.splice(0..0, names.split_whitespace().map(str::to_owned));
            }
        }
        if entry.cutoff.is_none() && entry.locks.is_empty() {
            entry.cutoff = row
                .created_at
                .as_deref()
                .and_then(|created| created.get(..10))
                .map(str::to_owned)
                .or_else(|| self.defaults.cutoff.clone());
        }
        let mut pre_install = config.pre_install;
        pre_install.retain(|command| {
            let apt = command.contains("apt-get install") || command.contains("apt install");
            if apt {
                entry.env_commands.push(command.clone());
            }
            !apt
        });
        entry.pre_install = pre_install;
        entry.install = config.install.into_iter().collect();
        if let Some(command) = config.test_cmd {
            entry.test_command = command;
        }
        if entry.test_command.is_empty() {
            entry.test_command = "pytest -rA".to_owned();
        }
        Ok(self.resolve(repo, version, entry))
    }
}

/// How one (repo, version) is built and tested, with every file that it names already read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// `owner/name`.
    pub repo: String,
    /// The version, as the dataset spells it.
    pub version: String,
    /// What the environment stands on.
    pub base: Base,
    /// The language version that the benchmark asks for.
    pub wanted_python: String,
    /// The language version that is used here; differs from `wanted_python` for a stand-in.
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

/// A file of a build context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextFile {
    /// Relative to the context, with `/`.
    pub path: String,
    /// Whether the owner may execute it.
    pub executable: bool,
    /// The bytes.
    pub bytes: Vec<u8>,
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
    /// Only loopback, with an httpbin server on it.
    Httpbin,
}

/// Limits of a test run; `None` leaves it to the settings.
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
