//! What a dataset row says of its own installation: SWE-rebench's `install_config` and frozen
//! `requirements`, cleaned of what only the machine had where they were made.

use std::sync::LazyLock;

use regex::Regex;

use crate::dataset::{InstallConfig, Instance};
use crate::requirements::{Source, clean, normal_name, refused_text};

use super::TextFile;
use super::error::CatalogError;
use super::layer::EnvironmentSpec;

/// The oldest Python that these rows are given, as their own harness does.
const OLDEST: (u32, u32) = (3, 6);

/// Returns the Python that a row is given.
pub(super) fn python(config: &InstallConfig) -> Option<String> {
    let asked = config.python.as_deref()?.trim();
    let below = super::python::is_below(asked, OLDEST);
    Some(if below { format!("{}.{}", OLDEST.0, OLDEST.1) } else { asked.to_owned() })
}

impl EnvironmentSpec {
    /// Takes what a row says of its own installation; every key that it leaves out stays. Returns
    /// what a person should know.
    ///
    /// # Errors
    /// What cannot be had here.
    pub(super) fn replace(
        &mut self,
        row: &Instance,
        config: &InstallConfig,
    ) -> Result<Vec<String>, CatalogError> {
        let mut notes = Vec::new();
        let frozen = frozen(row).is_some();
        let conda =
            |what: String| CatalogError::Conda { instance_id: row.instance_id.clone(), what };
        if let Some(command) =
            config.pre_install.iter().chain(&config.install).find(|c| asks_conda(c))
        {
            return Err(conda(format!("`{command}`")));
        }
        let names = config.packages.as_deref().unwrap_or("").trim();
        let by_file = names.ends_with(".yml") || names.ends_with(".yaml");
        let nothing_else = names.is_empty()
            && config.pip_packages.is_empty()
            && config.reqs_path.is_empty()
            && !config.env_yml_path.is_empty();
        if by_file || nothing_else {
            let what = match by_file {
                true => format!("`packages` is `{names}`"),
                false => format!("`env_yml_path` is `{}`", config.env_yml_path.join("`, `")),
            };
            if !frozen {
                return Err(conda(what));
            }
            notes.push(format!(
                "{what}, which is conda's: of it, the Python packages of `requirements` are here"
            ));
        }
        if let Some(command) = &config.install {
            self.install = vec![command.clone()];
            // They go with the catalog's own install commands: a version that those are told, for one.
            self.variables.clear();
        }
        if !config.pre_install.is_empty() {
            self.pre_install = config.pre_install.clone();
        }
        if let Some(command) = &config.test_cmd {
            self.test_command = command.clone();
        }
        if config.packages.is_none() && config.pip_packages.is_empty() {
            return Ok(notes);
        }
        self.locks.clear();
        self.instances.clear();
        self.requirements.clear();
        self.packages = self.pip_packages(row, config, &mut notes)?;
        match names {
            _ if by_file => {}
            "requirements.txt" if !config.reqs_path.is_empty() => {
                self.requirements =
                    config.reqs_path.iter().map(|path| vec![path.clone()]).collect();
            }
            "requirements.txt" => self.requirements = vec![vec![names.to_owned()]],
            names => {
                for word in names.split_whitespace() {
                    match conda_package(word) {
                        Some(package) => self.packages.extend(package),
                        None => return Err(conda(format!("`packages` has `{word}`"))),
                    }
                }
            }
        }
        Ok(notes)
    }

    fn pip_packages(
        &self,
        row: &Instance,
        config: &InstallConfig,
        notes: &mut Vec<String>,
    ) -> Result<Vec<String>, CatalogError> {
        let source = source(row, self);
        let mut packages = Vec::new();
        let mut lines = String::new();
        for item in &config.pip_packages {
            // Their harness hands them to a shell: one item may be several words.
            let whole = clean(item, &source);
            let words = item.split_whitespace().count();
            let cleaned = match (whole, words > 1) {
                (Ok(cleaned), _) => vec![Ok(cleaned)],
                (Err(_), true) => {
                    item.split_whitespace().map(|word| clean(word, &source)).collect()
                }
                (Err(refused), false) => vec![Err(refused)],
            };
            for one in cleaned {
                match one {
                    Ok(cleaned) => {
                        // An option and its value are one argument.
                        let option = |line: &str| match line.strip_prefix("--") {
                            Some(rest) => format!("--{}", rest.replacen(' ', "=", 1)),
                            None => line.to_owned(),
                        };
                        packages.extend(cleaned.text.lines().map(option));
                        notes.extend(cleaned.notes.iter().map(|note| {
                            let what = note.split_once(": ").map_or(&**note, |(_, what)| what);
                            format!("pip_packages: {what}")
                        }));
                    }
                    Err(refused) => {
                        lines.push_str(&refused_text("install_config.pip_packages", &refused));
                    }
                }
            }
        }
        if !lines.is_empty() {
            return Err(CatalogError::Requirements { instance_id: row.instance_id.clone(), lines });
        }
        Ok(packages)
    }

    /// Returns a row's frozen requirements as a lockfile, where it has any, and what a person should
    /// know of it.
    ///
    /// # Errors
    /// Every line that cannot be had.
    pub(super) fn frozen(
        &self,
        row: &Instance,
    ) -> Result<Option<(TextFile, Vec<String>)>, CatalogError> {
        let Some(text) = frozen(row) else { return Ok(None) };
        let versions = row.environment.as_deref().unwrap_or("");
        let version_of = |name: &str| listed_version(versions, name);
        let source = Source { version_of: &version_of, ..source(row, self) };
        let cleaned = clean(text, &source).map_err(|refused| CatalogError::Requirements {
            instance_id: row.instance_id.clone(),
            lines: refused_text("requirements", &refused),
        })?;
        let notes = cleaned.notes.iter().map(|note| format!("requirements, {note}")).collect();
        let path = format!("{}/requirements", row.instance_id);
        Ok(Some((TextFile { path, text: cleaned.text }, notes)))
    }
}

fn frozen(row: &Instance) -> Option<&str> {
    row.requirements.as_deref().filter(|text| !text.trim().is_empty())
}

fn source<'a>(row: &'a Instance, settings: &EnvironmentSpec) -> Source<'a> {
    Source {
        repo: &row.repo,
        in_repository: false,
        drops_own_pins: !settings.install.is_empty(),
        variable: &|_| None,
        version_of: &|_| None,
    }
}

/// Tells whether a command makes or changes a conda environment.
fn asks_conda(command: &str) -> bool {
    static ASKS: LazyLock<Regex> = LazyLock::new(|| {
        let words =
            r"(^|[;&|(\s/])(conda|mamba|micromamba)\s+(-\S+\s+)*(install|create|update|env)\b";
        Regex::new(words).expect("the pattern is valid")
    });
    ASKS.is_match(command)
}

/// Returns what pip calls a package of conda's spelling, nothing for Python itself; `None` where conda
/// alone knows what is meant.
fn conda_package(word: &str) -> Option<Option<String>> {
    if word.starts_with('-') || word.contains("::") {
        return None;
    }
    let name = word.split(['=', '<', '>', '!', '~']).next().unwrap_or(word);
    if name == "python" {
        return Some(None);
    }
    let pin = word[name.len()..].strip_prefix('=').filter(|pin| !pin.starts_with('='));
    Some(Some(match pin {
        // conda's one `=` is a prefix, and a second one a build.
        Some(pin) => {
            let version = pin.split('=').next().unwrap_or(pin).trim_end_matches(".*");
            let exact = pin.contains('=');
            format!("{name}=={version}{}", if exact { "" } else { ".*" })
        }
        None => word.to_owned(),
    }))
}

/// Finds a package's version in what `conda list --export` or `conda env export` printed.
fn listed_version(listed: &str, name: &str) -> Option<String> {
    listed.lines().find_map(|line| {
        let line = line.trim().trim_start_matches("- ").trim_matches(['"', '\'']);
        let (known, rest) = line.split_once('=')?;
        let version = rest.trim_start_matches('=').split('=').next()?.trim();
        let is_version = version.starts_with(|c: char| c.is_ascii_digit());
        (is_version && normal_name(known.trim()) == name).then(|| version.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_in_condas_spelling_are_pips_where_pip_has_them() {
        let package = |word| conda_package(word).unwrap();
        assert_eq!(package("numpy=1.20").unwrap(), "numpy==1.20.*");
        assert_eq!(package("numpy=1.20=py39_0").unwrap(), "numpy==1.20");
        assert_eq!(package("numpy==1.20.3").unwrap(), "numpy==1.20.3");
        assert_eq!(package("scipy>=1.5").unwrap(), "scipy>=1.5");
        assert_eq!(package("python=3.9"), None);
        assert_eq!((conda_package("-c"), conda_package("conda-forge::gdal")), (None, None));
    }

    #[test]
    fn commands_that_ask_conda_are_known() {
        for asks in ["conda install -y gdal", "a && mamba env update -f x.yml", "conda -q create"] {
            assert!(asks_conda(asks), "{asks}");
        }
        for not in ["pip install conda-install", "conda run pip install x", "echo condaenv"] {
            assert!(!asks_conda(not), "{not}");
        }
    }

    #[test]
    fn versions_are_found_in_what_conda_lists() {
        let listed = "dependencies:\n  - certifi=2022.12.7=py39h06a4308_0\n  - pip:\n    - Zope.Event==4.5\n";
        assert_eq!(listed_version(listed, "certifi").as_deref(), Some("2022.12.7"));
        assert_eq!(listed_version(listed, "zope-event").as_deref(), Some("4.5"));
        assert_eq!(listed_version(listed, "pip"), None);
    }
}
