//! A scratch repository: the files that a patch is about, in a work tree of their own, where `git`
//! and `patch` decide as they would in the whole checkout.
//!
//! Beside those files the work tree has what bears on the decision: attributes, ignore rules, and
//! something in every directory that a patch names. It knows nothing of mirrors and layers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::SourceError;
use super::layer::FileMode;
use super::listing::EntryKind;
use super::pack::{self, ObjectKind};

/// The chain of the harness (5.x): the first that succeeds has applied the patch.
const CHAIN: [&[&str]; 4] = [
    &["git", "apply", "--verbose"],
    THREE_WAY,
    &["git", "apply", "--verbose", "--reject"],
    &["patch", "--batch", "--forward", "--fuzz=5", "-p1", "-i"],
];

/// The step that reads blobs of the repository and writes its index.
const THREE_WAY: &[&str] = &["git", "apply", "--verbose", "--3way"];

/// How long a program may take over one patch. `patch` counts up to the line that a hunk names, one by
/// one: some numbers take it years.
const LIMIT: Duration = Duration::from_secs(120);

/// A `PATH` in which nothing is found.
const NO_PROGRAMS: &str = "/dev/null";

/// Content of a path of the work tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// A regular file.
    File(FileMode, Vec<u8>),
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// A directory with nothing in it: a submodule.
    Directory,
}

/// A work tree.
pub(super) type Tree = BTreeMap<Vec<u8>, Content>;

/// Entries of an index.
pub(super) type Entries = BTreeMap<Vec<u8>, (EntryKind, [u8; 20])>;

/// A scratch repository.
pub(super) struct Scratch {
    tree: PathBuf,
    /// Beside the work tree: `patch`, which knows nothing of git, finds nothing of git's to write to.
    git_dir: PathBuf,
    patch: PathBuf,
    saved_index: PathBuf,
}

impl Scratch {
    /// Makes an empty repository below an existing directory.
    pub(super) fn create(directory: &Path) -> Result<Self, SourceError> {
        let scratch = Scratch {
            tree: directory.join("tree"),
            git_dir: directory.join("git"),
            patch: directory.join("patch.diff"),
            saved_index: directory.join("index"),
        };
        for part in [&scratch.tree, &scratch.git_dir] {
            let gone = match std::fs::remove_dir_all(part) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
            let made = gone.and_then(|()| std::fs::create_dir_all(part));
            made.map_err(|source| scratch.file(source))?;
        }
        scratch.git(&["init", "--quiet", "--template="], b"")?;
        Ok(scratch)
    }

    /// Adds a blob.
    pub(super) fn add_blob(&self, id: &[u8; 20], data: &[u8]) -> Result<(), SourceError> {
        let path = self.git_dir.join(pack::loose_path(id));
        if path.exists() {
            return Ok(());
        }
        let directory = path.parent().expect("an object has a directory");
        std::fs::create_dir_all(directory)
            .and_then(|()| std::fs::write(&path, pack::loose(ObjectKind::Blob, data)))
            .map_err(|source| self.file(source))
    }

    /// Adds entries to the index, whose blobs are there.
    pub(super) fn add_entries(&self, entries: &Entries) -> Result<(), SourceError> {
        let mut lines = Vec::new();
        for (path, (kind, id)) in entries {
            lines.extend_from_slice(format!("{:o} {}\t", kind.mode(), hex::encode(id)).as_bytes());
            lines.extend_from_slice(path);
            lines.push(0);
        }
        self.git(&["update-index", "--add", "--replace", "-z", "--index-info"], &lines).map(drop)
    }

    /// Applies a patch to the index alone.
    pub(super) fn apply_to_index(&self, patch: &[u8]) -> Result<(), SourceError> {
        self.git(&["apply", "--cached", "--whitespace=nowarn", "-"], patch).map(drop)
    }

    /// Writes the work tree of the index, as a checkout does: attributes are those of the index.
    pub(super) fn check_out(&self) -> Result<(), SourceError> {
        let tree = self.git(&["write-tree", "--missing-ok"], b"")?;
        let tree = String::from_utf8_lossy(&tree);
        self.git(&["read-tree", "--reset", "-u", tree.trim()], b"").map(drop)
    }

    /// Takes the work tree over to the index, then gives `paths` what `entries` has of them; those
    /// that it does not have are removed.
    pub(super) fn reset(
        &self,
        paths: &BTreeSet<Vec<u8>>,
        entries: &Entries,
    ) -> Result<(), SourceError> {
        self.git(&["add", "--all", "--force", "."], b"")?;
        let (known, new): (Vec<&Vec<u8>>, _) =
            paths.iter().partition(|path| entries.contains_key(*path));
        if !new.is_empty() {
            let remove = [
                "--literal-pathspecs",
                "rm",
                "-r",
                "--force",
                "--quiet",
                "--ignore-unmatch",
                "--pathspec-from-file=-",
                "--pathspec-file-nul",
            ];
            self.git(&remove, &lines_of(&new))?;
        }
        let entries: Entries = known.iter().map(|path| ((*path).clone(), entries[*path])).collect();
        self.add_entries(&entries)?;
        self.git(
            &["checkout-index", "--force", "--quiet", "--index", "-z", "--stdin"],
            &lines_of(&known),
        )
        .map(drop)
    }

    /// Applies a patch by the harness's chain, with its cleaning between the tries. The inner error
    /// is what the programs said. `before_three_way` is called once plain `git apply` has failed.
    ///
    /// One thing is not as in the harness: a `--3way` that ends in conflicts leaves no unmerged paths
    /// in the index. There they keep `git checkout` from cleaning, so that every later try works on a
    /// tree with conflict markers.
    pub(super) fn apply(
        &self,
        patch: &[u8],
        before_three_way: impl FnOnce() -> Result<(), SourceError>,
    ) -> Result<Result<(), String>, SourceError> {
        std::fs::write(&self.patch, patch).map_err(|source| self.file(source))?;
        let patch_path = self.patch.to_string_lossy();
        let mut before_three_way = Some(before_three_way);
        let mut text = String::new();
        for (attempt, command) in CHAIN.iter().enumerate() {
            if attempt > 0 {
                self.clean()?;
            }
            let three_way = *command == THREE_WAY;
            if three_way {
                before_three_way.take().map_or(Ok(()), |call| call())?;
                self.save_index()?;
            }
            let (applied, said) = self.judge(command, &patch_path)?;
            text.push_str(&said);
            if applied {
                return Ok(Ok(()));
            }
            if three_way {
                let index = self.git_dir.join("index");
                std::fs::rename(&self.saved_index, index).map_err(|source| self.file(source))?;
            }
        }
        // Of what the last try left: a part may have been there before.
        let check = ["git", "apply", "--check", "--reverse"];
        let (reversed, said) = self.judge(&check, &patch_path)?;
        text.push_str(&said);
        Ok(if reversed { Ok(()) } else { Err(text) })
    }

    /// Brings the work tree back to the index, as the harness does: what is ignored stays.
    fn clean(&self) -> Result<(), SourceError> {
        self.run(&["git", "checkout", "--", "."], b"")?;
        self.run(&["git", "clean", "-fd"], b"")?;
        Ok(())
    }

    /// Copies the index with its time: git looks closely at files that are as young as the index.
    fn save_index(&self) -> Result<(), SourceError> {
        let index = self.git_dir.join("index");
        // An index without entries may have no file.
        if !index.exists() {
            self.git(&["read-tree", "--empty"], b"")?;
        }
        let copy = || {
            std::fs::copy(&index, &self.saved_index)?;
            let time = std::fs::metadata(&index)?.modified()?;
            File::options().write(true).open(&self.saved_index)?.set_modified(time)
        };
        copy().map_err(|source| self.file(source))
    }

    /// Reads the work tree.
    pub(super) fn read(&self) -> Result<Tree, SourceError> {
        read_tree(&self.tree).map_err(|source| self.file(source))
    }

    fn file(&self, source: std::io::Error) -> SourceError {
        SourceError::File { path: self.tree.clone(), source }
    }

    /// Runs `git` where a failure is no answer; returns what it prints.
    fn git(&self, args: &[&str], input: &[u8]) -> Result<Vec<u8>, SourceError> {
        let output = self.run(&[&["git"], args].concat(), input)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let command = args.iter().find(|arg| !arg.starts_with('-')).unwrap_or(&"");
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(SourceError::Git { command: (*command).to_owned(), said })
    }

    /// Runs a program that judges the patch; returns whether it succeeded, and its words.
    fn judge(&self, words: &[&str], patch: &str) -> Result<(bool, String), SourceError> {
        let output = self.run(&[words, &[patch]].concat(), b"")?;
        let said = [output.stdout, output.stderr].concat();
        let said = format!("$ {}\n{}", words.join(" "), String::from_utf8_lossy(&said));
        Ok((output.status.success(), said))
    }

    fn run(&self, words: &[&str], input: &[u8]) -> Result<Output, SourceError> {
        self.run_within(LIMIT, words, input)
    }

    /// Does as [`Scratch::run`]; a program that takes longer is killed.
    fn run_within(
        &self,
        limit: Duration,
        words: &[&str],
        input: &[u8],
    ) -> Result<Output, SourceError> {
        let mut command = Command::new(words[0]);
        if words[0] == "patch" {
            // It starts `ed`, which runs any command, for a patch that is an ed script.
            command = Command::new(find_program(words[0])?);
            command.env("PATH", NO_PROGRAMS);
        }
        let outside = self.tree.parent().unwrap_or(&self.tree);
        isolate(&mut command, outside);
        command
            .env("GIT_DIR", &self.git_dir)
            .env("GIT_WORK_TREE", &self.tree)
            .args(&words[1..])
            .current_dir(&self.tree)
            .stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let failed = |source| SourceError::NoProgram { program: words[0].to_owned(), source };
        let mut child = command.spawn().map_err(failed)?;
        let stdin = child.stdin.take();
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty());
        let pidfd = pidfd.map_err(|error| failed(error.into()))?;
        let output = std::thread::scope(|scope| {
            // A program that ends before it has read everything says why itself.
            scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input)));
            let output = scope.spawn(move || child.wait_with_output());
            let in_time = ends_within(&pidfd, limit);
            if !in_time {
                // Another process never gets the signal: this is the descriptor of the child.
                let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            }
            output.join().expect("it does not panic").map(|output| (in_time, output))
        });
        match output.map_err(failed)? {
            (true, output) => Ok(output),
            (false, _) => Err(SourceError::TooLong { program: words[0].to_owned(), limit }),
        }
    }
}

/// Waits for the end of a process; tells whether it came in time.
fn ends_within(process: &OwnedFd, limit: Duration) -> bool {
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let wait = Timespec::try_from(left).expect("a limit is short");
        let mut fds = [PollFd::new(process, PollFlags::IN)];
        match poll(&mut fds, Some(&wait)) {
            Ok(0) => return false,
            Err(Errno::INTR) => {}
            // What cannot be watched is waited for.
            Ok(_) | Err(_) => return true,
        }
    }
}

/// Keeps the user's settings from deciding whether a patch applies, and how.
fn isolate(command: &mut Command, outside: &Path) {
    let ours = |name: &str| {
        ["GIT_", "PATCH_"].iter().any(|prefix| name.starts_with(prefix))
            || ["POSIXLY_CORRECT", "SIMPLE_BACKUP_SUFFIX", "VERSION_CONTROL"].contains(&name)
    };
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(ours) {
            command.env_remove(&name);
        }
    }
    command
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_ATTR_NOSYSTEM", "1")
        .env("GIT_CEILING_DIRECTORIES", outside)
        // Where attributes and ignore rules of the user would be.
        .env("HOME", outside)
        .env("XDG_CONFIG_HOME", outside)
        .env("LC_ALL", "C");
}

fn lines_of(paths: &[&Vec<u8>]) -> Vec<u8> {
    paths.iter().flat_map(|path| path.iter().copied().chain([0])).collect()
}

/// Finds a program where a shell would.
fn find_program(name: &str) -> Result<PathBuf, SourceError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
    found.ok_or_else(|| SourceError::NoProgram {
        program: name.to_owned(),
        source: std::io::ErrorKind::NotFound.into(),
    })
}

/// Reads a work tree.
fn read_tree(dir: &Path) -> std::io::Result<Tree> {
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::PermissionsExt as _;
    let mut tree = Tree::new();
    for entry in walkdir::WalkDir::new(dir).min_depth(1) {
        let entry = entry?;
        let path = entry.path().strip_prefix(dir).expect("the walk stays below its root");
        let path = path.as_os_str().as_bytes().to_vec();
        let content = if entry.file_type().is_symlink() {
            Content::Symlink(std::fs::read_link(entry.path())?.as_os_str().as_bytes().to_vec())
        } else if entry.file_type().is_file() {
            let executable = entry.metadata()?.permissions().mode() & 0o100 != 0;
            let mode = if executable { FileMode::Executable } else { FileMode::Plain };
            Content::File(mode, std::fs::read(entry.path())?)
        } else if std::fs::read_dir(entry.path())?.next().is_none() {
            Content::Directory
        } else {
            continue;
        };
        tree.insert(path, content);
    }
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_goes_on_for_ever_is_killed_and_is_no_answer() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(dir.path()).unwrap();
        // `patch` looks for line 10000000000 of an empty file at each line before it.
        let patch = dir.path().join("patch");
        let text = "--- /dev/null\n+++ b/new\n@@ -10000000000000,0 +1 @@\n+x\n";
        std::fs::write(&patch, text).unwrap();
        std::fs::write(scratch.tree.join("new"), "").unwrap();
        let words = [CHAIN[3], &[patch.to_str().unwrap()]].concat();
        let ran = scratch.run_within(Duration::from_millis(300), &words, b"");
        assert!(matches!(&ran, Err(SourceError::TooLong { .. })), "{ran:?}");
        assert!(scratch.run_within(LIMIT, &["git", "--version"], b"").unwrap().status.success());
    }
}
