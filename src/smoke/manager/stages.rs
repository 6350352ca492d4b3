//! What is done in each stage.

use std::path::Path;

use bytes::Bytes;
use tokio::time::Instant;

use crate::causes::in_one_line;
use crate::engine::reference::Reference;
use crate::engine::{EngineError, ExecEnd, ExecRequest, Image, Input};
use crate::session::{Capture, Keep, Warnings};

use super::super::artifacts::{ArtifactsError, RunDirectory};
use super::super::command::{self, Ran};
use super::super::report::{CommandResult, SessionStats, Stage};
use super::super::repository::{Changes, FilesError};
use super::super::sandbox;
use super::super::verdict::{self, Fault};
use super::Manager;
use super::faults::blocking;
use super::reuse::{self, Reused};

/// How much of what tests print is judged, in bytes: half from the beginning, half from the end.
const JUDGED: usize = 8 << 20;

/// Tells whether a directory is not there, or has nothing in it.
const IS_EMPTY: &str = r#"[ ! -e "$1" ] || [ -z "$(ls -A "$1")" ]"#;

/// A stage under way.
pub(super) struct Work {
    stage: Stage,
    /// When its time is over.
    deadline: Instant,
    /// The commands that ended.
    pub commands: Vec<CommandResult>,
    /// The files of outputs.
    pub logs: Vec<String>,
}

/// What a stage comes to: a remark, or why it is not done.
type Done = Result<Option<String>, Fault>;

impl Work {
    /// Begins a stage.
    pub(super) fn new(stage: Stage, deadline: Instant) -> Work {
        Work { stage, deadline, commands: Vec::new(), logs: Vec::new() }
    }
}

impl Manager {
    /// Does a stage.
    pub(super) async fn work(&mut self, work: &mut Work) -> Done {
        match work.stage {
            Stage::Start => self.start_sandbox().await,
            Stage::Clone => self.fetch().await,
            Stage::Checkout => self.check_out(work).await,
            Stage::Compat => self.fix(work).await,
            Stage::Setup => self.set_up(work).await,
            Stage::Test => self.test(work).await,
            Stage::Teardown => self.tear_down().await,
        }
    }

    async fn start_sandbox(&mut self) -> Done {
        let info = self.means.engine.info().await?;
        self.facts.versions.engine = format!("{} {}", info.kind, info.version);
        let image = self.image(&info.platform).await?;
        self.facts.image.digest = Some(image.id.to_string());
        self.image_user.clone_from(&image.config.user);
        let heard = Warnings::default();
        let order = sandbox::order(&self.config);
        let sandbox = self.means.sandboxes.start(&order, &heard).await?;
        if let Some(cached) = &self.means.cached {
            let (order, session) = (reuse::without_secrets(order), self.session_id());
            let remember = cached.checkpoints().remember(order, &session, info.kind);
            sandbox.kept.remember(remember);
        }
        self.sandbox = Some(sandbox);
        let printed = |command: &'static [&'static str]| self.printed(command);
        let kernel = printed(&["uname", "-r"]).await?;
        let mut python = printed(&["python", "--version"]).await?;
        if python.is_none() {
            python = printed(&["python3", "--version"]).await?;
        }
        let git = printed(&["git", "--version"]).await?;
        let after = |text: String, start: &str| text.trim_start_matches(start).trim().to_owned();
        self.facts.versions.kernel = kernel.unwrap_or_default();
        self.facts.versions.python = python.map(|text| after(text, "Python "));
        self.facts.versions.git = git.map(|text| after(text, "git version "));
        let warnings = heard.list();
        Ok((!warnings.is_empty()).then(|| warnings.join("; ")))
    }

    /// Finds the image, and pulls it where the engine does not have it.
    async fn image(&self, platform: &crate::platform::Platform) -> Result<Image, Fault> {
        let (engine, name) = (&self.means.engine, &self.config.sandbox.image);
        if let Some(image) = engine.inspect(name).await? {
            return Ok(image);
        }
        let missing = format!("image `{name}` is not on the engine");
        if crate::offline::is_on() {
            return Err(Fault::Infra(format!("{missing}, and {}", crate::offline::WHY)));
        }
        let reference: Reference = name
            .parse()
            .map_err(|error| Fault::Failed(format!("{missing}: {}", in_one_line(&error))))?;
        match engine.pull(&reference, platform, &crate::engine::NoLog).await {
            Ok(image) => Ok(image),
            Err(error @ (EngineError::NotFound { .. } | EngineError::OtherPlatform { .. })) => {
                Err(Fault::Failed(format!("{missing}: {}", in_one_line(&error))))
            }
            Err(error) => Err(Fault::Infra(format!("{missing}: {}", in_one_line(&error)))),
        }
    }

    /// Returns the first line that a program of the image prints; `None` where it has no such program.
    async fn printed(&self, command: &[&str]) -> Result<Option<String>, Fault> {
        let Some(sandbox) = &self.sandbox else { return Ok(None) };
        let limit = self.config.sandbox.timeouts.command;
        let request = ExecRequest { time_limit: Some(limit), ..ExecRequest::of(command) };
        let ran = crate::session::run(&*sandbox.session(), &request, Keep::HeadTail(4096)).await?;
        if let ExecEnd::SessionEnded(_) = ran.summary.end {
            verdict::of_command(&ran.summary.end, "the first command")?;
        }
        // Old Pythons say their version on the standard error.
        let text = [ran.out.bytes, ran.error.bytes].concat();
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().next().unwrap_or_default().trim().to_owned();
        Ok((ran.summary.end == ExecEnd::Exited(0) && !line.is_empty()).then_some(line))
    }

    async fn fetch(&mut self) -> Done {
        let repository = self.repository.clone();
        let commit = blocking(move || repository.resolve()).await?;
        self.facts.repo.commit = Some(commit.clone());
        self.reused = self.reusable(&commit);
        if let Some(remark) = self.reused.remark() {
            return Ok(Some(remark));
        }
        self.bring(commit).await?;
        Ok(None)
    }

    /// Brings a commit into the mirror.
    pub(super) async fn bring(&mut self, commit: String) -> Result<(), Fault> {
        let repository = self.repository.clone();
        self.fetched = Some(blocking(move || repository.fetch(commit)).await?);
        Ok(())
    }

    async fn check_out(&mut self, work: &mut Work) -> Done {
        if self.reuse().await? {
            return Ok(self.reused.remark());
        }
        let workdir = self.config.sandbox.workdir.clone();
        let at = workdir.rfind('/').expect("it is absolute");
        let (parent, name) = (&workdir[..at.max(1)], workdir[at + 1..].to_owned());
        let check = ExecRequest {
            working_dir: Some("/".to_owned()),
            ..ExecRequest::of(&["/bin/sh", "-c", IS_EMPTY, "sh", &workdir])
        };
        let looked = self.command(work, as_root(check), None).await?;
        if looked.end == ExecEnd::Exited(1) {
            let why = format!("`{workdir}` of the image is not empty: name another `workdir`");
            return Err(Fault::Failed(why));
        }
        verdict::of_command(&looked.end, &format!("the look at `{workdir}`"))?;
        let scratch = tempfile::Builder::new().prefix("smoke-").tempdir_in(&self.means.scratch);
        let scratch = scratch.map_err(|error| Fault::from(FilesError::Io(error)))?;
        let directory = scratch.path().to_owned();
        let (repository, fetched) = (self.repository.clone(), self.fetched.take());
        let fetched = fetched.expect("the stage before brought it");
        let (remarks, changes) = blocking(move || {
            let remarks =
                repository.write_checkout(&fetched, &name, &directory.join("checkout.tar"))?;
            let changes = repository.write_patches(&fetched, &name, &directory)?;
            Ok::<_, FilesError>((remarks, changes))
        })
        .await?;
        self.put(parent, &scratch.path().join("checkout.tar")).await?;
        for Changes { tar, deleted } in changes {
            if !deleted.is_empty() {
                let paths = deleted.iter().map(|path| Path::new(parent).join(path));
                let paths = paths.map(|path| path.to_string_lossy().into_owned());
                let command = ["rm", "-f", "--"].map(str::to_owned).into_iter().chain(paths);
                self.succeed(work, as_root(plain(command.collect()))).await?;
            }
            self.put(parent, &tar).await?;
        }
        if !matches!(self.image_user.split(':').next(), Some("" | "0" | "root")) {
            let command = ["chown", "-R", &self.image_user, &workdir].map(str::to_owned);
            self.succeed(work, as_root(plain(command.to_vec()))).await?;
        }
        Ok((!remarks.is_empty()).then(|| remarks.join("; ")))
    }

    /// Unpacks a tar in the sandbox.
    async fn put(&self, directory: &str, tar: &Path) -> Result<(), Fault> {
        let open = tokio::fs::File::open(tar).await;
        let mut tar = open.map_err(|error| Fault::from(FilesError::Io(error)))?;
        let sandbox = self.sandbox.as_ref().expect("it was started");
        sandbox.session().put(directory, true, &mut tar).await?;
        Ok(())
    }

    async fn fix(&mut self, work: &mut Work) -> Done {
        if let Some(remark) = self.reused.remark() {
            return Ok(Some(remark));
        }
        let fixes = self.config.repo.compat.clone();
        let tree = self.config.sandbox.workdir.clone();
        for fix in &fixes {
            for command in fix.commands(Path::new(&tree), self.facts.dry_run) {
                let request = ExecRequest {
                    command: command.argv,
                    variables: command.env,
                    input: Input::Bytes(Bytes::from(command.stdin)),
                    ..ExecRequest::default()
                };
                let ran = self.command(work, request, None).await?;
                verdict::of_command(&ran.end, &format!("compat fix `{fix}`"))?;
            }
        }
        match &self.reused {
            Reused::New(key) => Ok(self.keep_for_others(key).await),
            Reused::No | Reused::Found(..) | Reused::Taken(_) => Ok(None),
        }
    }

    async fn set_up(&mut self, work: &mut Work) -> Done {
        for line in self.config.task.setup.clone() {
            let request =
                ExecRequest { variables: self.config.task.env.clone(), ..plain(line.argv()) };
            self.succeed(work, request).await?;
        }
        Ok(None)
    }

    async fn test(&mut self, work: &mut Work) -> Done {
        let task = self.config.task.clone();
        let mut variables = task.env;
        for fix in &self.config.repo.compat {
            // Options that the sandbox has in the variable stay.
            for name in fix.test_env().into_keys() {
                if let Some(value) = self.config.sandbox.env.get(&name) {
                    variables.entry(name).or_insert_with(|| value.clone());
                }
            }
            fix.add_test_env(&mut variables);
        }
        let argv = task.test.argv();
        let text = argv.join(" ");
        let request = ExecRequest { variables, ..plain(argv) };
        let log = Capture::new(Keep::HeadTail(JUDGED));
        let ran = self.command(work, request, Some(&log)).await?;
        verdict::of_tests(&ran.end, &text, &log.finish().bytes, task.expected_fail)
    }

    async fn tear_down(&mut self) -> Done {
        let Some(sandbox) = self.sandbox.take() else { return Ok(None) };
        // What cannot be measured, or has ended, has no measure.
        self.facts.session = sandbox.session().usage().await.ok().map(|usage| SessionStats {
            cpu_ms: usage.cpu_nanos / 1_000_000,
            system_cpu_ms: usage.system_nanos / 1_000_000,
            memory_bytes: usage.memory,
            most_memory_bytes: usage.most_memory,
            processes: usage.processes,
            written_bytes: usage.written,
        });
        match sandbox.stays {
            Some(name) => Ok(Some(format!("the sandbox is kept as session `{name}`"))),
            None => {
                sandbox.session().stop().await?;
                Ok(None)
            }
        }
    }

    /// Runs a command that has to exit with 0.
    async fn succeed(&mut self, work: &mut Work, request: ExecRequest) -> Result<(), Fault> {
        let words: Vec<&str> = request.command.iter().map(String::as_str).collect();
        let shown = match words[..] {
            ["/bin/sh", "-c", line] => crate::words::shown(line),
            _ => crate::words::shown(&words.join(" ")),
        };
        let ran = self.command(work, request, None).await?;
        verdict::of_command(&ran.end, &format!("`{shown}`"))
    }

    /// Runs a command of a stage, and writes it down.
    async fn command(
        &mut self,
        work: &mut Work,
        mut request: ExecRequest,
        also: Option<&Capture>,
    ) -> Result<Ran, Fault> {
        let (stage, number) = (work.stage, work.commands.len() + 1);
        let left = work.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Fault::Failed("the time of the stage was over".to_owned()));
        }
        let limit = self.config.sandbox.timeouts.command;
        request.time_limit = Some(limit.min(left));
        request.working_dir.get_or_insert_with(|| self.config.sandbox.workdir.clone());
        let names = RunDirectory::output_names(stage, number);
        let files = self.record.directory().map(|directory| {
            let paths = names.each_ref().map(|name| directory.path_of(name));
            (RunDirectory::log_name(stage, number), paths)
        });
        if files.is_some() {
            work.logs.extend(names);
        }
        let session = self.sandbox.as_ref().expect("it was started").session();
        let order = command::Order {
            request,
            sandbox_env: &self.config.sandbox.env,
            max_output: self.max_output,
            files,
            also,
        };
        let mut ran = command::run(&*session, order, &self.secrets).await?;
        if let Some((path, source)) = ran.unwritten.take() {
            self.record.fail(ArtifactsError::File { path, source });
        }
        self.record.command(stage, number, &ran.result);
        work.commands.push(ran.result.clone());
        if ran.end == ExecEnd::TimedOut && left < limit {
            let seconds = self.config.sandbox.timeouts.stage.as_secs_f64();
            let why = format!("the time of the stage was over after {seconds} s");
            return Err(Fault::Failed(why));
        }
        Ok(ran)
    }
}

fn plain(command: Vec<String>) -> ExecRequest {
    ExecRequest { command, ..ExecRequest::default() }
}

fn as_root(request: ExecRequest) -> ExecRequest {
    ExecRequest { user: Some("0:0".to_owned()), ..request }
}
