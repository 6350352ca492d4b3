//! A container: a session, its main command, and what becomes of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard_stubs::models::{ContainerCreateBody, HostConfig, RestartPolicy};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use jiff::Timestamp;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, timeout, timeout_at};

use crate::engine::{
    Exec, ExecEnd, ExecHandle, ExecRequest, Image, Input, Output as Written, Outputs,
    Result as EngineResult, SandboxNetwork, SandboxSession, WindowSize,
};

use super::answer::Refusal;
use super::command;
use super::events::{Events, Kind};
use super::health::{Health, Verdict};
use super::mounts::Mounts;
use super::networks::Reach;
use super::output::{Output, Stream};
use super::ports::Ports;
use super::restarting::Restarting;
use super::state::{Change, State, Status, Watched};
use super::volumes::HeldVolumes;

/// How long the rest of an output may take when every process is killed.
const DRAIN: Duration = Duration::from_secs(2);

/// When the terminal of a command that was asked to end is hung up: a shell that somebody types at
/// does not mind `SIGTERM`.
const HANG_UP: Duration = Duration::from_millis(50);

/// How long a container has to stop unless it or the request says otherwise, in seconds.
const STOP: i64 = 10;

/// The size of a terminal that nobody told another one.
const TERMINAL: WindowSize = WindowSize { rows: 24, columns: 80 };

/// A container.
pub(super) struct Container {
    /// 64 hexadecimal digits.
    pub(super) id: String,
    pub(super) name: Mutex<String>,
    /// When it was created.
    pub(super) created_at: Timestamp,
    /// What was asked for.
    pub(super) body: ContainerCreateBody,
    /// The image.
    pub(super) image: Image,
    /// Program and arguments of the main command.
    pub(super) command: Vec<String>,
    /// The session.
    pub(super) session: Arc<dyn SandboxSession>,
    /// Its state.
    pub(super) state: Watched,
    /// What the main command wrote.
    pub(super) output: Arc<Output>,
    /// What of it is published.
    pub(super) ports: Ports,
    /// How it is found out whether its service works.
    pub(super) health: Option<Health>,
    /// What is mounted in it.
    pub(super) mounts: Mounts,
    /// The volumes of that, in use until it is gone.
    pub(super) volumes: HeldVolumes,
    /// What it can reach.
    pub(super) reach: Reach,
    /// The id of the container whose network it has, where that is another one.
    pub(super) network_of: Option<String>,
    /// Names that lead elsewhere, with their addresses.
    pub(super) extra_hosts: Vec<(String, String)>,
    pub(super) main: Mutex<Option<Arc<dyn ExecHandle>>>,
    pub(super) input: tokio::sync::Mutex<Option<Box<dyn AsyncWrite + Send + Unpin>>>,
    /// Whether and how often it is started again.
    pub(super) restarting: Restarting,
    /// What clients changed since.
    pub(super) updated: Mutex<serde_json::Map<String, serde_json::Value>>,
    /// Whom it is told what happens.
    pub(super) events: Arc<Events>,
    /// Whoever starts, stops or removes it has this.
    pub(super) turn: tokio::sync::Mutex<()>,
}

impl Container {
    /// Returns the name, without a slash.
    pub(super) fn name(&self) -> String {
        self.name.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns its host name.
    pub(super) fn hostname(&self) -> String {
        hostname(&self.body, &self.id)
    }

    /// Returns the id under which it is in networks.
    pub(super) fn in_networks_as(&self) -> &str {
        self.network_of.as_deref().unwrap_or(&self.id)
    }

    /// Returns the labels of the image, and those that were asked for.
    pub(super) fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.image.config.labels.clone();
        labels.extend(self.body.labels.clone().unwrap_or_default());
        labels
    }

    /// Tells what happened to it.
    pub(super) fn tell(&self, action: &str, more: &[(&str, &str)]) {
        let mut attributes = self.labels();
        attributes.insert("image".to_owned(), self.body.image.clone().unwrap_or_default());
        attributes.insert("name".to_owned(), self.name());
        let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        attributes.extend(more);
        self.events.tell_all(Kind::Container, action, &self.id, attributes);
    }

    /// Returns what it can reach, in a form that others can have as well.
    ///
    /// # Errors
    /// Where its session has ended.
    pub(super) async fn reach_for_others(&self) -> Result<Reach, Refusal> {
        Ok(match &self.reach {
            Reach::Plain(SandboxNetwork::Host) => Reach::Plain(SandboxNetwork::Host),
            Reach::Shared(network) => Reach::Shared(network.clone()),
            Reach::Plain(_) => Reach::Shared(Arc::new(self.session.network().await?)),
        })
    }

    /// Returns what was asked for of the host.
    pub(super) fn host_config(&self) -> &HostConfig {
        static NONE: std::sync::LazyLock<HostConfig> =
            std::sync::LazyLock::new(HostConfig::default);
        self.body.host_config.as_ref().unwrap_or(&NONE)
    }

    /// Tells whether the main command has a terminal.
    pub(super) fn has_terminal(&self) -> bool {
        self.body.tty == Some(true)
    }

    /// Tells whether the main command has an input.
    pub(super) fn has_input(&self) -> bool {
        self.body.open_stdin == Some(true)
    }

    /// Tells whether the end of an attached client's input is that of the main command's.
    pub(super) fn closes_input(&self) -> bool {
        self.body.stdin_once == Some(true)
    }

    /// Returns the state, where the main command runs.
    ///
    /// # Errors
    /// Where it does not, or is held.
    pub(super) fn running(&self, called: &str) -> Result<State, Refusal> {
        let state = self.state.now();
        match state.status {
            Status::Running => Ok(state),
            Status::Paused => Err(Refusal::conflict(format!(
                "Container {called} is paused, unpause the container before exec"
            ))),
            Status::Restarting => Err(Refusal::conflict(format!(
                "Container {called} is restarting, wait until the container is running"
            ))),
            Status::Created | Status::Exited => {
                Err(Refusal::conflict(format!("Container {called} is not running")))
            }
        }
    }

    fn handle(&self) -> Option<Arc<dyn ExecHandle>> {
        self.main.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts the main command; tells whether it did not run yet.
    ///
    /// # Errors
    /// Where it cannot be started: nothing runs then.
    pub(super) async fn start(self: &Arc<Container>) -> Result<Option<Run>, Refusal> {
        let _turn = self.turn.lock().await;
        let state = self.state.now();
        if state.is_removed {
            return Err(Refusal::conflict("the container is being removed"));
        }
        if state.status.is_alive() {
            return Ok(None);
        }
        self.restarting.begin();
        self.publish_and_spawn().await.map(Some)
    }

    async fn publish_and_spawn(&self) -> Result<Run, Refusal> {
        self.ports.publish(&self.session).await?;
        let spawned = self.spawn().await;
        match &spawned {
            Ok(_) => self.tell("start", &[]),
            Err(_) => self.ports.withdraw(),
        }
        spawned
    }

    /// Starts the main command again after a while, where that was asked for; `None` where somebody
    /// stopped it meanwhile, or it cannot be started.
    pub(super) async fn start_again(self: &Arc<Container>) -> Option<Run> {
        let is_over = |state: &State| state.status != Status::Restarting || state.is_removed;
        tokio::select! {
            () = tokio::time::sleep(self.restarting.delay()) => {}
            _ = self.state.until(is_over) => return None,
        }
        let _turn = self.turn.lock().await;
        if is_over(&self.state.now()) {
            return None;
        }
        self.restarting.count();
        let spawned = self.publish_and_spawn().await;
        if spawned.is_err() {
            self.state.set(Change::StaysEnded);
        }
        spawned.ok()
    }

    /// Returns how often it was started again.
    pub(super) fn restarts(&self) -> u64 {
        self.restarting.times()
    }

    /// Returns what clients changed since it was created, as `HostConfig` has it.
    pub(super) fn updates(&self) -> serde_json::Map<String, serde_json::Value> {
        self.updated.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the policy by which it is started again: the newest.
    fn restart_policy(&self) -> RestartPolicy {
        let updated = self.updates().remove("RestartPolicy");
        let updated = updated.and_then(|policy| serde_json::from_value(policy).ok());
        updated.or_else(|| self.host_config().restart_policy.clone()).unwrap_or_default()
    }

    /// Checks the service while it runs.
    pub(super) async fn watch_health(&self) {
        if let Some(health) = &self.health {
            let tell = |verdict: Verdict| {
                self.tell(&format!("health_status: {}", verdict.name()), &[]);
            };
            health.watch(&self.session, &self.state, tell).await;
        }
    }

    async fn spawn(&self) -> Result<Run, Refusal> {
        let has_terminal = self.has_terminal();
        let request = ExecRequest {
            command: self.command.clone(),
            input: if self.has_input() || has_terminal { Input::Held } else { Input::Null },
            outputs: match has_terminal {
                true => Outputs::Terminal(
                    window(self.host_config().console_size.as_deref()).unwrap_or(TERMINAL),
                ),
                false => Outputs::Separate,
            },
            ..ExecRequest::default()
        };
        let Exec { input, output, handle } = self.session.spawn(&request).await?;
        let Some(process) = handle.process().await? else {
            let ended = handle.end().await?;
            return Err(self.not_started(&ended.end));
        };
        *self.input.lock().await = input;
        *self.main.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle.clone());
        if let Some(health) = &self.health {
            health.reset();
        }
        self.state.set(Change::Started(process));
        Ok(Run { output, handle })
    }

    /// Notes that the main command could not be started, and says why.
    fn not_started(&self, end: &ExecEnd) -> Refusal {
        let (code, _) = command::exit_code(end);
        let program = self.command.first().map_or("", String::as_str);
        let user = self.body.user.as_deref().filter(|user| !user.is_empty());
        let words = match end {
            ExecEnd::NotStarted(why) => command::not_started(why, program, user),
            _ => "the session of the container has ended".to_owned(),
        };
        let error = format!(
            "failed to create task for container: failed to create shim task: OCI runtime create \
             failed: runc create failed: {words}"
        );
        self.state.set(Change::NotStarted { code, error: error.clone() });
        Refusal::bad(error)
    }

    /// Gives the output of the main command to whoever reads it, until it has ended. Then every
    /// process of the container is killed, as Docker does.
    pub(super) async fn follow(self: &Arc<Container>, run: Run) {
        let Run { mut output, handle } = run;
        let ended = handle.end();
        tokio::pin!(ended);
        let mut is_open = true;
        let ended = loop {
            tokio::select! {
                biased;
                ended = &mut ended => break ended,
                piece = output.next(), if is_open => is_open = self.take(piece).await,
            }
        };
        let _ = self.session.signal_all(libc::SIGKILL).await;
        let until = Instant::now() + DRAIN;
        while is_open {
            match timeout_at(until, output.next()).await {
                Ok(piece) => is_open = self.take(piece).await,
                Err(_) => break,
            }
        }
        let (code, out_of_memory) = match ended {
            Ok(ended) => command::exit_code(&ended.end),
            Err(_) => (128 + libc::SIGKILL, false),
        };
        self.ports.withdraw();
        self.input.lock().await.take();
        self.main.lock().unwrap_or_else(PoisonError::into_inner).take();
        if out_of_memory {
            self.tell("oom", &[]);
        }
        self.tell("die", &[("exitCode", &code.to_string())]);
        let starts_again = self.restarting.is_due(&self.restart_policy(), code);
        self.state.set(Change::Ended { code, out_of_memory, starts_again });
        self.output.end();
    }

    /// Takes a piece of the output; tells whether more may come.
    async fn take(&self, piece: Option<EngineResult<Written>>) -> bool {
        match piece {
            Some(Ok(Written::Out(bytes))) => self.output.add(Stream::Out, bytes).await,
            Some(Ok(Written::Error(bytes))) => self.output.add(Stream::Error, bytes).await,
            Some(Err(_)) | None => return false,
        }
        true
    }

    /// Writes to the input of the main command; what it does not read is lost.
    pub(super) async fn write(&self, bytes: &[u8]) {
        let mut input = self.input.lock().await;
        if let Some(writer) = input.as_mut() {
            let written = async {
                writer.write_all(bytes).await?;
                writer.flush().await
            };
            if written.await.is_err() {
                input.take();
            }
        }
    }

    /// Ends the input of the main command.
    pub(super) async fn end_input(&self) {
        if self.has_terminal() {
            return;
        }
        if let Some(mut writer) = self.input.lock().await.take() {
            let _ = writer.shutdown().await;
        }
    }

    /// Sends a signal to the main command; `SIGKILL` ends every process.
    pub(super) async fn signal(&self, signal: i32) -> Result<(), Refusal> {
        self.tell("kill", &[("signal", &signal.to_string())]);
        if signal == libc::SIGKILL {
            return Ok(self.session.signal_all(libc::SIGKILL).await?);
        }
        if let Some(handle) = self.handle() {
            handle.signal(signal).await?;
        }
        Ok(())
    }

    /// Gives the terminal of the main command another size.
    pub(super) async fn resize(&self, size: WindowSize) -> Result<(), Refusal> {
        match self.handle() {
            Some(handle) => Ok(handle.resize(size).await?),
            None => Err(Refusal::conflict(format!("Container {} is not running", self.id))),
        }
    }

    /// Stops the main command: it is asked to end, and killed when it has not within a time (in
    /// seconds; negative is without end). Tells whether it ran.
    pub(super) async fn stop(
        &self,
        signal: Option<i32>,
        seconds: Option<i64>,
    ) -> Result<bool, Refusal> {
        let _turn = self.turn.lock().await;
        let state = self.state.now();
        if !state.status.is_alive() {
            return Ok(false);
        }
        self.restarting.give_up();
        if state.status == Status::Restarting {
            self.state.set(Change::StaysEnded);
            return Ok(true);
        }
        if state.status == Status::Paused {
            self.session.signal_all(libc::SIGCONT).await?;
            self.state.set(Change::Resumed);
        }
        let asked = self.body.stop_signal.as_deref().filter(|name| !name.is_empty());
        let own = asked.or(Some(self.image.config.service.stop_signal.as_str()));
        let own = own.filter(|name| !name.is_empty());
        let signal = match (signal, own) {
            (Some(signal), _) => signal,
            (None, Some(name)) => command::signal(name)?,
            (None, None) => libc::SIGTERM,
        };
        let seconds = seconds.or(self.body.stop_timeout).unwrap_or(STOP);
        let ends = state.ends;
        let ended = self.state.until(|state| state.ends > ends);
        tokio::pin!(ended);
        let until = match u64::try_from(seconds) {
            Ok(seconds) => Some(Instant::now() + Duration::from_secs(seconds)),
            Err(_) => None,
        };
        if seconds != 0 {
            self.signal(signal).await?;
            if self.has_terminal() && timeout(HANG_UP, &mut ended).await.is_ok() {
                return Ok(true);
            }
            if self.has_terminal() {
                self.signal(libc::SIGHUP).await?;
            }
        }
        let has_ended = match until {
            Some(until) => timeout_at(until, &mut ended).await.is_ok(),
            None => {
                (&mut ended).await;
                true
            }
        };
        if !has_ended {
            self.signal(libc::SIGKILL).await?;
            ended.await;
        }
        Ok(true)
    }

    /// Holds all processes, or lets them go on.
    pub(super) async fn pause(&self, hold: bool) -> Result<(), Refusal> {
        let _turn = self.turn.lock().await;
        let (id, status) = (&self.id, self.state.now().status);
        match (hold, status) {
            (true, Status::Running) => {
                self.session.signal_all(libc::SIGSTOP).await?;
                self.state.set(Change::Paused);
                self.tell("pause", &[]);
            }
            (false, Status::Paused) => {
                self.session.signal_all(libc::SIGCONT).await?;
                self.state.set(Change::Resumed);
                self.tell("unpause", &[]);
            }
            (true, Status::Paused) => {
                return Err(Refusal::conflict(format!("Container {id} is already paused")));
            }
            (true, _) => {
                return Err(Refusal::conflict(format!("Container {id} is not running")));
            }
            (false, _) => {
                return Err(Refusal::conflict(format!("Container {id} is not paused")));
            }
        }
        Ok(())
    }
}

/// Returns the host name of a container: what was asked for, or the beginning of its id.
pub(super) fn hostname(body: &ContainerCreateBody, id: &str) -> String {
    let asked = body.hostname.clone().filter(|name| !name.is_empty());
    asked.unwrap_or_else(|| id[..12].to_owned())
}

/// A main command under way.
pub(super) struct Run {
    output: BoxStream<'static, EngineResult<Written>>,
    handle: Arc<dyn ExecHandle>,
}

/// Reads the size of a terminal, lines first; `None` where it has no lines or no columns.
pub(super) fn window(size: Option<&[usize]>) -> Option<WindowSize> {
    let [rows, columns] = size? else { return None };
    let size = |number: usize| u16::try_from(number).ok().filter(|number| *number > 0);
    Some(WindowSize { rows: size(*rows)?, columns: size(*columns)? })
}
