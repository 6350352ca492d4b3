//! Bundles: all that instances need, in one file, for machines without a network.
//!
//! A bundle is a directory packed as a tar of zstd: the rows of the dataset, the catalog with its
//! lockfiles and Dockerfiles, the objects of repositories at the commits that are needed, the
//! answers of the package index, and the base images. [`MANIFEST`] comes first and says what is in it;
//! every file is checked against it when the bundle is unpacked.

pub mod index;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::engine::bounds::Bounded;
use crate::hashing::Hashing;
use crate::key::Digest;
use crate::platform::Platform;
use crate::source::Needed;
use crate::traffic;

/// The version of the form; a newer one is refused.
pub const VERSION: u32 = 1;

/// The file that says what a bundle holds.
pub const MANIFEST: &str = "bundle.json";

/// The rows of the dataset.
pub const ROWS: &str = "instances.jsonl";

/// The directory of the catalog.
pub const CATALOG: &str = "catalog";

/// The directory of repositories, `<owner>__<name>.git`.
pub const REPOSITORIES: &str = "repositories";

/// The directory of the package index's answers.
pub const INDEX: &str = "index";

/// The archive of base images.
pub const IMAGES: &str = "images.tar";

/// Nothing that is larger says what a bundle holds.
const FORM_LIMIT: u64 = 64 << 20;

/// The level of compression: most of it is compressed already.
const LEVEL: i32 = 3;

/// What a bundle holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BundleManifest {
    /// The version of the form.
    pub version: u32,
    /// The imgforge that made it.
    pub imgforge: String,
    /// The path of the dataset, or its id on the hub.
    pub dataset: String,
    /// The split.
    pub split: String,
    /// Such as `linux/amd64`.
    pub platform: Platform,
    /// The instances.
    pub instances: Vec<String>,
    /// Catalog files that are laid over the first, in their order.
    pub overlays: Vec<String>,
    /// The sha256 of every file.
    pub files: BTreeMap<String, Digest>,
}

/// Why a bundle could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file could not be read or written.
    #[error("cannot use `{path}`")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is something else, or is cut off.
    #[error("`{path}` is not a whole bundle: {why}")]
    Broken {
        /// The file.
        path: PathBuf,
        /// What shows it.
        why: String,
    },
    /// A newer imgforge made it.
    #[error("`{path}` has form {found}, this imgforge knows up to {VERSION}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// The form found.
        found: u32,
    },
    /// The `git` program failed.
    #[error("`git` cannot pack `{repo}`: {said}")]
    Git {
        /// The repository.
        repo: String,
        /// Its words.
        said: String,
    },
}

fn file_error(path: &Path) -> impl Fn(io::Error) -> BundleError + '_ {
    move |source| BundleError::File { path: path.to_owned(), source }
}

/// Writes what checkouts of some commits are written from to a bare repository: `objects` of
/// `mirror`, and tags.
pub fn pack_repository(
    mirror: &Path,
    repo: &str,
    needed: &Needed,
    target: &Path,
) -> Result<(), BundleError> {
    let failed = |said: String| BundleError::Git { repo: repo.to_owned(), said };
    let git = |args: &[&str], input: &[u8]| -> Result<Vec<u8>, BundleError> {
        let mut child = Command::new("git")
            .args(args)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let mut stdin = child.stdin.take().expect("the input is a pipe");
        let input = input.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
        let _ = writer.join();
        match output.status.success() {
            true => Ok(output.stdout),
            false => Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        }
    };
    // One `git` works in the mirror.
    let target = std::path::absolute(target).map_err(file_error(target))?;
    let (from, to) = (mirror.to_string_lossy(), target.to_string_lossy());
    git(&["init", "--quiet", "--bare", "--end-of-options", &to], b"")?;
    let objects: String = needed.objects.iter().map(|id| format!("{id}\n")).collect();
    let pack = format!("{to}/objects/pack/pack");
    git(&["-C", &from, "pack-objects", "--quiet", "--end-of-options", &pack], objects.as_bytes())?;
    let references = target.join("packed-refs");
    std::fs::write(&references, &needed.packed_refs).map_err(file_error(&references))
}

/// Packs a directory to a bundle.
pub fn pack(dir: &Path, mut contents: BundleManifest, path: &Path) -> Result<u64, BundleError> {
    let mut files = Vec::new();
    for entry in walkdir::WalkDir::new(dir).sort_by_file_name() {
        let entry = entry.map_err(|error| file_error(dir)(error.into()))?;
        if entry.file_type().is_file() {
            let name = entry.path().strip_prefix(dir).expect("it is below");
            let name = name.to_string_lossy().into_owned();
            let file = File::open(entry.path()).map_err(file_error(entry.path()))?;
            let (digest, _) = Digest::of_reader(file).map_err(file_error(entry.path()))?;
            contents.files.insert(name.clone(), digest);
            files.push((name, entry.path().to_owned()));
        }
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let aside = tempfile::Builder::new()
        .prefix(".bundle-")
        .tempfile_in(parent.unwrap_or(Path::new(".")))
        .map_err(file_error(path))?;
    let write = || -> io::Result<()> {
        let encoder = zstd::stream::write::Encoder::new(aside.as_file(), LEVEL)?;
        let mut archive = tar::Builder::new(encoder.auto_finish());
        let form = serde_json::to_vec_pretty(&contents).expect("plain values");
        let header = |size: u64| {
            let mut header = tar::Header::new_gnu();
            header.set_size(size);
            header.set_mode(0o644);
            header
        };
        let mut first = header(form.len() as u64);
        archive.append_data(&mut first, MANIFEST, &form[..])?;
        for (name, file) in &files {
            let file = File::open(file)?;
            let mut header = header(file.metadata()?.len());
            archive.append_data(&mut header, name, traffic::Counted(file))?;
        }
        archive.into_inner()?;
        aside.as_file().sync_all()
    };
    write().map_err(file_error(path))?;
    let bytes = aside.as_file().metadata().map_err(file_error(path))?.len();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    aside.as_file().set_permissions(mode).map_err(file_error(path))?;
    aside.persist(path).map_err(|error| file_error(path)(error.error))?;
    Ok(bytes)
}

/// Unpacks a bundle to a directory, which must not exist; every file is checked.
pub fn unpack(path: &Path, dir: &Path) -> Result<BundleManifest, BundleError> {
    let broken = |why: String| BundleError::Broken { path: path.to_owned(), why };
    let file = File::open(path).map_err(file_error(path))?;
    let length = file.metadata().map_err(file_error(path))?.len();
    let decoder = zstd::stream::read::Decoder::new(traffic::Counted(file))
        .map_err(|error| broken(error.to_string()))?;
    let mut archive = tar::Archive::new(Bounded::new(decoder, length));
    let mut contents: Option<BundleManifest> = None;
    let mut left: BTreeMap<String, Digest> = BTreeMap::new();
    for entry in archive.entries().map_err(|error| broken(error.to_string()))? {
        let mut entry = entry.map_err(|error| broken(error.to_string()))?;
        let name = entry.path().map_err(|error| broken(error.to_string()))?.into_owned();
        let text = name.to_string_lossy().into_owned();
        if contents.is_none() {
            if text != MANIFEST {
                return Err(broken(format!("it begins with `{text}`")));
            }
            if entry.size() > FORM_LIMIT {
                return Err(broken(format!("`{MANIFEST}` is too large")));
            }
            let mut form = Vec::new();
            entry.read_to_end(&mut form).map_err(|error| broken(error.to_string()))?;
            let version: serde_json::Value =
                serde_json::from_slice(&form).map_err(|error| broken(error.to_string()))?;
            let found = version["version"].as_u64().unwrap_or(0) as u32;
            if found > VERSION {
                return Err(BundleError::Newer { path: path.to_owned(), found });
            }
            let read: BundleManifest =
                serde_json::from_slice(&form).map_err(|error| broken(error.to_string()))?;
            left = read.files.clone();
            contents = Some(read);
            continue;
        }
        let plain = entry.header().entry_type().is_file()
            && name.components().all(|part| matches!(part, Component::Normal(_)));
        let Some(digest) = left.remove(&text).filter(|_| plain) else {
            return Err(broken(format!("`{text}` is not in its list, is in it twice, or no file")));
        };
        let target = dir.join(&name);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent).map_err(file_error(parent))?;
        }
        let mut out = File::create(&target).map_err(file_error(&target))?;
        let mut hashing = Hashing::new(&mut entry);
        io::copy(&mut hashing, &mut out).map_err(|error| match crate::disk::is_full(&error) {
            true => file_error(&target)(error),
            false => broken(error.to_string()),
        })?;
        if hashing.finish().1 != digest {
            return Err(broken(format!("`{text}` is damaged")));
        }
    }
    if let Some(name) = left.keys().next() {
        return Err(broken(format!("`{name}` is missing")));
    }
    let contents = contents.ok_or_else(|| broken("it is empty".to_owned()))?;
    let form = serde_json::to_vec_pretty(&contents).expect("plain values");
    let at = dir.join(MANIFEST);
    crate::atomic::write(&at, &form, true).map_err(file_error(&at))?;
    Ok(contents)
}

/// Reads what an unpacked bundle holds; `None` where there is none.
pub fn read(dir: &Path) -> Result<Option<BundleManifest>, BundleError> {
    let path = dir.join(MANIFEST);
    match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| BundleError::Broken { path, why: error.to_string() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file_error(&path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::NoLog;
    use crate::source::Mirrors;

    fn contents() -> BundleManifest {
        BundleManifest {
            version: VERSION,
            imgforge: "0".to_owned(),
            dataset: "d".to_owned(),
            split: "test".to_owned(),
            platform: Platform::written("linux/amd64"),
            instances: vec!["a__b-1".to_owned()],
            overlays: Vec::new(),
            files: BTreeMap::new(),
        }
    }

    #[test]
    fn what_was_packed_is_unpacked_and_a_damaged_bundle_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        std::fs::create_dir_all(source.join("deep/er")).unwrap();
        std::fs::write(source.join("deep/er/file"), vec![7; 100_000]).unwrap();
        std::fs::write(source.join(ROWS), "{}\n").unwrap();
        let bundle = dir.path().join("b.bundle");
        pack(&source, contents(), &bundle).unwrap();
        let target = dir.path().join("target");
        let read_back = unpack(&bundle, &target).unwrap();
        assert_eq!(read_back.files.len(), 2);
        assert_eq!(std::fs::read(target.join("deep/er/file")).unwrap(), vec![7; 100_000]);
        assert_eq!(read(&target).unwrap().unwrap().instances, contents().instances);
        let whole = std::fs::read(&bundle).unwrap();
        for length in [0, 10, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&bundle, &whole[..length]).unwrap();
            let broken = unpack(&bundle, &dir.path().join(format!("cut-{length}")));
            assert!(matches!(broken, Err(BundleError::Broken { .. })), "{length}");
        }
        let mut newer = contents();
        newer.version = VERSION + 1;
        pack(&source, newer, &bundle).unwrap();
        let refused = unpack(&bundle, &dir.path().join("newer"));
        assert!(matches!(refused, Err(BundleError::Newer { .. })));
    }

    #[test]
    fn a_packed_repository_gives_the_same_checkout_and_has_nothing_later() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        let git = |args: &[&str]| {
            let output = Command::new("git")
                .args(["-C", source.to_str().unwrap(), "-c", "user.name=a", "-c", "user.email=a@b"])
                .args(args)
                .output()
                .unwrap();
            assert!(output.status.success(), "{args:?}");
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        std::fs::create_dir(&source).unwrap();
        git(&["init", "--quiet"]);
        let mut commits = Vec::new();
        for text in ["one", "two", "three", "four"] {
            std::fs::write(source.join("file"), text).unwrap();
            git(&["add", "."]);
            git(&["commit", "--quiet", "-m", text]);
            git(&["tag", "-a", "-m", text, text]);
            commits.push(git(&["rev-parse", "HEAD"]));
        }
        let target = dir.path().join("packed.git");
        let mirror = |path: &Path, state: &str| {
            let sources = vec![path.display().to_string()];
            let mirrors = Mirrors::new(&dir.path().join(state), sources, BTreeMap::new());
            mirrors.mirror("a/b", &[&commits[2]], &NoLog).unwrap()
        };
        let whole = mirror(&source, "one");
        let needed = whole.needed(&commits[2..3]).unwrap();
        pack_repository(whole.path(), "a/b", &needed, &target).unwrap();
        let has = |object: &str| {
            let mut command = Command::new("git");
            command.args(["-C", target.to_str().unwrap(), "cat-file", "-e", object]);
            command.stderr(Stdio::null()).status().unwrap().success()
        };
        assert!(has(&format!("{}:file", commits[2])));
        assert!(has(&commits[0]) && !has(&format!("{}:file", commits[0])));
        assert!(has("refs/tags/three") && !has("refs/tags/four") && !has(&commits[3]));
        let digest = |mirror: &crate::source::Mirror| {
            let options = crate::source::CheckoutOptions::new("testbed");
            let out = dir.path().join("layer.tar");
            mirror.write_checkout(&commits[2], &options, &out).unwrap().file.diff_id
        };
        assert_eq!(digest(&whole), digest(&mirror(&target, "other")));
    }
}
