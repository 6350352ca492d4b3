//! Running a script in a container that is closed off from the host.
//!
//! What the container needs comes over its standard input, which stays open as long as this process
//! lives: at its end a watcher in the container kills all that runs there. So a container never
//! outlives its run, even where imgforge is killed.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, Ipam, IpamConfig, NetworkCreateRequest,
};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptions, InspectContainerOptions,
    KillContainerOptionsBuilder, ListContainersOptionsBuilder, StartContainerOptions,
    WaitContainerOptions,
};
use futures_util::StreamExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use crate::engine::{
    EngineError, LogSink, Result, SandboxEnd, SandboxNetwork, SandboxRequest, label,
};
use crate::recipe::shell_quote;

use super::DockerEngine;
use super::errors::{failed, is_not_found};

const ACTION: &str = "run a sandbox";

/// What tests that run as root need, of Docker's default set. Left out: raw sockets, device nodes,
/// other roots, file capabilities and the audit log.
const CAPABILITIES: [&str; 8] =
    ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID"];

/// The network of [`SandboxNetwork::SilentPeer`].
const SILENT_NETWORK: &str = "imgforge-silent";

/// How long a killed container may take to end.
const KILL_GRACE: Duration = Duration::from_secs(20);

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
        let body = self.body(request, cpus);
        let id = match self.docker.create_container(None::<CreateContainerOptions>, body).await {
            Ok(created) => created.id,
            Err(error) if is_not_found(&error) => {
                return Err(EngineError::NoSuchImage { reference: request.image.clone() });
            }
            Err(error) => return Err(failed("create a sandbox", error)),
        };
        let end = self.run_to_end(&id, request, log, control).await;
        let removed = self.remove_container(&id).await;
        let end = end?;
        removed?;
        Ok(end)
    }

    fn body(&self, request: &SandboxRequest, cpus: Option<usize>) -> ContainerCreateBody {
        let network = match request.network {
            SandboxNetwork::None => "none",
            SandboxNetwork::SilentPeer => SILENT_NETWORK,
            SandboxNetwork::Bridge => "bridge",
            SandboxNetwork::Host => "host",
        };
        let own = request.network != SandboxNetwork::Host;
        let mut labels: HashMap<String, String> = request.labels.clone().into_iter().collect();
        labels.insert(label::SCRATCH.to_owned(), self.owner.clone());
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
                security_opt: Some(vec!["no-new-privileges".to_owned()]),
                extra_hosts: own.then_some(hosts),
                sysctls: own.then(|| HashMap::from(sysctls)),
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
        log: &dyn LogSink,
        control: &dyn LogSink,
    ) -> Result<SandboxEnd> {
        let options = AttachContainerOptionsBuilder::new()
            .stdin(true)
            .stdout(true)
            .stderr(true)
            .stream(true)
            .build();
        // Before the start, so that nothing is missed.
        let attached = self.docker.attach_container(id, Some(options)).await;
        let attached = attached.map_err(|error| failed(ACTION, error))?;
        let (mut output, mut input) = (attached.output, attached.input);
        let started = self.docker.start_container(id, None::<StartContainerOptions>).await;
        started.map_err(|error| failed("start a sandbox", error))?;
        let deadline = Instant::now() + request.time_limit;
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
        let received = tokio::time::timeout_at(deadline, &mut both).await;
        let timed_out = received.is_err();
        match received {
            Ok(received) => received.map_err(|error| failed(ACTION, error))?,
            Err(_) => {
                self.kill(id).await?;
                // What was printed until then; a process in the kernel's hands may hold the end up.
                let _ = tokio::time::timeout(KILL_GRACE, &mut both).await;
            }
        }
        let code = self.exit_code(id).await?;
        let state = self.docker.inspect_container(id, None::<InspectContainerOptions>).await;
        let state = state.map_err(|error| failed("look at a sandbox", error))?.state;
        let out_of_memory = state.and_then(|state| state.oom_killed).unwrap_or(false);
        Ok(if timed_out {
            SandboxEnd::TimedOut
        } else if out_of_memory {
            SandboxEnd::OutOfMemory(code)
        } else if code == 137 || code == 143 {
            SandboxEnd::Killed(code)
        } else {
            SandboxEnd::Exited(code)
        })
    }

    async fn exit_code(&self, id: &str) -> Result<i64> {
        let mut waited = self.docker.wait_container(id, None::<WaitContainerOptions>);
        match tokio::time::timeout(KILL_GRACE, waited.next()).await {
            Ok(Some(Ok(answer))) => Ok(answer.status_code),
            Ok(Some(Err(bollard::errors::Error::DockerContainerWaitError { code, .. }))) => {
                Ok(code)
            }
            Ok(Some(Err(error))) if is_not_found(&error) => Err(lost("somebody removed it")),
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
    async fn ensure_silent_network(&self) -> Result<()> {
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

    pub(super) async fn remove_containers_of_run(&self, run_id: &str) -> Result<Vec<String>> {
        let wanted = format!("{}={run_id}", label::RUN);
        let filters = HashMap::from([("label", vec![wanted.as_str()])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let containers = self.docker.list_containers(Some(options)).await;
        let mut removed = Vec::new();
        for container in
            containers.map_err(|error| failed("list the containers of a run", error))?
        {
            let Some(id) = container.id else { continue };
            self.remove_container(&id).await?;
            removed.push(format!("container {}", id.get(..12).unwrap_or(&id)));
        }
        Ok(removed)
    }
}

fn lost(why: &str) -> EngineError {
    EngineError::Transient { action: ACTION.to_owned(), source: why.to_owned().into() }
}

/// Renders what the container runs: it takes its files from its input, sets the watcher, and becomes
/// the work.
fn bootstrap(request: &SandboxRequest) -> String {
    let mut text = String::from("exec 3<&0 4>&2 </dev/null 2>&1\numask 077\n");
    for (path, bytes) in &request.files {
        let _ = writeln!(text, "head -c {} <&3 >{}", bytes.len(), shell_quote(path));
    }
    // The limit of its own is for an engine behind a network that fell silent.
    let limit = request.time_limit.as_secs() + 300;
    let _ = write!(
        text,
        "umask 022\n(timeout -s KILL {limit} cat <&3; kill -KILL -1) >/dev/null 2>&1 4>&- &\n\
         exec 3<&-\n{}\n",
        request.command
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_container_takes_its_files_and_then_becomes_the_work() {
        let request = SandboxRequest {
            image: "a:1".into(),
            files: vec![("/eval.sh".into(), b"true\n".to_vec())],
            command: "exec /bin/bash /eval.sh".into(),
            time_limit: Duration::from_secs(60),
            memory: None,
            milli_cpus: None,
            pids: None,
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
        (timeout -s KILL 360 cat <&3; kill -KILL -1) >/dev/null 2>&1 4>&- &
        exec 3<&-
        exec /bin/bash /eval.sh
        ");
    }
}
