//! Running a container: the helper starts its first process, watches over it, and cleans up.

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, Signal, WaitOptions};
use rustix::thread::UnshareFlags;

use super::super::passing::{self, Received};
use super::super::protocol::{
    Container, Ends, Identity, KEEP, Network, READY, Response, Step, Storage,
};
use super::failure::{Context as _, During as _, Failure};
use super::init::{Forked, Inherited, fork_first};
use super::kills::Kills;
use super::memory::{self, Memory};
use super::session::Attendants;
use super::{Requester, cgroup, ends, init, remove, root};
use crate::engine::Quota;
use crate::engine::meter::{Meter, Reading};

/// Runs a container to its end.
pub(super) fn run(
    request: Container,
    identity: &Identity,
    requester: &mut Requester,
) -> Result<Response, Failure> {
    let mut files = Vec::new();
    for (path, size) in &request.files {
        let mut bytes = vec![0; *size];
        requester.0.read_exact(&mut bytes).at("take the file", path)?;
        files.push(bytes);
    }
    if request.ends == Ends::Pipes {
        let input = requester.descriptor().because("take the input")?;
        rustix::stdio::dup2_stdin(&input).because("take the input")?;
    }
    rustix::process::chdir(&request.root.snapshots).at("change to", &request.root.snapshots)?;
    let mut group = cgroup::Group::make(&request.limits, identity);
    let kills = (!group.exists()).then(Kills::now);
    let ended = start(&request, identity, &files, &group, requester).and_then(|mut started| {
        let meter = meter(&request, &started);
        let measured = !group.exists() && crate::owner::proc_is_ours();
        let memory = request.limits.memory.filter(|_| measured);
        let memory = memory.map(|limit| Memory::new(limit, started.pid));
        let caller = if request.command.is_empty() {
            started.tell_ready(requester, &group.warnings)?;
            // What a killed attendant leaves is waited for here: the first process of the machine may
            // never do it.
            rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
                .because("keep a session")?;
            Caller::Requests(Attendants::new(&request, identity, &group, started.pid))
        } else if request.ends.are_held() {
            Caller::Signals
        } else {
            Caller::Waits
        };
        watch(started, requester, caller, meter, memory)
    });
    let (code, over_memory, from_outside) = match &ended {
        Ok(ended) => (Some(ended.code), ended.over_memory, ended.from_outside),
        Err(_) => (None, false, false),
    };
    let out_of_memory = match kills {
        // A command of a session tells its own; the end of the session is another thing, unless the
        // kernel took the first process too: files in memory are nobody's, and stay.
        _ if request.command.is_empty() && !from_outside => over_memory,
        None => group.memory_kills() > 0,
        Some(kills) => over_memory || kills.may_be_of(code),
    };
    let warnings = std::mem::take(&mut group.warnings);
    group.remove();
    if !request.root.is_there() {
        return Ok(Response::Vanished);
    }
    let keeps = ended.as_ref().is_ok_and(|ended| ended.keeps);
    if request.root.throw_away && !keeps {
        remove::tree(&request.root.scratch)?;
    }
    let Watched { code, killed, over, unkillable, .. } = ended?;
    Ok(Response::Ended { code, out_of_memory, killed, over, unkillable, warnings })
}

struct Started {
    pid: rustix::process::Pid,
    failures: std::io::PipeReader,
    /// What came of `failures` by now.
    failed: Vec<u8>,
    /// Its end would be the container's.
    _go: std::io::PipeWriter,
}

impl Started {
    /// Waits until the container of a session is there, and tells the engine, with the limits that could not
    /// be set. Where it is not, the failure is told with the end.
    fn tell_ready(
        &mut self,
        requester: &mut Requester,
        warnings: &[String],
    ) -> Result<(), Failure> {
        let mut first = [0];
        let count = self.failures.read(&mut first).because("start a container")?;
        if first[..count] == [READY] {
            // An engine that is not there any more is seen while the container is watched.
            let mut said = first.to_vec();
            said.extend(serde_json::to_vec(warnings).because("say what is not limited")?);
            said.push(b'\n');
            let _ = requester.0.write_all(&said);
        } else {
            self.failed.extend(&first[..count]);
        }
        Ok(())
    }
}

/// What the engine does while a container runs.
enum Caller<'a> {
    /// It waits.
    Waits,
    /// It sends signals for the command.
    Signals,
    /// It sends requests, each over a socket of its own.
    Requests(Attendants<'a>),
}

fn start(
    request: &Container,
    identity: &Identity,
    files: &[Vec<u8>],
    group: &cgroup::Group,
    requester: &Requester,
) -> Result<Started, Failure> {
    let action = "start a container";
    let (go, mut set_go) = std::io::pipe().because(action)?;
    let (failures, set_failures) = std::io::pipe().because(action)?;
    match fork_first().because("make a process namespace").during(Step::Namespaces)? {
        Forked::Child => {
            drop((set_go, failures));
            let mut flags = UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
            if !matches!(request.network, Network::Host | Network::Shared) {
                flags |= UnshareFlags::NEWNET;
            }
            // SAFETY: the helper has one thread, and shares no file descriptor table.
            let unshared = unsafe { rustix::thread::unshare_unsafe(flags) };
            let inherited = Inherited {
                go,
                failures: set_failures,
                group: group.entry(),
                engine: requester.0.as_fd(),
            };
            if let Err(failure) = unshared.because("make namespaces").during(Step::Namespaces) {
                let answer = serde_json::to_vec(&Response::from(failure)).unwrap_or_default();
                let mut failures = inherited.failures;
                let _ = failures.write_all(&answer);
                std::process::exit(255);
            }
            init::main(request, identity, files, inherited)
        }
        Forked::Parent(pid) => {
            drop((go, set_failures));
            set_go.write_all(&[1]).because(action)?;
            // The command's ends are gone when the container is.
            init::close_ends().because(action)?;
            Ok(Started { pid, failures, failed: Vec::new(), _go: set_go })
        }
    }
}

/// Measures what the container writes: the upper directory, or its copy of all layers beyond these.
fn meter(request: &Container, started: &Started) -> Option<Meter> {
    let root = &request.root;
    let directory = match root.storage {
        Storage::Overlay => root::UPPER,
        Storage::Copy => root::TREE,
    };
    let first = u32::try_from(started.pid.as_raw_nonzero().get()).ok();
    let meter = Meter::new(request.quotas, vec![root.scratch.join(directory)], first)?;
    Some(match root.storage {
        Storage::Overlay => meter,
        Storage::Copy => {
            let lowers = root.lowers.iter().map(String::as_str).chain([root::LOWEST]);
            meter.without(&lowers.map(PathBuf::from).collect::<Vec<_>>())
        }
    })
}

/// How a container ended.
struct Watched {
    code: i64,
    /// Whether the helper or somebody on the host killed it.
    killed: bool,
    /// Whether it was killed, and not by the helper.
    from_outside: bool,
    /// The helper killed it because a command of it could not be killed.
    unkillable: bool,
    /// The helper killed it because of this.
    over: Option<Quota>,
    /// The helper killed it because it had too much memory.
    over_memory: bool,
    /// The engine asked for what the container changed.
    keeps: bool,
}

impl Caller<'_> {
    /// Tells whether it asked for what the container changed.
    fn keeps(&self) -> bool {
        matches!(self, Caller::Requests(attendants) if attendants.keeps)
    }

    /// Does what the engine asks for; tells whether it asked for something, and did not turn away.
    fn serve(
        &mut self,
        requester: &mut Requester,
        first: rustix::process::Pid,
    ) -> Result<bool, Failure> {
        match self {
            Caller::Waits => Ok(false),
            Caller::Signals => {
                let mut number = [0];
                let is_one = requester.0.read(&mut number).is_ok_and(|count| count == 1);
                if is_one {
                    ends::signal(first, number[0]).because("signal a container")?;
                }
                Ok(is_one)
            }
            Caller::Requests(attendants) => match passing::receive(&requester.0) {
                Ok(Received::Descriptor(socket)) => {
                    attendants.serve(socket, requester);
                    Ok(true)
                }
                Ok(Received::Bytes(bytes)) if bytes == [KEEP] => {
                    attendants.keeps = true;
                    Ok(true)
                }
                _ => Ok(false),
            },
        }
    }
}

/// Waits for the first process, does what the engine asks for meanwhile, and kills it when the engine
/// turns away, or it wrote too much.
fn watch(
    started: Started,
    requester: &mut Requester,
    mut caller: Caller<'_>,
    mut meter: Option<Meter>,
    memory: Option<Memory>,
) -> Result<Watched, Failure> {
    let action = "watch over a container";
    let pidfd = rustix::process::pidfd_open(started.pid, PidfdFlags::empty()).because(action)?;
    let (mut killed, mut over, mut over_memory, mut unkillable) = (false, None, false, false);
    loop {
        let wait = match meter.as_mut().filter(|_| !killed).map(Meter::read) {
            Some(Reading::Over(quota)) => {
                (killed, over) = (true, Some(quota));
                rustix::process::kill_process(started.pid, Signal::KILL)
                    .because("kill a container")?;
                None
            }
            Some(Reading::Again(wait)) => Some(wait),
            None => None,
        };
        let wait = match memory.as_ref().filter(|_| !killed) {
            Some(memory) if memory.is_over() => {
                (killed, over_memory) = (true, true);
                rustix::process::kill_process(started.pid, Signal::KILL)
                    .because("kill a container")?;
                None
            }
            Some(_) => Some(wait.map_or(memory::TICK, |wait| wait.min(memory::TICK))),
            None => wait,
        };
        let wait = match &caller {
            Caller::Requests(attendants) => wait.into_iter().chain(attendants.tick(killed)).min(),
            Caller::Waits | Caller::Signals => wait,
        };
        let wait = wait.map(|wait| Timespec::try_from(wait).expect("a wait is short"));
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        if !killed {
            fds.push(PollFd::new(&requester.0, PollFlags::IN | PollFlags::RDHUP));
        }
        if let Caller::Requests(attendants) = &caller {
            let ends = attendants.descriptors().map(|pidfd| PollFd::new(pidfd, PollFlags::IN));
            fds.extend(ends);
        }
        match poll(&mut fds, wait.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error).because(action),
        }
        if !fds[0].revents().is_empty() {
            break;
        }
        let is_asked = !killed && fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        drop(fds);
        if let Caller::Requests(attendants) = &mut caller {
            attendants.reap();
            if attendants.unkillable && !killed {
                (killed, unkillable) = (true, true);
                rustix::process::kill_process(started.pid, Signal::KILL)
                    .because("kill a container")?;
                continue;
            }
        }
        if is_asked {
            if caller.serve(requester, started.pid)? {
                continue;
            }
            killed = true;
            rustix::process::kill_process(started.pid, Signal::KILL).because("kill a container")?;
        }
    }
    let waited = rustix::process::waitpid(Some(started.pid), WaitOptions::empty());
    let (_, status) = waited.because(action)?.expect("the container ended");
    let mut text = started.failed;
    let mut failures = started.failures;
    failures.read_to_end(&mut text).because(action)?;
    if !text.is_empty() && !killed {
        return Err(match serde_json::from_slice(&text) {
            Ok(Response::Failed { step, action, errno, reason }) => {
                Failure::again(step, action, errno, reason)
            }
            _ => Failure::new(action, String::from_utf8_lossy(&text)),
        });
    }
    // Nothing in the container can kill its first process, which says how the command ended.
    let signal = status.terminating_signal();
    let code = status.exit_status().or(signal.map(|signal| 128 + signal));
    let from_outside = signal.is_some() && !killed;
    let killed = killed || from_outside;
    let (code, keeps) = (i64::from(code.unwrap_or(255)), caller.keeps());
    Ok(Watched { code, killed, from_outside, unkillable, over, over_memory, keeps })
}
