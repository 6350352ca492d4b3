//! `imgforge serve --swerex`: the runtime of SWE-ReX for the sessions of the state directory.

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use rustix::process::Pid;

use crate::cli::out::{errln, outln};
use crate::serve::swerex::{
    self, LoopbackAddress, Registration, RegistrationError, Server, Serving,
};
use crate::session::directory::Directory;

use super::super::interrupt::unless_interrupted;
use super::super::{CommandResult, Error, Exit, Global, open};
use super::process::{after, ended, spawn, terminate, until_answers, watched};
use super::{ServeAction, ServeArgs};

/// How long a server waits for a session, where it ends without one.
const WITHOUT_SESSIONS: Duration = Duration::from_secs(300);

/// How often it looks.
const LOOK: Duration = Duration::from_secs(20);

/// Its log, in the state directory.
const LOG: &str = "swerex.log";

/// Runs `serve --swerex`.
pub(super) async fn run(
    global: &Global,
    args: &ServeArgs,
    address: LoopbackAddress,
) -> CommandResult {
    let state_dir = open::state_dir(global);
    if args.action == Some(ServeAction::Stop) {
        return stop(&state_dir).await;
    }
    if args.background {
        if let Some(serving) = Serving::of(&state_dir) {
            let serving = Some(serving);
            return Err(failed(RegistrationError::Taken { state_dir, serving }).into());
        }
        let words = std::env::args_os().skip(1).filter(|word| word != "--background");
        print(&start(&state_dir, words)?);
        return Ok(Exit::Success);
    }
    serve(global, args, &state_dir, address).await
}

async fn serve(
    global: &Global,
    args: &ServeArgs,
    state_dir: &Path,
    address: LoopbackAddress,
) -> CommandResult {
    let parent = args.with_pid.map(watched).transpose()?;
    let directory = Directory::of(state_dir);
    let server = Server::new(directory.clone());
    let work = async {
        let registration = Registration::take(state_dir, address).await.map_err(failed)?;
        print(registration.serving());
        if !global.quiet {
            errln!("serving SWE-ReX for the sessions in {}", state_dir.display());
        }
        tokio::select! {
            () = swerex::serve(&server, registration.listener()) => {}
            () = after(args.ttl) => {}
            () = ended(parent) => {}
            () = without_sessions(&directory), if args.with_sessions => {}
        }
        Ok::<_, Error>(())
    };
    // To be told to end is how a server ends.
    unless_interrupted(work).await.unwrap_or(Ok(()))?;
    Ok(Exit::Success)
}

/// Waits until no session has lived for so long.
async fn without_sessions(directory: &Directory) {
    let mut last = Instant::now();
    while last.elapsed() < WITHOUT_SESSIONS {
        tokio::time::sleep(LOOK).await;
        let lives = directory.list().map(|all| all.iter().any(|one| one.ended.is_none()));
        if lives.unwrap_or(true) {
            last = Instant::now();
        }
    }
}

fn print(serving: &Serving) {
    outln!("http://{}", serving.address);
}

/// Finds the server of the state directory; where there is none, one is started in the background, which
/// ends after the last session.
pub(in crate::cli) fn ensure(
    global: &Global,
    address: Option<LoopbackAddress>,
) -> Result<Serving, Error> {
    let state_dir = open::state_dir(global);
    let serving = match Serving::of(&state_dir) {
        Some(serving) => serving,
        None => {
            let mut words: Vec<OsString> = vec!["--state-dir".into(), state_dir.clone().into()];
            let address = address.unwrap_or_default().to_string();
            let own = ["--quiet", "serve", "--with-sessions", "--swerex", &address];
            words.extend(own.map(OsString::from));
            match start(&state_dir, words.into_iter()) {
                Ok(serving) => serving,
                // Another one was faster.
                Err(error) => Serving::of(&state_dir).ok_or(error)?,
            }
        }
    };
    match address.map(LoopbackAddress::socket) {
        Some(asked) if asked.port() != 0 && asked != serving.address => {
            let state_dir = open::state_dir(global);
            Err(failed(RegistrationError::Taken { state_dir, serving: Some(serving) }))
        }
        _ => Ok(serving),
    }
}

fn start(state_dir: &Path, words: impl Iterator<Item = OsString>) -> Result<Serving, Error> {
    let log = state_dir.join(LOG);
    let child = spawn(words, &log)?;
    let own = i32::try_from(child.id()).ok();
    until_answers(child, &log, || {
        Serving::of(state_dir).filter(|serving| Some(serving.process) == own)
    })
}

async fn stop(state_dir: &Path) -> CommandResult {
    let serving = Serving::of(state_dir).and_then(|serving| Pid::from_raw(serving.process));
    let Some(process) = serving else {
        let error = anyhow!("SWE-ReX is not served for `{}`", state_dir.display());
        return Err(Error::input(error).into());
    };
    terminate(process).await?;
    Ok(Exit::Success)
}

fn failed(error: RegistrationError) -> Error {
    let hint = match &error {
        RegistrationError::Taken { .. } => {
            Some("`imgforge serve stop --swerex` ends it".to_owned())
        }
        _ => None,
    };
    Error::environment(error).with_hint(hint)
}
