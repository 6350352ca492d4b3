//! Sessions of the fake engine: processes of this machine, in a directory that is their root as far as
//! paths of requests go. Nothing is closed off, and nothing is limited.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, StreamExt as _};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio_util::io::ReaderStream;

use crate::engine::pipe_input::PipeInput;
use crate::engine::{
    Checkpoint, Ended, EngineError, EngineKind, Exec, ExecEnd, ExecHandle, ExecRequest,
    ImageConfig, Input, NotStarted, Output, Outputs, Result, SandboxSession, SessionEnd,
    SessionRequest, WindowSize,
};

/// The variable that marks the processes of a command.
const MARK: &str = "SANDBOX_EXEC_ID";

/// The search path where nobody sets one.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Starts a session on an image.
pub(super) fn start(
    request: &SessionRequest,
    image: &ImageConfig,
    files: Option<&[u8]>,
    checkpoints: &Checkpoints,
) -> Result<Box<dyn SandboxSession>> {
    let root = tempfile::tempdir().map_err(|error| lost(&error))?;
    let mut env: Vec<(String, String)> = vec![("PATH".to_owned(), PATH.to_owned())];
    let of_image = image.env.iter().filter_map(|variable| variable.split_once('='));
    env.extend(of_image.map(|(name, value)| (name.to_owned(), value.to_owned())));
    env.extend(request.variables.clone());
    let user = request.user.clone().unwrap_or_else(|| image.user.clone());
    let working_dir = image.working_dir.clone();
    let path = root.path().join(working_dir.trim_start_matches('/'));
    fs::create_dir_all(path).map_err(|error| lost(&error))?;
    if let Some(files) = files {
        unpack(files, root.path())?;
    }
    Ok(Box::new(Session {
        id: format!("fake-{:016x}", rand::random::<u64>()),
        root: Mutex::new(Some(root)),
        env,
        user,
        working_dir,
        marks: Mutex::default(),
        end: watch::channel(None).0,
        parent: request.image.clone(),
        image: image.clone(),
        checkpoints: checkpoints.clone(),
    }))
}

/// The checkpoints of an engine, by their references.
#[derive(Clone, Default)]
pub(super) struct Checkpoints(Arc<Mutex<HashMap<String, Files>>>);

/// What a checkpoint has: what its image says, and its files as a tar.
type Files = (ImageConfig, Vec<u8>);

impl Checkpoints {
    /// Returns the checkpoint that a reference names.
    pub(super) fn find(&self, reference: &str) -> Option<Files> {
        self.0.lock().expect("no holder panics").get(reference).cloned()
    }
}

fn unpack(files: &[u8], to: &Path) -> Result<()> {
    let mut archive = tar::Archive::new(files);
    archive.set_preserve_permissions(true);
    archive.unpack(to).map_err(|error| EngineError::Refused {
        action: "write files into a session".to_owned(),
        reason: error.to_string(),
    })
}

fn lost(error: &dyn std::fmt::Display) -> EngineError {
    let source = error.to_string().into();
    EngineError::Transient { action: "keep a session".to_owned(), source }
}

struct Session {
    id: String,
    root: Mutex<Option<TempDir>>,
    env: Vec<(String, String)>,
    user: String,
    working_dir: String,
    /// Those of the commands that were started.
    marks: Mutex<Vec<String>>,
    end: watch::Sender<Option<SessionEnd>>,
    /// What it was started from.
    parent: String,
    image: ImageConfig,
    checkpoints: Checkpoints,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end_now();
    }
}

impl Session {
    fn end_now(&self) -> SessionEnd {
        self.end.send_if_modified(|end| end.replace(SessionEnd::Stopped).is_none());
        for mark in self.marks.lock().expect("no holder panics").iter() {
            kill_marked(mark);
        }
        drop(self.root.lock().expect("no holder panics").take());
        SessionEnd::Stopped
    }

    /// Returns where a path of the session is on this machine.
    fn path(&self, path: &str) -> Result<PathBuf> {
        let root = self.root.lock().expect("no holder panics");
        let ended =
            || EngineError::SessionEnded { session: self.id.clone(), how: SessionEnd::Stopped };
        Ok(root.as_ref().ok_or_else(ended)?.path().join(path.trim_start_matches('/')))
    }
}

#[async_trait]
impl SandboxSession for Session {
    fn id(&self) -> &str {
        &self.id
    }

    fn engine(&self) -> EngineKind {
        EngineKind::Fake
    }

    async fn spawn(&self, request: &ExecRequest) -> Result<Exec> {
        request.check()?;
        let working_dir = request.working_dir.as_ref().unwrap_or(&self.working_dir);
        let Ok(directory) = self.path(working_dir) else {
            return Ok(Exec::of_ended(SessionEnd::Stopped));
        };
        let mark = format!("{MARK}={:032x}", rand::random::<u128>());
        let mut env = self.env.clone();
        env.extend(request.variables.clone());
        let (program, user) = match look(request, &self.user, &directory, &env) {
            Ok(found) => found,
            Err(why) => return Ok(Exec::not_started(why)),
        };
        let mut command = match request.outputs {
            Outputs::MergedWithControl(number) => {
                let mut command = std::process::Command::new("/bin/sh");
                let script = format!("exec \"$@\" {number}>&2 2>&1");
                command.args(["-c", &script, "sh"]).arg(program);
                command
            }
            Outputs::Separate | Outputs::Merged => std::process::Command::new(program),
            Outputs::Terminal(_) => {
                return Err(EngineError::Refused {
                    action: "make a terminal".to_owned(),
                    reason: "the fake engine has none".to_owned(),
                });
            }
        };
        command.args(&request.command[1..]).env_clear().current_dir(directory);
        if let Some(user) = user {
            command.uid(user.uid).gid(user.gid).env("HOME", user.home);
        }
        command.envs(env).env(MARK, &mark[MARK.len() + 1..]).process_group(0);
        let input = match request.input {
            Input::Null => {
                command.stdin(Stdio::null());
                None
            }
            Input::Bytes(_) | Input::Held => {
                let (theirs, ours) = io::pipe().map_err(|error| lost(&error))?;
                command.stdin(theirs);
                Some(Box::new(PipeInput::new(ours).map_err(|error| lost(&error))?) as _)
            }
        };
        let (out, output) = reader(Output::Out)?;
        let output = if request.outputs == Outputs::Merged {
            command.stderr(out.try_clone().map_err(|error| lost(&error))?);
            output
        } else {
            let (error, errors) = reader(Output::Error)?;
            command.stderr(error);
            stream::select(output, errors).boxed()
        };
        command.stdout(out);
        let mut command = tokio::process::Command::from(command);
        let child = command.spawn().map_err(|error| lost(&error))?;
        // Its ends are the command's own.
        drop(command);
        self.marks.lock().expect("no holder panics").push(mark.clone());
        let group = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let (tell, ended) = watch::channel(None);
        tokio::spawn(wait_for(child, self.end.subscribe(), tell));
        Ok(Exec { input, output, handle: Arc::new(Handle { mark, group, ended }) })
    }

    async fn put(
        &self,
        directory: &str,
        make: bool,
        tar: &mut (dyn AsyncRead + Send + Unpin),
    ) -> Result<()> {
        let path = self.path(directory)?;
        if make {
            fs::create_dir_all(&path).map_err(|error| lost(&error))?;
        }
        if !path.is_dir() {
            return Err(EngineError::NoSuchPath { path: directory.to_owned() });
        }
        let mut bytes = Vec::new();
        tar.read_to_end(&mut bytes).await.map_err(|error| lost(&error))?;
        unpack(&bytes, &path)
    }

    async fn get(&self, path: &str, tar: &mut (dyn AsyncWrite + Send + Unpin)) -> Result<()> {
        let found = self.path(path)?;
        let missing = || EngineError::NoSuchPath { path: path.to_owned() };
        let kind = fs::symlink_metadata(&found).map_err(|_| missing())?;
        let name = Path::new(path).file_name().map_or(Path::new("."), Path::new);
        let mut archive = tar::Builder::new(Vec::new());
        archive.follow_symlinks(false);
        let written = match kind.is_dir() {
            true => archive.append_dir_all(name, &found),
            false => archive.append_path_with_name(&found, name),
        };
        written.map_err(|error| lost(&error))?;
        let bytes = archive.into_inner().map_err(|error| lost(&error))?;
        tar.write_all(&bytes).await.map_err(|error| lost(&error))
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        let mut archive = tar::Builder::new(Vec::new());
        archive.follow_symlinks(false);
        archive.append_dir_all(".", self.path("/")?).map_err(|error| lost(&error))?;
        let files = archive.into_inner().map_err(|error| lost(&error))?;
        let checkpoint = Checkpoint::on(&self.parent);
        let mut all = self.checkpoints.0.lock().expect("no holder panics");
        all.insert(checkpoint.reference().to_string(), (self.image.clone(), files));
        Ok(checkpoint)
    }

    async fn ended(&self) -> Result<SessionEnd> {
        let mut end = self.end.subscribe();
        let end = end.wait_for(Option::is_some).await.expect("the sender is here");
        Ok(end.clone().expect("it was waited for"))
    }

    async fn stop(&self) -> Result<SessionEnd> {
        Ok(self.end_now())
    }
}

/// A user of this machine.
struct User {
    uid: u32,
    gid: u32,
    home: String,
}

/// Finds the program and the user of a command, where it can be started.
fn look(
    request: &ExecRequest,
    user: &str,
    directory: &Path,
    env: &[(String, String)],
) -> std::result::Result<(PathBuf, Option<User>), NotStarted> {
    let not = |errno, program_missing, reason: String| NotStarted {
        errno: Some(errno),
        reason,
        program_missing,
    };
    if !directory.is_dir() {
        let path = request.working_dir.as_deref().unwrap_or_default();
        return Err(not(libc::ENOENT, false, format!("`{path}` is not a directory")));
    }
    let name = request.user.as_deref().unwrap_or(user);
    let user = match name {
        // Another user is root's to become.
        _ if name.is_empty()
            || !rustix::process::geteuid().is_root() && find_user(name).is_some() =>
        {
            None
        }
        name => Some(
            find_user(name)
                .ok_or_else(|| not(libc::ENOENT, false, format!("there is no user `{name}`")))?,
        ),
    };
    let program = &request.command[0];
    let found = if program.contains('/') {
        Some(PathBuf::from(program)).filter(|path| path.exists())
    } else {
        let path = env.iter().rev().find(|(name, _)| name == "PATH").map_or(PATH, |(_, path)| path);
        path.split(':').map(|place| Path::new(place).join(program)).find(|path| path.is_file())
    };
    let Some(found) = found else {
        return Err(not(libc::ENOENT, true, format!("`{program}` is not there")));
    };
    if rustix::fs::access(&found, rustix::fs::Access::EXEC_OK).is_err() || found.is_dir() {
        return Err(not(libc::EACCES, false, format!("`{program}` cannot be executed")));
    }
    Ok((found, user))
}

fn find_user(name: &str) -> Option<User> {
    let name = name.split(':').next().unwrap_or(name);
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [login, _, uid, gid, _, home, ..] = fields[..] else { return None };
        let user =
            || Some(User { uid: uid.parse().ok()?, gid: gid.parse().ok()?, home: home.into() });
        (login == name || uid == name).then(user)?
    })
}

type Pieces = stream::BoxStream<'static, Result<Output>>;

fn reader(kind: fn(bytes::Bytes) -> Output) -> Result<(io::PipeWriter, Pieces)> {
    let (ours, theirs) = io::pipe().map_err(|error| lost(&error))?;
    let ours = pipe::Receiver::from_owned_fd(ours.into()).map_err(|error| lost(&error))?;
    let pieces = ReaderStream::new(ours);
    Ok((theirs, pieces.map(move |piece| piece.map(kind).map_err(|error| lost(&error))).boxed()))
}

async fn wait_for(
    mut child: tokio::process::Child,
    mut session: watch::Receiver<Option<SessionEnd>>,
    tell: watch::Sender<Option<std::result::Result<Ended, String>>>,
) {
    let status = child.wait().await;
    let ended_with = session.borrow_and_update().clone();
    let end = match (ended_with, status) {
        (Some(how), _) => Ok(ExecEnd::SessionEnded(how)),
        (None, Ok(status)) => Ok(match status.signal() {
            Some(signal) => ExecEnd::Signaled(signal),
            None => ExecEnd::Exited(status.code().unwrap_or(255)),
        }),
        (None, Err(error)) => Err(error.to_string()),
    };
    let _ = tell.send(Some(end.map(|end| Ended { end, cpu_time: None })));
}

struct Handle {
    mark: String,
    group: Option<Pid>,
    ended: watch::Receiver<Option<std::result::Result<Ended, String>>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.ended.borrow().is_none() {
            kill_marked(&self.mark);
        }
    }
}

#[async_trait]
impl ExecHandle for Handle {
    async fn resize(&self, _: WindowSize) -> Result<()> {
        Ok(())
    }

    async fn signal(&self, signal: i32) -> Result<()> {
        if self.ended.borrow().is_some() {
            return Ok(());
        }
        if signal == libc::SIGKILL {
            kill_marked(&self.mark);
        } else if let (Some(group), Some(signal)) = (self.group, Signal::from_named_raw(signal)) {
            let _ = rustix::process::kill_process_group(group, signal);
        }
        Ok(())
    }

    async fn end(&self) -> Result<Ended> {
        let mut ended = self.ended.clone();
        let told = ended.wait_for(Option::is_some).await.map_err(|error| lost(&error))?;
        told.clone().expect("it was waited for").map_err(|reason| lost(&reason))
    }
}

/// Kills the processes that have a mark in their environment, and their children, until there is none.
fn kill_marked(mark: &str) {
    for _ in 0..200 {
        let found = marked(mark);
        if found.is_empty() {
            return;
        }
        for pid in found {
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn marked(mark: &str) -> HashSet<Pid> {
    let mut found = HashSet::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = number.and_then(Pid::from_raw) else { continue };
        let has_mark = fs::read(entry.path().join("environ"))
            .is_ok_and(|env| env.split(|byte| *byte == 0).any(|one| one == mark.as_bytes()));
        let is_zombie = || {
            fs::read_to_string(entry.path().join("stat")).is_ok_and(|stat| stat.contains(") Z "))
        };
        if has_mark && !is_zombie() {
            found.insert(pid);
        }
    }
    found
}
