//! Patch layers against the harness: what `write_patch_layer` makes of a patch, beside what the
//! harness's own chain makes of it in a real checkout, file by file, bytes and modes.
//!
//! `PROPTEST_CASES` sets how many patches are made. `IMGFORGE_PATCHES` names a file of real ones to
//! try as well, one JSON object a line: `repository` (a git directory), `commit`, `patch`, and the
//! commands `pre_install`.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use imgforge::engine::NoLog;
use imgforge::source::{Mirror, Mirrors, PatchOutcome, PatchRequest};
use proptest::prelude::*;

mod common;

use common::needs::{NotHere, not_here};

/// The chain and the cleaning of `swebench` 5.0, with one line of ours: the index is put back after a
/// `--3way` that failed, where `$LITERAL` is not set. The exit code says which step applied the patch.
const HARNESS: &str = r#"
umask 022
export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null LC_ALL=C
clean() { git checkout -- . ; git clean -fd; }
{
git apply --verbose "$1" && exit 1
clean; cp -p .git/index "$1.index"
git apply --verbose --3way "$1" && exit 2
[ -z "$(git ls-files --unmerged)" ] || touch "$1.conflict"
[ -n "${LITERAL:-}" ] || mv "$1.index" .git/index
clean; git apply --verbose --reject "$1" && exit 3
clean; patch --batch --forward --fuzz=5 -p1 -i "$1" && exit 4
git apply --check --reverse "$1" && exit 5
exit 6
} >"$1.log" 2>&1
"#;

/// The steps of the chain by exit code.
const STEPS: [&str; 7] =
    ["", "git apply", "--3way", "--reject", "patch", "applied already", "refused"];

const REFUSED: usize = 6;

fn git(dir: &Path, args: &[&str]) -> Vec<u8> {
    let output = Command::new("git")
        .args(args)
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .envs(["AUTHOR", "COMMITTER"].iter().flat_map(|who| {
            [
                (format!("GIT_{who}_NAME"), "A".to_owned()),
                (format!("GIT_{who}_EMAIL"), "a@b".to_owned()),
                (format!("GIT_{who}_DATE"), "1600000000 +0000".to_owned()),
            ]
        }))
        .output()
        .expect("git runs");
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn line(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// What is at a path.
#[derive(Clone, PartialEq, Eq)]
enum Node {
    Directory,
    File(u32, Vec<u8>),
    Link(Vec<u8>),
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Node::Directory => write!(f, "directory"),
            Node::File(mode, bytes) => write!(f, "{mode:o} {:?}", String::from_utf8_lossy(bytes)),
            Node::Link(target) => write!(f, "-> {}", String::from_utf8_lossy(target)),
        }
    }
}

type Nodes = BTreeMap<Vec<u8>, Node>;

/// What a path had when it was last looked at: a path with the same was not written since.
#[derive(PartialEq, Eq, Clone, Copy)]
struct Stat(u64, u64, u32, i64, i64, i64);

fn stats(dir: &Path) -> BTreeMap<Vec<u8>, Stat> {
    let walk = walkdir::WalkDir::new(dir).min_depth(1).into_iter();
    walk.filter_entry(|entry| entry.depth() > 1 || entry.file_name() != ".git")
        .map(|entry| {
            let entry = entry.unwrap();
            let path = entry.path().strip_prefix(dir).unwrap().as_os_str().as_bytes().to_vec();
            let of = std::fs::symlink_metadata(entry.path()).unwrap();
            let directory = of.is_dir();
            let times =
                if directory { (0, 0, 0) } else { (of.mtime(), of.mtime_nsec(), of.ctime_nsec()) };
            let size = if directory { 0 } else { of.size() };
            (path, Stat(of.ino(), size, of.mode(), times.0, times.1, times.2))
        })
        .collect()
}

fn node(dir: &Path, path: &[u8]) -> Option<Node> {
    let path = dir.join(std::ffi::OsStr::from_bytes(path));
    let metadata = std::fs::symlink_metadata(&path).ok()?;
    Some(if metadata.is_dir() {
        Node::Directory
    } else if metadata.is_symlink() {
        Node::Link(std::fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec())
    } else {
        Node::File(metadata.permissions().mode() & 0o777, std::fs::read(&path).unwrap())
    })
}

/// A layer: what it brings, and what it deletes.
#[derive(Debug, Default)]
struct Layer {
    brought: Nodes,
    whiteouts: BTreeSet<Vec<u8>>,
}

impl Layer {
    fn read(tar: &Path) -> Layer {
        let mut layer = Layer::default();
        let mut archive = tar::Archive::new(std::fs::File::open(tar).unwrap());
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path_bytes().into_owned();
            let path = path.strip_suffix(b"/").unwrap_or(&path);
            let Some(path) = path.strip_prefix(b"testbed/") else { continue };
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            let name = path.rsplit(|byte| *byte == b'/').next().unwrap();
            if let Some(name) = name.strip_prefix(b".wh.") {
                let above = &path[..path.len() - name.len() - 4];
                layer.whiteouts.insert([above, name].concat());
                continue;
            }
            let mode = entry.header().mode().unwrap();
            let node = match entry.header().entry_type() {
                tar::EntryType::Directory => Node::Directory,
                tar::EntryType::Symlink => {
                    Node::Link(entry.link_name_bytes().unwrap().into_owned())
                }
                _ => Node::File(mode, bytes),
            };
            assert!(layer.brought.insert(path.to_vec(), node).is_none(), "a path comes twice");
        }
        layer
    }

    /// What is at `path` with the layer on top of `below`.
    fn on(&self, below: &Path, path: &[u8]) -> Option<Node> {
        if let Some(node) = self.brought.get(path) {
            return Some(node.clone());
        }
        let above = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let hidden = above.map(|(at, _)| &path[..at]).chain([path]).any(|above| {
            self.whiteouts.contains(above)
                || (above != path
                    && self.brought.get(above).is_some_and(|node| *node != Node::Directory))
        });
        if hidden { None } else { node(below, path) }
    }
}

/// A real checkout and a copy of it that patches are applied to.
struct Place {
    pristine: PathBuf,
    work: PathBuf,
}

/// What the harness makes of a patch.
struct Harness {
    step: usize,
    conflict: bool,
    said: String,
}

impl Place {
    fn harness(&self, patch: &Path, literal: bool) -> Harness {
        let mut command = Command::new("bash");
        command.args(["-c", HARNESS, "bash"]).arg(patch).current_dir(&self.work);
        if literal {
            command.env("LITERAL", "1");
        }
        let code = command.status().unwrap().code().unwrap();
        let beside = |end: &str| PathBuf::from(format!("{}.{end}", patch.display()));
        let conflict = beside("conflict");
        let harness = Harness {
            step: usize::try_from(code).unwrap(),
            conflict: conflict.exists(),
            said: String::from_utf8_lossy(&std::fs::read(beside("log")).unwrap()).into_owned(),
        };
        assert!((1..STEPS.len()).contains(&harness.step), "{}", harness.said);
        if harness.conflict {
            std::fs::remove_file(conflict).unwrap();
        }
        harness
    }

    /// Compares the work tree with `layer` on top of the pristine one; `before` is the work tree as
    /// it was then.
    fn compare(&self, before: &BTreeMap<Vec<u8>, Stat>, layer: &Layer) -> Vec<String> {
        let after = stats(&self.work);
        let mut differences = Vec::new();
        let paths: BTreeSet<&Vec<u8>> = before.keys().chain(after.keys()).collect();
        for path in paths.into_iter().chain(layer.brought.keys()).collect::<BTreeSet<_>>() {
            let ours = layer.on(&self.pristine, path);
            let untouched = before.get(path).is_some() && before.get(path) == after.get(path);
            let theirs = match untouched {
                true if !layer.brought.contains_key(path) && ours.is_some() => continue,
                _ => node(&self.work, path),
            };
            if ours != theirs {
                let path = String::from_utf8_lossy(path);
                differences.push(format!("{path}\n  imgforge {ours:?}\n  harness  {theirs:?}"));
            }
        }
        differences
    }
}

/// A case: a patch, on a commit, with what the installation changed.
struct Case<'a> {
    mirror: &'a Mirror,
    commit: &'a str,
    setup_diff: &'a [u8],
    patch: &'a [u8],
}

/// What came of a case.
struct Outcome {
    step: usize,
    /// What the harness does without our line, where `--3way` has conflicts.
    literal: Option<usize>,
    differences: Vec<String>,
}

impl Case<'_> {
    /// Runs imgforge and the harness; `place.work` must be as `place.pristine`.
    fn run(&self, place: &Place, scratch: &Path) -> Outcome {
        let before = stats(&place.work);
        let file = scratch.join("harness.diff");
        std::fs::write(&file, self.patch).unwrap();
        let harness = place.harness(&file, false);
        let out = scratch.join("layer.tar");
        let request = PatchRequest {
            commit: self.commit,
            setup_diff: (!self.setup_diff.is_empty()).then_some(self.setup_diff),
            test_patch: b"",
            model_patch: self.patch,
            root: "testbed",
        };
        let outcome = self.mirror.write_patch_layer(&request, scratch, &out).unwrap();
        let applied = harness.step < REFUSED;
        let differences = match outcome {
            PatchOutcome::Applied(_) if applied => place.compare(&before, &Layer::read(&out)),
            PatchOutcome::Refused(_) if !applied => Vec::new(),
            PatchOutcome::Applied(_) => vec![format!("only imgforge applies it\n{}", harness.said)],
            PatchOutcome::Refused(refusal) => vec![format!(
                "only the harness applies it ({})\n{}\n{}",
                STEPS[harness.step],
                refusal.reason(),
                refusal.text
            )],
        };
        let literal = harness.conflict.then(|| {
            git(&place.work, &["reset", "-q", "--hard"]);
            git(&place.work, &["clean", "-ffdxq"]);
            place.harness(&file, true).step
        });
        Outcome { step: harness.step, literal, differences }
    }
}

/// A repository with an older, a base and a later commit; the later one is in the mirror only.
struct Fixture {
    dir: tempfile::TempDir,
    mirror: Mirror,
    older: String,
    base: String,
    later: String,
}

const LINES: [&str; 12] = [
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa",
    "lambda", "mu",
];

/// Files that a case may change.
const FILES: [&str; 14] = [
    "pkg/code.py",
    "pkg/deep/er/more.py",
    "tests/test_code.py",
    "setup.cfg",
    "dos.txt",
    "eol/win.txt",
    "eol/auto.txt",
    "no_end.txt",
    "run me.sh",
    "café.txt",
    "data/a.txt",
    "data/a.txt.orig",
    "blob.bin",
    "empty.txt",
];

/// Paths that a case may make.
const NEW: [&str; 12] = [
    "pkg/new.py",
    "new dir/file.txt",
    "pkg/code.py.rej",
    "pkg/code.py.orig",
    "build/ignored.py",
    "pkg/deep",
    "vendor/lib/inside.c",
    "through/new.py",
    "eol/new.txt",
    "pkg/code.py/below.py",
    "notes.rej",
    "vendor/other",
];

fn text(from: usize, lines: usize, end: &str) -> String {
    (from..from + lines).map(|at| format!("{} {at}{end}", LINES[at % LINES.len()])).collect()
}

fn write(dir: &Path, path: &str, bytes: &[u8]) {
    let path = dir.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    let git = |args: &[&str]| git(&source, args);
    git(&["init", "-q", "-b", "main"]);
    let write = |path: &str, text: &str| write(&source, path, text.as_bytes());
    write("pkg/code.py", &text(0, 30, "\n"));
    write("pkg/deep/er/more.py", &text(5, 20, "\n"));
    write("tests/test_code.py", &text(3, 12, "\n"));
    write("setup.cfg", &text(7, 14, "\n"));
    write("dos.txt", &text(1, 10, "\r\n"));
    write("eol/win.txt", &text(2, 10, "\n"));
    write("eol/auto.txt", &text(4, 10, "\n"));
    write("no_end.txt", text(6, 9, "\n").trim_end());
    write("run me.sh", &text(8, 8, "\n"));
    write("café.txt", &text(9, 8, "\n"));
    write("data/a.txt", "one\ntwo\n");
    write("data/a.txt.orig", "uno\ndos\n");
    write("empty.txt", "");
    std::fs::write(source.join("blob.bin"), (0..=255).collect::<Vec<u8>>()).unwrap();
    write(".gitattributes", "eol/win.txt text eol=crlf\neol/auto.txt text=auto\n*.bin binary\n");
    write(".gitignore", "*.orig\n*.rej\nbuild/\n");
    write(".gitmodules", "[submodule \"l\"]\n\tpath = vendor/lib\n\turl = https://example.org/l\n");
    std::fs::set_permissions(source.join("run me.sh"), std::fs::Permissions::from_mode(0o755))
        .unwrap();
    std::os::unix::fs::symlink("pkg/code.py", source.join("link")).unwrap();
    std::os::unix::fs::symlink("pkg/deep", source.join("through")).unwrap();
    git(&["add", "--all", "--force"]);
    let module = format!("160000,{},vendor/lib", "12".repeat(20));
    git(&["update-index", "--add", "--cacheinfo", &module]);
    let commit = |message: &str| {
        git(&["commit", "-q", "-m", message]);
        line(&git(&["rev-parse", "HEAD"]))
    };
    let older = commit("older");
    write("pkg/code.py", &text(0, 30, "\n").replace("delta 3\n", "DELTA\n").replace("mu 11\n", ""));
    write("setup.cfg", &text(7, 15, "\n"));
    std::fs::write(source.join("blob.bin"), (0..=254).collect::<Vec<u8>>()).unwrap();
    git(&["add", "pkg", "setup.cfg", "blob.bin"]);
    let base = commit("base");
    write("pkg/code.py", &text(0, 33, "\n").replace("gamma 2\n", "the fix\n"));
    std::fs::write(source.join("blob.bin"), (0..=253).collect::<Vec<u8>>()).unwrap();
    git(&["add", "pkg", "blob.bin"]);
    let later = commit("later");
    let state = dir.path().join("state");
    let mirrors = Mirrors::new(&state, vec![source.display().to_string()], BTreeMap::new());
    let mirror = mirrors.mirror("o/n", &[&base], &NoLog).unwrap();
    let fixture = Fixture { mirror, older, base, later, dir };
    for (name, commit) in
        [("older", &fixture.older), ("base", &fixture.base), ("later", &fixture.later)]
    {
        // As the harness's clone: nothing after the commit.
        let checkout = fixture.dir.path().join(name);
        std::fs::create_dir(&checkout).unwrap();
        history(&checkout, &source, commit);
    }
    fixture
});

/// Makes a repository with the history up to a commit, checked out.
fn history(checkout: &Path, source: &Path, commit: &str) {
    git(source, &["branch", "-q", "-f", "fetched", commit]);
    git(checkout, &["init", "-q", "-b", "main"]);
    git(checkout, &["fetch", "-q", &source.to_string_lossy(), "fetched"]);
    git(checkout, &["checkout", "-q", "--detach", commit]);
}

impl Fixture {
    fn copy(&self, name: &str, to: &Path) {
        let from = self.dir.path().join(name);
        let status = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
        assert!(status.success());
    }
}

/// A change of a work tree.
#[derive(Debug, Clone)]
enum Edit {
    Replace(usize, usize, usize),
    Insert(usize, usize, usize),
    Remove(usize, usize),
    Append(usize),
    Delete(usize),
    Empty(usize),
    Bytes(usize, usize),
    Mode(usize),
    Rename(usize, usize),
    Copy(usize, usize),
    New(usize, usize),
    Link(usize),
    Submodule(usize),
    Attributes,
}

fn edit() -> impl Strategy<Value = Edit> {
    let file = 0..FILES.len();
    let new = 0..NEW.len();
    prop_oneof![
        8 => (file.clone(), 0..30usize, 0..9usize).prop_map(|(f, l, t)| Edit::Replace(f, l, t)),
        4 => (file.clone(), 0..30usize, 0..9usize).prop_map(|(f, l, t)| Edit::Insert(f, l, t)),
        4 => (file.clone(), 0..30usize).prop_map(|(f, l)| Edit::Remove(f, l)),
        1 => file.clone().prop_map(Edit::Append),
        1 => file.clone().prop_map(Edit::Delete),
        1 => file.clone().prop_map(Edit::Empty),
        1 => (file.clone(), 0..9usize).prop_map(|(f, t)| Edit::Bytes(f, t)),
        1 => file.clone().prop_map(Edit::Mode),
        1 => (file.clone(), new.clone()).prop_map(|(f, n)| Edit::Rename(f, n)),
        1 => (file, new.clone()).prop_map(|(f, n)| Edit::Copy(f, n)),
        3 => (new.clone(), 0..9usize).prop_map(|(n, t)| Edit::New(n, t)),
        1 => new.prop_map(Edit::Link),
        2 => (0..4usize).prop_map(Edit::Submodule),
        1 => Just(Edit::Attributes),
    ]
}

/// Clears the way to a path, and makes the directories above it.
fn make_way(dir: &Path, path: &str) -> PathBuf {
    let mut at = dir.to_owned();
    let mut parts = path.split('/').peekable();
    while let Some(part) = parts.next() {
        at.push(part);
        let metadata = std::fs::symlink_metadata(&at);
        match (parts.peek(), metadata) {
            (None, Ok(found)) if found.is_dir() => std::fs::remove_dir_all(&at).unwrap(),
            (_, Ok(found)) if !found.is_dir() => std::fs::remove_file(&at).unwrap(),
            _ => {}
        }
        if parts.peek().is_some() && !at.exists() {
            std::fs::create_dir(&at).unwrap();
        }
    }
    at
}

impl Edit {
    fn apply(&self, dir: &Path) {
        let file = |at: &usize| dir.join(FILES[*at]);
        let lines = |at: &usize, change: &dyn Fn(&mut Vec<Vec<u8>>)| {
            let Ok(bytes) = std::fs::read(file(at)) else { return };
            let mut lines: Vec<Vec<u8>> =
                bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
            change(&mut lines);
            std::fs::write(file(at), lines.concat()).unwrap();
        };
        match self {
            Edit::Replace(at, line, word) => lines(at, &|lines| {
                let count = lines.len().max(1);
                if let Some(line) = lines.get_mut(line % count) {
                    let end: &[u8] = if line.ends_with(b"\r\n") { b"\r\n" } else { b"\n" };
                    *line = [format!("changed {word}").as_bytes(), end].concat();
                }
            }),
            Edit::Insert(at, line, word) => lines(at, &|lines| {
                let line = line % (lines.len() + 1);
                lines.insert(line, format!("new {word}\n").into_bytes());
            }),
            Edit::Remove(at, line) => lines(at, &|lines| {
                if !lines.is_empty() {
                    lines.remove(line % lines.len());
                }
            }),
            Edit::Append(at) => lines(at, &|lines| lines.push(b"no newline after this".to_vec())),
            Edit::Delete(at) => {
                let _ = std::fs::remove_file(file(at));
            }
            Edit::Empty(at) => lines(at, &|lines| lines.clear()),
            Edit::Bytes(at, word) => lines(at, &|lines| {
                lines.push([&[0, 255, 254, *word as u8][..], b"\n"].concat());
            }),
            Edit::Mode(at) => {
                if let Ok(found) = std::fs::metadata(file(at)) {
                    let mode = found.permissions().mode() ^ 0o111;
                    std::fs::set_permissions(file(at), std::fs::Permissions::from_mode(mode))
                        .unwrap();
                }
            }
            Edit::Rename(at, new) | Edit::Copy(at, new) => {
                let Ok(bytes) = std::fs::read(file(at)) else { return };
                if matches!(self, Edit::Rename(..)) {
                    std::fs::remove_file(file(at)).unwrap();
                }
                std::fs::write(make_way(dir, NEW[*new]), bytes).unwrap();
            }
            Edit::New(new, word) => {
                std::fs::write(make_way(dir, NEW[*new]), text(*word, 1 + word % 4, "\n")).unwrap();
            }
            Edit::Link(new) => {
                std::os::unix::fs::symlink("code.py", make_way(dir, NEW[*new])).unwrap();
            }
            Edit::Submodule(what) => {
                let id = |digits: &str| digits.repeat(20);
                let entry = match what {
                    0 => format!("160000,{},vendor/lib", id("34")),
                    1 => format!("160000,{},vendor/third", id("56")),
                    2 => {
                        git(dir, &["rm", "-q", "-r", "--cached", "--ignore-unmatch", "vendor/lib"]);
                        let _ = std::fs::remove_dir_all(dir.join("vendor/lib"));
                        return;
                    }
                    _ => return,
                };
                git(dir, &["update-index", "--add", "--replace", "--cacheinfo", &entry]);
            }
            Edit::Attributes => write(dir, ".gitattributes", b"* text=auto\n*.txt eol=crlf\n"),
        }
    }
}

/// What a person, a model or a tool does to the text of a patch.
#[derive(Debug, Clone)]
enum Mutation {
    NoIndexLines,
    WrongIndexLines,
    Context(usize),
    Shift(usize),
    NoFinalNewline,
    CarriageReturns,
    NoCarriageReturns,
    DoubleSlash,
    Dot,
    TrailingSpace,
    Truncated(usize),
    WrongCounts(usize),
    Prose,
    Twice,
    HalfTwice,
    NoHeaders,
    Times,
    Indented,
    Absolute,
    Dirty,
    Svn,
    NoPrefix,
}

fn mutation() -> impl Strategy<Value = Mutation> {
    use Mutation::*;
    prop_oneof![
        3 => Just(NoIndexLines),
        2 => Just(WrongIndexLines),
        6 => (0..60usize).prop_map(Context),
        3 => (1..40usize).prop_map(Shift),
        1 => Just(NoFinalNewline),
        1 => Just(CarriageReturns),
        1 => Just(NoCarriageReturns),
        2 => Just(DoubleSlash),
        2 => Just(Dot),
        1 => Just(TrailingSpace),
        1 => (1..20usize).prop_map(Truncated),
        1 => (0..5usize).prop_map(WrongCounts),
        1 => Just(Prose),
        1 => Just(Twice),
        2 => Just(HalfTwice),
        2 => Just(NoHeaders),
        1 => Just(Times),
        1 => Just(Indented),
        1 => Just(Absolute),
        2 => Just(Dirty),
        1 => Just(Svn),
        1 => Just(NoPrefix),
    ]
}

impl Mutation {
    fn apply(&self, patch: &[u8]) -> Vec<u8> {
        let lines: Vec<&[u8]> = patch.split_inclusive(|byte| *byte == b'\n').collect();
        let each =
            |change: &dyn Fn(&[u8]) -> Vec<u8>| lines.iter().flat_map(|l| change(l)).collect();
        let renamed = |from: &str, to: &str| {
            each(&|line: &[u8]| {
                let header = [&b"--- "[..], b"+++ ", b"diff --git "]
                    .iter()
                    .any(|start| line.starts_with(start));
                match header.then(|| std::str::from_utf8(line).ok()).flatten() {
                    Some(text) => text
                        .replace(&format!(" a/{from}"), &format!(" a/{to}"))
                        .replace(&format!(" b/{from}"), &format!(" b/{to}"))
                        .into_bytes(),
                    None => line.to_vec(),
                }
            })
        };
        let of_hunks = |at: &usize, change: &dyn Fn(&str) -> String| -> Vec<u8> {
            let mut hunk = 0;
            let mut out = Vec::new();
            for line in &lines {
                let mut line = line.to_vec();
                if line.starts_with(b"@@ ") {
                    if hunk % 3 == at % 3 {
                        line = change(&String::from_utf8_lossy(&line)).into_bytes();
                    }
                    hunk += 1;
                }
                out.extend(line);
            }
            out
        };
        match self {
            Mutation::NoIndexLines => {
                each(&|l| if l.starts_with(b"index ") { Vec::new() } else { l.to_vec() })
            }
            Mutation::WrongIndexLines => each(&|l| match l.strip_prefix(b"index ") {
                Some(rest) if rest.len() > 8 => [b"index abcdef", &rest[6..]].concat(),
                _ => l.to_vec(),
            }),
            Mutation::Context(which) => {
                let contexts: Vec<usize> =
                    (0..lines.len()).filter(|at| lines[*at].starts_with(b" ")).collect();
                let mut lines: Vec<Vec<u8>> = lines.iter().map(|line| line.to_vec()).collect();
                if !contexts.is_empty() {
                    lines[contexts[which % contexts.len()]] = b" something else\n".to_vec();
                }
                lines.concat()
            }
            Mutation::Shift(by) => of_hunks(by, &|line| {
                let Some((old, rest)) = line[4..].split_once(',') else { return line.to_owned() };
                let old: usize = old.parse().unwrap_or(1);
                format!("@@ -{},{rest}", old + by)
            }),
            Mutation::WrongCounts(at) => {
                of_hunks(at, &|line| line.replacen(",7 ", ",9 ", 1).replacen(",6 ", ",5 ", 1))
            }
            Mutation::NoFinalNewline => patch.strip_suffix(b"\n").unwrap_or(patch).to_vec(),
            Mutation::CarriageReturns => each(&|l| match l.strip_suffix(b"\n") {
                Some(line) => [line, b"\r\n"].concat(),
                None => l.to_vec(),
            }),
            Mutation::NoCarriageReturns => each(&|l| match l.strip_suffix(b"\r\n") {
                Some(line) => [line, b"\n"].concat(),
                None => l.to_vec(),
            }),
            Mutation::DoubleSlash => renamed("", "/"),
            Mutation::Dot => renamed("", "./"),
            Mutation::NoPrefix => renamed("", ""),
            Mutation::Absolute => renamed("", "testbed/"),
            Mutation::TrailingSpace => each(&|l| match l.strip_suffix(b" \n") {
                Some(line) => [line, b"\n"].concat(),
                None if l == b" \n" => b"\n".to_vec(),
                None => l.to_vec(),
            }),
            Mutation::Truncated(by) => lines[..lines.len().saturating_sub(*by)].concat(),
            Mutation::Prose => [b"Here is the patch:\n\n```diff\n", patch, b"```\n"].concat(),
            Mutation::Twice => [patch, patch].concat(),
            Mutation::HalfTwice => {
                let start = |at: &usize| lines[*at].starts_with(b"diff ");
                let second = (0..lines.len()).filter(start).nth(1).unwrap_or(lines.len());
                [patch, &lines[..second].concat()].concat()
            }
            Mutation::NoHeaders => each(&|l| {
                let header = [&b"diff "[..], b"index ", b"similarity ", b"new file", b"deleted "];
                let header = header.iter().any(|start| l.starts_with(start));
                if header { Vec::new() } else { l.to_vec() }
            }),
            Mutation::Times => each(&|l| {
                let name = l.starts_with(b"--- ") || l.starts_with(b"+++ ");
                match l.strip_suffix(b"\n").filter(|_| name) {
                    Some(line) => [line, b"\t2020-01-01 10:00:00 +0000\n"].concat(),
                    None => l.to_vec(),
                }
            }),
            Mutation::Indented => each(&|l| [b"  ", l].concat()),
            Mutation::Dirty => each(&|l| match l.strip_suffix(b"\n") {
                Some(line) if line.starts_with(b"+Subproject") => [line, b"-dirty\n"].concat(),
                _ => l.to_vec(),
            }),
            Mutation::Svn => each(&|l| match l.strip_prefix(b"diff --git a/") {
                Some(rest) => {
                    let name = rest.split(|byte| *byte == b' ').next().unwrap_or(rest);
                    [b"Index: a/", name, b"\n"].concat()
                }
                None if l.starts_with(b"index ") => Vec::new(),
                None => l.to_vec(),
            }),
        }
    }
}

/// How a patch is made of a changed work tree.
const TOOLS: [&[&str]; 9] = [
    &["git", "diff", "--cached", "--binary"],
    &["git", "diff", "--cached", "--binary", "--full-index"],
    &["git", "diff", "--cached"],
    &["git", "diff", "--cached", "--full-index"],
    &["git", "diff", "--cached", "--binary", "-M20", "-C20", "--find-copies-harder"],
    &["git", "diff", "--cached", "-U0"],
    &["git", "diff", "--cached", "-U1", "--no-renames"],
    &["diff", "-ruN"],
    &["diff", "-rcN"],
];

#[derive(Debug, Clone)]
struct Made {
    /// What the installation changes.
    setup: Vec<Edit>,
    /// The commit that the patch is made on; 3 is the installed one.
    on: usize,
    edits: Vec<Edit>,
    tool: usize,
    mutations: Vec<Mutation>,
}

fn made() -> impl Strategy<Value = Made> {
    let some = |most: usize| proptest::collection::vec(edit(), 0..most);
    (
        prop_oneof![some(1), some(3)],
        prop_oneof![1 => Just(0), 4 => Just(1), 1 => Just(2), 3 => Just(3usize)],
        proptest::collection::vec(edit(), 1..6),
        prop_oneof![4 => 0..5usize, 1 => 5..TOOLS.len()],
        prop_oneof![
            2 => proptest::collection::vec(mutation(), 0..1),
            3 => proptest::collection::vec(mutation(), 1..3)
        ],
    )
        .prop_map(|(setup, on, edits, tool, mutations)| Made {
            setup,
            on,
            edits,
            tool,
            mutations,
        })
}

impl Made {
    /// Makes the case and runs it.
    fn run(&self) -> Outcome {
        let fixture = &*FIXTURE;
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let place = Place { pristine: at("pristine"), work: at("work") };
        fixture.copy("base", &place.pristine);
        for edit in &self.setup {
            edit.apply(&place.pristine);
        }
        git(&place.pristine, &["add", "--all"]);
        git(&place.pristine, &["commit", "-q", "--allow-empty", "-m", "SWE-bench"]);
        // What the layers below have is what git makes of the commit.
        for entry in std::fs::read_dir(&place.pristine).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() && !path.ends_with(".git") {
                std::fs::remove_dir_all(path).unwrap();
            } else if !path.ends_with(".git") {
                std::fs::remove_file(path).unwrap();
            }
        }
        git(&place.pristine, &["reset", "-q", "--hard"]);
        let diff = ["diff", "--binary", "--full-index", &fixture.base, "HEAD"];
        let setup_diff = git(&place.pristine, &diff);
        let copy = |from: &Path, to: &Path| {
            assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
        };
        copy(&place.pristine, &place.work);

        let (a, b) = (at("a"), at("b"));
        match self.on {
            3 => copy(&place.pristine, &a),
            on => fixture.copy(["older", "base", "later"][on], &a),
        }
        copy(&a, &b);
        for edit in &self.edits {
            edit.apply(&b);
        }
        let tool = TOOLS[self.tool];
        let mut patch = if tool[0] == "git" {
            git(&b, &["add", "--all", "--force"]);
            git(&b, &tool[1..])
        } else {
            for dir in [&a, &b] {
                std::fs::remove_dir_all(dir.join(".git")).unwrap();
            }
            let args = [tool, &["a", "b"]].concat();
            Command::new(args[0]).args(&args[1..]).current_dir(dir.path()).output().unwrap().stdout
        };
        for mutation in &self.mutations {
            patch = mutation.apply(&patch);
        }
        if patch.trim_ascii().is_empty() {
            return Outcome { step: 0, literal: None, differences: Vec::new() };
        }
        let case = Case {
            mirror: &fixture.mirror,
            commit: &fixture.base,
            setup_diff: &setup_diff,
            patch: &patch,
        };
        let mut outcome = case.run(&place, dir.path());
        if !outcome.differences.is_empty() {
            outcome.differences.push(format!(
                "{}\n{}",
                STEPS[outcome.step],
                String::from_utf8_lossy(&patch)
            ));
        }
        outcome
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 60,
        cases: std::env::var("PROPTEST_CASES").map_or(24, |cases| cases.parse().unwrap()),
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_patch_becomes_what_the_harness_makes_of_it(made in made()) {
        let outcome = made.run();
        println!("step {} literal {:?}", STEPS[outcome.step], outcome.literal.map(|step| STEPS[step]));
        prop_assert!(outcome.differences.is_empty(), "{}", outcome.differences.join("\n"));
    }
}

/// Patches that people and agents have made, in small: what they say, and the step that takes them.
fn known() -> Vec<(&'static str, Vec<u8>, usize)> {
    let fixture = &*FIXTURE;
    let id = |path: &str| {
        line(&git(&fixture.dir.path().join("base"), &["rev-parse", &format!("HEAD:{path}")]))
    };
    let change = |path: &str, index: &str, old: &str, new: &str| {
        format!(
            "diff --git a/{path} b/{path}\n{index}--- a/{path}\n+++ b/{path}\n@@ -1,2 +1,2 @@\n-{old}\n+{new}\n two\n"
        )
    };
    let code = format!(
        "--- a/pkg/code.py\n+++ b/pkg/code.py\n@@ -1,4 +1,4 @@\n-{0}\n+ONE\n {1}\n {2}\n DELTA\n",
        "alpha 0", "beta 1", "gamma 2"
    );
    let link = |index: &str, sign: &str| {
        format!(
            "diff --git a/vendor/lib b/vendor/lib\n{index}--- a/vendor/lib\n+++ b/vendor/lib\n@@ -1 +1 @@\n\
             -Subproject commit {0}\n+Subproject commit {sign}\n",
            "12".repeat(20)
        )
    };
    let later = line(&git(&fixture.dir.path().join("later"), &["rev-parse", "HEAD:blob.bin"]));
    let of_later = format!(
        "diff --git a/blob.bin b/blob.bin\nindex {}..{later} 100644\n\
         Binary files a/blob.bin and b/blob.bin differ\n",
        id("blob.bin")
    );
    let earlier = line(&git(&fixture.dir.path().join("older"), &["rev-parse", "HEAD:blob.bin"]));
    let of_earlier = of_later.replace(&later, &earlier);
    let dirty = format!("{}-dirty", "12".repeat(20));
    let orig = change("data/a.txt", "", "one", "one!")
        + &change("data/a.txt.orig", "", "uno", "uno!").replace(" two", " dos");
    vec![
        ("a submodule with changes", (link("", &dirty) + &code).into_bytes(), 1),
        ("a submodule at another commit", link("", &"34".repeat(20)).into_bytes(), 1),
        ("files of `.orig` that are tracked", orig.into_bytes(), 1),
        ("two slashes", code.replace(" a/", " a//").replace(" b/", " b//").into_bytes(), 4),
        ("a dot", code.replace(" a/", " a/./").replace(" b/", " b/./").into_bytes(), 4),
        ("a binary file of a later commit, which is not found", of_later.into_bytes(), 4),
        ("a binary file of an earlier commit", of_earlier.into_bytes(), 1),
        (
            "through a link to a directory",
            {
                let new = "diff --git a/through/x b/through/x\nnew file mode 100644\n--- /dev/null\n\
                       +++ b/through/x\n@@ -0,0 +1 @@\n+x\n";
                new.as_bytes().to_vec()
            },
            4,
        ),
        (
            "a file where a directory is",
            {
                let new = "diff --git a/pkg b/pkg\nnew file mode 100644\n--- /dev/null\n+++ b/pkg\n\
                       @@ -0,0 +1 @@\n+x\n";
                new.as_bytes().to_vec()
            },
            REFUSED,
        ),
    ]
}

#[test]
fn known_patches_become_what_the_harness_makes_of_them() {
    let fixture = &*FIXTURE;
    for (name, patch, step) in known() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { pristine: dir.path().join("pristine"), work: dir.path().join("work") };
        fixture.copy("base", &place.pristine);
        fixture.copy("base", &place.work);
        let mirror = &fixture.mirror;
        let case = Case { mirror, commit: &fixture.base, setup_diff: b"", patch: &patch };
        let outcome = case.run(&place, dir.path());
        assert!(outcome.differences.is_empty(), "{name}: {}", outcome.differences.join("\n"));
        assert_eq!(STEPS[outcome.step], STEPS[step], "{name}");
    }
}

/// A patch of somebody else's.
#[derive(serde::Deserialize)]
struct Row {
    id: String,
    repository: PathBuf,
    commit: String,
    pre_install: Vec<String>,
    patch: String,
}

/// Brings a work tree to a commit, with what the installation does to it.
fn bring(dir: &Path, row: &Row) {
    if !dir.join(".git").exists() {
        std::fs::create_dir_all(dir).unwrap();
        git(dir, &["init", "-q", "-b", "main"]);
        let objects = format!("{}\n", row.repository.join("objects").display());
        std::fs::write(dir.join(".git/objects/info/alternates"), objects).unwrap();
    }
    git(dir, &["checkout", "-q", "--force", "--detach", &row.commit]);
    git(dir, &["clean", "-ffdxq"]);
    for command in &row.pre_install {
        let status = Command::new("bash").args(["-c", command]).current_dir(dir).status().unwrap();
        assert!(status.success(), "{command}");
    }
    git(dir, &["commit", "-q", "--allow-empty", "-a", "-m", "SWE-bench"]);
}

#[test]
#[ignore = "needs to be asked for"]
fn patches_of_a_file_become_what_the_harness_makes_of_them() {
    let Some(file) = std::env::var_os("IMGFORGE_PATCHES") else {
        return not_here(NotHere::Unasked("IMGFORGE_PATCHES"));
    };
    let dir = tempfile::tempdir().unwrap();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut failed = 0;
    for text in std::fs::read_to_string(file).unwrap().lines() {
        let row: Row = serde_json::from_str(text).unwrap();
        let name = row.repository.display().to_string().replace('/', "_");
        let place = Place {
            pristine: dir.path().join(format!("{name}.pristine")),
            work: dir.path().join(format!("{name}.work")),
        };
        bring(&place.pristine, &row);
        bring(&place.work, &row);
        let diff = ["diff", "--binary", "--full-index", &row.commit, "HEAD"];
        let setup_diff = git(&place.work, &diff);
        let state = dir.path().join(format!("{name}.state"));
        let source = row.repository.display().to_string();
        let mirrors = Mirrors::new(&state, vec![source], BTreeMap::new());
        let mirror = mirrors.mirror("o/n", &[&row.commit], &NoLog).unwrap();
        let (commit, patch) = (&*row.commit, row.patch.as_bytes());
        let case = Case { mirror: &mirror, commit, setup_diff: &setup_diff, patch };
        let scratch = dir.path().join("scratch");
        std::fs::create_dir_all(&scratch).unwrap();
        let outcome = case.run(&place, &scratch);
        *counts.entry(STEPS[outcome.step]).or_default() += 1;
        *counts.entry("with a setup").or_default() += usize::from(!setup_diff.is_empty());
        if let Some(literal) = outcome.literal {
            *counts.entry("with conflicts").or_default() += 1;
            println!("conflict {} {} {}", row.id, STEPS[outcome.step], STEPS[literal]);
        }
        if !outcome.differences.is_empty() {
            failed += 1;
            println!("DIFFERENT {}\n{}", row.id, outcome.differences.join("\n"));
        }
    }
    println!("{counts:?}, {failed} different");
    assert_eq!(failed, 0);
}
