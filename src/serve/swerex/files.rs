//! Files of a container, read and written by its user: what that user may not, a client may not.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWriteExt as _};

use crate::engine::{Exec, ExecEnd, ExecRequest, Input, Output, SandboxSession};
use crate::session::{Keep, Run, run};

use super::failure::{Class, Failure};
use super::requests::{ReadFile, WriteFile};
use super::text::decoded;

/// The most that is read of a file, in bytes.
const MOST_READ: usize = 64 << 20;

/// How long a read may take: some files of Linux have no end, or wait.
const READ_LIMIT: Duration = Duration::from_secs(60);

/// Exit codes of the scripts below, and what they mean.
const ENDS: [(i32, Class, &str); 4] = [
    (91, Class::FileNotFound, "No such file or directory"),
    (92, Class::IsADirectory, "Is a directory"),
    (93, Class::Permission, "Permission denied, or the file system is full or read-only"),
    (94, Class::NotADirectory, "Its directory cannot be made"),
];

/// Prints at most `$2` bytes of the file `$1`.
const READ: &str = r#"[ -e "$1" ] || exit 91
[ ! -d "$1" ] || exit 92
[ -r "$1" ] || exit 93
exec head -c "$2" <"$1""#;

/// Writes its input to the file `$1`, whose directory is made.
const WRITE: &str = r#"[ ! -d "$1" ] || exit 92
case $1 in */*) directory=${1%/*} ;; *) directory=. ;; esac
[ -d "$directory/" ] || mkdir -p -- "$directory" 2>/dev/null || exit 94
cat >"$1" || exit 93"#;

/// Reads a file as text.
pub(super) async fn read(session: &dyn SandboxSession, file: ReadFile) -> Result<Value, Failure> {
    let most = (MOST_READ + 1).to_string();
    let request = ExecRequest {
        time_limit: Some(READ_LIMIT),
        ..ExecRequest::of(&["/bin/sh", "-c", READ, "sh", &file.path, &most])
    };
    let Run { summary, out, .. } = run(session, &request, Keep::All).await?;
    check(&file.path, &summary.end)?;
    if out.bytes.len() > MOST_READ {
        let message = format!("`{}` has more than {} MiB", file.path, MOST_READ >> 20);
        return Err(Failure::raised(Class::Swerex, message));
    }
    let content = decoded(&out.bytes, file.encoding.as_deref(), file.errors.as_deref())?;
    Ok(json!({ "content": content }))
}

/// Writes a file of text.
pub(super) async fn write(session: &dyn SandboxSession, file: WriteFile) -> Result<Value, Failure> {
    let mut content = file.content.as_bytes();
    write_from(session, &file.path, &mut content).await?;
    Ok(json!({}))
}

/// Writes a file with what a reader gives, and makes its directory.
///
/// # Errors
/// By the classes that Python has for it.
pub(super) async fn write_from(
    session: &dyn SandboxSession,
    path: &str,
    content: &mut (dyn AsyncRead + Send + Unpin),
) -> Result<(), Failure> {
    let request = ExecRequest {
        input: Input::Held,
        ..ExecRequest::of(&["/bin/sh", "-c", WRITE, "sh", path])
    };
    let Exec { input, output, handle } = session.spawn(&request).await?;
    // What it says is in its exit code. Nobody may wait for room in its output.
    let rest = tokio::spawn(drain(output));
    if let Some(mut input) = input {
        // Where it does not read, its exit code says why.
        let _ = tokio::io::copy(content, &mut input).await;
        let _ = input.shutdown().await;
    }
    let ended = handle.end().await;
    rest.abort();
    check(path, &ended?.end)
}

async fn drain(mut output: BoxStream<'static, crate::engine::Result<Output>>) {
    while output.next().await.is_some() {}
}

/// Makes an error of an exit code.
fn check(path: &str, end: &ExecEnd) -> Result<(), Failure> {
    match end {
        ExecEnd::Exited(0) => Ok(()),
        ExecEnd::Exited(code) => {
            let known = ENDS.iter().find(|(known, ..)| known == code);
            match known {
                Some((_, class, text)) => Err(Failure::raised(*class, format!("{text}: '{path}'"))),
                None => Err(Failure::unexpected(&format!("the access to `{path}`"), end)),
            }
        }
        end => Err(Failure::unexpected(&format!("the access to `{path}`"), end)),
    }
}

/// Makes a directory, and tells its whole path and the user and group that it is for.
///
/// # Errors
/// As [`write_from`].
pub(super) async fn make_directory(
    session: &dyn SandboxSession,
    path: &str,
) -> Result<(String, u64, u64), Failure> {
    const MAKE: &str = r#"mkdir -p -- "$1" 2>/dev/null && cd -- "$1" || exit 94
pwd -P && id -u && id -g"#;
    let request = ExecRequest::of(&["/bin/sh", "-c", MAKE, "sh", path]);
    let Run { summary, out, .. } = run(session, &request, Keep::Tail(1 << 16)).await?;
    check(path, &summary.end)?;
    let text = String::from_utf8_lossy(&out.bytes);
    let mut lines = text.trim_end_matches('\n').rsplitn(3, '\n');
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<u64>().ok());
    let (group, user) = (number(lines.next()), number(lines.next()));
    match (lines.next(), user, group) {
        (Some(path), Some(user), Some(group)) => Ok((path.to_owned(), user, group)),
        _ => Err(Failure::raised(Class::Swerex, "the container does not tell who its user is")),
    }
}
