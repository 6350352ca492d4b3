//! Reading a patch: which files it names. What it does to them is for `git apply` and `patch`.
//!
//! Two lists are made: [`touched`] reads a patch as it is meant, for people and scripts; [`mentioned`]
//! lists all that a program could take for a name, so that it finds the files which it looks for.

use std::collections::BTreeSet;

/// What a patch touches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    /// Every path that the patch reads, writes, creates or deletes, relative to the repository.
    pub paths: BTreeSet<Vec<u8>>,
    /// Those of them that are there once it is applied.
    pub kept: BTreeSet<Vec<u8>>,
    /// Paths that it makes symbolic links.
    pub symlinks: BTreeSet<Vec<u8>>,
    /// Paths as written that do not lead into the work tree: absolute, with `..`, or in `.git`.
    pub outside: Vec<String>,
}

/// Lists what a patch in unified or git format touches, with one leading component stripped.
pub fn touched(patch: &[u8]) -> Touched {
    let mut touched = Touched::default();
    let mut hunk = (0usize, 0usize);
    let mut symlink = false;
    // The new name of the file at hand.
    let mut current: Option<Vec<u8>> = None;
    for line in patch.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if hunk != (0, 0) {
            // Inside a hunk a line such as `--- x` is content.
            match line.first() {
                Some(b'-') => hunk.0 = hunk.0.saturating_sub(1),
                Some(b'+') => hunk.1 = hunk.1.saturating_sub(1),
                Some(b'\\') => {}
                _ => hunk = (hunk.0.saturating_sub(1), hunk.1.saturating_sub(1)),
            }
            continue;
        }
        if let Some(ranges) = line.strip_prefix(b"@@ -") {
            hunk = hunk_lines(ranges);
        } else if let Some(names) = line.strip_prefix(b"diff --git ") {
            symlink = false;
            for name in git_names(names) {
                current = touched.add(&name, true, false);
            }
            touched.kept.extend(current.clone());
        } else if line.starts_with(b"deleted file mode") {
            if let Some(path) = &current {
                touched.kept.remove(path);
            }
        } else if line.starts_with(b"new file mode 120000") || line.starts_with(b"new mode 120000")
        {
            symlink = true;
        } else if let Some(name) =
            line.strip_prefix(b"rename to ").or_else(|| line.strip_prefix(b"copy to "))
        {
            let path = touched.add(&unquote(name), false, false);
            touched.kept.extend(path);
        } else if let Some(name) =
            line.strip_prefix(b"rename from ").or_else(|| line.strip_prefix(b"copy from "))
        {
            touched.add(&unquote(name), false, false);
        } else if let Some(name) = line.strip_prefix(b"--- ").or_else(|| line.strip_prefix(b"+++ "))
        {
            let name = unquote(name.split(|byte| *byte == b'\t').next().unwrap_or(name));
            let new = line.starts_with(b"+++ ");
            if name != b"/dev/null" {
                let path = touched.add(&name, true, symlink && new);
                if new {
                    touched.kept.extend(path);
                } else {
                    current = path;
                }
            } else if new && let Some(path) = &current {
                touched.kept.remove(path);
            }
        }
    }
    touched
}

/// Lists the files that a patch finds: all that it touches but those that it creates, in its order.
pub fn touched_before(patch: &[u8]) -> Vec<Vec<u8>> {
    let mut found: Vec<Vec<u8>> = Vec::new();
    for part in parts(patch) {
        let touched = touched(part);
        let header =
            part.split(|byte| *byte == b'\n').take_while(|line| !line.starts_with(b"@@ -"));
        let mut created = false;
        let mut old = None;
        for line in header {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            created |= line.starts_with(b"new file mode") || line.starts_with(b"--- /dev/null");
            let from = line.strip_prefix(b"rename from ").or(line.strip_prefix(b"copy from "));
            old = old.or(from.map(unquote));
        }
        let paths = match old {
            Some(path) => vec![path],
            None => touched.paths.into_iter().collect(),
        };
        found.extend(paths.into_iter().filter(|_| !created));
    }
    found.dedup();
    found
}

/// Cuts a patch into the parts of its files.
fn parts(patch: &[u8]) -> Vec<&[u8]> {
    let mut cuts = Vec::new();
    let mut hunk = (0usize, 0usize);
    let mut at = 0;
    let mut headed = false;
    for whole in patch.split_inclusive(|byte| *byte == b'\n') {
        let line = whole.strip_suffix(b"\n").unwrap_or(whole);
        if hunk != (0, 0) {
            match line.first() {
                Some(b'-') => hunk.0 = hunk.0.saturating_sub(1),
                Some(b'+') => hunk.1 = hunk.1.saturating_sub(1),
                Some(b'\\') => {}
                _ => hunk = (hunk.0.saturating_sub(1), hunk.1.saturating_sub(1)),
            }
        } else if let Some(ranges) = line.strip_prefix(b"@@ -") {
            hunk = hunk_lines(ranges);
            headed = false;
        } else if line.starts_with(b"diff --git ") {
            cuts.push(at);
            headed = true;
        } else if line.starts_with(b"--- ") && !headed {
            cuts.push(at);
        }
        at += whole.len();
    }
    let ends = cuts.iter().skip(1).copied().chain([patch.len()]);
    cuts.iter().zip(ends).map(|(start, end)| &patch[*start..end]).collect()
}

impl Touched {
    /// Adds a path as it is written, and returns it as it is in the repository.
    fn add(&mut self, written: &[u8], strip: bool, symlink: bool) -> Option<Vec<u8>> {
        let path = if strip { stripped(written).unwrap_or(written) } else { written };
        let leaves = path.starts_with(b"/")
            || path
                .split(|byte| *byte == b'/')
                .any(|part| part == b".." || part.eq_ignore_ascii_case(b".git"));
        if leaves {
            let text = String::from_utf8_lossy(written).into_owned();
            if !self.outside.contains(&text) {
                self.outside.push(text);
            }
        } else {
            let path = folded(path);
            if !path.is_empty() {
                if symlink {
                    self.symlinks.insert(path.clone());
                }
                self.paths.insert(path.clone());
                return Some(path);
            }
        }
        None
    }
}

/// Takes the first component off, and all slashes after it, as `patch -p1` does.
fn stripped(name: &[u8]) -> Option<&[u8]> {
    let slash = name.iter().position(|byte| *byte == b'/')?;
    let rest = name[slash..].iter().position(|byte| *byte != b'/')?;
    Some(&name[slash + rest..])
}

/// Drops empty parts and `.` parts: `a//b` and `a/./b` are `a/b`.
fn folded(path: &[u8]) -> Vec<u8> {
    let parts = path.split(|byte| *byte == b'/');
    let parts: Vec<&[u8]> = parts.filter(|part| !part.is_empty() && *part != b".").collect();
    parts.join(&b'/')
}

/// What is before a name in the lines that `git apply` and `patch` read names from.
const BEFORE_NAMES: [&[u8]; 11] = [
    b"--- ",
    b"+++ ",
    b"*** ",
    b"Index:",
    b"diff --git ",
    b"rename from ",
    b"rename to ",
    b"rename old ",
    b"rename new ",
    b"copy from ",
    b"copy to ",
];

/// After how many blanks of a line a name may end. Lines are as long as whoever wrote the patch wants.
const BLANKS: usize = 50;

/// Bytes of a path: what Linux can open.
pub(crate) const PATH: usize = 4096;

/// Lists every path that `git apply` or `patch -p1` could read from the patch: more than it
/// touches, for hunks are not counted, and a line that has several readings gives each of them.
pub fn mentioned(patch: &[u8]) -> BTreeSet<Vec<u8>> {
    let mut paths = BTreeSet::new();
    let mut add_name = |name: &[u8]| {
        let name = unquote(name);
        for path in [Some(name.as_slice()), stripped(&name)].into_iter().flatten() {
            let path = folded(path);
            let fits = !path.is_empty() && path.len() <= PATH;
            if fits && path.split(|byte| *byte == b'/').all(|part| part != b"..") {
                paths.insert(path);
            }
        }
    };
    // Blanks around a name may be its own.
    let mut add = |name: &[u8]| {
        add_name(name);
        add_name(name.trim_ascii());
    };
    for line in patch.split(|byte| *byte == b'\n') {
        // `patch` takes patches that are indented as a whole.
        let line = line.strip_suffix(b"\r").unwrap_or(line).trim_ascii_start();
        let Some(names) = BEFORE_NAMES.iter().find_map(|before| line.strip_prefix(*before)) else {
            continue;
        };
        add(names);
        match line.strip_prefix(b"diff --git ") {
            Some(names) => git_names(names).iter().for_each(|name| add(name)),
            None => add(names.split(|byte| *byte == b'\t').next().unwrap_or(names)),
        }
        let blanks = names.iter().enumerate().filter(|(_, byte)| byte.is_ascii_whitespace());
        for (at, _) in blanks.take(BLANKS) {
            add(&names[..at]);
            if line.starts_with(b"diff") {
                add(&names[at + 1..]);
            }
        }
    }
    paths
}

/// Lists the ids before and after of every line `index 0123abc..4567def`, as long as they are given.
pub fn blob_ids(patch: &[u8]) -> Vec<(String, String)> {
    let id = |text: &str| {
        let hexadecimal = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        (hexadecimal && (4..=40).contains(&text.len())).then(|| text.to_ascii_lowercase())
    };
    let lines = patch.split(|byte| *byte == b'\n');
    let ids = lines.filter_map(|line| {
        let text = std::str::from_utf8(line.strip_prefix(b"index ")?).ok()?;
        let (old, new) = text.split_whitespace().next()?.split_once("..")?;
        Some((id(old)?, id(new)?))
    });
    ids.collect()
}

/// Reads the line counts of `1,2 +3,4 @@`.
fn hunk_lines(ranges: &[u8]) -> (usize, usize) {
    let text = String::from_utf8_lossy(ranges);
    let mut words = text.split_whitespace();
    let count = |word: Option<&str>| {
        let word = word?.trim_start_matches('+');
        match word.split_once(',') {
            Some((_, count)) => count.parse().ok(),
            None => word.parse::<usize>().ok().map(|_| 1),
        }
    };
    (count(words.next()).unwrap_or(0), count(words.next()).unwrap_or(0))
}

/// Splits the two names of a `diff --git` line: quoted, or both the same but for the first letter.
fn git_names(names: &[u8]) -> Vec<Vec<u8>> {
    if names.starts_with(b"\"") {
        let end = closing_quote(names);
        let (first, rest) = names.split_at(end + 1);
        let second = rest.strip_prefix(b" ");
        return second.map_or_else(Vec::new, |second| vec![unquote(first), unquote(second)]);
    }
    if let Some(at) = names.windows(2).position(|pair| pair == b" \"") {
        return vec![names[..at].to_vec(), unquote(&names[at + 1..])];
    }
    let half = names.len() / 2;
    let same = names.len() % 2 == 1
        && names[half] == b' '
        && names
            .iter()
            .position(|byte| *byte == b'/')
            .is_some_and(|at| at < half && names[at..half] == names[half + 1 + at..]);
    if same {
        return vec![names[..half].to_vec()];
    }
    // Different names: they come again in `rename from` or `---` lines.
    match names.iter().filter(|byte| **byte == b' ').count() {
        1 => names.split(|byte| *byte == b' ').map(<[u8]>::to_vec).collect(),
        _ => Vec::new(),
    }
}

fn closing_quote(text: &[u8]) -> usize {
    let mut escaped = false;
    for (at, byte) in text.iter().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at,
            _ => {}
        }
    }
    text.len() - 1
}

/// Undoes git's C-style quoting.
pub(crate) fn unquote(name: &[u8]) -> Vec<u8> {
    let Some(inner) = name.strip_prefix(b"\"").and_then(|name| name.strip_suffix(b"\"")) else {
        return name.to_vec();
    };
    let mut out = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        match bytes.next() {
            Some(b'n') => out.push(b'\n'),
            Some(b't') => out.push(b'\t'),
            Some(b'r') => out.push(b'\r'),
            Some(b'a') => out.push(7),
            Some(b'b') => out.push(8),
            Some(b'v') => out.push(11),
            Some(b'f') => out.push(12),
            Some(digit @ b'0'..=b'7') => {
                let mut value = u32::from(digit - b'0');
                for _ in 0..2 {
                    if let Some(next @ b'0'..=b'7') = bytes.peek().copied() {
                        value = value * 8 + u32::from(next - b'0');
                        bytes.next();
                    }
                }
                out.push(value as u8);
            }
            Some(other) => out.push(other),
            None => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(patch: &str) -> Vec<String> {
        let touched = touched(patch.as_bytes());
        touched.paths.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect()
    }

    #[test]
    fn content_that_looks_like_a_header_is_content() {
        let patch =
            "--- a/x.sql\n+++ b/x.sql\n@@ -1,2 +1,2 @@\n--- a/comment\n-b\n+++ b/comment\n+c\n";
        assert_eq!(paths(patch), ["x.sql"]);
    }

    #[test]
    fn names_of_renames_binaries_and_mode_changes_are_found() {
        assert_eq!(
            paths("diff --git a/old name.py b/new.py\nrename from old name.py\nrename to new.py\n"),
            ["new.py", "old name.py"]
        );
        assert_eq!(
            paths("diff --git a/run me.sh b/run me.sh\nold mode 100644\nnew mode 100755\n"),
            ["run me.sh"]
        );
        assert_eq!(
            paths("diff --git \"a/caf\\303\\251\" \"b/caf\\303\\251\"\nGIT binary patch\n"),
            ["café"]
        );
    }

    #[test]
    fn what_is_deleted_or_renamed_away_is_not_kept() {
        let patch = "diff --git a/old.py b/old.py\ndeleted file mode 100644\n--- a/old.py\n\
                     +++ /dev/null\n@@ -1 +0,0 @@\n-a\n\
                     diff --git a/a.py b/b.py\nrename from a.py\nrename to b.py\n\
                     diff --git a/c.py b/c.py\n--- a/c.py\n+++ b/c.py\n@@ -1 +1 @@\n-a\n+b\n";
        let kept = touched(patch.as_bytes()).kept;
        let kept: Vec<_> = kept.iter().map(|path| String::from_utf8_lossy(path)).collect();
        assert_eq!(kept, ["b.py", "c.py"]);
        let plain = "--- a/x.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n";
        assert!(touched(plain.as_bytes()).kept.is_empty());
    }

    #[test]
    fn the_files_that_a_patch_finds_are_those_that_it_does_not_create() {
        let patch = "diff --git a/old.py b/old.py\ndeleted file mode 100644\n--- a/old.py\n\
                     +++ /dev/null\n@@ -1 +0,0 @@\n-a\n\
                     diff --git a/from.py b/to.py\nrename from from.py\nrename to to.py\n\
                     diff --git a/new.py b/new.py\nnew file mode 100644\n--- /dev/null\n\
                     +++ b/new.py\n@@ -0,0 +1 @@\n+--- a/x\n\
                     diff --git a/empty b/empty\nnew file mode 100644\nindex 0000000..e69de29\n\
                     diff --git a/c.py b/c.py\n--- a/c.py\n+++ b/c.py\n@@ -1 +1 @@\n-a\n+b\n\
                     diff --git a/b.bin b/b.bin\nindex 1..2 100644\nGIT binary patch\nliteral 1\n";
        let found = touched_before(patch.as_bytes());
        let found: Vec<_> = found.iter().map(|path| String::from_utf8_lossy(path)).collect();
        assert_eq!(found, ["old.py", "from.py", "c.py", "b.bin"]);
        let plain = "--- a/x.py\n+++ b/x.py\n@@ -1 +1 @@\n-a\n+b\n--- /dev/null\n+++ b/y.py\n\
                     @@ -0,0 +1 @@\n+a\n--- a/z.py\n+++ b/z.py\n@@ -1 +1 @@\n-a\n+b\n";
        assert_eq!(touched_before(plain.as_bytes()), [b"x.py", b"z.py"]);
    }

    #[test]
    fn a_plain_diff_with_times_is_read() {
        assert_eq!(paths("--- old/x.py\t2020-01-01 00:00\n+++ new/x.py\t2020-01-01\n"), ["x.py"]);
    }

    #[test]
    fn paths_that_leave_the_work_tree_are_named() {
        for name in ["a/../../etc/passwd", "a/.git/hooks/pre-commit", "a/x/../y"] {
            let patch = format!("--- {name}\n+++ {name}\n@@ -1 +1 @@\n-a\n+b\n");
            assert_eq!(touched(patch.as_bytes()).outside, [name], "{name}");
        }
    }

    #[test]
    fn empty_parts_and_dots_are_folded_and_one_component_is_stripped() {
        for (name, path) in [
            ("a//pkg/m.py", "pkg/m.py"),
            ("a/./pkg/m.py", "pkg/m.py"),
            ("a/pkg/.//m.py", "pkg/m.py"),
            ("/testbed/m.py", "testbed/m.py"),
        ] {
            let patch = format!("--- {name}\n+++ {name}\n@@ -1 +1 @@\n-a\n+b\n");
            assert_eq!(paths(&patch), [path], "{name}");
        }
    }

    #[test]
    fn every_name_that_a_program_could_read_is_mentioned() {
        let patch = "Index: old/svn.py\n*** a/context.py\t2020\n--- b/context.py 2020-01-01\n\
                     diff --git a/with space b/with space\n   --- x/indented.py\n\
                     +++ \"b/caf\\303\\251\"\n@@ -1,9 +1,9 @@\n--- a/in/a/hunk\n";
        let mentioned = mentioned(patch.as_bytes());
        for path in ["svn.py", "context.py", "with space", "indented.py", "café", "in/a/hunk"] {
            assert!(mentioned.contains(path.as_bytes()), "{path}");
        }
        assert!(super::mentioned(b"--- a/../x\n").is_empty());
    }

    #[test]
    fn a_name_with_blanks_around_it_is_mentioned_and_so_is_every_one_that_is_touched() {
        for patch in [
            "rename from  begins with a blank\n",
            "rename to ends with a blank \n",
            "+++ b/x \t2020-01-01\n",
            "diff --git \"a/x\"y/z\n",
        ] {
            let mentioned = mentioned(patch.as_bytes());
            let touched = touched(patch.as_bytes());
            assert!(touched.paths.is_subset(&mentioned), "{patch}: {touched:?} {mentioned:?}");
        }
        assert_eq!(paths("diff --git \"a/x\" b/y\n"), ["x", "y"]);
    }

    #[test]
    fn a_line_of_two_names_that_is_none_is_read() {
        assert_eq!(paths("diff --git a /\n"), ["a"]);
        for line in ["  /", "\"", "\"\\", "\"a", "", " "] {
            assert!(paths(&format!("diff --git {line}\n")).is_empty(), "{line}");
        }
    }

    #[test]
    fn a_line_of_many_blanks_takes_little() {
        let patch =
            ["--- ", "diff --git "].map(|start| format!("{start}{}\n", "x ".repeat(500_000)));
        let start = std::time::Instant::now();
        let bytes: usize = mentioned(patch.concat().as_bytes()).iter().map(Vec::len).sum();
        assert!(bytes < 1 << 20, "{bytes} bytes");
        assert!(start.elapsed() < std::time::Duration::from_secs(20), "{:?}", start.elapsed());
    }

    #[test]
    fn ids_of_index_lines_are_read() {
        let patch =
            "index 0123abc..4567DEF 100644\nindex x..y\nindex 0123abc..0123abc\n index a..b\n";
        let pair = |old: &str, new: &str| (old.to_owned(), new.to_owned());
        assert_eq!(
            blob_ids(patch.as_bytes()),
            [pair("0123abc", "4567def"), pair("0123abc", "0123abc")]
        );
    }

    #[test]
    fn a_new_symlink_is_known_as_one() {
        let patch = "diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+/etc\n\\ No newline at end of file\n";
        let touched = touched(patch.as_bytes());
        assert!(touched.symlinks.contains(b"l".as_slice()));
    }
}
