//! Mirrors, checkout layers and patch layers, on real repositories made with `git`.

mod history;
mod origins;
mod truth;
mod worktree;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use imgforge::engine::NoLog;
use imgforge::source::{CheckoutOptions, Mirror, Mirrors, PatchOutcome, PatchRequest, SourceError};

/// A repository with two commits, the second of which must never be seen.
struct Repo {
    dir: tempfile::TempDir,
    base: String,
    later: String,
}

fn git(dir: &Path, args: &[&str]) -> String {
    git_raw(dir, args).trim().to_owned()
}

/// What git prints, to the last blank.
fn git_raw(dir: &Path, args: &[&str]) -> String {
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
    String::from_utf8(output.stdout).expect("git prints UTF-8 here")
}

fn write(dir: &Path, path: &str, text: &str) {
    let path = dir.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

impl Repo {
    fn new() -> Repo {
        use std::os::unix::fs::PermissionsExt as _;
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("o/n");
        std::fs::create_dir_all(&dir).unwrap();
        git(&dir, &["init", "-q", "-b", "main"]);
        write(&dir, "pkg/__init__.py", "version = '$Format:%H$'\n");
        write(&dir, "pkg/code.py", "one\ntwo\nthree\nfour\nfive\nsix\nseven\neight\n");
        write(&dir, "pkg/gone/only.py", "x\n");
        write(&dir, "tests/test_code.py", "def test_one():\n    pass\n");
        write(&dir, "tool.sh", "#!/bin/sh\n");
        write(&dir, "dos.txt", "a\r\nb\r\n");
        write(&dir, "hidden.txt", "not in an archive\n");
        write(&dir, ".gitattributes", "pkg/__init__.py export-subst\nhidden.txt export-ignore\n");
        write(&dir, &format!("deep/{}/file.txt", "d".repeat(120)), "long\n");
        std::fs::set_permissions(dir.join("tool.sh"), std::fs::Permissions::from_mode(0o755))
            .unwrap();
        std::os::unix::fs::symlink("pkg/code.py", dir.join("link")).unwrap();
        std::os::unix::fs::symlink("/tmp", dir.join("outside")).unwrap();
        std::os::unix::fs::symlink("./pkg//../tool.sh", dir.join("dots")).unwrap();
        std::os::unix::fs::symlink("e".repeat(150), dir.join("far")).unwrap();
        git(&dir, &["add", "-A"]);
        git(&dir, &["commit", "-q", "-m", "base"]);
        let base = git(&dir, &["rev-parse", "HEAD"]);
        write(&dir, "pkg/code.py", "the fix\n");
        git(&dir, &["commit", "-q", "-a", "-m", "fix"]);
        git(&dir, &["tag", "v2"]);
        let later = git(&dir, &["rev-parse", "HEAD"]);
        Repo { dir: root, base, later }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("o/n")
    }

    fn mirror(&self, state: &Path) -> Mirror {
        let template = format!("{}/{{owner}}/{{name}}", self.dir.path().display());
        Mirrors::new(state, vec![template], BTreeMap::new())
            .mirror("o/n", &[&self.base], &NoLog)
            .unwrap()
    }

    /// Applies patches and lists the layer: path and content, with `wh:` before what is deleted.
    fn apply(&self, test: &str, model: &str) -> Result<BTreeMap<String, String>, String> {
        let state = tempfile::tempdir().unwrap();
        let mirror = self.mirror(state.path());
        let out = state.path().join("layer.tar");
        let request = PatchRequest {
            commit: &self.base,
            setup_diff: None,
            test_patch: test.as_bytes(),
            model_patch: model.as_bytes(),
            root: "testbed",
        };
        match mirror.write_patch_layer(&request, state.path(), &out).unwrap() {
            PatchOutcome::Refused(refusal) => Err(refusal.reason()),
            PatchOutcome::Applied(_) => Ok(list(&out)),
        }
    }
}

fn list(tar: &Path) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(std::fs::File::open(tar).unwrap());
    let mut found = BTreeMap::new();
    let mut seen = std::collections::BTreeSet::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        let path = path.strip_prefix("testbed/").unwrap_or(&path).to_owned();
        assert!(seen.insert(path.clone()), "{path} is in the layer twice");
        if entry.header().entry_type().is_dir() {
            continue;
        }
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut text).unwrap();
        if let Some(target) = entry.link_name().unwrap() {
            text = format!("-> {}", target.display()).into_bytes();
        }
        let mtime = entry.header().mtime().unwrap() - 1_600_000_000;
        found.insert(path, format!("+{mtime} {}", String::from_utf8_lossy(&text)));
    }
    found
}

fn checkout(mirror: &Mirror, commit: &str, dir: &Path) -> PathBuf {
    let tar = dir.join("checkout.tar");
    mirror.write_checkout(commit, &CheckoutOptions::new("testbed"), &tar).unwrap();
    let status = Command::new("tar").arg("-xf").arg(&tar).arg("-C").arg(dir).status().unwrap();
    assert!(status.success());
    dir.join("testbed")
}

#[test]
fn a_checkout_is_clean_and_holds_one_commit_and_no_later_one() {
    let repo = Repo::new();
    let dir = tempfile::tempdir().unwrap();
    let tree = checkout(&repo.mirror(dir.path()), &repo.base, dir.path());
    assert_eq!(git(&tree, &["status", "--porcelain", "--ignored"]), "");
    assert_eq!(git(&tree, &["diff", &repo.base]), "");
    assert_eq!(git(&tree, &["log", "--format=%H", "--all", "HEAD"]), repo.base);
    assert_eq!(git(&tree, &["for-each-ref"]), "");
    assert_eq!(git(&tree, &["remote"]), "");
    git(&tree, &["fsck", "--strict"]);
    let later = Command::new("git")
        .args(["cat-file", "-e", &repo.later])
        .current_dir(&tree)
        .output()
        .unwrap();
    assert!(!later.status.success(), "a later commit is in the checkout");
    let objects = git(&tree, &["cat-file", "--batch-check=%(objectname)", "--batch-all-objects"]);
    let expected =
        git(&repo.path(), &["rev-list", "--objects", "--no-object-names", "-1", &repo.base]);
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&objects), sorted(&expected));
    for leftover in ["logs", "ORIG_HEAD", "FETCH_HEAD", "hooks", "objects/info/alternates"] {
        assert!(!tree.join(".git").join(leftover).exists(), "{leftover}");
    }
}

#[test]
fn git_works_in_a_checkout() {
    let repo = Repo::new();
    let dir = tempfile::tempdir().unwrap();
    let tree = checkout(&repo.mirror(dir.path()), &repo.base, dir.path());
    write(&tree, "pkg/code.py", "changed\n");
    assert_eq!(git(&tree, &["status", "--porcelain"]), "M pkg/code.py");
    git(&tree, &["stash"]);
    git(&tree, &["stash", "drop", "-q"]);
    write(&tree, "pkg/code.py", "changed\n");
    git(&tree, &["checkout", "-q", &repo.base, "--", "pkg/code.py"]);
    assert_eq!(git(&tree, &["status", "--porcelain"]), "");
    write(&tree, "pkg/new.py", "new\n");
    git(&tree, &["add", "-A"]);
    git(&tree, &["commit", "-q", "-m", "mine"]);
    assert_eq!(git(&tree, &["diff", "--name-only", &repo.base]), "pkg/new.py");
}

#[test]
fn attributes_for_archives_and_modes_links_and_long_names_are_right() {
    use std::os::unix::fs::PermissionsExt as _;
    let repo = Repo::new();
    let dir = tempfile::tempdir().unwrap();
    let tree = checkout(&repo.mirror(dir.path()), &repo.base, dir.path());
    let read = |path: &str| std::fs::read_to_string(tree.join(path)).unwrap();
    assert_eq!(read("pkg/__init__.py"), "version = '$Format:%H$'\n");
    assert_eq!(read("hidden.txt"), "not in an archive\n");
    assert_eq!(read(&format!("deep/{}/file.txt", "d".repeat(120))), "long\n");
    let mode = |path: &str| tree.join(path).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("tool.sh"), mode("pkg/code.py")), (0o755, 0o644));
    for (link, target) in [("link", "pkg/code.py"), ("dots", "./pkg//../tool.sh")] {
        assert_eq!(std::fs::read_link(tree.join(link)).unwrap().as_os_str(), target);
    }
    assert_eq!(std::fs::read_link(tree.join("far")).unwrap().as_os_str(), &*"e".repeat(150));
}

/// Unpacks a layer on what is below it.
fn unpack(tar: &Path, dir: &Path) {
    let status = Command::new("tar").arg("-xf").arg(tar).arg("-C").arg(dir).status().unwrap();
    assert!(status.success());
    for path in list(tar).keys().filter(|path| path.contains(".wh.")) {
        let path = dir.join("testbed").join(path);
        let name = path.file_name().unwrap().to_str().unwrap().replacen(".wh.", "", 1);
        let target = path.with_file_name(name);
        std::fs::remove_file(&path).unwrap();
        let gone = match target.is_dir() {
            true => std::fs::remove_dir_all(&target),
            false => std::fs::remove_file(&target),
        };
        gone.unwrap();
    }
}

#[test]
fn a_checkout_on_shared_layers_is_the_same_and_has_nothing_of_their_commits() {
    let repo = Repo::new();
    let dir = repo.path();
    git(&dir, &["checkout", "-q", &repo.base]);
    let commit = |date: &str| {
        git(&dir, &["add", "-A"]);
        let date = format!("{date} +0000");
        let commit = Command::new("git")
            .args(["-c", "user.name=A", "-c", "user.email=a@b", "commit", "-q", "-m", "more"])
            .current_dir(&dir)
            .envs([("GIT_AUTHOR_DATE", &date), ("GIT_COMMITTER_DATE", &date)])
            .status();
        assert!(commit.unwrap().success());
    };
    // The base is of 2020; then February, April and May of 2021.
    write(&dir, "pkg/code.py", "february\n");
    write(&dir, "pkg/february/file.py", "only then\n");
    commit("1612915200");
    std::fs::remove_dir_all(dir.join("pkg/february")).unwrap();
    write(&dir, "pkg/april.py", "april\n");
    commit("1618012800");
    write(&dir, "pkg/code.py", "changed\n");
    write(&dir, "pkg/new/file.py", "new\n");
    git(&dir, &["rm", "-q", "-r", "pkg/gone", "tool.sh"]);
    commit("1620000000");
    let head = git(&dir, &["rev-parse", "HEAD"]);
    let state = tempfile::tempdir().unwrap();
    let mirror = repo.mirror(state.path());
    let upper = state.path().join("upper.tar");
    let options = CheckoutOptions::new("testbed").shared(state.path());
    let layer = mirror.write_checkout(&head, &options, &upper).unwrap();
    assert_eq!(layer.shared.len(), 3);
    let brought = list(&upper);
    let tree: Vec<&str> =
        brought.keys().map(String::as_str).filter(|path| !path.starts_with(".git/")).collect();
    assert_eq!(tree, [".wh.tool.sh", "pkg/.wh.gone", "pkg/code.py", "pkg/new/file.py"]);
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for lower in &layer.shared {
        unpack(&lower.path, one.path());
    }
    unpack(&upper, one.path());
    let tree = one.path().join("testbed");
    let whole = checkout(&mirror, &head, other.path());
    let compared = Command::new("diff")
        .args(["-r", "--no-dereference", "--exclude=index", "--exclude=objects"])
        .args([&tree, &whole])
        .output()
        .unwrap();
    assert!(compared.status.success(), "{}", String::from_utf8_lossy(&compared.stdout));
    // The index has the times that the files have: nothing needs to be read or refreshed.
    assert_eq!(git(&tree, &["diff-files", "--name-only"]), "");
    assert_eq!(git(&tree, &["status", "--porcelain", "--ignored"]), "");
    let log = ["log", "--format=%H", "--all", "HEAD"];
    assert_eq!(git(&tree, &log), git(&dir, &["log", "--format=%H", &head]));
    git(&tree, &["fsck", "--strict"]);
    let objects = ["cat-file", "--batch-check=%(objectname)", "--batch-all-objects"];
    assert_eq!(git(&tree, &objects), git(&whole, &objects), "and no object of another commit");

    // A partial clone lacks a file of February: the checkout is whole in one layer.
    let id = git(&dir, &["rev-parse", "HEAD~2:pkg/february/file.py"]);
    std::fs::remove_file(dir.join(".git/objects").join(&id[..2]).join(&id[2..])).unwrap();
    let layer = mirror.write_checkout(&head, &options, &upper).unwrap();
    assert_eq!(layer.shared.len(), 0);
    assert!(list(&upper).contains_key("dos.txt"));
}

#[test]
fn the_same_commit_gives_the_same_bytes_from_any_mirror() {
    let repo = Repo::new();
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let digest = |dir: &Path| {
        let tar = dir.join("checkout.tar");
        let options = CheckoutOptions::new("testbed");
        repo.mirror(dir).write_checkout(&repo.base, &options, &tar).unwrap().file.diff_id
    };
    let before = digest(dirs[0].path());
    git(&repo.path(), &["gc", "-q", "--aggressive"]);
    assert_eq!(before, digest(dirs[1].path()));
}

#[test]
fn a_missing_commit_names_every_source_that_was_tried() {
    let repo = Repo::new();
    let state = tempfile::tempdir().unwrap();
    let there = format!("{}/{{owner}}/{{name}}", repo.dir.path().display());
    let mirrors = Mirrors::new(
        state.path(),
        vec!["/nowhere/{name}".into(), there.clone(), "file:///nor/here".into()],
        BTreeMap::new(),
    );
    let missing = "f".repeat(40);
    let Err(SourceError::NoCommit { tried, commit, .. }) =
        mirrors.mirror("o/n", &[&missing], &NoLog)
    else {
        panic!("found a commit that is nowhere")
    };
    assert_eq!(commit, missing);
    assert_eq!(tried.len(), 3);
    assert!(tried[0].said.contains("not a git repository"), "{tried:?}");
    assert!(tried[1].said.contains("does not have"), "{tried:?}");
    assert!(mirrors.mirror("o/n", &["main"], &NoLog).is_err());
    assert!(mirrors.mirror("o/n", &[&repo.base], &NoLog).is_ok());
}

/// A git server on this machine that ends with the test.
struct Server(std::process::Child, u16);

impl Server {
    fn start(root: &Path) -> Server {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let process = Command::new("git")
            .args(["daemon", "--export-all", "--reuseaddr", "--listen=127.0.0.1"])
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", root.display()))
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let server = Server(process, port);
        for _ in 0..200 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return server;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("the git server does not answer");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The server is a child of `git`, which hands this signal on; it would not hand on a kill.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

#[test]
fn a_url_is_fetched_once_and_a_half_made_mirror_is_made_again() {
    let repo = Repo::new();
    let state = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(state.path().join("mirrors/o__n.git/objects")).unwrap();
    std::fs::create_dir_all(state.path().join("mirrors/o__n.part")).unwrap();
    let server = Server::start(repo.dir.path());
    let template = format!("git://127.0.0.1:{}/{{owner}}/{{name}}", server.1);
    let mirrors = Mirrors::new(state.path(), vec![template], BTreeMap::new());
    let Err(SourceError::NoCommit { tried, .. }) =
        mirrors.mirror("o/absent", &[&repo.base], &NoLog)
    else {
        panic!("found a repository that is nowhere")
    };
    assert!(tried[0].said.contains("not found") || tried[0].said.contains("denied"), "{tried:?}");
    mirrors.mirror("o/n", &[&repo.base], &NoLog).unwrap();
    drop(server);
    // What is here needs no server.
    let mirror = mirrors.mirror("o/n", &[&repo.base, &repo.later], &NoLog).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let tree = checkout(&mirror, &repo.base, dir.path());
    assert_eq!(git(&tree, &["log", "--format=%H", "--all", "HEAD"]), repo.base);
}

#[test]
fn a_transport_that_git_has_off_is_told() {
    let repo = Repo::new();
    let state = tempfile::tempdir().unwrap();
    let url = format!("ext::git-upload-pack {}", repo.path().display());
    let mirrors = Mirrors::new(state.path(), vec![url], BTreeMap::new());
    let Err(SourceError::NoCommit { tried, .. }) = mirrors.mirror("o/n", &[&repo.base], &NoLog)
    else {
        panic!("git took a transport that is off")
    };
    assert!(tried[0].said.contains("not allowed"), "{tried:?}");
}

const MODEL: &str = "diff --git a/pkg/code.py b/pkg/code.py
--- a/pkg/code.py
+++ b/pkg/code.py
@@ -1,4 +1,4 @@
-one
+ONE
 two
 three
 four
";
const TEST: &str = "diff --git a/tests/test_code.py b/tests/test_code.py
--- a/tests/test_code.py
+++ b/tests/test_code.py
@@ -1,2 +1,3 @@
 def test_one():
-    pass
+    assert True
+    assert 1
";

#[test]
fn a_patch_layer_holds_what_changed_with_later_times() {
    let layer = Repo::new().apply(TEST, MODEL).unwrap();
    assert_eq!(layer.keys().collect::<Vec<_>>(), ["pkg/code.py", "tests/test_code.py"]);
    assert!(layer["pkg/code.py"].starts_with("+2 ONE\ntwo"));
    assert!(layer["tests/test_code.py"].starts_with("+1 def"));
}

#[test]
fn empty_and_blank_patches_are_absent() {
    assert!(Repo::new().apply("", " \n\t\n").unwrap().is_empty());
}

#[test]
fn test_files_win_over_whatever_the_model_did_to_them() {
    let cheat = "diff --git a/tests/test_code.py b/tests/test_code.py
deleted file mode 100644
--- a/tests/test_code.py
+++ /dev/null
@@ -1,2 +0,0 @@
-def test_one():
-    pass
";
    let layer = Repo::new().apply(TEST, cheat).unwrap();
    assert!(layer["tests/test_code.py"].contains("assert 1"));
    assert_eq!(layer.len(), 1);
}

#[test]
fn a_patch_that_does_not_apply_names_the_hunk() {
    let reason = Repo::new()
        .apply("", &MODEL.replace("-one", "-uno").replace(" two", " due").replace(" three", " tre"))
        .unwrap_err();
    assert!(reason.contains("pkg/code.py:1") || reason.contains("FAILED at 1"), "{reason}");
}

#[test]
fn context_that_moved_is_taken_with_fuzz_as_the_harness_takes_it() {
    let fuzzy = MODEL.replace(" four\n", " vier\n");
    let layer = Repo::new().apply("", &fuzzy).unwrap();
    assert_eq!(layer.keys().collect::<Vec<_>>(), ["pkg/code.py", "pkg/code.py.orig"]);
    assert!(layer["pkg/code.py"].contains("ONE\ntwo\nthree\nfour"));
}

#[test]
fn an_applied_patch_counts_as_applied() {
    let reverse = MODEL.replace("-one\n+ONE", "-zero\n+one");
    let layer = Repo::new().apply("", &reverse).unwrap();
    assert_eq!(layer.keys().collect::<Vec<_>>(), ["pkg/code.py.rej"], "as the harness leaves it");
}

#[test]
fn deletions_are_whiteouts_and_an_emptied_directory_goes_whole() {
    let delete = "diff --git a/pkg/gone/only.py b/pkg/gone/only.py
deleted file mode 100644
--- a/pkg/gone/only.py
+++ /dev/null
@@ -1 +0,0 @@
-x
diff --git a/tool.sh b/tool.sh
deleted file mode 100755
--- a/tool.sh
+++ /dev/null
@@ -1 +0,0 @@
-#!/bin/sh
";
    let layer = Repo::new().apply("", delete).unwrap();
    assert_eq!(layer.keys().collect::<Vec<_>>(), [".wh.tool.sh", "pkg/.wh.gone"]);
}

#[test]
fn renames_modes_new_files_and_links_are_kept() {
    let patch = "diff --git a/pkg/code.py b/pkg/moved.py
similarity index 100%
rename from pkg/code.py
rename to pkg/moved.py
diff --git a/dos.txt b/dos.txt
old mode 100644
new mode 100755
diff --git a/new/dir/file.txt b/new/dir/file.txt
new file mode 100644
--- /dev/null
+++ b/new/dir/file.txt
@@ -0,0 +1 @@
+new
\\ No newline at end of file
diff --git a/here b/here
new file mode 120000
--- /dev/null
+++ b/here
@@ -0,0 +1 @@
+tool.sh
\\ No newline at end of file
";
    let layer = Repo::new().apply("", patch).unwrap();
    assert_eq!(
        layer.keys().collect::<Vec<_>>(),
        ["dos.txt", "here", "new/dir/file.txt", "pkg/.wh.code.py", "pkg/moved.py"]
    );
    assert_eq!(layer["here"], "+2 -> tool.sh");
    assert_eq!(layer["new/dir/file.txt"], "+2 new");
}

#[test]
fn carriage_returns_in_a_patch_are_content() {
    let patch = "diff --git a/dos.txt b/dos.txt\n--- a/dos.txt\n+++ b/dos.txt\n@@ -1,2 +1,2 @@\n a\r\n-b\r\n+c\r\n";
    assert_eq!(Repo::new().apply("", patch).unwrap()["dos.txt"], "+2 a\r\nc\r\n");
}

#[test]
fn binary_patches_and_bytes_that_are_not_utf8_apply() {
    let repo = Repo::new();
    let dir = repo.path();
    git(&dir, &["checkout", "-q", &repo.base]);
    std::fs::write(dir.join("data.bin"), [0u8, 255, 254, 1, 2, 3]).unwrap();
    std::fs::write(dir.join("latin.txt"), b"caf\xe9\n").unwrap();
    git(&dir, &["add", "-A"]);
    let output = Command::new("git")
        .args(["diff", "--binary", "--cached"])
        .current_dir(&dir)
        .output()
        .unwrap();
    let state = tempfile::tempdir().unwrap();
    let out = state.path().join("layer.tar");
    let request = PatchRequest {
        commit: &repo.base,
        setup_diff: None,
        test_patch: b"",
        model_patch: &output.stdout,
        root: "testbed",
    };
    let outcome =
        repo.mirror(state.path()).write_patch_layer(&request, state.path(), &out).unwrap();
    let PatchOutcome::Applied(layer) = outcome else { panic!("{outcome:?}") };
    let changed: Vec<String> = layer.changed.iter().map(ToString::to_string).collect();
    assert_eq!(changed, ["A data.bin", "A latin.txt"]);
}

#[test]
fn nothing_outside_the_repository_is_written() {
    let repo = Repo::new();
    let new = |path: &str| {
        format!(
            "diff --git a/{path} b/{path}\nnew file mode 100644\n--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+x\n"
        )
    };
    for (path, word) in [
        ("../evil", "outside the repository"),
        ("x/../../evil", "outside the repository"),
        (".git/hooks/post-checkout", "outside the repository"),
        ("outside/evil", "symbolic link `outside`"),
    ] {
        let reason = repo.apply("", &new(path)).unwrap_err();
        assert!(reason.contains(word), "{path}: {reason}");
    }
    let link = "diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+/tmp\n\\ No newline at end of file\n";
    let reason = repo.apply("", &format!("{link}{}", new("l/evil"))).unwrap_err();
    assert!(reason.contains("symbolic link `l`"), "{reason}");
}

#[test]
fn a_patch_in_a_form_that_only_patch_reads_writes_nothing_of_git() {
    let repo = Repo::new();
    let ran = repo.dir.path().join("ran");
    for path in [".git/config", ".git/hooks/post-checkout", "pkg/.git/config", "pkg/.GIT/x"] {
        let patch = format!(
            "  --- /dev/null\n  +++ b/{path}\n  @@ -0,0 +1,2 @@\n  +[core]\n\
             \u{20} +\tfsmonitor = touch {}\n",
            ran.display()
        );
        // The test patch has git look at the tree after that.
        let reason = repo.apply(TEST, &patch).unwrap_err();
        assert!(reason.contains("outside the repository"), "{path}: {reason}");
        assert!(!ran.exists(), "{path}");
    }
}

#[test]
fn what_a_patch_changed_is_read_from_the_files_whatever_form_it_has() {
    let repo = Repo::new();
    let changed = |patch: &str| {
        let state = tempfile::tempdir().unwrap();
        let out = state.path().join("layer.tar");
        let request = PatchRequest {
            commit: &repo.base,
            setup_diff: None,
            test_patch: TEST.as_bytes(),
            model_patch: patch.as_bytes(),
            root: "testbed",
        };
        let outcome =
            repo.mirror(state.path()).write_patch_layer(&request, state.path(), &out).unwrap();
        let PatchOutcome::Applied(layer) = outcome else { panic!("{outcome:?}") };
        layer.changed.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let hunk = "@@ -0,0 +1 @@\n+x\n";
    let plain = format!("--- /dev/null\n+++ b/tests/conftest.py\n{hunk}");
    let indented: String = plain.lines().map(|line| format!("  {line}\n")).collect();
    for patch in [
        &plain,
        &format!("--- /dev/null\n+++ b/tests/conftest.py 2020-01-01 00:00:00.0 +0000\n{hunk}"),
        &format!("--- /dev/null\n+++ b/tests/conftest.py\t2020-01-01\n{hunk}"),
        &format!("--- /dev/null\n+++ \"b/tests/conf\\164est.py\"\n{hunk}"),
        &format!("--- /dev/null\n+++ b//tests/./conftest.py\n{hunk}"),
        &indented,
        &plain.replace('\n', "\r\n"),
    ] {
        assert_eq!(changed(patch), ["A tests/conftest.py"], "{patch}");
    }
    let moved = "diff --git a/pkg/code.py b/pkg/moved.py\nsimilarity index 100%\n\
                 rename from pkg/code.py\nrename to pkg/moved.py\n";
    assert_eq!(changed(moved), ["D pkg/code.py", "A pkg/moved.py"]);
    let mode = "diff --git a/tool.sh b/tool.sh\nold mode 100755\nnew mode 100644\n";
    assert_eq!(changed(mode), ["M tool.sh"]);
}

#[test]
fn a_diff_of_the_installation_comes_first() {
    let repo = Repo::new();
    let state = tempfile::tempdir().unwrap();
    let out = state.path().join("layer.tar");
    let setup = MODEL;
    let on_top = MODEL.replace("-one\n+ONE", "-ONE\n+Uno");
    let request = PatchRequest {
        commit: &repo.base,
        setup_diff: Some(setup.as_bytes()),
        test_patch: b"",
        model_patch: on_top.as_bytes(),
        root: "testbed",
    };
    let outcome =
        repo.mirror(state.path()).write_patch_layer(&request, state.path(), &out).unwrap();
    assert!(matches!(outcome, PatchOutcome::Applied(_)), "{outcome:?}");
    assert!(list(&out)["pkg/code.py"].starts_with("+2 Uno\ntwo"));
}

#[test]
fn a_patch_that_is_an_ed_script_runs_nothing() {
    let repo = Repo::new();
    let ran = repo.dir.path().join("ran");
    let patch =
        format!("--- a/pkg/code.py\n+++ b/pkg/code.py\n1c\nx\n.\n!touch {}\nw\n", ran.display());
    let reason = repo.apply("", &patch).unwrap_err();
    assert!(!ran.exists());
    assert!(reason.contains("ed FAILED"), "{reason}");
}
