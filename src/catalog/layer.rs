//! Lays catalog files over each other: reads what they name, expands version groups, and finds
//! every mistake before anything is built.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::Spanned;

use crate::nearest::nearest;

use super::environment::{Base, Limits, Network, TextFile};
use super::error::{CatalogError, SourceLocation};
use super::file::{
    BaseForm, CacheSettings, CatalogSchema, Defaults, Entry, LockForm, line_of, parse,
};
use super::files::{self, Root};
use super::kubernetes::KubernetesSettings;
use super::python::minor;

/// A value with the place where it was written.
#[derive(Debug, Clone)]
pub(super) struct Located<T> {
    pub value: T,
    pub at: SourceLocation,
}

/// Lockfiles by Python; the key `""` is for the Python that the entry asks for.
pub(super) type Locks = BTreeMap<String, TextFile>;

/// What the catalog says of one (repo, version), with its files read.
#[derive(Debug, Clone, Default)]
pub(super) struct EnvironmentSpec {
    pub base: Option<Located<String>>,
    pub python: Option<Located<String>>,
    pub locks: Locks,
    pub instances: BTreeMap<String, Locks>,
    pub instance_python: BTreeMap<String, Located<String>>,
    pub packages: Vec<String>,
    pub requirements: Vec<Vec<String>>,
    pub cutoff: Option<String>,
    pub system_packages: Vec<String>,
    pub env_commands: Vec<String>,
    pub variables: BTreeMap<String, String>,
    pub pre_install: Vec<String>,
    pub install: Vec<String>,
    pub test_command: String,
    pub eval_commands: Vec<String>,
    pub network: Option<Network>,
    pub limits: Limits,
    pub stand_in: BTreeMap<String, Vec<Overlay>>,
}

/// What an entry adds when a certain Python stands in.
#[derive(Debug, Clone)]
pub(super) struct Overlay {
    entry: Entry,
    locks: Locks,
}

/// One catalog file, parsed.
pub(super) struct CatalogFile {
    pub file: String,
    pub text: String,
    pub root: Root,
}

impl CatalogFile {
    /// Returns the copy of `images.toml` in the binary.
    pub(super) fn embedded() -> CatalogFile {
        CatalogFile {
            file: "images.toml".to_owned(),
            text: files::CONFIG.to_owned(),
            root: Root::Embedded,
        }
    }

    /// Reads a catalog file.
    pub(super) fn read(path: &Path) -> Result<CatalogFile, CatalogError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| CatalogError::Read { path: path.to_owned(), source })?;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        Ok(CatalogFile { file: path.display().to_string(), text, root: Root::Folder(folder) })
    }
}

/// The files laid over each other.
#[derive(Debug, Clone, Default)]
pub(super) struct MergedCatalog {
    pub defaults: Defaults,
    pub cache: CacheSettings,
    pub kubernetes: KubernetesSettings,
    /// Public keys, each with where it is named. They are read where they are needed: a catalog that
    /// travels in a bundle does without.
    pub trusted_keys: Vec<(SourceLocation, PathBuf)>,
    pub mirrors: BTreeMap<String, Vec<String>>,
    pub stand_in: BTreeMap<String, Located<String>>,
    pub bases: BTreeMap<String, (Base, Option<String>)>,
    pub repos: BTreeMap<String, BTreeMap<String, EnvironmentSpec>>,
    forms: BTreeMap<String, Located<BaseEntry>>,
    common: BTreeMap<String, EnvironmentSpec>,
}

#[derive(Debug, Clone)]
struct BaseEntry {
    form: BaseForm,
    root: Root,
    file: String,
    text_lines: BaseLines,
}

#[derive(Debug, Clone, Default)]
struct BaseLines {
    from: usize,
    dockerfile: usize,
}

impl CatalogFile {
    fn at<T>(&self, key: String, value: &Spanned<T>) -> SourceLocation {
        SourceLocation {
            file: self.file.clone(),
            line: line_of(&self.text, value.span().start),
            key,
        }
    }

    fn locks(
        &self,
        key: &str,
        form: &Spanned<LockForm>,
        version: &str,
    ) -> Result<Locks, CatalogError> {
        let read = |key: String, path: &str| {
            let path = path.replace("{version}", version);
            match self.root.read(&path) {
                Ok(text) => Ok(TextFile { path, text }),
                Err(source) => {
                    Err(CatalogError::MissingFile { at: self.at(key, form), path, source })
                }
            }
        };
        match form.get_ref() {
            LockForm::One(path) => {
                Ok(BTreeMap::from([(String::new(), read(key.to_owned(), path)?)]))
            }
            LockForm::ByPython(paths) => paths
                .iter()
                .map(|(python, path)| {
                    Ok((python.clone(), read(format!("{key}.\"{python}\""), path)?))
                })
                .collect(),
        }
    }
}

impl MergedCatalog {
    /// Lays one more file over the others.
    pub(super) fn add(&mut self, layer: &CatalogFile) -> Result<(), CatalogError> {
        let mut form: CatalogSchema = parse(&layer.file, &layer.text)?;
        if let Some(keys) = form.cache.verify.take() {
            let located = |key: Spanned<String>| {
                let at = layer.at("cache.verify".to_owned(), &key);
                (at, layer.root.path(key.get_ref()))
            };
            self.trusted_keys = keys.into_iter().map(located).collect();
        }
        self.defaults.apply(form.defaults);
        self.cache.apply(form.cache);
        let template = form.kubernetes.pod_template.take();
        form.kubernetes.pod_template =
            template.map(|path| layer.root.path(&path.to_string_lossy()));
        self.kubernetes.apply(form.kubernetes);
        self.mirrors.extend(form.mirrors);
        for (wanted, python) in form.stand_in {
            let at = layer.at(format!("stand-in.\"{wanted}\""), &python);
            self.stand_in.insert(wanted, Located { value: python.into_inner(), at });
        }
        for (name, base) in form.base {
            let line = |value: &Option<Spanned<String>>| {
                value.as_ref().map_or(0, |v| line_of(&layer.text, v.span().start))
            };
            let at = layer.at(format!("base.{}", name.get_ref()), &name);
            let text_lines =
                BaseLines { from: line(&base.from), dockerfile: line(&base.dockerfile) };
            let file = layer.file.clone();
            let value = BaseEntry { form: base, root: layer.root.clone(), file, text_lines };
            self.forms.insert(name.into_inner(), Located { value, at });
        }
        for (repo, entry) in form.repo {
            self.add_repo(layer, &repo, &entry)?;
        }
        Ok(())
    }

    fn add_repo(
        &mut self,
        layer: &CatalogFile,
        repo: &str,
        entry: &Entry,
    ) -> Result<(), CatalogError> {
        let key = format!("repo.\"{repo}\"");
        let versions = self.repos.entry(repo.to_owned()).or_default();
        let common = self.common.entry(repo.to_owned()).or_default();
        common.apply(layer, &key, entry, "")?;
        for (version, settings) in versions.iter_mut() {
            settings.apply(layer, &key, entry, version)?;
        }
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        let mut groups: Vec<Vec<&Entry>> = Vec::new();
        flatten(entry, &[], &mut groups);
        for group in &groups {
            let leaf = group.last().expect("a group has at least its own entry");
            for version in &leaf.versions {
                let at = layer.at(format!("{key}.env.versions"), version);
                if let Some(first) = seen.insert(version.get_ref(), at.line) {
                    let version = version.get_ref().clone();
                    return Err(CatalogError::DuplicateVersion { at, version, first });
                }
                let settings =
                    versions.entry(version.get_ref().clone()).or_insert_with(|| common.clone());
                for entry in group {
                    settings.apply(layer, &format!("{key}.env"), entry, version.get_ref())?;
                }
                if settings.python.is_none() && settings.base.is_none() {
                    let version = version.get_ref().clone();
                    return Err(CatalogError::NoPython { at, version });
                }
            }
        }
        Ok(())
    }

    /// Reads the bases and checks every reference to one.
    pub(super) fn finish(&mut self) -> Result<(), CatalogError> {
        for name in self.forms.keys() {
            self.bases.insert(name.clone(), self.base(name)?);
        }
        for stand_in in self.stand_in.values() {
            self.base_of_python(&stand_in.value).ok_or_else(|| {
                CatalogError::PythonWithoutBase {
                    at: stand_in.at.clone(),
                    python: stand_in.value.clone(),
                }
            })?;
        }
        for settings in self.repos.values().flat_map(BTreeMap::values) {
            self.check(settings)?;
        }
        Ok(())
    }

    fn check(&self, settings: &EnvironmentSpec) -> Result<(), CatalogError> {
        for python in settings.instance_python.values() {
            self.check_python(python)?;
        }
        if let Some(Located { value, at }) = &settings.base {
            if !self.bases.contains_key(value) {
                return Err(self.unknown_base(value, at.clone()));
            }
        } else if let Some(python) = &settings.python {
            self.check_python(python)?;
        }
        Ok(())
    }

    fn check_python(&self, python: &Located<String>) -> Result<(), CatalogError> {
        let Located { value, at } = python;
        if self.stand_in_for(value).is_none() && self.base_of_python(value).is_none() {
            return Err(CatalogError::PythonWithoutBase { at: at.clone(), python: value.clone() });
        }
        Ok(())
    }

    /// Returns the Python that is to stand in for another, or for its minor version.
    pub(super) fn stand_in_for(&self, python: &str) -> Option<&str> {
        let found = self.stand_in.get(python).or_else(|| self.stand_in.get(minor(python)));
        found.map(|python| python.value.as_str())
    }

    /// Returns the first base, by name, that offers a Python, and the version that it has. Where none
    /// has the patch level, another of the minor version does.
    pub(super) fn base_of_python(&self, python: &str) -> Option<(&Base, &str)> {
        let known = || self.bases.values().filter_map(|(base, has)| Some((base, has.as_deref()?)));
        let exact = known().find(|(_, has)| *has == python);
        let of_minor = || {
            let is_version = python.contains('.');
            known().find(|(_, has)| is_version && minor(has) == minor(python))
        };
        exact.or_else(of_minor)
    }

    fn unknown_base(&self, name: &str, at: SourceLocation) -> CatalogError {
        let nearest = nearest(name, self.forms.keys().map(String::as_str));
        CatalogError::UnknownBase { at, name: name.to_owned(), nearest }
    }

    fn base(&self, name: &str) -> Result<(Base, Option<String>), CatalogError> {
        let mut chain = vec![name.to_owned()];
        let mut args = BTreeMap::new();
        let (mut python, mut found): (Option<String>, Option<(String, &BaseEntry)>) = (None, None);
        let mut current = name.to_owned();
        loop {
            let entry = &self.forms[&current].value;
            for (arg, value) in &entry.form.args {
                args.entry(arg.clone()).or_insert_with(|| value.clone());
            }
            python = python.or_else(|| entry.form.python.clone());
            found = found.or_else(|| {
                entry.form.dockerfile.as_ref().map(|path| (path.get_ref().clone(), entry))
            });
            let Some(from) = &entry.form.from else { break };
            let from = from.get_ref().clone();
            let at = SourceLocation {
                file: entry.file.clone(),
                line: entry.text_lines.from,
                key: format!("base.{current}.from"),
            };
            if !self.forms.contains_key(&from) {
                return Err(self.unknown_base(&from, at));
            }
            let again = chain.contains(&from);
            chain.push(from.clone());
            if again {
                return Err(CatalogError::BaseCycle { at, chain });
            }
            current = from;
        }
        let Some((path, entry)) = found else {
            return Err(CatalogError::NoDockerfile { at: self.forms[name].at.clone() });
        };
        let missing = |source| CatalogError::MissingFile {
            at: SourceLocation {
                file: entry.file.clone(),
                line: entry.text_lines.dockerfile,
                key: format!("base.{name}.dockerfile"),
            },
            path: path.clone(),
            source,
        };
        let dockerfile = entry.root.read(&path).map_err(missing)?;
        let context = entry.root.context(&path).map_err(missing)?;
        Ok((Base { name: name.to_owned(), path, dockerfile, context, args }, python))
    }
}

/// Lists the entries that have versions, each with the entries around it, outermost first.
/// The repo's own entry is not among them unless it has versions itself.
fn flatten<'a>(entry: &'a Entry, around: &[&'a Entry], into: &mut Vec<Vec<&'a Entry>>) {
    let mut path = around.to_vec();
    path.push(entry);
    if !entry.versions.is_empty() {
        into.push(path.clone());
    }
    for inner in &entry.env {
        flatten(inner, &path, into);
    }
}

impl EnvironmentSpec {
    fn apply(
        &mut self,
        layer: &CatalogFile,
        key: &str,
        entry: &Entry,
        version: &str,
    ) -> Result<(), CatalogError> {
        self.apply_plain(entry);
        let located = |name: &str, value: &Spanned<String>| Located {
            value: value.get_ref().clone(),
            at: layer.at(format!("{key}.{name}"), value),
        };
        if let Some(base) = &entry.base {
            self.base = Some(located("base", base));
        }
        if let Some(python) = &entry.python {
            self.python = Some(located("python", python));
        }
        // A template needs a version; the repo's own entry is applied to each of them again.
        if version.is_empty() {
            return Ok(());
        }
        if let Some(lock) = &entry.lock {
            self.locks = layer.locks(&format!("{key}.lock"), lock, version)?;
        }
        for (id, lock) in &entry.instances {
            let locks = layer.locks(&format!("{key}.instances.{id}"), lock, version)?;
            self.instances.insert(id.clone(), locks);
        }
        for (id, python) in &entry.instance_python {
            let python = located(&format!("instance_python.{id}"), python);
            self.instance_python.insert(id.clone(), python);
        }
        for (python, inner) in &entry.stand_in {
            let key = format!("{key}.stand-in.\"{python}\".lock");
            let locks = match &inner.lock {
                Some(lock) => layer.locks(&key, lock, version)?,
                None => Locks::new(),
            };
            let overlay = Overlay { entry: inner.clone(), locks };
            self.stand_in.entry(python.clone()).or_default().push(overlay);
        }
        Ok(())
    }

    /// Applies what the catalog says for a Python that stands in.
    pub(super) fn apply_stand_in(&mut self, python: &str) {
        let overlays = self.stand_in.get(python).or_else(|| self.stand_in.get(minor(python)));
        for overlay in overlays.cloned().unwrap_or_default() {
            self.apply_plain(&overlay.entry);
            if !overlay.locks.is_empty() {
                self.locks = overlay.locks;
                self.instances.clear();
            }
        }
    }

    fn apply_plain(&mut self, entry: &Entry) {
        macro_rules! take {
            ($($field:ident),*) => {
                $( if let Some(value) = &entry.$field { self.$field = value.clone(); } )*
            };
        }
        take!(packages, requirements, system_packages, env_commands, pre_install, install);
        take!(test_command, eval_commands, limits);
        self.network = entry.network.or(self.network);
        if entry.cutoff.is_some() {
            self.cutoff = entry.cutoff.clone();
        }
        self.variables.extend(entry.variables.clone());
    }
}
