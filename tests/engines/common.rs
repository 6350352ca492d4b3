//! What the tests share: the engines under test, names that belong to one test, layers.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use imgforge::context_file::ContextFile;
use imgforge::engine::docker::DockerEngine;
use imgforge::engine::embedded::{EmbeddedEngine, Settings};
use imgforge::engine::fake::FakeEngine;
use imgforge::engine::{
    BuildRequest, Engine, HostAccess, Image, ImageConfig, LayerFile, LayerRequest, LogSink, label,
};
use imgforge::key::Digest;
use imgforge::owner::Liveness;
use imgforge::run_id::RunId;

use crate::needs;

/// An engine under test, with names that no other test uses.
pub(crate) struct Bench {
    /// Whether it is the fake one, which closes nothing off and limits nothing.
    pub is_fake: bool,
    pub engine: Arc<dyn Engine>,
    pub owner: String,
    pub base: Image,
    target: Target,
    prefix: String,
}

/// Which engine.
#[derive(Clone)]
pub(crate) enum Target {
    /// The Docker engine at an address.
    Docker(String),
    /// The embedded engine, with its state in a directory that all tests of a user share.
    Embedded(PathBuf),
    /// The fake engine.
    Fake,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Docker(address) => write!(f, "the engine at {address}"),
            Target::Embedded(state) => write!(f, "the embedded engine in {}", state.display()),
            Target::Fake => f.write_str("the fake engine"),
        }
    }
}

/// Runs a test on every engine. What it named is removed afterwards, however it ended.
pub(crate) fn on_every_engine<F>(test: impl Fn(Arc<Bench>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    on_engines(&[], test);
}

/// Runs a test on every engine, and on the fake one.
pub(crate) fn on_every_engine_and_the_fake<F>(test: impl Fn(Arc<Bench>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    on_engines(&[Target::Fake], test);
}

fn on_engines<F>(others: &[Target], test: impl Fn(Arc<Bench>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for target in targets().await.iter().chain(others) {
            let bench = Arc::new(Bench::new(target.clone()).await);
            let ended = tokio::spawn(test(bench.clone())).await;
            bench.clean().await;
            if let Err(error) = ended {
                eprintln!("on {target}");
                std::panic::resume_unwind(error.into_panic());
            }
        }
    });
}

/// Returns the kinds of engine under test.
fn kinds() -> String {
    std::env::var("IMGFORGE_TEST_ENGINES").unwrap_or("docker embedded".to_owned())
}

/// Tells whether this kind of engine is under test.
pub(crate) fn is_under_test(kind: &str) -> bool {
    kinds().split_whitespace().any(|one| one == kind)
}

/// Returns the engines under test: those of `IMGFORGE_TEST_ENGINES`, by default both kinds.
async fn targets() -> Vec<Target> {
    let mut targets = Vec::new();
    for kind in kinds().split_whitespace() {
        match kind {
            "docker" => match std::env::var("IMGFORGE_TEST_DOCKER_HOSTS") {
                Ok(hosts) => {
                    let host = |host: &str| Target::Docker(host.to_owned());
                    targets.extend(hosts.split_whitespace().map(host));
                }
                Err(_) => match DockerEngine::connect(|name| std::env::var(name).ok(), "").await {
                    Ok(engine) => targets.push(Target::Docker(engine.address().to_string())),
                    Err(error) => panic!(
                        "{error}: run `scripts/engine`, or set IMGFORGE_TEST_ENGINES to `embedded`"
                    ),
                },
            },
            "embedded" => targets.push(Target::Embedded(needs::state())),
            other => panic!("IMGFORGE_TEST_ENGINES names `{other}`"),
        }
    }
    targets
}

/// Returns the name of the image that the tests stand on.
pub(crate) fn base() -> String {
    std::env::var("IMGFORGE_TEST_IMAGE").unwrap_or(needs::BASE.to_owned())
}

impl Bench {
    async fn new(target: Target) -> Bench {
        let id = format!("{:012x}", rand::random::<u64>() >> 16);
        // What an imgforge beside this takes for alive.
        let owner = format!("{}-{id}", imgforge::owner::name());
        let engine = connect(&target, &owner, None).await;
        let name = base();
        let base = engine.inspect(&name).await.unwrap();
        let base = base.unwrap_or_else(|| {
            panic!("{target} has no `{name}`: make it there with `imgforge base bootstrap {name}`")
        });
        let prefix = format!("imgforge-test-{id}");
        let is_fake = matches!(target, Target::Fake);
        Bench { is_fake, engine, owner, base, target, prefix }
    }

    /// Connects once more, as another process would.
    pub(crate) async fn another_engine(&self) -> Arc<dyn Engine> {
        connect(&self.target, &self.owner, None).await
    }

    /// Connects with the credentials of a Docker client's configuration.
    pub(crate) async fn with_credentials(&self, config: &Path) -> Arc<dyn Engine> {
        connect(&self.target, &self.owner, Some(config.to_owned())).await
    }

    /// Returns the socket of a Docker engine on this machine.
    pub(crate) fn socket(&self) -> Option<&str> {
        match &self.target {
            Target::Docker(address) => address.strip_prefix("unix://"),
            Target::Embedded(_) | Target::Fake => None,
        }
    }

    /// Returns the address of a Docker engine, for the `docker` command.
    pub(crate) fn address(&self) -> Option<&str> {
        match &self.target {
            Target::Docker(address) => Some(address),
            Target::Embedded(_) | Target::Fake => None,
        }
    }

    /// Returns the state directory of an embedded engine.
    pub(crate) fn state(&self) -> Option<&Path> {
        match &self.target {
            Target::Docker(_) | Target::Fake => None,
            Target::Embedded(state) => Some(state),
        }
    }

    /// Returns a name of this test's own.
    pub(crate) fn name(&self, tag: &str) -> String {
        format!("{}:{tag}", self.prefix)
    }

    /// Returns the run that its sandboxes are of.
    pub(crate) fn run_id(&self) -> RunId {
        self.owner.parse().unwrap()
    }

    /// Returns the reference that a Dockerfile stands on.
    pub(crate) fn from(&self) -> &str {
        &self.base.tags[0]
    }

    /// A build of `dockerfile` under the name `tag`.
    pub(crate) fn build(&self, dockerfile: &str, tag: &str) -> BuildRequest {
        BuildRequest {
            dockerfile: dockerfile.to_owned(),
            context: Vec::new(),
            args: BTreeMap::new(),
            platform: self.base.platform.clone(),
            labels: labels(tag),
            tags: vec![self.name(tag)],
            host: HostAccess { network: Some("none".to_owned()), ..HostAccess::default() },
            no_cache: false,
            as_docker: None,
        }
    }

    /// A layer on `parent` under the name `tag`.
    pub(crate) fn layer(
        &self,
        parent: &Image,
        layer: Option<LayerFile>,
        tag: &str,
    ) -> LayerRequest {
        LayerRequest {
            parent: parent.clone(),
            layers: layer.into_iter().collect(),
            config: ImageConfig { labels: labels(tag), ..parent.config.clone() },
            tags: vec![self.name(tag)],
        }
    }

    /// Runs a shell command and returns its exit code and output.
    pub(crate) async fn shell(&self, reference: &str, command: &str) -> (i64, String) {
        let log = Log::default();
        let command = ["sh", "-c", command].map(str::to_owned);
        let code = self.engine.run(reference, &command, &log).await.unwrap();
        (code, log.text())
    }

    /// Names of images of this test, and ids of the scratch images of its builds.
    pub(crate) async fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        for image in self.engine.images().await.unwrap() {
            let mine = |tag: &&String| tag.starts_with(&self.prefix);
            left.extend(image.tags.iter().filter(mine).cloned());
            if image.labels.get(label::SCRATCH) == Some(&self.owner) {
                left.push(image.id.to_string());
            }
        }
        left
    }

    async fn clean(&self) {
        let _ = self.engine.remove_scratch(&dead(&self.owner)).await;
        for reference in self.left().await {
            let _ = self.engine.remove(&reference).await;
        }
    }
}

/// Judges that an owner is dead and all others are alive.
pub(crate) fn dead(owner: &str) -> impl Fn(&str, Option<SystemTime>) -> Liveness + Sync + use<> {
    let owner = owner.to_owned();
    move |name: &str, _: Option<SystemTime>| match name == owner {
        true => Liveness::Dead,
        false => Liveness::Alive,
    }
}

async fn connect(target: &Target, owner: &str, config: Option<PathBuf>) -> Arc<dyn Engine> {
    match target {
        Target::Docker(address) => {
            let variable = |name: &str| match name {
                "DOCKER_HOST" => Some(address.clone()),
                "DOCKER_CONFIG" => config.as_ref().map(|config| config.display().to_string()),
                "DOCKER_TLS_VERIFY" | "DOCKER_CERT_PATH" => std::env::var(name).ok(),
                _ => None,
            };
            Arc::new(DockerEngine::connect(variable, owner).await.unwrap())
        }
        Target::Embedded(state) => Arc::new(
            EmbeddedEngine::open(Settings {
                state_dir: state.clone(),
                helper: helper(),
                owner: owner.to_owned(),
                client_config: config,
                storage: None,
                probe: false,
            })
            .await
            .unwrap(),
        ),
        Target::Fake => Arc::new(FakeEngine::new().with_image(&base())),
    }
}

/// The program that becomes a helper of the embedded engine.
pub(crate) fn helper() -> PathBuf {
    match std::env::var_os("IMGFORGE_TEST_PROGRAM") {
        Some(program) => program.into(),
        None => env!("CARGO_BIN_EXE_imgforge").into(),
    }
}

fn labels(tag: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(label::KIND.to_owned(), "test".to_owned()), ("name".into(), tag.to_owned())])
}

/// Keeps output.
#[derive(Default)]
pub(crate) struct Log(Mutex<Vec<u8>>);

impl Log {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl LogSink for Log {
    fn write(&self, bytes: &[u8]) {
        self.0.lock().unwrap().extend_from_slice(bytes);
    }
}

pub(crate) fn file(path: &str, text: &str) -> ContextFile {
    ContextFile { path: path.to_owned(), executable: false, bytes: text.as_bytes().to_vec() }
}

/// Writes a layer of files, in the order given.
pub(crate) fn layer(directory: &Path, files: &[(&str, &str)]) -> LayerFile {
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

/// Tells whether a process of this machine, in a container or not, has `word` as an argument. The
/// engine under test must be on this machine.
pub(crate) fn is_running(word: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes.map(|process| process.path().join("cmdline")).any(|path| {
        std::fs::read(path).is_ok_and(|line| {
            line.split(|byte| *byte == 0).eq([b"sleep".as_slice(), word.as_bytes(), b""])
        })
    })
}
