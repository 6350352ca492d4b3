//! `imgforge session diff`, `patch` and `apply`: what was changed in a session.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;
use serde_json::json;

use crate::cli::out::{self, errln, outln};
use crate::engine::{ChangeKind, ExecEnd, ExecRequest, Input, SandboxSession};
use crate::session::{Keep, Run};

use super::super::help::heading;
use super::super::{CommandResult, Error, Exit, Global};
use super::{failed, found};

/// Arguments of `session diff`.
#[derive(Debug, Args)]
pub(in crate::cli) struct DiffArgs {
    /// The session: its name, its id or the beginning of that
    #[arg(value_name = "SESSION", help_heading = None)]
    session: String,
}

/// Arguments of `session patch`.
#[derive(Debug, Args)]
#[command(next_help_heading = heading::OUTPUT)]
pub(in crate::cli) struct PatchArgs {
    /// The session: its name, its id or the beginning of that
    #[arg(value_name = "SESSION", help_heading = None)]
    session: String,
    /// Write it to this file
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What it is a difference to [default: the commit that the session began at]
    #[arg(long, value_name = "COMMIT")]
    base: Option<String>,
    /// Leave out what matches, as git reads it
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Leave out files that git does not know
    #[arg(long)]
    no_untracked: bool,
    /// The repository [default: the session's directory]
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
}

/// Arguments of `session apply`.
#[derive(Debug, Args)]
#[command(next_help_heading = heading::RUN)]
pub(in crate::cli) struct ApplyArgs {
    /// The session: its name, its id or the beginning of that
    #[arg(value_name = "SESSION", help_heading = None)]
    session: String,
    /// The patch; - is the standard input
    #[arg(value_name = "FILE", help_heading = None)]
    file: PathBuf,
    /// Take it back
    #[arg(short = 'R', long)]
    reverse: bool,
    /// The repository [default: the session's directory]
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
}

/// Finds the repository, and makes a git directory of our own beside it that has its objects: neither its
/// settings nor those of a user count, so that nobody in the session changes what a patch means, or
/// starts programs. `$root` is the repository, `$head` its commit.
const OWN_GIT: &str = r#"command -v git >/dev/null || { echo 'the session has no git' >&2; exit 125; }
while [ ! -e .git ]; do
    [ "$PWD" != / ] || { echo 'there is no repository here: name its directory by -w' >&2; exit 125; }
    cd ..
done
root=$PWD
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null GIT_CONFIG_NOSYSTEM=1 GIT_ATTR_NOSYSTEM=1
export LC_ALL=C GIT_PAGER=cat
theirs() { git -c safe.directory='*' --git-dir=.git --work-tree=. rev-parse "$@"; }
scratch=$(mktemp -d 2>/dev/null) || scratch=$(mktemp -d -p /dev/shm) || exit 125
trap 'rm -rf "$scratch"' EXIT
head=$(theirs -q --verify 'HEAD^{commit}')
objects=$(theirs --git-path objects) || exit 125
index=$(theirs --git-path index)
case $objects in /*) ;; *) objects=$root/$objects ;; esac
git init -q --bare --template= "$scratch/git" || exit 125
echo "$objects" >"$scratch/git/objects/info/alternates" || exit 125
cp "$index" "$scratch/git/index" 2>/dev/null
export GIT_DIR=$scratch/git GIT_WORK_TREE=$root
git config core.bare false
"#;

/// Prints the patch. `$1` is the commit, `$2` is `-A` for all files and `-u` for those that git knows;
/// exclusions follow.
const PATCH: &str = r#"base=$1 files=$2
shift 2
[ -n "$base" ] || base=${head:-$(git hash-object -w -t tree /dev/null)}
# The names of their index, and nothing else of it: neither times nor flags hide a change.
if git ls-files -s -z >"$scratch/list" 2>/dev/null && rm -f "$GIT_DIR/index" &&
    git update-index -z --index-info <"$scratch/list"; then :
else
    rm -f "$GIT_DIR/index"
    [ -z "$head" ] || git read-tree "$head" || exit 125
fi
# What is as it was is hashed and not written: to write what is there touches their packs.
git update-index -q --really-refresh >/dev/null 2>&1
git add $files . >&2 || exit 125
git diff --cached --binary --full-index --no-color --no-ext-diff --no-textconv --no-renames \
    --src-prefix=a/ --dst-prefix=b/ "$base" -- . "$@" || exit 125
"#;

/// Runs `session diff`.
pub(super) async fn diff(global: &Global, args: DiffArgs) -> CommandResult {
    let (_, session) = found(global, &args.session).await?;
    let changes = session.changes().await.map_err(failed)?;
    if global.json {
        let list = changes.iter().map(|change| json!({ "path": change.path, "kind": change.kind }));
        outln!("{:#}", json!(list.collect::<Vec<_>>()));
        return Ok(Exit::Success);
    }
    for change in changes {
        let kind = match change.kind {
            ChangeKind::Modified => 'C',
            ChangeKind::Added => 'A',
            ChangeKind::Deleted => 'D',
        };
        outln!("{kind} {}", change.path);
    }
    Ok(Exit::Success)
}

/// Runs `session patch`.
pub(super) async fn patch(global: &Global, args: PatchArgs) -> CommandResult {
    let (record, session) = found(global, &args.session).await?;
    let wanted = Wanted {
        // Of another repository that commit is none.
        base: args.base.or(record.base.filter(|_| args.workdir.is_none())),
        exclude: args.exclude,
        untracked: !args.no_untracked,
        working_dir: args.workdir.or(record.repository),
    };
    let bytes = patch_of(&session, &wanted).await?;
    if let Some(path) = args.output {
        crate::atomic::write(&path, &bytes, false).map_err(|error| {
            let context = format!("cannot write `{}`", path.display());
            Error::environment(anyhow::Error::from(error).context(context))
        })?;
    } else if global.json {
        outln!("{:#}", json!({ "patch": String::from_utf8_lossy(&bytes) }));
    } else {
        out::bytes(&bytes);
    }
    Ok(Exit::Success)
}

/// What a patch is made of.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub base: Option<String>,
    pub exclude: Vec<String>,
    pub untracked: bool,
    pub working_dir: Option<String>,
}

/// Makes the patch of what was changed, byte for byte.
pub(super) async fn patch_of(
    session: &dyn SandboxSession,
    wanted: &Wanted,
) -> Result<Vec<u8>, Error> {
    let script = format!("{OWN_GIT}{PATCH}");
    let base = wanted.base.clone().unwrap_or_default();
    let files = if wanted.untracked { "-A" } else { "-u" };
    let mut command = ["/bin/sh", "-c", &script, "sh", &base, files].map(str::to_owned).to_vec();
    command.extend(wanted.exclude.iter().map(|glob| format!(":(exclude,glob){glob}")));
    let request =
        ExecRequest { command, working_dir: wanted.working_dir.clone(), ..ExecRequest::default() };
    let Run { summary, out, error } =
        crate::session::run(session, &request, Keep::All).await.map_err(failed)?;
    if summary.end != ExecEnd::Exited(0) {
        return Err(said("no patch can be made", &error.bytes, &summary.end));
    }
    Ok(out.bytes)
}

/// Makes an error of what git says.
fn said(what: &str, bytes: &[u8], end: &ExecEnd) -> Error {
    let text = String::from_utf8_lossy(bytes);
    match text.trim() {
        "" => Error::input(anyhow!("{what}: {end:?}")),
        text => Error::input(anyhow!("{what}: {text}")),
    }
}

/// Returns the commit that the repository of a session is at, where it has one.
pub(super) async fn head(
    session: &dyn SandboxSession,
    working_dir: Option<&str>,
) -> Option<String> {
    let request = ExecRequest {
        working_dir: working_dir.map(str::to_owned),
        ..ExecRequest::shell(
            "git -c safe.directory='*' rev-parse -q --verify 'HEAD^{commit}' 2>/dev/null",
        )
    };
    let Run { summary, out, .. } =
        crate::session::run(session, &request, Keep::Tail(128)).await.ok()?;
    let text = String::from_utf8(out.bytes).ok()?.trim().to_owned();
    let is_commit = text.len() >= 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    (summary.end == ExecEnd::Exited(0) && is_commit).then_some(text)
}

/// Runs `session apply`.
pub(super) async fn apply(global: &Global, args: ApplyArgs) -> CommandResult {
    let mut patch = Vec::new();
    let read = match args.file.to_str() {
        Some("-") => std::io::stdin().read_to_end(&mut patch),
        _ => std::fs::File::open(&args.file).and_then(|mut file| file.read_to_end(&mut patch)),
    };
    read.map_err(|error| {
        let context = format!("cannot read `{}`", args.file.display());
        Error::input(anyhow::Error::from(error).context(context))
    })?;
    if patch.iter().all(u8::is_ascii_whitespace) {
        return Err(Error::input(anyhow!("`{}` holds no patch", args.file.display())).into());
    }
    let (record, session) = found(global, &args.session).await?;
    let reverse = if args.reverse { "--reverse" } else { "" };
    let request = ExecRequest {
        working_dir: args.workdir.or(record.repository),
        input: Input::Bytes(patch.into()),
        variables: BTreeMap::new(),
        ..ExecRequest::shell(&format!(
            "{OWN_GIT}git apply --verbose --whitespace=nowarn {reverse} -"
        ))
    };
    let Run { summary, error, .. } =
        crate::session::run(&session, &request, Keep::HeadTail(1 << 20)).await.map_err(failed)?;
    if summary.end != ExecEnd::Exited(0) {
        return Err(said(
            "the patch does not apply, and nothing was changed",
            &error.bytes,
            &summary.end,
        )
        .into());
    }
    if !global.quiet {
        errln!("{}", String::from_utf8_lossy(&error.bytes).trim_end());
    }
    Ok(Exit::Success)
}
