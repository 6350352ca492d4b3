//! What the tests share: the engines under test, names that belong to one test, layers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use imgforge::catalog::ContextFile;
use imgforge::engine::docker::DockerEngine;
use imgforge::engine::embedded::{EmbeddedEngine, Settings};
use imgforge::engine::{
    BuildRequest, Engine, HostAccess, Image, ImageConfig, LayerFile, LayerRequest, LogSink, label,
};
use imgforge::key::Digest;

/// An engine under test, with names that no other test uses.
pub struct Bench {
    pub engine: Arc<dyn Engine>,
    pub address: String,
    pub owner: String,
    pub base: Image,
    prefix: String,
}

/// Runs a test on every engine. What it named is removed afterwards, however it ended.
pub fn on_every_engine<F>(test: impl Fn(Arc<Bench>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for address in addresses() {
            let Some(bench) = Bench::new(address.as_deref()).await else { continue };
            let bench = Arc::new(bench);
            let ended = tokio::spawn(test(bench.clone())).await;
            bench.clean().await;
            if let Err(error) = ended {
                eprintln!("on the engine at {}", bench.address);
                std::panic::resume_unwind(error.into_panic());
            }
        }
    });
}

fn addresses() -> Vec<Option<String>> {
    match std::env::var("IMGFORGE_TEST_DOCKER_HOSTS") {
        Ok(hosts) => hosts.split_whitespace().map(|host| Some(host.to_owned())).collect(),
        Err(_) => vec![None],
    }
}

/// Says what is missing on this machine. Where it was promised, it has to be there.
pub fn left_out(missing: &str) {
    let promised = ["CI", "IMGFORGE_TEST_DOCKER_HOSTS"];
    let promised = promised.iter().find(|name| std::env::var_os(name).is_some());
    assert!(promised.is_none(), "{missing}, and {} is set", promised.unwrap_or(&""));
    eprintln!("{missing}: tests of engines are left out");
}

impl Bench {
    async fn new(address: Option<&str>) -> Option<Bench> {
        let id = format!("{:012x}", rand::random::<u64>() >> 16);
        let owner = format!("test-{id}");
        let engine = match address {
            Some(address) => DockerEngine::connect_to(address, &owner, None).await,
            None => DockerEngine::connect(|name| std::env::var(name).ok(), &owner).await,
        };
        let engine = match engine {
            Ok(engine) => engine,
            Err(error) => {
                left_out(&error.to_string());
                return None;
            }
        };
        let name = std::env::var("IMGFORGE_TEST_IMAGE");
        let name = name.unwrap_or_else(|_| "python:3.11-slim-bookworm".to_owned());
        let Some(base) = engine.inspect(&name).await.unwrap() else {
            left_out(&format!("the engine has no `{name}` (see scripts/base-image)"));
            return None;
        };
        let address = engine.address().to_owned();
        let prefix = format!("imgforge-test-{id}");
        Some(Bench { engine: Arc::new(engine), address, owner, base, prefix })
    }

    /// Connects once more, as another process would.
    pub async fn another_engine(&self) -> DockerEngine {
        DockerEngine::connect_to(&self.address, &self.owner, None).await.unwrap()
    }

    /// Returns a name of this test's own.
    pub fn name(&self, tag: &str) -> String {
        format!("{}:{tag}", self.prefix)
    }

    /// Returns the reference that a Dockerfile stands on.
    pub fn from(&self) -> &str {
        &self.base.tags[0]
    }

    /// A build of `dockerfile` under the name `tag`.
    pub fn build(&self, dockerfile: &str, tag: &str) -> BuildRequest {
        BuildRequest {
            dockerfile: dockerfile.to_owned(),
            context: Vec::new(),
            args: BTreeMap::new(),
            platform: self.base.platform.clone(),
            labels: labels(tag),
            tags: vec![self.name(tag)],
            host: HostAccess { network: Some("none".to_owned()), ..HostAccess::default() },
        }
    }

    /// A layer on `parent` under the name `tag`.
    pub fn layer(&self, parent: &Image, layer: Option<LayerFile>, tag: &str) -> LayerRequest {
        LayerRequest {
            parent: parent.clone(),
            layers: layer.into_iter().collect(),
            config: ImageConfig { labels: labels(tag), ..parent.config.clone() },
            tags: vec![self.name(tag)],
        }
    }

    /// Runs a shell command and returns its exit code and output.
    pub async fn shell(&self, reference: &str, command: &str) -> (i64, String) {
        let log = Log::default();
        let command = ["sh", "-c", command].map(str::to_owned);
        let code = self.engine.run(reference, &command, &log).await.unwrap();
        (code, log.text())
    }

    /// Names of images of this test, and ids of the scratch images of its builds.
    pub async fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        for image in self.engine.images().await.unwrap() {
            let mine = |tag: &&String| tag.starts_with(&self.prefix);
            left.extend(image.tags.iter().filter(mine).cloned());
            if image.labels.get(label::SCRATCH) == Some(&self.owner) {
                left.push(image.id);
            }
        }
        left
    }

    async fn clean(&self) {
        let owner = self.owner.clone();
        let _ = self.engine.remove_scratch(&move |alive| alive != owner).await;
        for reference in self.left().await {
            let _ = self.engine.remove(&reference).await;
        }
    }
}

fn labels(tag: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(label::KIND.to_owned(), "test".to_owned()), ("name".into(), tag.to_owned())])
}

/// Keeps output.
#[derive(Default)]
pub struct Log(Mutex<Vec<u8>>);

impl Log {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl LogSink for Log {
    fn write(&self, bytes: &[u8]) {
        self.0.lock().unwrap().extend_from_slice(bytes);
    }
}

pub fn file(path: &str, text: &str) -> ContextFile {
    ContextFile { path: path.to_owned(), executable: false, bytes: text.as_bytes().to_vec() }
}

/// Writes a layer of files, in the order given.
pub fn layer(directory: &Path, files: &[(&str, &str)]) -> LayerFile {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_mtime(1_600_000_000);
        header.set_size(text.len() as u64);
        archive.append_data(&mut header, path, text.as_bytes()).unwrap();
    }
    let bytes = archive.into_inner().unwrap();
    let diff_id = Digest::of(&bytes);
    let path = directory.join(format!("{diff_id}.tar"));
    std::fs::write(&path, &bytes).unwrap();
    LayerFile { path, diff_id, size: bytes.len() as u64 }
}
