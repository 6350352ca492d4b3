//! Answers how one (repo, version) is built: picks the base, the Python and the lockfile, and lets
//! a dataset row that carries its own installation speak for itself.

use crate::dataset::{InstallConfig, Instance};

use crate::nearest::nearest;

use super::error::CatalogError;
use super::layer::Settings;
use super::{Base, Catalog, Environment, TextFile};

impl Catalog {
    /// Returns how (`repo`, `version`) is built and tested. What `row` carries itself
    /// (`install_config`, `requirements`) replaces what the catalog says; such a row needs no
    /// entry in the catalog.
    pub fn environment(
        &self,
        repo: &str,
        version: &str,
        row: Option<&Instance>,
    ) -> Result<Environment, CatalogError> {
        let config = row.and_then(|row| row.install_config.as_ref());
        let mut settings = match self.settings(repo, version) {
            Ok(settings) => settings.clone(),
            Err(_) if config.is_some_and(|config| config.python.is_some()) => Settings::default(),
            Err(error) => return Err(error),
        };
        if let Some(config) = config {
            settings.replace(config);
        }
        let (base, wanted_python, python) = self.base_and_python(&settings, row, config)?;
        if python != wanted_python {
            settings.apply_stand_in(&python);
        }
        let mut locks = settings.lock_for(row, &wanted_python, &python);
        if let Some((row, text)) = row.and_then(|row| Some((row, row.requirements.as_ref()?)))
            && !text.trim().is_empty()
        {
            let path = format!("{}/requirements", row.instance_id);
            locks = vec![TextFile { path, text: text.clone() }];
        }
        if !locks.is_empty() {
            settings.requirements.clear();
            settings.packages.clear();
            settings.cutoff = None;
        }
        let defaults = &self.merged.defaults;
        Ok(Environment {
            repo: repo.to_owned(),
            version: version.to_owned(),
            base: base.clone(),
            wanted_python,
            python,
            locks,
            packages: settings.packages,
            requirements: settings.requirements,
            cutoff: settings.cutoff,
            system_packages: settings.system_packages,
            env_commands: settings.env_commands,
            variables: settings
                .variables
                .into_iter()
                .map(|(name, value)| (name, value.replace("{version}", version)))
                .collect(),
            pre_install: settings.pre_install,
            install: settings.install,
            test_command: settings.test_command,
            eval_commands: settings.eval_commands,
            network: settings.network.or(defaults.network).unwrap_or_default(),
            limits: settings.limits.or(defaults.limits()),
        })
    }

    /// Returns the sources of an environment as `imgforge lock` resolves them: the entry without
    /// its lockfiles.
    pub fn unlocked(&self, repo: &str, version: &str) -> Result<Environment, CatalogError> {
        let settings = self.settings(repo, version)?;
        let mut environment = self.environment(repo, version, None)?;
        environment.locks.clear();
        environment.packages = settings.packages.clone();
        environment.requirements = settings.requirements.clone();
        environment.cutoff = settings.cutoff.clone();
        Ok(environment)
    }

    fn settings(&self, repo: &str, version: &str) -> Result<&Settings, CatalogError> {
        let names =
            |map: Vec<&String>, name: &str| nearest(name, map.into_iter().map(|n| n.as_str()));
        let Some(versions) = self.merged.repos.get(repo) else {
            let nearest = names(self.merged.repos.keys().collect(), repo);
            return Err(CatalogError::UnknownRepo { repo: repo.to_owned(), nearest });
        };
        versions.get(version).ok_or_else(|| CatalogError::UnknownVersion {
            repo: repo.to_owned(),
            version: version.to_owned(),
            nearest: names(versions.keys().collect(), version),
        })
    }

    fn base_and_python(
        &self,
        settings: &Settings,
        row: Option<&Instance>,
        config: Option<&InstallConfig>,
    ) -> Result<(&Base, String, String), CatalogError> {
        let asked = config.and_then(|config| config.python.clone());
        if let (None, Some(name)) = (&asked, &settings.base) {
            let (base, has) = &self.merged.bases[&name.value];
            let has = has.clone().unwrap_or_default();
            let wanted = settings.python.as_ref().map_or(has.clone(), |p| p.value.clone());
            return Ok((base, wanted, has));
        }
        let wanted = asked
            .or_else(|| settings.python.as_ref().map(|python| python.value.clone()))
            .unwrap_or_default();
        let python =
            self.merged.stand_in.get(&wanted).map_or(wanted.clone(), |python| python.value.clone());
        match self.merged.base_of_python(&python) {
            Some(base) => Ok((base, wanted, python)),
            None => Err(CatalogError::RowPython {
                instance_id: row.map(|row| row.instance_id.clone()).unwrap_or_default(),
                python,
            }),
        }
    }
}

impl Settings {
    /// Takes what a row says of its own installation; every key that it leaves out stays.
    fn replace(&mut self, config: &InstallConfig) {
        if let Some(command) = &config.install {
            self.install = vec![command.clone()];
        }
        if !config.pre_install.is_empty() {
            self.pre_install = config.pre_install.clone();
        }
        if let Some(command) = &config.test_cmd {
            self.test_command = command.clone();
        }
        let names = config.packages.as_deref().unwrap_or("");
        if config.packages.is_some() || !config.pip_packages.is_empty() {
            self.locks.clear();
            self.instances.clear();
            self.requirements.clear();
            self.packages = config.pip_packages.clone();
        }
        match names {
            "requirements.txt" | "environment.yml" if !config.reqs_path.is_empty() => {
                self.requirements =
                    config.reqs_path.iter().map(|path| vec![path.clone()]).collect();
            }
            "requirements.txt" => self.requirements = vec![vec![names.to_owned()]],
            "environment.yml" => {}
            names => self.packages.extend(names.split_whitespace().map(str::to_owned)),
        }
    }

    fn lock_for(&self, row: Option<&Instance>, wanted: &str, python: &str) -> Vec<TextFile> {
        let own = row.and_then(|row| self.instances.get(&row.instance_id));
        let locks = own.unwrap_or(&self.locks);
        let lock = locks.get(python).or_else(|| locks.get("")).or_else(|| locks.get(wanted));
        lock.into_iter().cloned().collect()
    }
}
