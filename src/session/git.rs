//! What was changed in the repository of a session: as a patch, byte for byte, and by one.

use bytes::Bytes;

use crate::engine::{EngineError, ExecEnd, ExecRequest, Input, SandboxSession};

use super::{Keep, Run, run};

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

/// Why git cannot do something in a session.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// The engine failed, or the session has ended.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Git refused; its words.
    #[error("{0}")]
    Refused(String),
}

impl GitError {
    /// Makes an error of what git says, or of how it ended.
    fn said(what: &str, bytes: &[u8], end: &ExecEnd) -> GitError {
        match String::from_utf8_lossy(bytes).trim() {
            "" => GitError::Refused(format!("{what}: {end:?}")),
            text => GitError::Refused(format!("{what}: {text}")),
        }
    }
}

/// What a patch is made of.
#[derive(Debug, Default)]
pub struct PatchOptions {
    /// The commit that it is a difference to; without one the commit that the repository is at.
    pub base: Option<String>,
    /// What is left out, as patterns of git.
    pub exclude: Vec<String>,
    /// Whether files are in it that git does not know.
    pub untracked: bool,
    /// A directory of the repository; without one where the session's commands start.
    pub working_dir: Option<String>,
}

/// Makes the patch of what was changed, byte for byte. Neither the repository's index nor its settings are
/// touched, and none of those settings counts.
pub async fn patch(
    session: &dyn SandboxSession,
    options: &PatchOptions,
) -> Result<Vec<u8>, GitError> {
    let script = format!("{OWN_GIT}{PATCH}");
    let base = options.base.clone().unwrap_or_default();
    let files = if options.untracked { "-A" } else { "-u" };
    let mut command = ["/bin/sh", "-c", &script, "sh", &base, files].map(str::to_owned).to_vec();
    command.extend(options.exclude.iter().map(|glob| format!(":(exclude,glob){glob}")));
    let request =
        ExecRequest { command, working_dir: options.working_dir.clone(), ..ExecRequest::default() };
    let Run { summary, out, error } = run(session, &request, Keep::All).await?;
    match summary.end {
        ExecEnd::Exited(0) => Ok(out.bytes),
        end => Err(GitError::said("no patch can be made", &error.bytes, &end)),
    }
}

/// Applies a patch as a whole, or not at all; returns what git says of it.
pub async fn apply(
    session: &dyn SandboxSession,
    patch: Bytes,
    reverse: bool,
    working_dir: Option<String>,
) -> Result<String, GitError> {
    let reverse = if reverse { "--reverse" } else { "" };
    let request = ExecRequest {
        working_dir,
        input: Input::Bytes(patch),
        ..ExecRequest::shell(&format!(
            "{OWN_GIT}git apply --verbose --whitespace=nowarn {reverse} -"
        ))
    };
    let Run { summary, error, .. } = run(session, &request, Keep::HeadTail(1 << 20)).await?;
    match summary.end {
        ExecEnd::Exited(0) => Ok(String::from_utf8_lossy(&error.bytes).into_owned()),
        end => {
            let what = "the patch does not apply, and nothing was changed";
            Err(GitError::said(what, &error.bytes, &end))
        }
    }
}

/// Returns the commit that the repository of a session is at, where it has one.
pub async fn head(session: &dyn SandboxSession, working_dir: Option<&str>) -> Option<String> {
    let request = ExecRequest {
        working_dir: working_dir.map(str::to_owned),
        ..ExecRequest::shell(
            "git -c safe.directory='*' rev-parse -q --verify 'HEAD^{commit}' 2>/dev/null",
        )
    };
    let Run { summary, out, .. } = run(session, &request, Keep::Tail(128)).await.ok()?;
    let text = String::from_utf8(out.bytes).ok()?.trim().to_owned();
    let is_commit = text.len() >= 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    (summary.end == ExecEnd::Exited(0) && is_commit).then_some(text)
}
