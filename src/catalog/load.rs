//! Reading `images.toml`, the files layered over it, and everything that they name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};

use super::file::{BaseTable, Defaults, EnvTable, File, line_of};
use super::{Base, Catalog, CatalogError, ContextFile, Entry, TextFile};

static DOCKERFILES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/dockerfiles");
static LOCKS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/locks");
const IMAGES: &str = include_str!("../../images.toml");

/// A file being read, and where what it names is looked for.
struct Reader {
    /// As people are shown it.
    name: String,
    text: String,
    /// `None` for the copy in the binary.
    dir: Option<PathBuf>,
}

impl Reader {
    fn open(path: &Path) -> Result<Reader, CatalogError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|source| CatalogError::Read { file: name.clone(), source })?;
        let dir = Some(path.parent().map_or_else(PathBuf::new, Path::to_owned));
        Ok(Reader { name, text, dir })
    }

    fn parse(&self) -> Result<File, CatalogError> {
        toml::from_str(&self.text).map_err(|error| CatalogError::Parse {
            file: self.name.clone(),
            line: error.span().map_or(1, |span| line_of(&self.text, span.start)),
            what: error.message().to_owned(),
        })
    }

    fn wrong(&self, at: usize, what: String) -> CatalogError {
        CatalogError::Parse { file: self.name.clone(), line: line_of(&self.text, at), what }
    }

    /// Reads a file that the catalog names.
    fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        match &self.dir {
            Some(dir) => std::fs::read(dir.join(path)).ok(),
            None => embedded(path).map(<[u8]>::to_vec),
        }
    }

    fn exists(&self, path: &str) -> bool {
        match &self.dir {
            Some(dir) => dir.join(path).is_file(),
            None => embedded(path).is_some(),
        }
    }

    /// Reads the files beside a Dockerfile.
    fn context(&self, dockerfile: &str) -> Vec<ContextFile> {
        let (dir, own) = dockerfile.rsplit_once('/').unwrap_or(("", dockerfile));
        let mut files = Vec::new();
        match &self.dir {
            Some(root) => {
                let root = root.join(dir);
                for entry in walkdir::WalkDir::new(&root).sort_by_file_name().into_iter().flatten()
                {
                    use std::os::unix::fs::PermissionsExt as _;
                    let Ok(path) = entry.path().strip_prefix(&root) else { continue };
                    let path = path.to_string_lossy().into_owned();
                    let (Ok(bytes), Ok(data)) = (std::fs::read(entry.path()), entry.metadata())
                    else {
                        continue;
                    };
                    if path != own {
                        let executable = data.permissions().mode() & 0o100 != 0;
                        files.push(ContextFile { path, executable, bytes });
                    }
                }
            }
            None => {
                let dir = dir.strip_prefix("dockerfiles/").unwrap_or(dir);
                let found = DOCKERFILES.get_dir(dir).into_iter().flat_map(Dir::files);
                for file in found {
                    let path = file.path().strip_prefix(dir).unwrap_or(file.path());
                    let path = path.to_string_lossy().into_owned();
                    if path != own {
                        let bytes = file.contents().to_vec();
                        files.push(ContextFile { path, executable: false, bytes });
                    }
                }
            }
        }
        files
    }
}

fn embedded(path: &str) -> Option<&'static [u8]> {
    let file = match path.split_once('/')? {
        ("dockerfiles", rest) => DOCKERFILES.get_file(rest),
        ("locks", rest) => LOCKS.get_file(rest),
        _ => None,
    };
    Some(file?.contents())
}

/// A base as one file gives it.
struct BaseSource {
    table: BaseTable,
    reader: usize,
}

impl Catalog {
    /// Reads the catalog: `config`, or `images.toml` in the current directory, or the copy in the
    /// binary; `images.local.toml` beside it; and each of `overlays`. A later file wins.
    ///
    /// # Errors
    /// The first mistake, with file, line and key.
    pub fn load(config: Option<&Path>, overlays: &[PathBuf]) -> Result<Catalog, CatalogError> {
        let here = Path::new("images.toml");
        let config = config.or_else(|| here.is_file().then_some(here));
        let mut readers = vec![match config {
            Some(path) => Reader::open(path)?,
            None => Reader {
                name: "images.toml (built in)".to_owned(),
                text: IMAGES.to_owned(),
                dir: None,
            },
        }];
        let beside = config.and_then(Path::parent).unwrap_or(Path::new(""));
        let local = beside.join("images.local.toml");
        if local.is_file() {
            readers.push(Reader::open(&local)?);
        }
        for overlay in overlays {
            readers.push(Reader::open(overlay)?);
        }
        Self::layer(&readers)
    }

    fn layer(readers: &[Reader]) -> Result<Catalog, CatalogError> {
        let mut bases: BTreeMap<String, BaseSource> = BTreeMap::new();
        let mut catalog = Catalog::default();
        let mut envs: Vec<(usize, EnvTable)> = Vec::new();
        for (at, reader) in readers.iter().enumerate() {
            let file = reader.parse()?;
            merge_defaults(&mut catalog.defaults, file.defaults);
            for (name, table) in file.base {
                bases.insert(name, BaseSource { table, reader: at });
            }
            for (repo, sources) in file.mirrors {
                catalog.mirrors.insert(repo, sources.to_vec());
            }
            for (wanted, used) in file.stand_in {
                catalog.stand_in.insert(wanted, used.into_inner());
            }
            for env in file.env {
                envs.push((at, env.into_inner()));
            }
        }
        for name in bases.keys() {
            let base = resolve_base(name, &bases, readers)?;
            if let Some(python) = &bases[name].table.python {
                catalog.by_python.insert(python.clone(), name.clone());
            }
            catalog.bases.insert(name.clone(), base);
        }
        for (wanted, used) in &catalog.stand_in {
            if !catalog.by_python.contains_key(used) {
                return Err(CatalogError::StandIn { wanted: wanted.clone(), used: used.clone() });
            }
        }
        let mut owners: BTreeMap<(String, String), usize> = BTreeMap::new();
        for (at, env) in envs {
            let reader = &readers[at];
            for version in &env.versions {
                let entry = entry(&env, version.get_ref(), reader, &catalog)?;
                let id = (env.repo.get_ref().clone(), version.get_ref().clone());
                if owners.insert(id.clone(), at) == Some(at) {
                    let what = format!("`{}` version `{}` is given twice", id.0, id.1);
                    return Err(reader.wrong(version.span().start, what));
                }
                catalog.entries.entry(id.0).or_default().insert(id.1, entry);
            }
        }
        Ok(catalog)
    }
}

fn merge_defaults(into: &mut Defaults, from: Defaults) {
    into.cutoff = from.cutoff.or(into.cutoff.take());
    into.namespace = from.namespace.or(into.namespace.take());
    into.platform = from.platform.or(into.platform.take());
    into.max_workers = from.max_workers.or(into.max_workers);
    if !from.git_mirror.is_empty() {
        into.git_mirror = from.git_mirror;
    }
}

fn resolve_base(
    name: &str,
    bases: &BTreeMap<String, BaseSource>,
    readers: &[Reader],
) -> Result<Base, CatalogError> {
    let mut chain = vec![name];
    let mut args = BTreeMap::new();
    loop {
        let current = chain.last().expect("the chain begins with a name");
        let source = &bases[*current];
        let reader = &readers[source.reader];
        for (key, value) in &source.table.args {
            args.entry(key.clone()).or_insert_with(|| value.clone());
        }
        match (&source.table.dockerfile, &source.table.from) {
            (Some(dockerfile), None) => {
                let at = dockerfile.span().start;
                let path = dockerfile.get_ref();
                let bytes = reader.bytes(path);
                let text =
                    bytes.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(|| {
                        reader.wrong(at, format!("base `{name}`: there is no Dockerfile `{path}`"))
                    })?;
                return Ok(Base {
                    name: name.to_owned(),
                    path: path.clone(),
                    dockerfile: text,
                    context: reader.context(path),
                    args,
                });
            }
            (None, Some(from)) => {
                let at = from.span().start;
                let next = from.get_ref().as_str();
                let Some((known, _)) = bases.get_key_value(next) else {
                    let near = super::nearest(next, bases.keys());
                    return Err(
                        reader.wrong(at, format!("base `{name}`: unknown base `{next}`{near}"))
                    );
                };
                if chain.contains(&known.as_str()) {
                    let ring = format!("{} -> {next}", chain.join(" -> "));
                    return Err(reader.wrong(at, format!("base `{name}` is a cycle: {ring}")));
                }
                chain.push(known);
            }
            (None, None) | (Some(_), Some(_)) => {
                let at = reader.text.find(&format!("[base.{name}]")).unwrap_or(0);
                let what = format!("base `{name}` needs either `dockerfile` or `from`");
                return Err(reader.wrong(at, what));
            }
        }
    }
}

fn entry(
    env: &EnvTable,
    version: &str,
    reader: &Reader,
    catalog: &Catalog,
) -> Result<Entry, CatalogError> {
    let repo = env.repo.get_ref();
    if repo.split('/').filter(|part| !part.is_empty()).count() != 2 {
        let what = format!("`repo` is `{repo}`, it must be `owner/name`");
        return Err(reader.wrong(env.repo.span().start, what));
    }
    let (wanted, base_at) = match (&env.python, &env.base) {
        (Some(python), _) => (python.get_ref().clone(), python.span().start),
        (None, Some(base)) => (String::new(), base.span().start),
        (None, None) => {
            let what = format!("`{repo}`: an env needs `python` or `base`");
            return Err(reader.wrong(env.repo.span().start, what));
        }
    };
    let used = catalog.stand_in.get(&wanted).unwrap_or(&wanted).clone();
    let base = match &env.base {
        Some(base) => base.get_ref(),
        None => catalog.by_python.get(&used).ok_or_else(|| {
            let near = super::nearest(&used, catalog.by_python.keys());
            reader.wrong(base_at, format!("`{repo}`: no base has Python `{used}`{near}"))
        })?,
    };
    if !catalog.bases.contains_key(base) {
        let near = super::nearest(base, catalog.bases.keys());
        return Err(reader.wrong(base_at, format!("`{repo}`: unknown base `{base}`{near}")));
    }
    let mut locks = Vec::new();
    for path in env.lock.iter().flat_map(|lock| lock.get_ref().to_vec()) {
        let path = path.replace("{version}", version);
        // The pins of one Python are seldom installable with another.
        let path = match (used == wanted, path.rsplit_once('.')) {
            (true, _) => path,
            (false, Some((stem, end))) => {
                let other = format!("{stem}-py{used}.{end}");
                if !reader.exists(&other) {
                    continue;
                }
                other
            }
            (false, None) => continue,
        };
        let at = env.lock.as_ref().map_or(0, |lock| lock.span().start);
        let bytes = reader.bytes(&path);
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(|| {
            reader.wrong(at, format!("`{repo}` {version}: there is no lockfile `{path}`"))
        })?;
        locks.push(TextFile { path, text });
    }
    let locked = !locks.is_empty();
    let requirements: Vec<Vec<String>> =
        env.requirements.iter().map(|group| group.to_vec()).collect();
    Ok(Entry {
        base: base.clone(),
        wanted_python: wanted,
        python: used,
        locks,
        packages: if locked { Vec::new() } else { env.packages.clone() },
        requirements: if locked { Vec::new() } else { requirements.clone() },
        sources: (env.packages.clone(), requirements),
        cutoff: match locked {
            true => None,
            false => env.cutoff.clone().or_else(|| catalog.defaults.cutoff.clone()),
        },
        system_packages: env.system_packages.clone(),
        env_commands: env.env_commands.clone(),
        variables: env.variables.clone(),
        pre_install: env.pre_install.clone(),
        install: env.install.clone(),
        test_command: env.test_command.clone().unwrap_or_else(|| "pytest -rA".to_owned()),
        eval_commands: env.eval_commands.clone(),
        network: env.network,
        limits: env.limits,
    })
}
