//! Running a script in a container that is closed off from the host.
//!
//! What the container needs comes over its standard input, which stays open as long as this process
//! lives: a few seconds after its end a watcher in the container kills all that runs there. So a
//! container does not outlive its run, even where imgforge is killed.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::models::{
    ContainerCreateBody, ContainerState, HostConfig, HostConfigLogConfig, Ipam, IpamConfig,
    NetworkCreateRequest, ResourcesUlimits,
};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptions, EventsOptionsBuilder,
    InspectContainerOptions, KillContainerOptionsBuilder, StartContainerOptions,
    WaitContainerOptions,
};
use futures_util::StreamExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use crate::engine::quota::LogQuota;
use crate::engine::{
    CAPABILITIES, EngineError, LogSink, NoLog, Quota, Result, SandboxEnd, SandboxNetwork,
    SandboxRequest,
};
use crate::quote::shell_quote;

use super::DockerEngine;
use super::errors::{failed, is_not_found};

const ACTION: &str = "run a sandbox";

/// The network of [`SandboxNetwork::SilentPeer`].
const SILENT_NETWORK: &str = "imgforge-silent";

/// How long a killed container may take to end.
const KILL_GRACE: Duration = Duration::from_secs(20);

/// How long a container runs on whose input has ended. One that ended this much later than its
/// output did was cut off from this process.
const WATCHER_GRACE: Duration = Duration::from_secs(5);

impl DockerEngine {
    pub(super) async fn run_in_sandbox(
        &self,
        request: &SandboxRequest,
        log: &dyn LogSink,
        control: &dyn LogSink,
    ) -> Result<SandboxEnd> {
        if request.network == SandboxNetwork::SilentPeer {
            self.ensure_silent_network().await?;
        }
        let cpus = match request.milli_cpus {
            Some(_) => Some(self.facts().await?.cpus),
            None => None,
        };
        loop {
            let ipv6 = !self.without_ipv6.load(Ordering::Relaxed);
            let mut started = false;
            let body = self.body(request, cpus, ipv6);
            let end = self.run_once(request, body, &mut started, log, control).await;
            let asked = ipv6 && request.network != SandboxNetwork::Host;
            if end.is_ok() || started || !asked || !self.lacks_ipv6(&request.image).await {
                return end;
            }
            self.without_ipv6.store(true, Ordering::Relaxed);
        }
    }

    /// Tells whether containers of the engine have no IPv6. On a host that was booted with
    /// `ipv6.disable=1` none starts that asks for it on loopback; the engine has no word for that.
    pub(super) async fn lacks_ipv6(&self, image: &str) -> bool {
        let test = "[ -e /proc/sys/net/ipv6/conf/lo/disable_ipv6 ]";
        let command = ["sh", "-c", test].map(str::to_owned);
        matches!(self.run_command(image, &command, &NoLog).await, Ok(1))
    }

    async fn run_once(
        &self,
        request: &SandboxRequest,
        body: ContainerCreateBody,
        started: &mut bool,
        log: &dyn LogSink,
        control: &dyn LogSink,
    ) -> Result<SandboxEnd> {
        let id = match self.docker.create_container(None::<CreateContainerOptions>, body).await {
            Ok(created) => created.id,
            Err(error) if is_not_found(&error) => {
                return Err(EngineError::NoSuchImage { reference: request.image.clone() });
            }
            Err(error) => return Err(failed("create a sandbox", error)),
        };
        let end = self.run_to_end(&id, request, started, log, control).await;
        let removed = self.remove_container(&id).await;
        let end = end?;
        removed?;
        Ok(end)
    }

    pub(super) fn body(
        &self,
        request: &SandboxRequest,
        cpus: Option<usize>,
        ipv6: bool,
    ) -> ContainerCreateBody {
        let network = match request.network {
            SandboxNetwork::None => "none",
            SandboxNetwork::SilentPeer => SILENT_NETWORK,
            SandboxNetwork::Bridge => "bridge",
            SandboxNetwork::Host => "host",
        };
        let own = request.network != SandboxNetwork::Host;
        let mut labels: HashMap<String, String> = request.labels.clone().into_iter().collect();
        labels.extend(self.scratch_labels());
        // Without a network an engine gives neither the own host name nor `::1`.
        let names = request.loopback_names.iter().map(String::as_str).chain(["sandbox"]);
        let hosts = names.map(|name| format!("{name}:127.0.0.1")).collect();
        let sysctls = [("net.ipv6.conf.lo.disable_ipv6".to_owned(), "0".to_owned())];
        let memory = request.memory.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        let nano_cpus = request.milli_cpus.zip(cpus).map(|(wanted, cpus)| {
            i64::try_from(wanted.min(cpus as u64 * 1000)).unwrap_or(1000) * 1_000_000
        });
        ContainerCreateBody {
            image: Some(request.image.clone()),
            hostname: own.then(|| "sandbox".to_owned()),
            user: Some("0:0".to_owned()),
            entrypoint: Some(vec!["/bin/sh".to_owned(), "-c".to_owned()]),
            cmd: Some(vec![bootstrap(request)]),
            env: Some(request.variables.iter().map(|(name, v)| format!("{name}={v}")).collect()),
            open_stdin: Some(true),
            stdin_once: Some(true),
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            labels: Some(labels),
            host_config: Some(HostConfig {
                network_mode: Some(network.to_owned()),
                init: Some(true),
                memory,
                memory_swap: memory,
                nano_cpus,
                pids_limit: request.pids.map(|pids| i64::try_from(pids).unwrap_or(i64::MAX)),
                cap_drop: Some(vec!["ALL".to_owned()]),
                cap_add: Some(CAPABILITIES.map(str::to_owned).to_vec()),
                ulimits: request.quotas.file.map(|file| {
                    let most = i64::try_from(file).ok();
                    let name = Some("fsize".to_owned());
                    vec![ResourcesUlimits { name, soft: most, hard: most }]
                }),
                security_opt: Some(vec!["no-new-privileges".to_owned()]),
                extra_hosts: own.then_some(hosts),
                sysctls: (own && ipv6).then(|| HashMap::from(sysctls)),
                // The output is on our disk; the engine need not keep it as well.
                log_config: Some(HostConfigLogConfig {
                    typ: Some("none".to_owned()),
                    ..HostConfigLogConfig::default()
                }),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        }
    }

    async fn run_to_end(
        &self,
        id: &str,
        request: &SandboxRequest,
        started: &mut bool,
        log: &dyn LogSink,
        control_log: &dyn LogSink,
    ) -> Result<SandboxEnd> {
        let options = AttachContainerOptionsBuilder::new()
            .stdin(true)
            .stdout(true)
            .stderr(true)
            .stream(true)
            .build();
        // Before the start, so that nothing is missed.
        let attached = self.docker.attach_container(id, Some(options)).await;
        let attached = match attached {
            Ok(attached) => attached,
            Err(error) => return Err(self.lost_or(id, ACTION, error).await),
        };
        let (mut output, mut input) = (attached.output, attached.input);
        if let Err(error) = self.docker.start_container(id, None::<StartContainerOptions>).await {
            return Err(self.lost_or(id, "start a sandbox", error).await);
        }
        *started = true;
        let began = Instant::now();
        let deadline = began + request.time_limit;
        let written = LogQuota::new(&request.quotas);
        let (log, said) = (written.bound(log), written.bound(control_log));
        let control = Control::new(&said);
        let send = async {
            for (_, bytes) in &request.files {
                input.write_all(bytes).await?;
            }
            input.flush().await
        };
        let receive = async {
            while let Some(piece) = output.next().await {
                match piece? {
                    LogOutput::StdErr { message } => control.write(&message),
                    other => log.write(&other.into_bytes()),
                }
            }
            Ok(())
        };
        // A container that ends early does not take all of its input: its end says more.
        let both = async {
            let (_sent, received) = tokio::join!(send, receive);
            received
        };
        tokio::pin!(both);
        let (mut timed_out, mut over) = (false, None);
        let gauge = self.gauge();
        let received = tokio::select! {
            received = &mut both => Some(received),
            () = tokio::time::sleep_until(deadline) => {
                timed_out = true;
                None
            }
            () = written.over() => None,
            quota = gauge.measure(id, request.quotas, control_log) => {
                over = Some(quota);
                None
            }
        };
        match received {
            Some(received) => received.map_err(|error| failed(ACTION, error))?,
            None => {
                // What was printed until then is read meanwhile: the engine waits for whoever does not
                // read. A process in the kernel's hands may hold the end up.
                let rest = tokio::time::timeout(KILL_GRACE, &mut both);
                let (killed, _) = tokio::join!(self.kill(id), rest);
                killed?;
            }
        }
        let heard = began.elapsed();
        let ended = control.finish();
        let code = self.exit_code(id).await?;
        let state = match self.docker.inspect_container(id, None::<InspectContainerOptions>).await {
            Ok(found) => found.state.unwrap_or_default(),
            Err(error) if is_not_found(&error) => return Err(lost(REMOVED)),
            Err(error) => return Err(failed("look at a sandbox", error)),
        };
        if timed_out {
            return Ok(SandboxEnd::TimedOut);
        }
        if let Some(quota) = written.is_over().then_some(Quota::Log).or(over) {
            return Ok(SandboxEnd::OverQuota(quota));
        }
        if state.oom_killed == Some(true) {
            return Ok(SandboxEnd::OutOfMemory(code));
        }
        // Without the word at the end the work killed what would say it, or somebody else did, or
        // this process was cut off and does not know all that was printed.
        let cut_off = ran(&state).is_none_or(|ran| ran > heard + WATCHER_GRACE / 2);
        let itself = ended || code > 128 && !cut_off && !self.was_killed(id, &state).await;
        Ok(if itself { SandboxEnd::Exited(code) } else { SandboxEnd::Killed(code) })
    }

    /// Tells whether somebody had the engine kill a container. A script that ends with the code of a
    /// signal does so by itself: nothing in a container can make the engine say otherwise. An engine
    /// that does not answer leaves it open, which is no end by itself.
    async fn was_killed(&self, id: &str, state: &ContainerState) -> bool {
        // By the engine's own clock, whose past is answered at once.
        let (Some(started), Some(finished)) = (time(&state.started_at), time(&state.finished_at))
        else {
            return true;
        };
        let filters =
            HashMap::from([("container", vec![id]), ("event", vec!["kill", "stop", "destroy"])]);
        let options = EventsOptionsBuilder::new()
            .since(&started.as_second().to_string())
            .until(&(finished.as_second() + 1).to_string())
            .filters(&filters)
            .build();
        let mut events = self.docker.events(Some(options));
        match tokio::time::timeout(KILL_GRACE, events.next()).await {
            Ok(None) => false,
            Ok(Some(_)) | Err(_) => true,
        }
    }

    /// Classes an error of a container that was made a moment ago: where somebody removed it, it is
    /// lost.
    async fn lost_or(&self, id: &str, action: &str, error: bollard::errors::Error) -> EngineError {
        if is_not_found(&error) {
            let found = self.docker.inspect_container(id, None::<InspectContainerOptions>).await;
            if found.is_err_and(|error| is_not_found(&error)) {
                return lost(REMOVED);
            }
        }
        failed(action, error)
    }

    async fn exit_code(&self, id: &str) -> Result<i64> {
        let mut waited = self.docker.wait_container(id, None::<WaitContainerOptions>);
        match tokio::time::timeout(KILL_GRACE, waited.next()).await {
            Ok(Some(Ok(answer))) => Ok(answer.status_code),
            Ok(Some(Err(bollard::errors::Error::DockerContainerWaitError { code, .. }))) => {
                Ok(code)
            }
            Ok(Some(Err(error))) if is_not_found(&error) => Err(lost(REMOVED)),
            Ok(Some(Err(error))) => Err(failed(ACTION, error)),
            Ok(None) => Err(lost("the engine ended the wait without an exit code")),
            Err(_) => Err(lost("its output ended and it did not")),
        }
    }

    async fn kill(&self, id: &str) -> Result<()> {
        let options = KillContainerOptionsBuilder::new().signal("KILL").build();
        match self.docker.kill_container(id, Some(options)).await {
            Ok(()) => Ok(()),
            // It ended at that very moment.
            Err(bollard::errors::Error::DockerResponseServerError {
                status_code: 404 | 409,
                ..
            }) => Ok(()),
            Err(error) => Err(failed("kill a sandbox", error)),
        }
    }

    /// Makes the network in which nothing answers; several processes may do so at once.
    pub(super) async fn ensure_silent_network(&self) -> Result<()> {
        if self.docker.inspect_network(SILENT_NETWORK, None).await.is_ok() {
            return Ok(());
        }
        let options = [("enable_icc", "false"), ("inhibit_ipv4", "true")];
        let options = options
            .map(|(name, value)| (format!("com.docker.network.bridge.{name}"), value.to_owned()));
        let created = self.docker.create_network(NetworkCreateRequest {
            name: SILENT_NETWORK.to_owned(),
            internal: Some(true),
            ipam: Some(Ipam {
                config: Some(vec![IpamConfig {
                    subnet: Some("10.255.0.0/16".to_owned()),
                    ip_range: Some("10.255.0.0/17".to_owned()),
                    ..IpamConfig::default()
                }]),
                ..Ipam::default()
            }),
            options: Some(HashMap::from(options)),
            ..NetworkCreateRequest::default()
        });
        match created.await {
            Ok(_) => Ok(()),
            Err(error) => match self.docker.inspect_network(SILENT_NETWORK, None).await {
                Ok(_) => Ok(()),
                Err(_) => Err(failed("create the network of silent peers", error)),
            },
        }
    }
}

/// What a container says when its work has ended, as `printf` takes it.
const END: &str = r"imgforge-end\n";

/// The control channel of a container: passes on what comes, but for the word at the end.
struct Control<'a> {
    sink: &'a dyn LogSink,
    held: Mutex<(Vec<u8>, bool)>,
}

impl<'a> Control<'a> {
    fn new(sink: &'a dyn LogSink) -> Self {
        Control { sink, held: Mutex::default() }
    }

    fn write(&self, bytes: &[u8]) {
        let end = END.replace(r"\n", "\n").into_bytes();
        let mut held = self.held.lock().expect("no writer panics");
        let (held, ended) = &mut *held;
        held.extend_from_slice(bytes);
        while let Some(at) = memchr::memmem::find(held, &end) {
            held.drain(at..at + end.len());
            *ended = true;
        }
        // What may be the beginning of the word waits for the rest.
        let most = held.len().min(end.len() - 1);
        let waits = (0..=most).rev().find(|count| held.ends_with(&end[..*count])).unwrap_or(0);
        let passed = held.len() - waits;
        if passed > 0 {
            self.sink.write(&held[..passed]);
            held.drain(..passed);
        }
    }

    /// Passes the rest on; tells whether the word came.
    fn finish(&self) -> bool {
        let mut held = self.held.lock().expect("no writer panics");
        let (held, ended) = &mut *held;
        if !held.is_empty() {
            self.sink.write(held);
            held.clear();
        }
        *ended
    }
}

/// Returns for how long a container ran, by the engine's clock.
fn ran(state: &ContainerState) -> Option<Duration> {
    let ran = time(&state.finished_at)?.duration_since(time(&state.started_at)?);
    ran.try_into().ok()
}

fn time(text: &Option<String>) -> Option<jiff::Timestamp> {
    text.as_deref()?.parse().ok()
}

/// Why a container is lost that is not there any more.
const REMOVED: &str = "somebody removed it";

fn lost(why: &str) -> EngineError {
    EngineError::Transient { action: ACTION.to_owned(), source: why.to_owned().into() }
}

/// Renders what the container runs: it takes its files from its input, sets the watcher, does the
/// work, and says that this is the end.
fn bootstrap(request: &SandboxRequest) -> String {
    let mut text = String::from("exec 3<&0 4>&2 </dev/null 2>&1\numask 077\n");
    for (path, bytes) in &request.files {
        let _ = writeln!(text, "head -c {} <&3 >{}", bytes.len(), shell_quote(path));
    }
    // The limit of its own is for an engine behind a network that fell silent.
    let limit = request.time_limit.as_secs().saturating_add(300);
    let _ = write!(
        text,
        "umask 022\n(timeout -s KILL {limit} cat <&3; sleep {}; kill -KILL -1) >/dev/null 2>&1 4>&- &\n\
         exec 3<&- 2>/dev/null\n(\n{}\n) 2>&1\ncode=$?\nprintf '{END}' >&4\nexit $code\n",
        WATCHER_GRACE.as_secs(),
        request.command.trim_end()
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Quotas;
    use crate::engine::testing::Kept;
    use std::collections::BTreeMap;

    #[test]
    fn the_word_at_the_end_is_heard_and_not_passed_on_however_it_is_cut() {
        let said = b"imgforge: a\nimgforge-enimgforge-end\n";
        for cut in 0..=said.len() {
            let kept = Kept::default();
            let control = Control::new(&kept);
            control.write(&said[..cut]);
            control.write(&said[cut..]);
            assert!(control.finish(), "{cut}");
            assert_eq!(*kept.0.lock().unwrap(), b"imgforge: a\nimgforge-en", "{cut}");
        }
        let kept = Kept::default();
        let control = Control::new(&kept);
        control.write(b"refused\nimgforge-en");
        assert!(!control.finish());
        assert_eq!(*kept.0.lock().unwrap(), b"refused\nimgforge-en");
    }

    #[test]
    fn the_container_takes_its_files_does_the_work_and_says_that_it_ended() {
        let request = SandboxRequest {
            image: "a:1".into(),
            files: vec![("/eval.sh".into(), b"true\n".to_vec())],
            command: "exec /bin/bash /eval.sh".into(),
            time_limit: Duration::from_secs(60),
            memory: None,
            milli_cpus: None,
            pids: None,
            quotas: Quotas::default(),
            network: SandboxNetwork::None,
            loopback_names: Vec::new(),
            variables: BTreeMap::new(),
            labels: BTreeMap::new(),
        };
        insta::assert_snapshot!(bootstrap(&request), @r"
        exec 3<&0 4>&2 </dev/null 2>&1
        umask 077
        head -c 5 <&3 >/eval.sh
        umask 022
        (timeout -s KILL 360 cat <&3; sleep 5; kill -KILL -1) >/dev/null 2>&1 4>&- &
        exec 3<&- 2>/dev/null
        (
        exec /bin/bash /eval.sh
        ) 2>&1
        code=$?
        printf 'imgforge-end\n' >&4
        exit $code
        ");
    }
}
