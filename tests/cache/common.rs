//! A machine of its own for each test: an engine, a state, and images.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use imgforge::cache::check::Checker;
use imgforge::cache::{CacheInventory, Collected, Collector, Limits};
use imgforge::engine::embedded::{EmbeddedEngine, Settings};
use imgforge::engine::{Engine, Image, ImageConfig, LayerFile, LayerRequest, label};
use imgforge::key::{Digest, Key, KeyDocument, Kind, SCHEMA};
use imgforge::plan::name;
use imgforge::platform::Platform;
use imgforge::store::{ImageRecord, Store};

/// The binary under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_imgforge");

/// A state directory with an embedded engine.
pub(crate) struct Machine {
    pub dir: tempfile::TempDir,
    pub engine: Arc<dyn Engine>,
    pub store: Store,
    pub identity: String,
}

/// An image that a test made.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    pub kind: Kind,
    pub key: Key,
    pub image: Image,
}

impl Made {
    pub(crate) fn name(&self) -> String {
        name::image(self.kind, &self.key)
    }
}

impl Machine {
    pub(crate) async fn new() -> Machine {
        Machine::at(tempfile::tempdir().unwrap()).await
    }

    pub(crate) async fn at(dir: tempfile::TempDir) -> Machine {
        let engine = open_engine(dir.path()).await;
        let info = engine.info().await.unwrap();
        let root = info.root.as_ref().unwrap().display();
        let identity = format!("{} {} {root}", info.kind, info.store);
        let store = Store::open(dir.path()).unwrap();
        Machine { dir, engine, store, identity }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Makes an image of one layer on a parent, named and labelled as a build does it.
    pub(crate) async fn make(
        &self,
        kind: Kind,
        number: usize,
        parent: Option<&Made>,
        bytes: usize,
    ) -> Made {
        let mut document = KeyDocument::new(kind).with("n", number).with("platform", "linux/amd64");
        if let Some(parent) = parent {
            document = document.with("parent", parent.key);
        }
        let key = document.key();
        let mut labels = BTreeMap::from([
            (label::KEY.to_owned(), key.to_string()),
            (label::KIND.to_owned(), kind.to_string()),
            (label::SCHEMA.to_owned(), SCHEMA.to_string()),
            (label::INPUTS.to_owned(), document.canonical()),
        ]);
        if let Some(parent) = parent {
            labels.insert(label::PARENT.to_owned(), parent.key.to_string());
        }
        let mut config = ImageConfig { labels, ..ImageConfig::default() };
        if kind == Kind::Checkout {
            "/testbed".clone_into(&mut config.working_dir);
        }
        let scratch = tempfile::tempdir().unwrap();
        let layer = layer(scratch.path(), &format!("{kind}-{number}"), bytes);
        let image = self
            .engine
            .load(&LayerRequest {
                parent: parent.map_or_else(
                    || Image { platform: Platform::written("linux/amd64"), ..Image::default() },
                    |parent| parent.image.clone(),
                ),
                layers: vec![layer],
                config,
                tags: vec![name::image(kind, &key)],
            })
            .await
            .unwrap();
        let record = ImageRecord {
            key,
            kind,
            node: format!("{kind}:test/repo@{number}"),
            engine: self.identity.clone(),
            image_id: image.id.clone(),
            diff_ids: image.diff_ids.clone(),
            parent: parent.map(|parent| parent.key),
            document: document.canonical(),
            bytes: bytes as u64,
            seconds: 1.0,
        };
        self.store.record_image(&record).unwrap();
        Made { kind, key, image }
    }

    /// Makes an image without a key, as a pull does it.
    pub(crate) async fn external(&self, name: &str, bytes: usize) -> Image {
        let scratch = tempfile::tempdir().unwrap();
        let request = LayerRequest {
            parent: Image { platform: Platform::written("linux/amd64"), ..Image::default() },
            layers: vec![layer(scratch.path(), name, bytes)],
            config: ImageConfig::default(),
            tags: vec![name.to_owned()],
        };
        self.engine.load(&request).await.unwrap()
    }

    /// Makes a base on an image without a key.
    pub(crate) async fn make_on(&self, from: &Image, bytes: usize) -> Made {
        let on =
            Made { kind: Kind::Base, key: KeyDocument::new(Kind::Base).key(), image: from.clone() };
        self.make(Kind::Base, 0, Some(&on), bytes).await
    }

    /// Gives the engine an image to build on, and writes a catalog whose base stands on it; returns
    /// the catalog's path.
    pub(crate) async fn catalog(&self) -> PathBuf {
        let scratch = tempfile::tempdir().unwrap();
        let parent = Image { platform: Platform::written("linux/amd64"), ..Image::default() };
        let request = LayerRequest {
            parent,
            layers: vec![layer(scratch.path(), "from", 4096)],
            config: ImageConfig::default(),
            tags: vec!["imgforge-test/from:1".to_owned()],
        };
        self.engine.load(&request).await.unwrap();
        // What is beside a Dockerfile is part of the base's key.
        let directory = self.path().join("catalog");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("Dockerfile"), "FROM imgforge-test/from:1\n").unwrap();
        let mut text =
            "[base.python311]\npython = \"3.11\"\ndockerfile = \"Dockerfile\"\n".to_owned();
        let repos = [
            ("abacus", r#"["1.0", "1.1"]"#),
            ("ledger", r#"["2.0", "2.1"]"#),
            ("quill", r#"["0.3"]"#),
        ];
        for (repo, versions) in repos {
            text += &format!(
                "[repo.\"imgforge/{repo}\"]\npython = \"3.11\"\npackages = [\"pytest\"]\n\
                 cutoff = \"2024-10-15\"\ntest_command = \"pytest -rA\"\n\
                 [[repo.\"imgforge/{repo}\".env]]\nversions = {versions}\n"
            );
        }
        let path = directory.join("images.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Makes a base, two envs and `instances` checkouts on each.
    pub(crate) async fn tree(&self, instances: usize, bytes: usize) -> Vec<Made> {
        let mut made = vec![self.make(Kind::Base, 0, None, bytes).await];
        for env in 1..=2 {
            made.push(self.make(Kind::Env, env, Some(&made[0].clone()), bytes).await);
            let env_made = made.last().unwrap().clone();
            for number in 0..instances {
                let number = env * 1000 + number;
                made.push(self.make(Kind::Checkout, number, Some(&env_made), bytes).await);
            }
        }
        made
    }

    pub(crate) fn checker(&self) -> Checker<'_> {
        Checker::new(&*self.engine, self.store.verified_images(&self.identity).unwrap())
    }

    pub(crate) fn collector(&self) -> Collector<'_> {
        Collector {
            engine: &*self.engine,
            identity: &self.identity,
            root: Some(self.path().to_owned()),
            store: &self.store,
        }
    }

    pub(crate) async fn gc(&self, keep_bytes: u64) -> Collected {
        let limits = Limits { keep_bytes: Some(keep_bytes), keep_for: None };
        self.collector().collect(&limits, false).await.unwrap()
    }

    pub(crate) async fn contents(&self) -> CacheInventory {
        CacheInventory::read(&*self.engine, &self.identity, &self.store).await.unwrap()
    }

    pub(crate) async fn has(&self, made: &Made) -> bool {
        self.engine.inspect(&made.name()).await.unwrap().is_some()
    }

    /// Returns how many of the images are here.
    pub(crate) async fn count(&self, made: &[Made]) -> usize {
        let mut count = 0;
        for one in made {
            count += usize::from(self.has(one).await);
        }
        count
    }

    /// A command of the binary on this machine.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        command(self.path(), args)
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }
}

pub(crate) fn command(state: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args(["--engine", "embedded", "--state-dir"])
        .arg(state)
        .args(args)
        .current_dir(state)
        .env_remove("IMGFORGE_CACHE_REGISTRY")
        .env("RUST_BACKTRACE", "0");
    command
}

pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

pub(crate) async fn open_engine(state: &Path) -> Arc<dyn Engine> {
    let settings = Settings {
        state_dir: state.to_owned(),
        helper: PROGRAM.into(),
        owner: imgforge::owner::name().to_owned(),
        client_config: None,
        storage: None,
        probe: false,
    };
    Arc::new(EmbeddedEngine::open(settings).await.unwrap())
}

/// Writes a layer with one file of bytes that do not compress.
pub(crate) fn layer(directory: &Path, name: &str, bytes: usize) -> LayerFile {
    let mut content = vec![0; bytes];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ name.len() as u64;
    for byte in name.bytes() {
        state = state.wrapping_mul(31).wrapping_add(u64::from(byte));
    }
    for chunk in content.chunks_mut(8) {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_mtime(1_600_000_000);
    header.set_size(bytes as u64);
    archive.append_data(&mut header, name, &content[..]).unwrap();
    let bytes = archive.into_inner().unwrap();
    let diff_id = Digest::of(&bytes);
    let path = directory.join("layer.tar");
    std::fs::write(&path, &bytes).unwrap();
    LayerFile { path, diff_id, size: bytes.len() as u64 }
}

/// Lists the files below a directory whose path contains `part`.
pub(crate) fn files(dir: &Path, part: &str) -> Vec<PathBuf> {
    walkdir::WalkDir::new(dir)
        .into_iter()
        .flatten()
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| entry.into_path())
        .filter(|path| path.to_string_lossy().contains(part))
        .collect()
}

/// Bytes that a directory takes on its disk.
pub(crate) fn usage(dir: &Path) -> u64 {
    imgforge::disk::usage(dir).unwrap_or(0)
}
