//! Where the files that a catalog names come from: a folder, or the copy inside the binary.

use std::io;
use std::path::{Component, Path, PathBuf};

use include_dir::{Dir, include_dir};

use super::ignore::Ignore;
use crate::context_file::ContextFile;

pub(super) static CONFIG: &str = include_str!("../../images.toml");
static DOCKERFILES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/dockerfiles");
static LOCKS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/locks");

/// What the relative paths of a catalog file are relative to.
#[derive(Debug, Clone)]
pub(super) enum Root {
    /// The files that imgforge was built with.
    Embedded,
    /// A folder.
    Folder(PathBuf),
}

impl Root {
    /// Returns where a file is that is not part of what is built.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        match self {
            Root::Folder(folder) => folder.join(path),
            Root::Embedded => PathBuf::from(path),
        }
    }

    /// Reads a text file.
    pub(super) fn read(&self, path: &str) -> io::Result<String> {
        match self {
            Root::Folder(folder) => std::fs::read_to_string(folder.join(path)),
            Root::Embedded => {
                let (dir, rest) = embedded(path)?;
                let file = dir.get_file(rest).ok_or(io::ErrorKind::NotFound)?;
                file.contents_utf8().map(str::to_owned).ok_or(io::ErrorKind::InvalidData.into())
            }
        }
    }

    /// Reads every file beside `dockerfile` and below, in the order of their paths.
    pub(super) fn context(&self, dockerfile: &str) -> io::Result<Vec<ContextFile>> {
        let mut files = match self {
            Root::Folder(folder) => walk(folder.join(dockerfile).parent().unwrap_or(folder))?,
            Root::Embedded => {
                let (dir, rest) = embedded(dockerfile)?;
                let parent = Path::new(rest).parent().unwrap_or(Path::new(""));
                let dir = if parent == Path::new("") {
                    dir
                } else {
                    dir.get_dir(parent).ok_or(io::ErrorKind::NotFound)?
                };
                let mut files = Vec::new();
                collect(dir, parent, &mut files);
                files
            }
        };
        let own = Path::new(dockerfile).file_name().and_then(|name| name.to_str());
        files.retain(|file| Some(file.path.as_str()) != own);
        if let Some(rules) = files.iter().find(|file| file.path == ".dockerignore") {
            let ignore = Ignore::parse(&String::from_utf8_lossy(&rules.bytes));
            files.retain(|file| !ignore.ignores(&file.path));
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }
}

/// Copies a catalog file to a directory under another name, with the folders beside it that its
/// lockfiles and Dockerfiles are in.
pub(super) fn copy(file: &Path, dir: &Path, name: &str) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    std::fs::copy(file, dir.join(name))?;
    let beside = file.parent().unwrap_or(Path::new(""));
    for folder in ["dockerfiles", "locks"] {
        let from = beside.join(folder);
        if !from.is_dir() {
            continue;
        }
        for entry in walkdir::WalkDir::new(&from) {
            let entry = entry?;
            let below = entry.path().strip_prefix(&from).unwrap_or(entry.path());
            let target = dir.join(folder).join(below);
            match entry.file_type().is_dir() {
                true => std::fs::create_dir_all(&target)?,
                false => drop(std::fs::copy(entry.path(), &target)?),
            }
        }
    }
    Ok(())
}

/// Writes the files that imgforge was built with to a directory.
pub(super) fn copy_embedded(dir: &Path) -> io::Result<()> {
    for (name, files) in [("dockerfiles", &DOCKERFILES), ("locks", &LOCKS)] {
        let folder = dir.join(name);
        std::fs::create_dir_all(&folder)?;
        files.extract(&folder)?;
    }
    std::fs::write(dir.join("images.toml"), CONFIG)
}

fn embedded(path: &str) -> io::Result<(&'static Dir<'static>, &str)> {
    if let Some(rest) = path.strip_prefix("dockerfiles/") {
        Ok((&DOCKERFILES, rest))
    } else if let Some(rest) = path.strip_prefix("locks/") {
        Ok((&LOCKS, rest))
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Scripts are what starts with `#!`: the binary keeps no file modes, and both forms of one
/// context must give one key.
fn context_file(path: String, bytes: Vec<u8>) -> ContextFile {
    ContextFile { path, executable: bytes.starts_with(b"#!"), bytes }
}

fn collect(dir: &Dir<'_>, root: &Path, into: &mut Vec<ContextFile>) {
    for file in dir.files() {
        let path = file.path().strip_prefix(root).unwrap_or(file.path());
        into.push(context_file(slashes(path), file.contents().to_vec()));
    }
    for dir in dir.dirs() {
        collect(dir, root, into);
    }
}

fn walk(folder: &Path) -> io::Result<Vec<ContextFile>> {
    let mut files = Vec::new();
    for entry in walkdir::WalkDir::new(folder).sort_by_file_name() {
        let entry = entry?;
        if entry.file_type().is_file() {
            let path = entry.path().strip_prefix(folder).unwrap_or(entry.path());
            files.push(context_file(slashes(path), std::fs::read(entry.path())?));
        }
    }
    Ok(files)
}

fn slashes(path: &Path) -> String {
    let parts: Vec<_> = path
        .components()
        .filter(|part| matches!(part, Component::Normal(_)))
        .map(|part| part.as_os_str().to_string_lossy())
        .collect();
    parts.join("/")
}
