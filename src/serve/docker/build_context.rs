//! The body of a build: an archive of the files beside the Dockerfile.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _};
use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;

use super::answer::Refusal;
use super::call::Call;

/// The file that says which others are no part of the context.
const IGNORE: &str = ".dockerignore";

/// How compressed archives begin.
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const OTHERS: [&[u8]; 2] = [b"BZh", &[0xfd, b'7', b'z', b'X', b'Z']];

/// Takes the files of a build to a directory of their own.
///
/// # Errors
/// Where the body is no archive.
pub(super) async fn receive(call: &mut Call, scratch: &Path) -> Result<TempDir, Refusal> {
    let failed =
        |error: io::Error| Refusal::failed(format!("cannot keep a build context: {error}"));
    let archive = spool(call, scratch).await?;
    let directory = tempfile::tempdir_in(scratch).map_err(failed)?;
    let path = directory.path().to_owned();
    let unpacked = tokio::task::spawn_blocking(move || unpack(archive, &path)).await;
    let wrong = |error: io::Error| Refusal::bad(format!("cannot read the build context: {error}"));
    unpacked.map_err(|error| Refusal::failed(error.to_string()))?.map_err(wrong)?;
    Ok(directory)
}

/// Writes a body to a file without a name.
pub(super) async fn spool(call: &mut Call, scratch: &Path) -> Result<File, Refusal> {
    let failed = |error: io::Error| Refusal::failed(format!("cannot keep the body: {error}"));
    let file = tempfile::tempfile_in(scratch).map_err(failed)?;
    let mut file = tokio::fs::File::from_std(file);
    let mut pieces = call.request.body_mut().into_data_stream();
    while let Some(piece) = pieces.next().await {
        let piece =
            piece.map_err(|error| Refusal::bad(format!("cannot read the body: {error}")))?;
        file.write_all(&piece).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    Ok(file.into_std().await)
}

/// Opens an archive, whatever it is compressed with.
pub(super) fn decompressed(mut file: File) -> io::Result<Box<dyn Read + Send>> {
    file.rewind()?;
    let mut first = Vec::new();
    (&mut file).take(6).read_to_end(&mut first)?;
    file.rewind()?;
    if OTHERS.iter().any(|magic| first.starts_with(magic)) {
        let why = "it is compressed with neither gzip nor zstd";
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(if first.starts_with(GZIP) {
        Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(file)))
    } else if first.starts_with(ZSTD) {
        Box::new(zstd::stream::read::Decoder::new(file)?)
    } else {
        Box::new(BufReader::new(file))
    })
}

/// Unpacks an archive; nothing of it leads out of the directory.
pub(super) fn unpack(file: File, directory: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(decompressed(file)?);
    archive.set_preserve_mtime(false);
    archive.unpack(directory)
}

/// Reads the Dockerfile of a context.
///
/// # Errors
/// Where there is none, or it leads out of the context.
pub(super) fn dockerfile(context: &Path, name: &str) -> Result<String, Refusal> {
    let absent = || Refusal::bad(format!("Cannot locate specified Dockerfile: {name}"));
    let read = || -> io::Result<Option<PathBuf>> {
        let context = context.canonicalize()?;
        let path = context.join(name.trim_start_matches('/')).canonicalize()?;
        Ok(Some(path).filter(|path| path.starts_with(&context) && path.is_file()))
    };
    let path = read().ok().flatten().ok_or_else(absent)?;
    let text = std::fs::read_to_string(path);
    text.map_err(|error| Refusal::bad(format!("the Dockerfile is not text: {error}")))
}

/// Takes the Dockerfile and `.dockerignore` itself away where that says so: clients send both whatever it
/// says.
///
/// # Errors
/// Where they cannot be removed.
pub(super) fn forget_ignored(context: &Path, dockerfile: &str) -> Result<(), Refusal> {
    let Ok(patterns) = std::fs::read_to_string(context.join(IGNORE)) else { return Ok(()) };
    for name in [dockerfile.trim_start_matches('/'), IGNORE] {
        if is_ignored(name, &patterns) {
            let removed = std::fs::remove_file(context.join(name));
            removed.map_err(|error| Refusal::failed(format!("cannot remove `{name}`: {error}")))?;
        }
    }
    Ok(())
}

/// Tells whether the last pattern that matches a file, or a directory above it, takes it away.
fn is_ignored(name: &str, patterns: &str) -> bool {
    let options = glob::MatchOptions { require_literal_separator: true, ..Default::default() };
    let mut ignored = false;
    for line in patterns.lines().map(str::trim) {
        let (pattern, brings_back) = match line.strip_prefix('!') {
            Some(pattern) => (pattern.trim(), true),
            None => (line, false),
        };
        let pattern = pattern.trim_start_matches("./").trim_matches('/');
        if pattern.is_empty() || pattern.starts_with('#') {
            continue;
        }
        let Ok(glob) = glob::Pattern::new(pattern) else { continue };
        let mut paths = Path::new(name).ancestors().filter(|path| !path.as_os_str().is_empty());
        if paths.any(|path| glob.matches_path_with(path, options)) {
            ignored = !brings_back;
        }
    }
    ignored
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_pattern_says_whether_a_file_is_ignored() {
        let patterns = "# a comment\n\n*.txt\n/sub/\n!keep.txt\n**/Docker*\n";
        for name in ["a.txt", "sub/file", "Dockerfile", "x/y/Dockerfile"] {
            assert!(is_ignored(name, patterns), "{name}");
        }
        for name in ["keep.txt", "x/a.txt", ".dockerignore", "# a comment"] {
            assert!(!is_ignored(name, patterns), "{name}");
        }
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("Dockerfile"), "FROM a").unwrap();
        std::fs::write(path(IGNORE), "Dockerfile\n.dockerignore").unwrap();
        forget_ignored(directory.path(), "Dockerfile").unwrap();
        assert!(!path("Dockerfile").exists() && !path(IGNORE).exists());
    }

    #[test]
    fn the_dockerfile_is_in_the_context() {
        let directory = tempfile::tempdir().unwrap();
        let context = directory.path().join("context");
        std::fs::create_dir_all(context.join("sub")).unwrap();
        std::fs::write(directory.path().join("outside"), "FROM a").unwrap();
        std::fs::write(context.join("sub/Own"), "FROM b").unwrap();
        std::os::unix::fs::symlink("../outside", context.join("link")).unwrap();
        assert_eq!(dockerfile(&context, "sub/Own"), Ok("FROM b".to_owned()));
        assert_eq!(dockerfile(&context, "/sub/Own"), Ok("FROM b".to_owned()));
        for name in ["Dockerfile", "../outside", "link", "sub", ""] {
            assert!(dockerfile(&context, name).is_err(), "{name}");
        }
    }
}
