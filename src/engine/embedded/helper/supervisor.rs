//! Commands of a session: the attendant watches, and the supervisor, in the container, starts the
//! command, adopts what it leaves behind, and kills all of it when it has to.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{DumpableBehavior, Pid, PidfdFlags, Signal, WaitOptions, WaitStatus};
use rustix::thread::ThreadNameSpaceType;
use serde::{Deserialize, Serialize};

use super::super::protocol::{
    Container, Identity, Network, SessionCommand, SessionResponse, Status,
};
use super::command::{NotBecome, become_command};
use super::ends::{self, Taken};
use super::failure::{Context as _, Failure};
use super::init::{Forked, close_ends, fork};
use super::kills::Kills;
use super::namespaces::Namespaces;
use super::{Requester, cgroup, users};
use crate::engine::Outputs;

/// What tells the supervisor to kill everything: the last signal there is, which no program uses.
const KILL_ALL: i32 = 64;

/// How often processes are killed that came of killed ones. A fork bomb outlives it.
const ROUNDS: usize = 200;

/// How long killed processes may take to end.
const KILLING: Duration = Duration::from_secs(10);

/// How long a command may take to end before nothing in its container can make processes any more.
const ALONE: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// What an attendant ends with that cannot kill its command: the helper ends the container then.
pub(super) const UNKILLABLE: i32 = 3;

/// How long the end of a container may take once its processes are killed.
const CONTAINER_END: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };

/// File descriptors below this number may be a command's own.
const FIRST_OWN: i32 = 100;

/// Where a command runs.
pub(super) struct Place<'a> {
    /// The container that was asked for.
    pub container: &'a Container,
    /// Who the helper is.
    pub identity: &'a Identity,
    /// The container's control groups.
    pub group: &'a cgroup::Group,
    /// The container's first process.
    pub first: Pid,
}

/// What the command reads from and writes to.
struct Ends {
    input: Option<OwnedFd>,
    outputs: Vec<OwnedFd>,
}

/// Runs a command to its end: the attendant's part.
pub(super) fn exec(
    command: &SessionCommand,
    place: &Place<'_>,
    requester: &mut Requester,
) -> Result<SessionResponse, Failure> {
    let ends = take_ends(command, requester).because("take the ends of a command")?;
    let kills_before = place.group.memory_kills();
    let kills = (!place.group.exists()).then(Kills::now);
    let namespaces = Namespaces::of(place.first)?;
    let group = place.group.entry();
    let (mut reports, mut report) = io::pipe().because("start a command")?;
    namespaces.enter(ThreadNameSpaceType::PROCESS_ID)?;
    let supervisor = match fork().because("start a command")? {
        Forked::Child => {
            drop(reports);
            let supervised = Supervised { command, place, ends, requester };
            let answer = supervised.run(&namespaces, group);
            let answer = answer.unwrap_or_else(|failure| Report::Answer(failure.into()));
            let text = serde_json::to_vec(&answer).expect("an answer is valid JSON");
            let _ = report.write_all(&text);
            // SAFETY: as for the attendant, which this process was forked from.
            unsafe { libc::_exit(0) }
        }
        Forked::Parent(pid) => pid,
    };
    drop((ends, report, group));
    watch(supervisor, requester, place.group)?;
    let mut text = Vec::new();
    reports.read_to_end(&mut text).because("hear of a command")?;
    let killed = SessionResponse::Exited {
        status: Status::Signal(libc::SIGKILL),
        out_of_memory: false,
        cpu_micros: 0,
    };
    let answer = match serde_json::from_slice(&text) {
        Ok(Report::Answer(answer)) => answer,
        Ok(Report::Unkillable) => end_with_the_session(UNKILLABLE),
        // The supervisor was killed: with the container, or by a command of it, which it takes along.
        Err(_) if has_ended(&namespaces, CONTAINER_END) => end_with_the_session(0),
        Err(_) => killed,
    };
    Ok(match answer {
        SessionResponse::Exited { status, cpu_micros, .. } => {
            let code = match status {
                Status::Code(code) => code,
                Status::Signal(signal) => 128 + signal,
            };
            let out_of_memory = match kills {
                None => place.group.memory_kills() > kills_before,
                Some(kills) => kills.may_be_of(Some(code.into())),
            };
            SessionResponse::Exited { status, out_of_memory, cpu_micros }
        }
        other => other,
    })
}

/// Ends the attendant without an answer: the end of the session is the answer.
fn end_with_the_session(code: i32) -> ! {
    // SAFETY: as for the attendant's other end.
    unsafe { libc::_exit(code) }
}

fn take_ends(command: &SessionCommand, requester: &Requester) -> io::Result<Ends> {
    let input = command.has_input.then(|| requester.descriptor()).transpose()?;
    let count = match command.outputs {
        Outputs::Separate | Outputs::MergedWithControl(_) => 2,
        Outputs::Merged => 1,
        Outputs::Terminal(_) => 0,
    };
    let outputs = (0..count).map(|_| requester.descriptor()).collect::<io::Result<_>>()?;
    Ok(Ends { input, outputs })
}

/// Waits for the supervisor, and passes on to it what the engine sends.
///
/// A command that is to be killed and does not end makes processes: then the container cannot make
/// any until it has ended. What else runs there sees what it sees when the limit of processes is met.
fn watch(supervisor: Pid, requester: &mut Requester, group: &cgroup::Group) -> Result<(), Failure> {
    let action = "watch over a command";
    let pidfd = rustix::process::pidfd_open(supervisor, PidfdFlags::empty()).because(action)?;
    let send = |signal: i32| {
        // SAFETY: `kill` takes any number; the supervisor is not waited for yet, so the process id is
        // still its own.
        unsafe { libc::kill(supervisor.as_raw_nonzero().get(), signal) };
    };
    let (mut is_there, mut is_killed, mut stopped) = (true, false, None);
    loop {
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        if is_there {
            fds.push(PollFd::new(&requester.0, PollFlags::IN | PollFlags::RDHUP));
        }
        let wait = (is_killed && stopped.is_none()).then_some(&ALONE);
        match poll(&mut fds, wait) {
            Ok(0) => {
                stopped = group.stop_processes();
                continue;
            }
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error).because(action),
        }
        if !fds[0].revents().is_empty() {
            break;
        }
        if fds.get(1).is_some_and(|fd| !fd.revents().is_empty()) {
            let mut number = [0];
            match requester.0.read(&mut number) {
                Ok(1) if i32::from(number[0]) != libc::SIGKILL => send(i32::from(number[0])),
                received => {
                    is_there = received.is_ok_and(|count| count == 1);
                    is_killed = true;
                    send(KILL_ALL);
                }
            }
        }
    }
    rustix::process::waitpid(Some(supervisor), WaitOptions::empty()).because(action)?;
    Ok(())
}

/// Tells whether the container ends within a time.
fn has_ended(namespaces: &Namespaces, wait: Timespec) -> bool {
    let mut fds = [PollFd::new(namespaces.pidfd(), PollFlags::IN)];
    matches!(poll(&mut fds, Some(&wait)), Ok(count) if count > 0)
}

/// What a supervisor says before it ends.
#[derive(Serialize, Deserialize)]
enum Report {
    /// How the command ended, or why it did not start.
    Answer(SessionResponse),
    /// The command was to be killed, and makes processes faster than they can be killed.
    Unkillable,
}

/// What a supervisor works with.
struct Supervised<'a> {
    command: &'a SessionCommand,
    place: &'a Place<'a>,
    ends: Ends,
    requester: &'a Requester,
}

impl Supervised<'_> {
    /// Starts the command and returns how it ended.
    fn run(self, namespaces: &Namespaces, group: cgroup::Entry) -> Result<Report, Failure> {
        let action = "supervise a command";
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).because(action)?;
        // Nothing in the container may look into this process, or reach its program.
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).because(action)?;
        let grouped = group.enter()?;
        let mut wanted = ThreadNameSpaceType::MOUNT
            | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
            | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME;
        if self.place.container.network != Network::Host {
            wanted |= ThreadNameSpaceType::NETWORK;
        }
        namespaces.enter(wanted)?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).because(action)?;
        let container = self.container();
        let identity = self.place.identity;
        let groups = &container.settings.groups;
        let user = match users::resolve_with(&container.user, groups, identity) {
            Ok(user) => user,
            Err(failure) => {
                let reason = failure.text();
                let why =
                    SessionResponse::NotStarted { errno: None, reason, program_missing: false };
                return Ok(Report::Answer(why));
            }
        };
        let terminal = match self.command.outputs {
            Outputs::Terminal(size) => {
                Some(ends::open_terminal(size, &user, identity, self.requester.0.as_fd())?)
            }
            _ => None,
        };
        let taken = Taken::all().because(action)?;
        let (mut failures, set_failures) = io::pipe().because(action)?;
        let me = rustix::process::getpid();
        let command = match fork().because("start the command")? {
            Forked::Child => {
                drop(failures);
                let set_failures = above(set_failures.into()).map(io::PipeWriter::from);
                if let (Ok(()), Ok(mut set_failures)) = (taken.let_go(), set_failures) {
                    let why = self.become_it(&container, &user, grouped, terminal, me);
                    let text = serde_json::to_vec(&why).expect("an answer is valid JSON");
                    let _ = set_failures.write_all(&text);
                }
                // SAFETY: as for the supervisor, which this process was forked from.
                unsafe { libc::_exit(255) }
            }
            Forked::Parent(pid) => pid,
        };
        // What the command and its children hold open is theirs alone.
        drop((self.ends, set_failures, terminal));
        close_ends().because(action)?;
        let mut text = Vec::new();
        failures.read_to_end(&mut text).because(action)?;
        if !text.is_empty() {
            let why = serde_json::from_slice(&text).map(Report::Answer);
            return why.map_err(|error| Failure::new(action, error.to_string()));
        }
        let process = command.as_raw_nonzero().get();
        let text = serde_json::to_vec(&SessionResponse::Started { process });
        // An engine that is not there any more is seen by the attendant.
        let _ = (&self.requester.0).write_all(&text.expect("an answer is valid JSON"));
        supervise(&taken, command)
    }

    /// Returns the container as the command sees it.
    fn container(&self) -> Container {
        let mut container = self.place.container.clone();
        container.command.clone_from(&self.command.command);
        container.env.extend(self.command.env.iter().cloned());
        if let Some(directory) = &self.command.working_dir {
            container.working_dir.clone_from(directory);
        }
        if let Some(user) = &self.command.user {
            container.user.clone_from(user);
        }
        container
    }

    /// Becomes the command; returns only why not.
    fn become_it(
        &self,
        container: &Container,
        user: &users::User,
        grouped: bool,
        terminal: Option<OwnedFd>,
        supervisor: Pid,
    ) -> SessionResponse {
        if let Err(error) = self.set_up(terminal) {
            return Failure::of("set up the ends of the command".to_owned(), &error).into();
        }
        // It does not outlive its supervisor; a change of the user would forget that.
        let tie = || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
                .because("tie the command to its supervisor")?;
            if rustix::process::getppid() != Some(supervisor) {
                return Err(Failure::new("start the command", "its supervisor has ended"));
            }
            Ok(())
        };
        match become_command(container, self.place.identity, user, grouped, tie) {
            NotBecome::Helper(failure) => failure.into(),
            NotBecome::Command { path, is_program, error } => {
                let program_missing = is_program && error.kind() == io::ErrorKind::NotFound;
                let reason = format!("`{path}`: {error}");
                SessionResponse::NotStarted { errno: error.raw_os_error(), reason, program_missing }
            }
        }
    }

    /// Makes what the engine sent the ends of this process.
    fn set_up(&self, terminal: Option<OwnedFd>) -> io::Result<()> {
        if let Some(terminal) = terminal {
            return ends::enter_terminal(&terminal);
        }
        rustix::process::setsid()?;
        if let Some(input) = &self.ends.input {
            rustix::stdio::dup2_stdin(input)?;
        }
        let outputs = &self.ends.outputs;
        rustix::stdio::dup2_stdout(&outputs[0])?;
        match self.command.outputs {
            Outputs::Separate => rustix::stdio::dup2_stderr(&outputs[1])?,
            Outputs::Merged | Outputs::Terminal(_) => {
                rustix::stdio::dup2_stderr(&outputs[0])?;
            }
            Outputs::MergedWithControl(number) => {
                rustix::stdio::dup2_stderr(&outputs[0])?;
                let control = above(outputs[1].try_clone()?)?;
                // SAFETY: what this process has open below `FIRST_OWN`, it does not use any more.
                if unsafe { libc::dup2(super::number(&control), number) } < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
        }
        Ok(())
    }
}

/// Moves a file descriptor to where no command asks for one.
fn above(descriptor: OwnedFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(&descriptor, FIRST_OWN)?)
}

/// Waits for the command, adopts and reaps what comes of it, and passes signals on.
fn supervise(taken: &Taken, command: Pid) -> Result<Report, Failure> {
    let mut ended = None;
    loop {
        let signal = match taken.next() {
            Ok(signal) => signal,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).because("wait for the command"),
        };
        match signal {
            libc::SIGCHLD => {
                reap(command, &mut ended);
            }
            KILL_ALL => {
                if !kill_all(command, &mut ended).because("kill the command")? {
                    return Ok(Report::Unkillable);
                }
            }
            // SAFETY: `kill` takes any number; the group is the command's as long as that is not
            // waited for.
            other => unsafe {
                libc::kill(-command.as_raw_nonzero().get(), other);
            },
        }
        if let Some(status) = ended {
            return Ok(Report::Answer(exited(status)));
        }
    }
}

/// Reaps what has ended; tells whether there are children that live.
fn reap(command: Pid, ended: &mut Option<WaitStatus>) -> bool {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == command => *ended = Some(status),
            Ok(Some(_)) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

/// Kills all descendants until there is none: those of a killed one come to this process. Tells whether
/// that worked.
fn kill_all(command: Pid, ended: &mut Option<WaitStatus>) -> io::Result<bool> {
    // Among hundreds of processes that run, this one would have its turn too seldom. A plain user may
    // not have that.
    let _ = rustix::process::setpriority_process(None, -20);
    let began = Instant::now();
    let mut rounds = 0;
    let mut killed = HashSet::new();
    while rounds < ROUNDS && began.elapsed() < KILLING {
        let mut more = false;
        for process in descendants()? {
            more |= killed.insert(process);
            let _ = rustix::process::kill_process(process, Signal::KILL);
        }
        rounds += usize::from(more);
        if !reap(command, ended) {
            return Ok(true);
        }
        // One that is in the kernel's hands takes its time.
        if !more {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(false)
}

/// Finds the processes that came of this one, by `/proc`, which may be that of another process
/// namespace.
fn descendants() -> io::Result<Vec<Pid>> {
    let me = fs::read_link("/proc/self")?;
    let me = me.to_str().and_then(|name| name.parse().ok()).unwrap_or(0);
    let mut of_parent: HashMap<i32, Vec<(i32, Vec<i32>)>> = HashMap::new();
    // In that namespace and those below it, down to this process's own.
    let mut level = 0;
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(status) = fs::read_to_string(entry.path().join("status")) else { continue };
        let numbers = |name: &str| -> Vec<i32> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("");
            line.split_whitespace().filter_map(|number| number.parse().ok()).collect()
        };
        let inside = numbers("NSpid:");
        if number == me {
            level = inside.len().saturating_sub(1);
        }
        if let [parent] = numbers("PPid:")[..] {
            // One that has ended may have children that live.
            let inside = if status.contains("\nState:\tZ") { Vec::new() } else { inside };
            of_parent.entry(parent).or_default().push((number, inside));
        }
    }
    let (mut found, mut parents) = (Vec::new(), vec![me]);
    while let Some(parent) = parents.pop() {
        for (number, inside) in of_parent.remove(&parent).unwrap_or_default() {
            parents.push(number);
            found.extend(inside.get(level).copied().and_then(Pid::from_raw));
        }
    }
    Ok(found)
}

fn exited(status: WaitStatus) -> SessionResponse {
    let status = match status.terminating_signal() {
        Some(signal) => Status::Signal(signal),
        None => Status::Code(status.exit_status().unwrap_or(255)),
    };
    SessionResponse::Exited { status, out_of_memory: false, cpu_micros: cpu_micros() }
}

/// Returns the processor time of the processes that were waited for, in microseconds.
fn cpu_micros() -> u64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel fills the structure, which is valid with zeros as well.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr());
        usage.assume_init()
    };
    let micros = |time: libc::timeval| {
        u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000
            + u64::try_from(time.tv_usec).unwrap_or(0)
    };
    micros(usage.ru_utime) + micros(usage.ru_stime)
}
