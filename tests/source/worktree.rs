//! Work trees of checkouts against those of `git clone`, file by file.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use imgforge::source::{CheckoutOptions, Mirrors, PatchOutcome, PatchRequest};
use proptest::prelude::*;

use super::{NoLog, checkout, git, list, unpack};

/// Makes a commit of files whose blobs are exactly these bytes; returns its id.
fn commit(dir: &Path, files: &BTreeMap<String, Vec<u8>>) -> String {
    let known = dir.join(".git").exists();
    if !known {
        std::fs::create_dir_all(dir).unwrap();
        git(dir, &["init", "-q", "-b", "main"]);
    }
    let mut stream =
        b"commit refs/heads/main\ncommitter A <a@b> 1600000000 +0000\ndata 1\nx\n".to_vec();
    if known {
        stream.extend_from_slice(b"from refs/heads/main^0\ndeleteall\n");
    }
    for (path, bytes) in files {
        stream.extend(format!("M 100644 inline {path}\ndata {}\n", bytes.len()).bytes());
        stream.extend_from_slice(bytes);
        stream.push(b'\n');
    }
    let mut child = Command::new("git")
        .args(["fast-import", "--quiet"])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&stream).unwrap();
    assert!(child.wait().unwrap().success());
    git(dir, &["rev-parse", "main"])
}

/// Reads all files but those of git.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let walk = walkdir::WalkDir::new(dir).into_iter();
    walk.filter_entry(|entry| entry.file_name() != ".git")
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| {
            let path = entry.path().strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
            (path, std::fs::read(entry.path()).unwrap())
        })
        .collect()
}

/// Checks the checkout of a repository's head against that of `git`.
fn compare(dir: &Path, commit: &str) {
    let scratch = tempfile::tempdir().unwrap();
    let mirrors = Mirrors::new(scratch.path(), vec![dir.display().to_string()], BTreeMap::new());
    let mirror = mirrors.mirror("o/n", &[commit], &NoLog).unwrap();
    let tree = checkout(&mirror, commit, scratch.path());
    let real = scratch.path().join("real");
    git(dir, &["clone", "-q", "--shared", ".", &real.display().to_string()]);
    let (ours, theirs) = (files(&tree), files(&real));
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for (path, bytes) in &theirs {
        let (one, other) = (&ours[path], bytes);
        assert_eq!(one.escape_ascii().to_string(), other.escape_ascii().to_string(), "{path}");
    }
    assert_eq!(git(&tree, &["status", "--porcelain"]), "");
}

fn file(text: &[u8]) -> Vec<u8> {
    text.to_vec()
}

/// Files of every kind that attributes convert.
fn converted() -> BTreeMap<String, Vec<u8>> {
    BTreeMap::from(
        [
            (
                ".gitattributes",
                file(
                    b"[attr]dos text eol=crlf\n*.bat dos\n*.id ident\n*.auto text=auto eol=crlf\n\
                      *.utf16 working-tree-encoding=UTF-16LE-BOM\n\
                      cp1251.py working-tree-encoding=cp1251\n*.bin filter=lfs\n",
                ),
            ),
            ("sub/.gitattributes", file(b"*.bat -text\n*.txt eol=crlf\n")),
            ("a.bat", file(b"echo 1\necho 2\n")),
            ("sub/a.bat", file(b"echo 1\n")),
            ("sub/b.txt", file(b"one\ntwo")),
            ("b.txt", file(b"one\ntwo")),
            ("mixed.auto", file(b"one\r\ntwo\n")),
            ("plain.auto", file(b"one\ntwo\n")),
            ("binary.auto", file(b"one\0two\n")),
            ("b.id", file(b"$Id$ and $Id: old $ and $Id: not ours $\n")),
            ("w.utf16", file("h\u{e9}\n".as_bytes())),
            ("cp1251.py", file("# \u{43a}\u{438}\u{440}\n".as_bytes())),
            ("large.bin", file(b"version https://git-lfs.github.com/spec/v1\n")),
        ]
        .map(|(path, bytes)| (path.to_owned(), bytes)),
    )
}

#[test]
fn files_are_what_git_checkout_makes_of_them_and_the_status_is_clean() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("n");
    let id = commit(&dir, &converted());
    compare(&dir, &id);
    let mirrors = Mirrors::new(root.path(), vec![dir.display().to_string()], BTreeMap::new());
    let mirror = mirrors.mirror("o/n", &[&id], &NoLog).unwrap();
    let tree = checkout(&mirror, &id, root.path());
    let read = |path: &str| std::fs::read(tree.join(path)).unwrap();
    assert_eq!(read("a.bat"), b"echo 1\r\necho 2\r\n");
    assert_eq!(read("sub/a.bat"), b"echo 1\n");
    assert!(read("b.id").starts_with(b"$Id: "));
    assert_eq!(read("w.utf16"), b"\xff\xfeh\0\xe9\0\n\0");
    assert_eq!(read("cp1251.py"), b"# \xea\xe8\xf0\n");
    let out = root.path().join("again.tar");
    let layer = mirror.write_checkout(&id, &CheckoutOptions::new("testbed"), &out).unwrap();
    assert_eq!(layer.filters["lfs"], ["large.bin"], "a filter that is not run is named");
}

#[test]
fn settings_of_the_machine_and_the_user_change_no_file() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("n");
    let id = commit(&dir, &converted());
    // What a template of the user's may bring into a mirror.
    let mirrors = Mirrors::new(root.path(), vec![dir.display().to_string()], BTreeMap::new());
    let mirror = mirrors.mirror("o/n", &[&id], &NoLog).unwrap();
    std::fs::create_dir_all(mirror.path().join("info")).unwrap();
    std::fs::write(mirror.path().join("info/attributes"), "* text eol=crlf\n").unwrap();
    git(mirror.path(), &["config", "core.autocrlf", "true"]);
    git(mirror.path(), &["config", "filter.lfs.smudge", "false"]);
    let tree = checkout(&mirror, &id, root.path());
    assert_eq!(std::fs::read(tree.join("b.txt")).unwrap(), b"one\ntwo");
    assert_eq!(files(&tree)["large.bin"], converted()["large.bin"]);
}

#[test]
fn an_attribute_that_changed_since_the_shared_layers_changes_the_file() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("n");
    let mut tree = converted();
    commit(&dir, &tree);
    tree.insert(".gitattributes".to_owned(), b"b.txt eol=crlf\n".to_vec());
    commit(&dir, &tree);
    git(&dir, &["reset", "-q", "--hard"]);
    // Of another year than the first.
    let date = "1620000000 +0000";
    let amended = Command::new("git")
        .args(["-c", "user.name=A", "-c", "user.email=a@b", "commit", "-q", "--amend", "-m", "x"])
        .args(["--date", date])
        .env("GIT_COMMITTER_DATE", date)
        .current_dir(&dir)
        .status();
    assert!(amended.unwrap().success());
    let id = git(&dir, &["rev-parse", "HEAD"]);
    let mirrors = Mirrors::new(root.path(), vec![dir.display().to_string()], BTreeMap::new());
    let mirror = mirrors.mirror("o/n", &[&id], &NoLog).unwrap();
    let out = root.path().join("upper.tar");
    let options = CheckoutOptions::new("testbed").shared(root.path());
    let layer = mirror.write_checkout(&id, &options, &out).unwrap();
    assert_eq!(layer.shared.len(), 1);
    let below = tempfile::tempdir().unwrap();
    unpack(&layer.shared[0].path, below.path());
    unpack(&out, below.path());
    let real = root.path().join("real");
    git(&dir, &["clone", "-q", "--shared", ".", &real.display().to_string()]);
    assert_eq!(files(&below.path().join("testbed")), files(&real));
    assert_eq!(git(&below.path().join("testbed"), &["status", "--porcelain"]), "");
    let upper = list(&out);
    assert!(upper.contains_key("a.bat") && !upper.contains_key("sub/b.txt"), "{upper:?}");
}

#[test]
fn a_patch_of_a_converted_file_leaves_what_git_apply_leaves() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("n");
    let id = commit(&dir, &converted());
    let real = root.path().join("real");
    git(&dir, &["clone", "-q", "--shared", ".", &real.display().to_string()]);
    std::fs::write(real.join("a.bat"), "echo 1\r\necho 3\r\n").unwrap();
    std::fs::write(real.join("sub/new.txt"), "new\r\n").unwrap();
    std::fs::write(real.join("cp1251.py"), b"# \xea\xe8\xf0\n# \xea\n").unwrap();
    git(&real, &["add", "a.bat", "cp1251.py", "sub"]);
    let output = Command::new("git")
        .args(["diff", "--cached", "--binary"])
        .current_dir(&real)
        .output()
        .unwrap();
    let wanted = files(&real);
    let mirrors = Mirrors::new(root.path(), vec![dir.display().to_string()], BTreeMap::new());
    let mirror = mirrors.mirror("o/n", &[&id], &NoLog).unwrap();
    let out = root.path().join("layer.tar");
    let request = PatchRequest {
        commit: &id,
        setup_diff: None,
        test_patch: b"",
        model_patch: &output.stdout,
        root: "testbed",
    };
    let outcome = mirror.write_patch_layer(&request, root.path(), &out).unwrap();
    let PatchOutcome::Applied(layer) = outcome else { panic!("{outcome:?}") };
    let changed: Vec<String> = layer.changed.iter().map(ToString::to_string).collect();
    assert_eq!(changed, ["M a.bat", "M cp1251.py", "A sub/new.txt"]);
    let tree = checkout(&mirror, &id, root.path());
    unpack(&out, root.path());
    assert_eq!(files(&tree), wanted);
}

fn attributes() -> impl Strategy<Value = Vec<u8>> {
    let patterns = ["*", "*.txt", "a*", "/a.txt", "sub/*.txt", "**/b.bat", "[ab].*", "sub/", "c"];
    let words = [
        "text",
        "-text",
        "!text",
        "text=auto",
        "text=input",
        "crlf",
        "-crlf",
        "crlf=input",
        "eol=crlf",
        "eol=lf",
        "-eol",
        "eol=other",
        "ident",
        "-ident",
        "binary",
        "mine",
        "-mine",
        "working-tree-encoding=UTF-16",
        "working-tree-encoding=UTF-16LE-BOM",
        "working-tree-encoding=cp1251",
        "working-tree-encoding=latin1",
        "working-tree-encoding=nonsense",
        "working-tree-encoding=UTF-8",
        "filter=lfs",
        "filter=own",
        "export-subst",
        "-diff",
    ];
    let line = (
        proptest::sample::select(patterns.to_vec()),
        proptest::collection::vec(proptest::sample::select(words.to_vec()), 1..4),
    )
        .prop_map(|(pattern, words)| format!("{pattern} {}\n", words.join(" ")));
    let macros = proptest::option::of(Just("[attr]mine text eol=crlf ident\n"));
    (macros, proptest::collection::vec(line, 0..4), any::<bool>()).prop_map(
        |(macros, lines, dos)| {
            let text = macros.unwrap_or_default().to_owned() + &lines.concat();
            let text = if dos { text.replace('\n', "\r\n") } else { text };
            text.into_bytes()
        },
    )
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    let parts: Vec<&[u8]> = vec![
        b"line\n",
        b"dos\r\n",
        b"\r",
        b"\n",
        b"\0",
        b"$Id$",
        b"$Id: x $",
        b"$Id: a b $",
        b"$Id",
        b"$Id:$",
        b"\xd0\xba\xd0\xb8\n",
        b"\xc3\xbc\n",
        b"\x1a",
        b"\xff\xfe",
        b"text ",
    ];
    proptest::collection::vec(proptest::sample::select(parts), 0..7)
        .prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_attributes_give_the_files_of_git_checkout(
        of in proptest::array::uniform3(attributes()),
        contents in proptest::collection::vec(content(), 9),
    ) {
        let mut tree = BTreeMap::new();
        let directories = ["", "sub/", "sub/deep/"];
        for (directory, text) in directories.iter().zip(of) {
            tree.insert(format!("{directory}.gitattributes"), text);
        }
        let names = directories
            .iter()
            .flat_map(|directory| ["a.txt", "b.bat", "c"].map(|name| format!("{directory}{name}")));
        tree.extend(names.zip(contents));
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("n");
        let id = commit(&dir, &tree);
        compare(&dir, &id);
    }
}

#[test]
fn a_tracked_file_that_a_layer_would_take_for_a_deletion_is_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("n");
    let mut tree = BTreeMap::from([("fine".to_owned(), file(b"x\n"))]);
    let plain = commit(&dir, &tree);
    tree.insert("tests/.wh.data/file".to_owned(), file(b"x\n"));
    let id = commit(&dir, &tree);
    let mirrors = Mirrors::new(root.path(), vec![dir.display().to_string()], BTreeMap::new());
    let mirror = mirrors.mirror("o/n", &[&id, &plain], &NoLog).unwrap();
    let out = root.path().join("out.tar");
    let error = mirror.write_checkout(&id, &CheckoutOptions::new("testbed"), &out).unwrap_err();
    assert!(error.to_string().contains("`tests/.wh.data/file`"), "{error}");
    let patch = "diff --git a/.wh.fine b/.wh.fine\nnew file mode 100644\n--- /dev/null\n+++ b/.wh.fine\n@@ -0,0 +1 @@\n+x\n";
    let request = PatchRequest {
        commit: &plain,
        setup_diff: None,
        test_patch: b"",
        model_patch: patch.as_bytes(),
        root: "testbed",
    };
    let error = mirror.write_patch_layer(&request, root.path(), &out).unwrap_err();
    let cause = std::error::Error::source(&error).expect("a cause").to_string();
    assert!(cause.contains("`testbed/.wh.fine`"), "{cause}");
}
