//! Fetching into a mirror with the `git` program, whose credentials, proxies and certificates apply.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::engine::LogSink;
use crate::offline;
use crate::proxy::Proxies;

use super::SourceError;
use super::mirror::Mirror;

/// How often a fetch is tried that fails for a reason which may pass.
const ATTEMPTS: u32 = 4;

/// Fetches the branches and tags that a URL publishes; where they do not reach the commits, those by
/// their ids; and where the server does not give them to who asks so, everything that it publishes.
pub(super) fn fetch(
    mirror: &Path,
    url: &str,
    commits: &[String],
    log: &dyn LogSink,
) -> Result<(), String> {
    if offline::is_on() {
        return Err(offline::WHY.to_owned());
    }
    let have = |commits: &[String]| match Mirror::open(mirror, "") {
        Ok(mirror) => commits.iter().all(|commit| mirror.is_whole(commit)),
        Err(_) => false,
    };
    fetch_refs(mirror, url, &["+refs/heads/*:refs/remotes/source/heads/*".to_owned()], log)?;
    if have(commits) {
        return Ok(());
    }
    for commit in commits {
        // One that the server does not give is asked for below, with all others.
        let asked = format!("+{commit}:refs/imgforge/{commit}");
        let _ = fetch_refs(mirror, url, &[asked], log);
    }
    if have(commits) {
        return Ok(());
    }
    fetch_refs(mirror, url, &["+refs/*:refs/remotes/source/*".to_owned()], log)
}

/// Fetches, trying again what may pass.
fn fetch_refs(mirror: &Path, url: &str, refs: &[String], log: &dyn LogSink) -> Result<(), String> {
    let mut args =
        vec!["fetch", "--quiet", "--no-auto-gc", "--tags", "--force", "--end-of-options", url];
    args.extend(refs.iter().map(String::as_str));
    let mut attempt = 1;
    loop {
        let said = match git(&args, Some(mirror), log) {
            Ok(()) => return Ok(()),
            Err(SourceError::Git { said, .. }) => said,
            Err(other) => return Err(other.to_string()),
        };
        if attempt >= ATTEMPTS || !may_pass(&said) {
            return Err(said);
        }
        std::thread::sleep(Duration::from_secs(1 << attempt));
        attempt += 1;
    }
}

/// Tells a broken or busy connection from a refusal, by the words of `git`.
fn may_pass(said: &str) -> bool {
    const PASSING: [&str; 12] = [
        "timed out",
        "Connection reset",
        "early EOF",
        "unexpected disconnect",
        "RPC failed",
        "Could not resolve host",
        "Temporary failure",
        "error: 429",
        "error: 500",
        "error: 502",
        "error: 503",
        "error: 504",
    ];
    PASSING.iter().any(|words| said.contains(words))
}

/// What git may speak with a source, whatever its own settings say: no `ext::`, which runs a command,
/// and no other helper.
const PROTOCOLS: &str = "file:git:http:https:ssh";

/// Runs `git`; its words go to `log`, and into the error.
pub(super) fn git(args: &[&str], dir: Option<&Path>, log: &dyn LogSink) -> Result<(), SourceError> {
    git_output(args, dir, log).map(drop)
}

/// Runs `git`; returns what it prints. Its words go to `log`, and into the error.
pub(super) fn git_output(
    args: &[&str],
    dir: Option<&Path>,
    log: &dyn LogSink,
) -> Result<Vec<u8>, SourceError> {
    let mut command = Command::new("git");
    command
        .args(args)
        .env("GIT_ALLOW_PROTOCOL", PROTOCOLS)
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("LC_ALL", "C")
        .envs(Proxies::of_process().unwrap_or_default().variables())
        .stdin(Stdio::null());
    if let Some(dir) = dir {
        command.env("GIT_DIR", dir);
    }
    let output = command
        .output()
        .map_err(|source| SourceError::NoProgram { program: "git".to_owned(), source })?;
    log.write(&output.stderr);
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(SourceError::Git { command: args.first().unwrap_or(&"").to_string(), said })
}
