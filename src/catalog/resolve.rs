//! Answers how one (repo, version) is built: picks the base, the Python and the lockfile, and lets
//! a dataset row that carries its own installation speak for itself.

use crate::dataset::{InstallConfig, Instance};

use crate::nearest::nearest;

use super::error::CatalogError;
use super::layer::EnvironmentSpec;
use super::python::minor;
use super::{Base, Catalog, Environment, TextFile, row};

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
            Err(_) if config.is_some_and(|config| config.python.is_some()) => {
                EnvironmentSpec::default()
            }
            Err(error) => return Err(error),
        };
        let mut notes = Vec::new();
        if let (Some(row), Some(config)) = (row, config) {
            notes = settings.replace(row, config)?;
        }
        let (base, wanted_python, python) = self.base_and_python(&settings, row, config)?;
        if minor(&python) != minor(&wanted_python) {
            settings.apply_stand_in(&python);
        }
        let mut locks = settings.lock_for(row, &wanted_python, &python);
        if let Some(row) = row
            && let Some((frozen, said)) = settings.frozen(row)?
        {
            locks = vec![frozen];
            notes.extend(said);
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
            notes,
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

    fn settings(&self, repo: &str, version: &str) -> Result<&EnvironmentSpec, CatalogError> {
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
        settings: &EnvironmentSpec,
        row: Option<&Instance>,
        config: Option<&InstallConfig>,
    ) -> Result<(&Base, String, String), CatalogError> {
        let asked = config.and_then(row::python);
        if let (None, Some(name)) = (&asked, &settings.base) {
            let (base, has) = &self.merged.bases[&name.value];
            let has = has.clone().unwrap_or_default();
            let wanted = settings.python.as_ref().map_or(has.clone(), |p| p.value.clone());
            return Ok((base, wanted, has));
        }
        let own = row.and_then(|row| settings.instance_python.get(&row.instance_id));
        let wanted = asked
            .or_else(|| own.or(settings.python.as_ref()).map(|python| python.value.clone()))
            .unwrap_or_default();
        let python = self.merged.stand_in_for(&wanted).unwrap_or(&wanted);
        match self.merged.base_of_python(python) {
            Some((base, has)) => Ok((base, wanted, has.to_owned())),
            None => Err(CatalogError::RowPython {
                instance_id: row.map(|row| row.instance_id.clone()).unwrap_or_default(),
                python: python.to_owned(),
            }),
        }
    }
}

impl EnvironmentSpec {
    fn lock_for(&self, row: Option<&Instance>, wanted: &str, python: &str) -> Vec<TextFile> {
        let own = row.and_then(|row| self.instances.get(&row.instance_id));
        let locks = own.unwrap_or(&self.locks);
        let names = [python, minor(python), "", wanted, minor(wanted)];
        names.iter().find_map(|name| locks.get(*name)).cloned().into_iter().collect()
    }
}
