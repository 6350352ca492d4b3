//! What the tests share: a repository, runs on the fake engine, and sandboxes that fail where a test says so.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use async_trait::async_trait;
use imgforge::engine::fake::FakeEngine;
use imgforge::engine::{
    Engine, EngineError, EngineKind, Exec, ExecEnd, ExecRequest, ExecSummary, LogSink,
    SandboxSession, SessionEnd,
};
use imgforge::session::order::SessionOrder;
use imgforge::session::{Kept, StartError};
use imgforge::smoke::{
    Format, Manager, Means, Repositories, RunConfig, RunOptions, RunReport, Sandbox, Sandboxes,
    Stage, read_text,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

/// The image of all runs.
pub(crate) const IMAGE: &str = "image:1";

/// How a sandbox goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// The engine does not answer when the sandbox is to be started.
    Start,
    /// The engine is gone when a command of this stage is run.
    Exec(Stage),
    /// The engine is gone when files are written into the sandbox.
    Put,
    /// The engine is gone when the sandbox is to be ended.
    Stop,
    /// Commands that have this word reach the memory limit.
    Memory(&'static str),
    /// Commands that have this word end with the sandbox.
    Ended(&'static str, &'static str),
}

/// A directory with a repository, and all that a run leaves.
pub(crate) struct Space {
    dir: tempfile::TempDir,
    pub(crate) wrong: Vec<Wrong>,
    pub(crate) stop: CancellationToken,
}

fn git(dir: &Path, args: &[&str]) {
    let mut command = Command::new("git");
    for name in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{name}_NAME"), "a").env(format!("GIT_{name}_EMAIL"), "a@b");
        command.env(format!("GIT_{name}_DATE"), "2024-01-02T03:04:05Z");
    }
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    let output = command.args(args).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Space {
    pub(crate) fn new() -> Space {
        let dir = tempfile::tempdir().unwrap();
        let repo = dir.path().join("repo");
        std::fs::create_dir(&repo).unwrap();
        git(&repo, &["init", "--quiet", "--initial-branch", "main"]);
        std::fs::write(repo.join("answer"), "41\n").unwrap();
        std::fs::write(repo.join("check.sh"), "grep -q 42 answer\n").unwrap();
        git(&repo, &["add", "."]);
        git(&repo, &["commit", "--quiet", "-m", "one"]);
        git(&repo, &["tag", "-a", "-m", "one", "v1"]);
        let patch = "--- a/answer\n+++ b/answer\n@@ -1 +1 @@\n-41\n+42\n";
        std::fs::write(dir.path().join("fix.patch"), patch).unwrap();
        std::fs::create_dir(dir.path().join("scratch")).unwrap();
        Space { dir, wrong: Vec::new(), stop: CancellationToken::new() }
    }

    /// A space whose sandboxes go wrong.
    pub(crate) fn with(wrong: Wrong) -> Space {
        Space { wrong: vec![wrong], ..Space::new() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Returns a run with this `task`, and more of the repository.
    pub(crate) fn config(&self, repo: &str, task: &str) -> RunConfig {
        self.config_of("", repo, task)
    }

    /// Returns a run with more of the sandbox, too.
    pub(crate) fn config_of(&self, sandbox: &str, repo: &str, task: &str) -> RunConfig {
        let text = format!(
            "[sandbox]\nimage = \"{IMAGE}\"\nworkdir = \"/imgforge-smoke-tests\"\n{sandbox}\n\
             [repo]\npath = \"repo\"\nref = \"v1\"\n{repo}\n[task]\n{task}\n"
        );
        let read = read_text("smoke.toml", &text, Format::Toml, self.path());
        read.unwrap_or_else(|error| panic!("{error}\n{text}")).runs.remove(0)
    }

    /// Where the artifacts of a run are.
    pub(crate) fn artifacts(&self) -> PathBuf {
        self.path().join("artifacts")
    }

    pub(crate) fn means(&self) -> Means {
        let engine = Arc::new(FakeEngine::new().with_image(IMAGE));
        Means {
            sandboxes: Arc::new(Scripted { engine: engine.clone(), wrong: self.wrong.clone() }),
            engine,
            repositories: Repositories {
                state_dir: self.path().join("state"),
                ..Repositories::default()
            },
            cached: None,
            scratch: self.path().join("scratch"),
            stop: self.stop.clone(),
        }
    }

    pub(crate) fn options(&self) -> RunOptions {
        RunOptions {
            run_id: "run".to_owned(),
            artifacts: Some(self.artifacts()),
            max_output: 1 << 20,
            ..RunOptions::default()
        }
    }

    /// Prepares a run.
    pub(crate) fn open(&self, config: RunConfig) -> Manager {
        Manager::open(config, self.means(), self.options()).unwrap()
    }

    /// Does a run.
    pub(crate) async fn run(&self, config: RunConfig) -> RunReport {
        let mut manager = self.open(config);
        let report = manager.run().await;
        assert!(manager.artifacts_failure().is_none());
        report
    }
}

struct Scripted {
    engine: Arc<FakeEngine>,
    wrong: Vec<Wrong>,
}

fn gone() -> EngineError {
    let source = "it is gone".into();
    EngineError::Transient { action: "answer".to_owned(), source }
}

#[async_trait]
impl Sandboxes for Scripted {
    async fn start(&self, order: &SessionOrder, log: &dyn LogSink) -> Result<Sandbox, StartError> {
        if self.wrong.contains(&Wrong::Start) {
            return Err(gone().into());
        }
        let engine: &dyn Engine = &*self.engine;
        let inner = engine.start(&order.request, log).await?;
        let session = Session { inner, wrong: self.wrong.clone() };
        Ok(Sandbox { kept: Arc::new(Kept::of(Arc::new(session))), stays: None })
    }
}

/// A session of the fake engine that goes wrong where it is told to.
struct Session {
    inner: Box<dyn SandboxSession>,
    wrong: Vec<Wrong>,
}

#[async_trait]
impl SandboxSession for Session {
    fn id(&self) -> &str {
        self.inner.id()
    }

    fn engine(&self) -> EngineKind {
        self.inner.engine()
    }

    async fn spawn(&self, request: &ExecRequest) -> Result<Exec, EngineError> {
        self.inner.spawn(request).await
    }

    async fn exec(
        &self,
        request: &ExecRequest,
        out: &dyn LogSink,
        error: &dyn LogSink,
    ) -> Result<ExecSummary, EngineError> {
        let has = |word: &str| request.command.iter().any(|one| one.contains(word));
        for wrong in &self.wrong {
            let stage = match wrong {
                // What only the commands of a stage have.
                Wrong::Exec(Stage::Start) => "uname",
                Wrong::Exec(Stage::Checkout) => "ls -A",
                Wrong::Exec(Stage::Setup) => "setup",
                Wrong::Exec(Stage::Test) => "check.sh",
                _ => continue,
            };
            if has(stage) {
                return Err(gone());
            }
        }
        let mut summary = self.inner.exec(request, out, error).await?;
        for wrong in &self.wrong {
            match wrong {
                Wrong::Memory(word) if has(word) => summary.end = ExecEnd::OutOfMemory(137),
                Wrong::Ended(word, "memory") if has(word) => {
                    summary.end = ExecEnd::SessionEnded(SessionEnd::OutOfMemory);
                }
                Wrong::Ended(word, _) if has(word) => {
                    summary.end = ExecEnd::SessionEnded(SessionEnd::Killed);
                }
                _ => {}
            }
        }
        Ok(summary)
    }

    async fn put(
        &self,
        directory: &str,
        make: bool,
        tar: &mut (dyn AsyncRead + Send + Unpin),
    ) -> Result<(), EngineError> {
        match self.wrong.contains(&Wrong::Put) {
            true => Err(gone()),
            false => self.inner.put(directory, make, tar).await,
        }
    }

    async fn get(
        &self,
        path: &str,
        tar: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), EngineError> {
        self.inner.get(path, tar).await
    }

    async fn ended(&self) -> Result<SessionEnd, EngineError> {
        self.inner.ended().await
    }

    async fn stop(&self) -> Result<SessionEnd, EngineError> {
        match self.wrong.contains(&Wrong::Stop) {
            true => Err(gone()),
            false => self.inner.stop().await,
        }
    }
}
