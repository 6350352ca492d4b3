//! What `git` and the tools that ask it say about a checkout's history, against a full clone.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use imgforge::source::{CheckoutOptions, Mirrors};
use proptest::prelude::*;

use super::{NoLog, checkout, git, unpack};

/// What tools ask for that compute a version or a list of changes.
const QUESTIONS: [&[&str]; 18] = [
    &["describe", "--tags"],
    &["describe"],
    &["describe", "--tags", "--long"],
    &["describe", "--dirty", "--tags", "--long", "--match", "*[0-9]*"],
    &["describe", "--tags", "--dirty", "--always", "--long", "--match", "v*[[:digit:]]*"],
    &["describe", "--tags", "--first-parent"],
    &["describe", "--tags", "--candidates=1"],
    &["describe", "--abbrev=0", "--always"],
    &["rev-list", "--count", "HEAD"],
    &["rev-list", "--count", "--first-parent", "HEAD"],
    &["rev-parse", "--is-shallow-repository"],
    &["tag", "--merged", "HEAD", "--sort=-creatordate"],
    &[
        "for-each-ref",
        "--merged",
        "HEAD",
        "refs/tags",
        "--format=%(refname) %(objecttype) %(objectname) %(*objectname)",
    ],
    &["log", "--format=%H %P %an %ct %s"],
    &[
        "log",
        "--simplify-by-decoration",
        "--topo-order",
        "--format=%H %D",
        "--decorate-refs=refs/tags",
    ],
    &["log", "-1", "--stat", "--format=%H"],
    &["merge-base", "HEAD", "HEAD~1"],
    &["log", "--no-merges", "--format=%h%x00%s%x00%d", "--decorate-refs=refs/tags"],
];

/// Answers all questions; those that end in an error are named.
fn answers(dir: &Path) -> Vec<String> {
    let answer = |args: &&[&str]| {
        let output = Command::new("git")
            .args(*args)
            .current_dir(dir)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        format!("{args:?}: {} {said}", output.status.success())
    };
    QUESTIONS.iter().map(answer).collect()
}

/// Clones as a benchmark does: the commit, and no tag that is not of an ancestor.
fn clone(source: &Path, commit: &str, to: &Path) {
    let path = to.display().to_string();
    git(source, &["clone", "-q", "--no-checkout", ".", &path]);
    git(to, &["checkout", "-q", "--detach", commit]);
    let merged = git(to, &["tag", "--merged", commit]);
    let merged: BTreeSet<&str> = merged.lines().collect();
    for tag in git(to, &["tag"]).lines().filter(|tag| !merged.contains(tag)) {
        git(to, &["tag", "-d", tag]);
    }
}

/// A commit to make: its parents among those before it, its days since the one before, its tags.
#[derive(Debug, Clone)]
struct Made {
    parents: Vec<usize>,
    days: u8,
    tag: Option<bool>,
}

/// Makes a repository; returns its commits.
fn make(dir: &Path, commits: &[Made]) -> Vec<String> {
    std::fs::create_dir_all(dir).unwrap();
    git(dir, &["init", "-q", "-b", "main"]);
    let mut stream = String::new();
    let mut time = 1_610_000_000i64;
    for (index, made) in commits.iter().enumerate() {
        time += i64::from(made.days) * 86400;
        let mark = index + 1;
        stream += &format!("commit refs/heads/b{index}\nmark :{mark}\n");
        stream += &format!("committer A <a@b> {time} +0000\ndata 2\nc\n");
        for (which, parent) in made.parents.iter().enumerate() {
            let word = if which == 0 { "from" } else { "merge" };
            stream += &format!("{word} :{}\n", parent + 1);
        }
        stream += &format!("M 100644 inline sub/{}\ndata 2\n{mark}\n", index % 7);
        match made.tag {
            Some(true) => {
                stream += &format!(
                    "tag v{index}.0\nfrom :{mark}\ntagger A <a@b> {time} +0000\ndata 2\nt\n"
                );
            }
            Some(false) => stream += &format!("reset refs/tags/{index}.1\nfrom :{mark}\n"),
            None => {}
        }
    }
    let marks = dir.join(".git/marks");
    let mut child = Command::new("git")
        .args(["fast-import", "--quiet", "--export-marks=.git/marks"])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stream.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    let marks = std::fs::read_to_string(marks).unwrap();
    let mut by_mark: Vec<(usize, String)> = marks
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(mark, id)| (mark[1..].parse().unwrap(), id.to_owned()))
        .collect();
    by_mark.sort();
    by_mark.into_iter().map(|(_, id)| id).collect()
}

fn linear(parents: &[usize], tag: Option<bool>) -> Made {
    Made { parents: parents.to_vec(), days: 20, tag }
}

/// A main line with a side branch from before a tag, and what comes later.
fn history() -> Vec<Made> {
    vec![
        linear(&[], None),
        linear(&[0], Some(true)),
        linear(&[1], None),
        linear(&[2], Some(false)),
        linear(&[1], None),
        linear(&[4], None),
        linear(&[3, 5], None),
        // The commit of the checkout.
        linear(&[6], None),
        linear(&[7], Some(true)),
        // Older than the next release, but not of this line.
        linear(&[3], Some(true)),
    ]
}

/// Unpacks a checkout with its shared layers.
fn shared_checkout(source: &Path, commit: &str, dir: &Path) -> PathBuf {
    let mirrors = Mirrors::new(dir, vec![source.display().to_string()], BTreeMap::new());
    let mirror = mirrors.mirror("o/n", &[commit], &NoLog).unwrap();
    let out = dir.join("upper.tar");
    let options = CheckoutOptions::new("testbed").shared(dir);
    let layer = mirror.write_checkout(commit, &options, &out).unwrap();
    for lower in &layer.shared {
        unpack(&lower.path, dir);
    }
    unpack(&out, dir);
    dir.join("testbed")
}

fn objects(dir: &Path) -> BTreeSet<String> {
    let all = ["cat-file", "--batch-check=%(objectname)", "--batch-all-objects"];
    git(dir, &all).lines().map(str::to_owned).collect()
}

#[test]
fn versions_are_those_of_a_full_clone_and_nothing_later_is_there() {
    let root = tempfile::tempdir().unwrap();
    let source = root.path().join("n");
    let commits = make(&source, &history());
    let base = &commits[7];
    git(&source, &["tag", "-a", "-m", "again", "of-a-tag", "v1.0"]);
    git(&source, &["tag", "nested", "v1.0"]);
    git(&source, &["tag", "of-a-tree", &format!("{base}^{{tree}}")]);
    let real = root.path().join("real");
    clone(&source, base, &real);
    let tree = shared_checkout(&source, base, root.path());
    assert_eq!(
        answers(&tree)[0],
        "[\"describe\", \"--tags\"]: true 3.1-4-g".to_owned() + &base[..7] + "\n"
    );
    assert_eq!(answers(&tree), answers(&real));
    assert_eq!(git(&tree, &["status", "--porcelain", "--ignored"]), "");
    assert_eq!(git(&tree, &["remote"]), "");
    git(&tree, &["fsck", "--strict"]);
    git(&tree, &["show", "--stat"]);
    git(&tree, &["diff", "HEAD~1"]);
    // Nothing that the commit does not come from: no commit, no tag, no file.
    let known = git(&source, &["rev-list", "--objects", "--no-object-names", base]);
    let mut known: BTreeSet<String> = known.lines().map(str::to_owned).collect();
    for tag in ["v1.0", "of-a-tag", "nested"] {
        known.insert(git(&source, &["rev-parse", tag]));
    }
    let unknown: Vec<String> = objects(&tree).difference(&known).cloned().collect();
    assert_eq!(unknown, Vec::<String>::new());
    let tags = git(&tree, &["tag"]);
    assert_eq!(tags.lines().collect::<Vec<_>>(), ["3.1", "nested", "of-a-tag", "v1.0"]);
    // Work goes on in it, and a repack keeps it whole.
    std::fs::write(tree.join("sub/0"), "changed\n").unwrap();
    git(&tree, &["commit", "-q", "-a", "-m", "mine"]);
    git(&tree, &["gc", "-q", "--prune=now"]);
    git(&tree, &["fsck"]);
    assert!(git(&tree, &["describe", "--tags"]).starts_with("3.1-5-g"));
}

#[test]
fn a_shallow_source_is_told_and_its_checkout_ends_where_it_ends() {
    let root = tempfile::tempdir().unwrap();
    let source = root.path().join("n");
    let commits = make(&source, &history());
    let base = &commits[7];
    git(&source, &["update-ref", "refs/heads/main", base]);
    let shallow = root.path().join("shallow");
    let (url, path) = (format!("file://{}", source.display()), shallow.display().to_string());
    git(&source, &["clone", "-q", "--depth=2", "--branch=main", &url, &path]);
    let mirrors = Mirrors::new(root.path(), vec![path], BTreeMap::new());
    let mirror = mirrors.mirror("o/n", &[base], &NoLog).unwrap();
    let out = root.path().join("out.tar");
    let layer = mirror.write_checkout(base, &CheckoutOptions::new("testbed"), &out).unwrap();
    assert!(layer.shallow);
    let tree = checkout(&mirror, base, root.path());
    assert_eq!(git(&tree, &["rev-list", "--count", "HEAD"]), "2");
    git(&tree, &["fsck", "--strict"]);
    let whole = Mirrors::new(&root.path().join("other"), vec![url], BTreeMap::new());
    let whole = whole.mirror("o/n", &[base], &NoLog).unwrap();
    let layer = whole.write_checkout(base, &CheckoutOptions::new("testbed"), &out).unwrap();
    assert!(!layer.shallow);
    assert_eq!(layer.tags, 2);
}

fn commits() -> impl Strategy<Value = Vec<Made>> {
    let tag = prop_oneof![6 => Just(None), 1 => Just(Some(true)), 1 => Just(Some(false))];
    let one = (any::<[prop::sample::Index; 2]>(), 0u8..30, tag, any::<bool>());
    proptest::collection::vec(one, 2..40).prop_map(|made| {
        let commit = |(index, (parents, days, tag, merge)): (
            usize,
            ([prop::sample::Index; 2], u8, _, bool),
        )| {
            // Near ones, so that lines grow; now and then a second root.
            let near = |which: &prop::sample::Index| {
                let far = which.index(index.clamp(1, 6));
                (index > 0).then(|| index - 1 - far)
            };
            let parents = parents.iter().take(1 + usize::from(merge)).filter_map(near);
            let parents: BTreeSet<usize> = parents.collect();
            Made { parents: parents.into_iter().rev().collect(), days, tag }
        };
        made.into_iter().enumerate().map(commit).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_history_gives_the_versions_of_a_full_clone(made in commits(), of in any::<prop::sample::Index>()) {
        let root = tempfile::tempdir().unwrap();
        let source = root.path().join("n");
        let ids = make(&source, &made);
        let base = of.get(&ids);
        let real = root.path().join("real");
        clone(&source, base, &real);
        let tree = shared_checkout(&source, base, root.path());
        prop_assert_eq!(answers(&tree), answers(&real));
        prop_assert_eq!(git(&tree, &["status", "--porcelain", "--ignored"]), "");
        let known = git(&source, &["rev-list", "--objects", "--no-object-names", base]);
        let mut known: BTreeSet<String> = known.lines().map(str::to_owned).collect();
        for tag in git(&tree, &["tag"]).lines() {
            known.insert(git(&source, &["rev-parse", tag]));
        }
        prop_assert!(objects(&tree).is_subset(&known));
        git(&tree, &["fsck", "--strict"]);
    }
}
