//! What `git checkout` makes of the blobs of a tree: line endings, `$Id$` and encodings, as the
//! attributes of the tree itself ask for.
//!
//! The conversion is the business of the `git` program, away from every setting of the machine and
//! the user: its bytes are by definition those of a checkout. It is started only for trees whose
//! attributes convert something. Filters that are programs (Git LFS and others) come from settings,
//! so none runs: their files stay as they are in git, and are named.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::SourceError;
use super::layer::path_of;
use super::listing::{EntryKind, Listing};
use super::mirror::Mirror;

/// The file of a directory that gives attributes to the files below it.
pub(super) const ATTRIBUTES: &[u8] = b".gitattributes";

/// The attributes that may change a file between git and the work tree, as far as nothing is set
/// outside the repository. `text` alone changes nothing where lines end in LF.
const CONVERTING: [&str; 4] = ["eol", "ident", "working-tree-encoding", "filter"];

/// What a work tree has in another form than git.
#[derive(Debug, Default)]
pub(super) struct Converted {
    /// Files whose bytes differ from their blob.
    pub files: BTreeMap<Vec<u8>, Vec<u8>>,
    /// By the name of a filter that is a program: the files that it was not run for.
    pub filters: BTreeMap<String, Vec<String>>,
}

/// Tells whether a path is one of a `.gitattributes`.
pub(super) fn is_attributes(path: &[u8]) -> bool {
    path.rsplit(|byte| *byte == b'/').next() == Some(ATTRIBUTES)
}

impl Mirror {
    /// Converts the files of a tree as `git checkout` does. `scratch` is an existing directory.
    pub(super) fn converted(
        &self,
        listing: &Listing,
        scratch: &Path,
    ) -> Result<Converted, SourceError> {
        if !self.converts(listing)? {
            return Ok(Converted::default());
        }
        let regular =
            listing.files.iter().filter(|(_, (kind, _))| matches!(kind, EntryKind::File(_)));
        let paths: Vec<&[u8]> = regular.map(|(path, _)| path.as_slice()).collect();
        if paths.is_empty() {
            return Ok(Converted::default());
        }
        let checkout = Checkout::new(self, scratch)?;
        checkout.git(&["read-tree", &hex::encode(listing.root())], b"")?;
        let mut args = vec!["check-attr", "-z", "--stdin", "--cached"];
        args.extend(CONVERTING);
        let answer = checkout.git(&args, &zero_ended(&paths))?;
        let mut converted = Converted::default();
        let mut wanted: BTreeSet<Vec<u8>> = BTreeSet::new();
        let words: Vec<&[u8]> = answer.split(|byte| *byte == 0).collect();
        for word in words.chunks_exact(3) {
            let (path, attribute, value) = (word[0], word[1], word[2]);
            let set_to_word = !matches!(value, b"unspecified" | b"unset" | b"set");
            match attribute {
                b"eol" if value == b"crlf" => _ = wanted.insert(path.to_vec()),
                b"ident" if value == b"set" => _ = wanted.insert(path.to_vec()),
                b"working-tree-encoding" if set_to_word => _ = wanted.insert(path.to_vec()),
                b"filter" if set_to_word => {
                    let name = String::from_utf8_lossy(value).into_owned();
                    let path = String::from_utf8_lossy(path).into_owned();
                    converted.filters.entry(name).or_default().push(path);
                }
                _ => {}
            }
        }
        // A file of attributes in the work tree goes before the one in the index: they come last.
        let (last, first): (Vec<&[u8]>, Vec<&[u8]>) =
            wanted.iter().map(Vec::as_slice).partition(|path| is_attributes(path));
        for paths in [first, last] {
            if !paths.is_empty() {
                checkout
                    .git(&["checkout-index", "--force", "-z", "--stdin"], &zero_ended(&paths))?;
            }
        }
        let local = self.local();
        for path in wanted {
            let bytes = checkout.read(&path)?;
            let (_, id) = listing.files[&path];
            if bytes != local.object(&id)? {
                converted.files.insert(path, bytes);
            }
        }
        Ok(converted)
    }

    /// Tells whether some attributes of a tree may convert files.
    fn converts(&self, listing: &Listing) -> Result<bool, SourceError> {
        let local = self.local();
        for (path, (kind, id)) in &listing.files {
            if is_attributes(path) && matches!(kind, EntryKind::File(_)) {
                let text = local.object(id)?;
                let names = |word: &str| memchr::memmem::find(&text, word.as_bytes()).is_some();
                if CONVERTING.iter().any(|word| names(word)) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

fn zero_ended(paths: &[&[u8]]) -> Vec<u8> {
    paths.iter().flat_map(|path| path.iter().chain(b"\0")).copied().collect()
}

/// A repository with the objects of a mirror, an index and a work tree of its own, and no setting
/// from elsewhere.
struct Checkout<'a> {
    mirror: &'a Path,
    dir: tempfile::TempDir,
}

impl<'a> Checkout<'a> {
    fn new(mirror: &'a Mirror, scratch: &Path) -> Result<Self, SourceError> {
        let make = || -> std::io::Result<tempfile::TempDir> {
            let dir = tempfile::Builder::new().prefix("worktree-").tempdir_in(scratch)?;
            for name in ["git/refs", "git/objects", "tree"] {
                std::fs::create_dir_all(dir.path().join(name))?;
            }
            std::fs::write(dir.path().join("git/HEAD"), "ref: refs/heads/none\n")?;
            Ok(dir)
        };
        let dir =
            make().map_err(|source| SourceError::File { path: scratch.to_owned(), source })?;
        Ok(Checkout { mirror: mirror.path(), dir })
    }

    fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    fn read(&self, path: &[u8]) -> Result<Vec<u8>, SourceError> {
        let path = self.tree().join(path_of(path));
        std::fs::read(&path).map_err(|source| SourceError::File { path, source })
    }

    /// Runs `git` with `input`; returns what it prints.
    fn git(&self, args: &[&str], input: &[u8]) -> Result<Vec<u8>, SourceError> {
        let mut command = Command::new("git");
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_gits(name)) {
            command.env_remove(name);
        }
        command
            .args(args)
            .current_dir(self.tree())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            // Older versions of git know no other way to leave the user's settings out.
            .env("HOME", self.dir.path())
            .env("XDG_CONFIG_HOME", self.dir.path())
            .env("GIT_DIR", self.dir.path().join("git"))
            .env("GIT_OBJECT_DIRECTORY", self.mirror.join("objects"))
            .env("GIT_WORK_TREE", self.tree())
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let no_program = |source| SourceError::NoProgram { program: "git".to_owned(), source };
        let mut child = command.spawn().map_err(no_program)?;
        let mut stdin = child.stdin.take().expect("the input is a pipe");
        let output = std::thread::scope(|scope| {
            // Where `git` ends early, its exit says why.
            scope.spawn(move || _ = stdin.write_all(input));
            child.wait_with_output()
        });
        let output = output.map_err(no_program)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(SourceError::Git { command: args[0].to_owned(), said })
    }
}

/// What `git checkout` on Linux does where nothing is set.
const SETTINGS: [&str; 4] =
    ["core.autocrlf=false", "core.eol=lf", "core.attributesFile=/dev/null", "core.symlinks=true"];

fn is_gits(variable: &OsStr) -> bool {
    variable.as_encoded_bytes().starts_with(b"GIT_")
}
