//! `imgforge serve --stdio` and `--rpc`: sessions for programs, by the protocol of `docs/protocol.md`.

use std::io::Read as _;
use std::path::Path;

use anyhow::anyhow;
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::FromArgMatches as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;

use crate::cli::out::{errln, outln};
use crate::forge::{Checkout, ErrorKind, Evaluation, Forge, Needed, SourceOptions};
use crate::report::InstanceResult;
use crate::serve::rpc::{
    EventSink, Fault, GradeOrder, Graded, ImageOfInstance, Instances, Kind, Server, Settings,
};
use crate::serve::{Address, Listening, SocketError};
use crate::session::checkpoints::CheckpointDirectory;
use crate::session::order::InstanceName;

use super::super::eval::{EvalArgs, Wanted};
use super::super::interrupt::unless_interrupted;
use super::super::{Chosen, Cli, Command, CommandResult, Error, Exit, Global, help, open};
use super::events::Telling;
use super::process::{after, ended, watched};
use super::{ServeArgs, docker};

/// The pieces in which the standard input is read, in bytes.
const PIECE: usize = 64 << 10;

/// The most of a log that goes with a grade, in bytes.
const MOST_LOG: u64 = 1 << 20;

/// Runs `serve --stdio` and `serve --rpc`.
pub(super) async fn run(global: &Global, args: ServeArgs) -> CommandResult {
    let address: Option<Address> = match &args.rpc {
        Some(text) => Some(text.parse().map_err(|error: SocketError| Error::input(error))?),
        None => None,
    };
    if args.action.is_some() || args.background || args.print_env {
        let error = anyhow!("`stop`, --background and --print-env are for the other protocols");
        return Err(Error::input(error).into());
    }
    let parent = args.with_pid.map(watched).transpose()?;
    let git_mirror = open::variable("IMGFORGE_GIT_MIRROR").unwrap_or_default();
    let git_mirror: Vec<String> = git_mirror.split_whitespace().map(str::to_owned).collect();
    let options = global.forge_options();
    let opened = async {
        let scratch = options.open_store()?.scratch_dir().map_err(Error::environment)?;
        let run_id = format!("sessions-{:08x}", rand::random::<u32>());
        let told = |text: String| {
            if !global.quiet {
                errln!("{text}");
            }
        };
        let runner = args.runner.choice(global)?;
        let sources = args.sharing.options();
        let sessions = runner.sessions(&options, &sources, &run_id, &told).await?;
        Ok::<_, Error>((scratch, sessions))
    };
    let opened = opened.await.inspect_err(|error| {
        // A client on the pipe would see its end alone.
        if args.stdio {
            outln!("{}", fault(error, Kind::Refused).line());
        }
    });
    let (scratch, sessions) = opened?;
    let pods = match args.runner.choice(global)?.in_pods() {
        true => Some(args.sharing.options()),
        false => None,
    };
    let server = Server::new(Settings {
        engine: sessions.engine.clone(),
        host: sessions.host.clone(),
        kind: sessions.kind,
        checkpoints: CheckpointDirectory::of(&open::state_dir(global)),
        scratch_dir: scratch.path().to_owned(),
        of_host: open::of_host()?,
        instances: std::sync::Arc::new(Datasets { global: global.clone(), pods }),
        repositories: open::repositories(global, &git_mirror)?,
    });
    let work = async {
        let serving = async {
            match &address {
                Some(address) => {
                    let listening = Listening::on(address).map_err(docker::socket_error)?;
                    if !global.quiet {
                        errln!("serving programs at {address}");
                    }
                    server.listen(listening.listener()).await;
                }
                None => server.serve(stdin(), tokio::io::stdout()).await,
            }
            Ok::<_, Error>(())
        };
        tokio::select! {
            served = serving => served,
            () = after(args.ttl) => Ok(()),
            () = ended(parent) => Ok(()),
        }
    };
    // To be told to end is how a server ends.
    let worked = unless_interrupted(work).await;
    server.close().await;
    sessions.end().await;
    worked.unwrap_or(Ok(()))?;
    Ok(Exit::Success)
}

/// Reads the standard input in a thread of its own: nobody waits for that thread at the end.
fn stdin() -> impl tokio::io::AsyncRead + Send + Unpin {
    let (sender, receiver) = mpsc::channel::<std::io::Result<Bytes>>(4);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0; PIECE];
        loop {
            let read = match stdin.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => Ok(Bytes::copy_from_slice(&buffer[..count])),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let is_over = read.is_err();
            if sender.blocking_send(read).is_err() || is_over {
                return;
            }
        }
    });
    let pieces = futures_util::stream::unfold(receiver, async |mut receiver| {
        Some((receiver.recv().await?, receiver))
    });
    StreamReader::new(Box::pin(pieces))
}

/// Datasets, as the command line finds them: options have the values of the environment.
struct Datasets {
    global: Global,
    /// Where images come from, where sessions are pods.
    pods: Option<SourceOptions>,
}

#[async_trait]
impl Instances for Datasets {
    async fn image(
        &self,
        instance: &InstanceName,
        events: &EventSink,
    ) -> Result<ImageOfInstance, Fault> {
        let InstanceName { dataset, split, instance_id } = instance;
        let words = ["-d", dataset, "--split", split, "-i", instance_id, "-p", "gold"];
        let EvalArgs { sources, exec, .. } = parse(&words)?;
        let (global, telling) = (self.quiet(None), Telling::new(events));
        let unknown = |error: Error| fault(&error, Kind::NoSuchInstance);
        let forge = Forge::open(telling.forge(global.forge_options())).map_err(unknown)?;
        let mut load = exec.load_options(&Chosen::one(dataset, split, Some(instance_id)), &sources);
        if let Some(pods) = &self.pods {
            load.sources = pods.clone();
        }
        let build = || Ok((telling.build(exec.options(&global)?), telling.reporter()));
        let needed_at = Needed::by_session(self.pods.is_some());
        match forge.checkout(&load, needed_at, build).await.map_err(unknown)? {
            Checkout::Ready { image, lease } => {
                Ok(ImageOfInstance { image, kept: Box::new(lease) })
            }
            Checkout::Failed(_) => Err(telling.failure(instance_id)),
        }
    }

    async fn grade(&self, order: &GradeOrder, events: &EventSink) -> Result<Graded, Fault> {
        let infra = |error: std::io::Error| Fault::new(Kind::Infra, error.to_string());
        let dir = tempfile::tempdir().map_err(infra)?;
        let prediction = json!({
            "instance_id": order.instance.instance_id,
            "model_name_or_path": order.model,
            "model_patch": order.patch,
        });
        let path = dir.path().join("prediction.jsonl");
        std::fs::write(&path, format!("{prediction}\n")).map_err(infra)?;
        let path = path.display().to_string();
        let InstanceName { dataset, split, instance_id } = &order.instance;
        let mut words = vec!["-d", dataset, "--split", split, "-i", instance_id];
        words.extend(["-j", "1", "-p", &path]);
        let timeout = order.timeout.map(|seconds| seconds.to_string());
        if let Some(timeout) = &timeout {
            words.extend(["--timeout", timeout]);
        }
        if order.strict {
            words.push("--strict");
        }
        let EvalArgs { chosen, run, sources, exec, .. } = parse(&words)?;
        let predictions = [path.clone()];
        let wanted = Wanted {
            chosen: &chosen,
            sources: &sources,
            predictions: &predictions,
            exec: &exec,
            run: &run,
            shard: None,
        };
        let global = self.quiet(Some(dir.path()));
        let run_id = format!("grade-{:016x}", rand::random::<u64>());
        let refused = |error: Error| fault(&error, Kind::Refused);
        // Of what follows nothing says that it is the instance which is missing.
        let chosen_instances = global.forge_options().choose(&chosen.selection()).await;
        chosen_instances.map_err(|error| fault(&error, Kind::NoSuchInstance))?;
        let telling = Telling::new(events);
        let mut options = wanted.options(&global, &run_id).map_err(refused)?;
        options.build = telling.build(options.build);
        let forge = Forge::open(telling.forge(global.forge_options())).map_err(refused)?;
        let evaluated = wanted.evaluate_on(&forge, &options, || Ok(telling.reporter())).await;
        let evaluation: Evaluation = evaluated.map_err(refused)?;
        match evaluation.report.results.first() {
            Some(result) => Ok(graded(result, dir.path())),
            None => Err(Fault::new(Kind::Infra, "the evaluation has no result")),
        }
    }
}

impl Datasets {
    /// Returns the options of every command, without anything printed; files of runs go to a directory.
    fn quiet(&self, output_dir: Option<&Path>) -> Global {
        Global {
            quiet: true,
            verbose: 0,
            json: false,
            output_dir: output_dir.map(Path::to_owned).or(self.global.output_dir.clone()),
            ..self.global.clone()
        }
    }
}

/// Makes a client's error; what was asked for wrongly is of kind `input`.
fn fault(error: &Error, input: Kind) -> Fault {
    let kind = match error.kind() {
        ErrorKind::Input => input,
        ErrorKind::Environment | ErrorKind::Interrupted => Kind::Infra,
    };
    let fault = Fault::new(kind, crate::causes::in_one_line(error));
    match error.hint() {
        Some(hint) => fault.hint(hint),
        None => fault,
    }
}

/// Makes a client's grade of a result.
fn graded(result: &InstanceResult, output_dir: &Path) -> Graded {
    let verdict = result.verdict;
    let resolved = match verdict.is_error() {
        true => None,
        false => Some(verdict == crate::report::Verdict::Resolved),
    };
    let log = result.log.as_ref().and_then(|path| tail(&output_dir.join(path)).ok());
    let name = match json!(verdict) {
        Value::String(name) => name,
        other => other.to_string(),
    };
    Graded {
        resolved,
        verdict: name,
        reason: result.reason.clone(),
        hint: verdict.advice().map(str::to_owned),
        tests: json!(result.tests),
        cached: result.cached,
        seconds: result.test_seconds,
        output: STANDARD.encode(log.unwrap_or_default()),
    }
}

/// Reads the end of a file.
fn tail(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::{Seek as _, SeekFrom};
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MOST_LOG)))?;
    let mut bytes = Vec::new();
    file.take(MOST_LOG).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads words as `imgforge eval` does.
fn parse(words: &[&str]) -> Result<EvalArgs, Fault> {
    let parsed = help::command()
        .try_get_matches_from(["imgforge", "eval"].iter().chain(words))
        .and_then(|matches| Cli::from_arg_matches(&matches));
    match parsed.map(|cli| cli.command) {
        Ok(Command::Eval(args)) => Ok(*args),
        Ok(_) => Err(Fault::new(Kind::Refused, "the words are those of another command")),
        Err(error) => {
            let text = error.to_string();
            let text = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
            Err(Fault::new(Kind::Refused, text))
        }
    }
}
