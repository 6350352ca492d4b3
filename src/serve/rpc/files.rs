//! Files of a session.

use std::io::Read as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio_util::io::StreamReader;

use crate::engine::{EngineError, ExecEnd, ExecRequest, SandboxSession};
use crate::session::{Keep, Run, run};

use super::fault::{Fault, Kind};
use super::lines::{Answer, Lines};
use super::locked::locked;
use super::params::{Base64, FileData, FileGet, FilePut, FileRead, FileWrite, OfPath};
use super::served::Served;
use super::under_way::Piece;

/// The most that is read of a file, where nothing is said of it.
const MOST_READ: u64 = 100 << 20;

/// The headers around a file in an archive: its own, those of a long name, and the end.
const AROUND: u64 = 64 << 10;

/// The pieces of an archive.
const PIECE: usize = 256 << 10;

/// How many links lead on from one to the next.
const MOST_LINKS: usize = 40;

/// Lists a directory: names that end with a zero byte, an empty one, and a line for each with its mode in
/// hexadecimal digits and its size.
const LIST: &str = r#"[ -e "$1" ] || exit 91
cd -- "$1" || exit 92
set -- * .[!.]* ..?*
count=$#
for name; do
    if [ -e "$name" ] || [ -L "$name" ]; then set -- "$@" "./$name"; fi
done
shift $count
for name; do printf '%s\0' "${name#./}"; done
printf '\0'
[ $# -eq 0 ] || stat -c '%f %s' -- "$@""#;

/// Returns an archive of what is at a path, unless it is longer than `most`.
async fn archive(
    session: &dyn SandboxSession,
    path: &str,
    most: u64,
) -> Result<Option<Vec<u8>>, Fault> {
    let (mut write, read) = tokio::io::duplex(PIECE);
    let got = async {
        let got = session.get(path, &mut write).await;
        drop(write);
        got
    };
    let taken = async {
        let mut bytes = Vec::new();
        let mut limited = read.take(most + 1);
        let result = limited.read_to_end(&mut bytes).await;
        // Whoever still writes is told that nobody reads.
        drop(limited);
        result.map(|_| bytes)
    };
    let (got, bytes) = tokio::join!(got, taken);
    let bytes = bytes.unwrap_or_default();
    if bytes.len() as u64 > most {
        return Ok(None);
    }
    got?;
    Ok(Some(bytes))
}

/// What is at a path.
enum Found {
    File(Vec<u8>),
    Link(PathBuf),
    Other,
    TooLong,
}

async fn look(session: &dyn SandboxSession, path: &str, most: u64) -> Result<Found, Fault> {
    let room = most.saturating_add(AROUND);
    let Some(bytes) = archive(session, path, room).await? else { return Ok(Found::TooLong) };
    let wrong =
        |error: std::io::Error| Fault::new(Kind::Infra, format!("no archive of `{path}`: {error}"));
    let mut archive = tar::Archive::new(&bytes[..]);
    let mut entries = archive.entries().map_err(wrong)?;
    let Some(entry) = entries.next() else { return Ok(Found::Other) };
    let mut entry = entry.map_err(wrong)?;
    match entry.header().entry_type() {
        tar::EntryType::Regular if entry.size() > most => Ok(Found::TooLong),
        tar::EntryType::Regular | tar::EntryType::GNUSparse => {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).map_err(wrong)?;
            Ok(Found::File(content))
        }
        tar::EntryType::Symlink => {
            let target = entry.link_name().map_err(wrong)?.map(|name| name.into_owned());
            Ok(target.map_or(Found::Other, Found::Link))
        }
        _ => Ok(Found::Other),
    }
}

/// Returns the path that a link leads to.
fn led(path: &str, target: &Path) -> String {
    let directory = Path::new(path).parent().unwrap_or(Path::new("/"));
    directory.join(target).display().to_string()
}

/// Reads a file; a link is followed.
pub(super) async fn read(served: Arc<Served>, params: FileRead) -> Answer {
    let session = served.session();
    let most = params.max.unwrap_or(MOST_READ);
    let mut path = absolute(&params.path)?.to_owned();
    for _ in 0..MOST_LINKS {
        match look(&*session, &path, most).await? {
            Found::File(content) => return Ok(json!({ "data": Base64(content) })),
            Found::Link(target) => path = led(&path, &target),
            Found::Other => {
                let message = format!("`{}` is no file", params.path);
                return Err(Fault::new(Kind::Refused, message));
            }
            Found::TooLong => {
                let message = format!("`{}` has more than {most} bytes", params.path);
                return Err(
                    Fault::new(Kind::Limit, message).hint("read it in parts, or give `max`")
                );
            }
        }
    }
    let message = format!("`{}`: too many links", params.path);
    Err(Fault::new(Kind::Refused, message))
}

/// Checks that a path does not depend on where somebody is.
fn absolute(path: &str) -> Result<&str, Fault> {
    match path.starts_with('/') && !path.contains('\0') {
        true => Ok(path),
        false => Err(Fault::bad_params(format!("`{path}` is no absolute path"))),
    }
}

/// Writes a file, and makes the directories above it.
pub(super) async fn write(served: Arc<Served>, params: FileWrite) -> Answer {
    let path = Path::new(absolute(&params.path)?);
    let (Some(directory), Some(Component::Normal(name))) =
        (path.parent(), path.components().next_back())
    else {
        return Err(Fault::bad_params(format!("`{}` names no file", params.path)));
    };
    let (uid, gid) = match &params.user {
        Some(text) => owner(text)?,
        // That of its commands, where it is known without a look into the container.
        None => served.order.request.user.as_deref().map_or(Ok((0, 0)), owner).unwrap_or((0, 0)),
    };
    let mode = params.mode.unwrap_or(0o644);
    if mode > 0o7777 {
        return Err(Fault::bad_params(format!("{mode} is no mode: it is at most 4095")));
    }
    let mut header = tar::Header::new_gnu();
    header.set_size(params.data.0.len() as u64);
    header.set_mode(mode);
    header.set_uid(uid);
    header.set_gid(gid);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    header.set_mtime(now.as_secs());
    let mut packed = || -> std::io::Result<Vec<u8>> {
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_data(&mut header, name, &params.data.0[..])?;
        builder.into_inner()
    };
    let archive = packed().map_err(|error| Fault::new(Kind::Refused, error.to_string()))?;
    let directory = directory.display().to_string();
    let session = served.session();
    if is_directory(&*session, &params.path).await? {
        let message = format!("`{}` is a directory", params.path);
        return Err(Fault::new(Kind::Refused, message).hint("name a file in it"));
    }
    session.put(&directory, true, &mut &archive[..]).await?;
    Ok(json!({}))
}

/// Tells whether a directory is at a path, and no link to one: it would be replaced, with all that is in it.
async fn is_directory(session: &dyn SandboxSession, path: &str) -> Result<bool, Fault> {
    match session.status(path).await {
        Ok(status) => Ok(kind(status.mode) == "directory"),
        Err(EngineError::NoSuchPath { .. }) => Ok(false),
        Err(EngineError::Unsupported { .. }) => {
            let look = r#"[ -d "$1" ] && [ ! -L "$1" ]"#;
            let request = ExecRequest::of(&["/bin/sh", "-c", look, "sh", path]);
            match run(session, &request, Keep::Tail(0)).await?.summary.end {
                ExecEnd::Exited(code) => Ok(code == 0),
                ExecEnd::SessionEnded(how) => Err(how.into()),
                end => Err(Fault::new(Kind::Infra, format!("a look at `{path}` failed: {end:?}"))),
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// Reads `uid` or `uid:gid`.
fn owner(text: &str) -> Result<(u64, u64), Fault> {
    let wrong = || Fault::bad_params(format!("`{text}` is no owner: write it as 1000:1000"));
    let number = |text: &str| text.parse::<u32>().map(u64::from).map_err(|_| wrong());
    match text.split_once(':') {
        Some((user, group)) => Ok((number(user)?, number(group)?)),
        None => number(text).map(|user| (user, user)),
    }
}

/// Names what a mode stands for.
fn kind(mode: u32) -> &'static str {
    match mode & libc::S_IFMT {
        libc::S_IFREG => "file",
        libc::S_IFDIR => "directory",
        libc::S_IFLNK => "link",
        libc::S_IFIFO => "fifo",
        libc::S_IFSOCK => "socket",
        _ => "device",
    }
}

/// Looks at a path.
pub(super) async fn stat(served: Arc<Served>, params: OfPath) -> Answer {
    let status = served.session().status(absolute(&params.path)?).await?;
    let modified = (status.modified as f64) / 1e9;
    Ok(json!({
        "kind": kind(status.mode),
        "size": status.size,
        "mode": status.mode & 0o7777,
        "modified": modified,
        "target": (!status.link.is_empty()).then_some(status.link),
    }))
}

/// Lists a directory.
pub(super) async fn list(served: Arc<Served>, params: OfPath) -> Answer {
    let path = absolute(&params.path)?;
    let request = ExecRequest::of(&["/bin/sh", "-c", LIST, "sh", path]);
    let Run { summary, out, error } = run(&*served.session(), &request, Keep::All).await?;
    match summary.end {
        ExecEnd::Exited(0) => {}
        ExecEnd::Exited(91) => return Err(EngineError::NoSuchPath { path: path.to_owned() }.into()),
        ExecEnd::Exited(92) => {
            let message = format!("`{path}` is no directory that can be entered");
            return Err(Fault::new(Kind::Refused, message));
        }
        ExecEnd::SessionEnded(how) => return Err(how.into()),
        _ => {
            let said = String::from_utf8_lossy(&error.bytes).trim().to_owned();
            let message = format!("`{path}` cannot be listed: {said}");
            return Err(Fault::new(Kind::Refused, message));
        }
    }
    listed(&out.bytes)
        .map(|entries| json!({ "entries": entries }))
        .ok_or_else(|| Fault::new(Kind::Infra, format!("`{path}` changed while it was listed")))
}

/// Reads what [`LIST`] prints.
fn listed(printed: &[u8]) -> Option<Vec<Value>> {
    let end = match printed.first() {
        Some(0) => 0,
        _ => memchr::memmem::find(printed, b"\0\0")? + 1,
    };
    let (names, lines) = (&printed[..end], std::str::from_utf8(&printed[end + 1..]).ok()?);
    let names: Vec<_> = names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
    let lines: Vec<&str> = lines.lines().collect();
    if names.len() != lines.len() {
        return None;
    }
    let mut entries: Vec<(String, u32, u64)> = names
        .into_iter()
        .zip(lines)
        .map(|(name, line)| {
            let (mode, size) = line.split_once(' ')?;
            let mode = u32::from_str_radix(mode, 16).ok()?;
            Some((String::from_utf8_lossy(name).into_owned(), mode, size.parse().ok()?))
        })
        .collect::<Option<_>>()?;
    entries.sort();
    let document = |(name, mode, size): (String, u32, u64)| json!({ "name": name, "kind": kind(mode), "size": size });
    Some(entries.into_iter().map(document).collect())
}

/// Notes an archive that is to come. Its pieces may be sent before it is its turn.
pub(super) fn announce(
    served: &Served,
    params: &FilePut,
) -> Result<mpsc::UnboundedReceiver<Piece>, Fault> {
    absolute(&params.directory)?;
    let mut transfers = locked(&served.transfers);
    if transfers.contains_key(&params.transfer) {
        let message = format!("transfer `{}` is there already", params.transfer);
        return Err(Fault::bad_params(message));
    }
    let (sender, pieces) = mpsc::unbounded_channel();
    transfers.insert(params.transfer.clone(), sender);
    Ok(pieces)
}

/// Unpacks an archive that was announced.
pub(super) async fn put(
    served: Arc<Served>,
    params: FilePut,
    pieces: mpsc::UnboundedReceiver<Piece>,
) -> Answer {
    let came = futures_util::stream::unfold(pieces, async |mut pieces| {
        let Piece { bytes, tell } = pieces.recv().await?;
        let _ = tell.send(());
        Some((Ok::<Bytes, std::io::Error>(bytes?.into()), pieces))
    });
    let mut tar = StreamReader::new(Box::pin(came));
    let put = served.session().put(&params.directory, params.make, &mut tar).await;
    // What still comes of it is answered.
    locked(&served.transfers).remove(&params.transfer);
    put?;
    Ok(json!({}))
}

/// Takes a piece of an archive. The answer comes when it is taken, or nobody wants it any more.
pub(super) fn data(
    served: &Served,
    params: FileData,
) -> Result<impl Future<Output = Answer> + Send + use<>, Fault> {
    let told = {
        let transfers = locked(&served.transfers);
        transfers.get(&params.transfer).map(|sender| {
            let (tell, told) = oneshot::channel();
            let _ = sender.send(Piece { bytes: params.data.map(|data| data.0), tell });
            told
        })
    };
    Ok(async move {
        if let Some(told) = told {
            let _ = told.await;
        }
        Ok(json!({}))
    })
}

/// Sends an archive.
pub(super) async fn get(served: Arc<Served>, params: FileGet, lines: Lines) -> Answer {
    let path = absolute(&params.path)?;
    let session = served.session();
    let (mut write, mut read) = tokio::io::duplex(PIECE);
    let got = async {
        let got = session.get(path, &mut write).await;
        let _ = write.shutdown().await;
        drop(write);
        got
    };
    let passed = async {
        let mut buffer = vec![0; PIECE];
        while let Ok(count) = read.read(&mut buffer).await {
            let data = Base64(buffer[..count].to_vec());
            let params = json!({ "session": served.id, "transfer": params.transfer, "data": data });
            if count == 0 || !lines.notify("data", &params).await {
                break;
            }
        }
        drop(read);
    };
    let (got, ()) = tokio::join!(got, passed);
    got?;
    Ok(json!({}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_names_with_line_breaks() {
        let printed = b"b\nc\0a\0\0a1ff 5\n41ed 4096\n";
        let entries = listed(printed).unwrap();
        let right = [
            json!({ "name": "a", "kind": "directory", "size": 4096 }),
            json!({ "name": "b\nc", "kind": "link", "size": 5 }),
        ];
        assert_eq!(entries, right);
        assert_eq!(listed(b"\0"), Some(Vec::new()));
        assert_eq!(listed(b"a\0\0"), None);
    }

    #[test]
    fn a_link_leads_on_from_where_it_is() {
        assert_eq!(led("/a/b", Path::new("c")), "/a/c");
        assert_eq!(led("/a/b", Path::new("/c")), "/c");
    }

    #[test]
    fn an_owner_is_one_number_or_two() {
        assert_eq!(owner("1000").unwrap(), (1000, 1000));
        assert_eq!(owner("1000:5").unwrap(), (1000, 5));
        assert!(owner("root").is_err());
    }
}
