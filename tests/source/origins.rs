//! Where mirrors get commits from: servers that give them by id, and every kind of local repository.

use std::collections::BTreeMap;
use std::path::Path;

use imgforge::source::{Mirror, Mirrors, SourceError};

use super::{NoLog, Repo, Server, checkout, git, write};

fn mirrors(state: &Path, sources: &[&str]) -> Mirrors {
    let sources = sources.iter().map(|source| (*source).to_owned()).collect();
    Mirrors::new(state, sources, BTreeMap::new())
}

/// Checks that a checkout of the commit is whole.
fn whole(mirror: &Mirror, commit: &str) {
    let dir = tempfile::tempdir().unwrap();
    let tree = checkout(mirror, commit, dir.path());
    assert_eq!(git(&tree, &["status", "--porcelain"]), "");
    git(&tree, &["fsck", "--strict"]);
    assert!(tree.join("pkg/code.py").exists());
}

/// Makes a commit that no branch and no tag reaches.
fn orphan(dir: &Path) -> String {
    write(dir, "pkg/code.py", "an orphan\n");
    git(dir, &["commit", "-q", "-a", "-m", "orphan"]);
    let id = git(dir, &["rev-parse", "HEAD"]);
    git(dir, &["reset", "-q", "--hard", "HEAD~1"]);
    id
}

#[test]
fn a_commit_that_no_ref_reaches_is_asked_for_by_its_id() {
    let repo = Repo::new();
    let id = orphan(&repo.path());
    git(&repo.path(), &["config", "uploadpack.allowAnySHA1InWant", "true"]);
    git(&repo.path(), &["update-ref", "refs/pull/1/head", &repo.base]);
    let server = Server::start(repo.dir.path());
    let state = tempfile::tempdir().unwrap();
    let url = format!("git://127.0.0.1:{}/o/n", server.1);
    let mirror = mirrors(state.path(), &[&url]).mirror("o/n", &[&id], &NoLog).unwrap();
    whole(&mirror, &id);
    let refs = git(mirror.path(), &["for-each-ref", "--format=%(refname)"]);
    assert!(!refs.contains("pull"), "what other pull requests have was spared: {refs}");
    assert!(refs.contains("refs/tags/v2"), "{refs}");
    // A collection of garbage keeps it.
    git(mirror.path(), &["gc", "-q", "--prune=now"]);
    drop(server);
    let again = mirrors(state.path(), &[&url]).mirror("o/n", &[&id], &NoLog).unwrap();
    whole(&again, &id);
}

#[test]
fn where_ids_are_not_given_everything_that_is_published_is_fetched() {
    let repo = Repo::new();
    let id = orphan(&repo.path());
    git(&repo.path(), &["update-ref", "refs/pull/1/head", &id]);
    git(&repo.path(), &["config", "uploadpack.allowTipSHA1InWant", "false"]);
    let server = Server::start(repo.dir.path());
    let state = tempfile::tempdir().unwrap();
    let url = format!("git://127.0.0.1:{}/o/n", server.1);
    let mirror = mirrors(state.path(), &[&url]).mirror("o/n", &[&id], &NoLog).unwrap();
    whole(&mirror, &id);
}

#[test]
fn linked_work_trees_submodules_and_bare_repositories_are_sources() {
    let repo = Repo::new();
    let root = repo.dir.path();
    let path = |name: &str| root.join(name).display().to_string();
    git(&repo.path(), &["worktree", "add", "-q", "--detach", &path("linked"), &repo.base]);
    git(&repo.path(), &["clone", "-q", "--bare", ".", &path("bare.git")]);
    let above = root.join("above");
    std::fs::create_dir(&above).unwrap();
    git(&above, &["init", "-q"]);
    let allowed = ["-c", "protocol.file.allow=always", "submodule", "--quiet", "add"];
    let source = repo.path().display().to_string();
    git(&above, &[&allowed[..], &[source.as_str(), "sub"]].concat());
    for name in ["linked", "bare.git", "above/sub", "o/n", "o/n/.git"] {
        let state = tempfile::tempdir().unwrap();
        let mirror = mirrors(state.path(), &[&path(name)]).mirror("o/n", &[&repo.base], &NoLog);
        whole(&mirror.unwrap_or_else(|error| panic!("{name}: {error}")), &repo.base);
    }
}

/// Makes a partial clone of `url` without files; returns its path.
fn partial(repo: &Repo, url: &str) -> String {
    let path = repo.dir.path().join("partial").display().to_string();
    let clone = ["clone", "-q", "--no-checkout", "--filter=blob:none", url, &path];
    git(repo.dir.path(), &clone);
    path
}

#[test]
fn what_a_partial_clone_lacks_comes_from_where_it_was_cloned() {
    let repo = Repo::new();
    git(&repo.path(), &["config", "uploadpack.allowFilter", "true"]);
    let server = Server::start(repo.dir.path());
    let clone = partial(&repo, &format!("git://127.0.0.1:{}/o/n", server.1));
    let before = git(Path::new(&clone), &["count-objects", "-v"]);
    let state = tempfile::tempdir().unwrap();
    let mirror = mirrors(state.path(), &[&clone]).mirror("o/n", &[&repo.base], &NoLog).unwrap();
    whole(&mirror, &repo.base);
    assert_eq!(git(Path::new(&clone), &["count-objects", "-v"]), before, "and it stays as it is");
}

#[test]
fn where_a_partial_clone_and_its_remote_do_not_help_the_next_source_is_asked() {
    let repo = Repo::new();
    git(&repo.path(), &["config", "uploadpack.allowFilter", "true"]);
    let server = Server::start(repo.dir.path());
    let clone = partial(&repo, &format!("git://127.0.0.1:{}/o/n", server.1));
    drop(server);
    let state = tempfile::tempdir().unwrap();
    let error = match mirrors(state.path(), &[&clone]).mirror("o/n", &[&repo.base], &NoLog) {
        Err(error) => error,
        Ok(_) => panic!("files came from nowhere"),
    };
    let SourceError::Incomplete { tried, .. } = &error else { panic!("{error}") };
    assert_eq!(tried.len(), 2, "{error}");
    assert!(tried[0].said.contains("not all of its files"), "{error}");
    assert!(error.hint().unwrap().contains("partial clone"));
    let next = repo.path().display().to_string();
    let mirrors = mirrors(state.path(), &[&clone, &next]);
    whole(&mirrors.mirror("o/n", &[&repo.base], &NoLog).unwrap(), &repo.base);
}

#[test]
fn a_shallow_source_comes_after_one_with_the_whole_history() {
    let repo = Repo::new();
    let shallow = repo.dir.path().join("shallow").display().to_string();
    let url = format!("file://{}", repo.path().display());
    git(repo.dir.path(), &["clone", "-q", "--depth=1", &url, &shallow]);
    let state = tempfile::tempdir().unwrap();
    let both = mirrors(state.path(), &[&shallow, &repo.path().display().to_string()]);
    let mirror = both.mirror("o/n", &[&repo.later], &NoLog).unwrap();
    let alternates =
        std::fs::read_to_string(mirror.path().join("objects/info/alternates")).unwrap();
    assert!(!alternates.contains("shallow"), "{alternates}");
    let state = tempfile::tempdir().unwrap();
    whole(
        &mirrors(state.path(), &[&shallow]).mirror("o/n", &[&repo.later], &NoLog).unwrap(),
        &repo.later,
    );
}

#[test]
fn a_folder_that_is_gone_is_no_alternate_any_more() {
    let repo = Repo::new();
    let copy = repo.dir.path().join("copy");
    git(&repo.path(), &["clone", "-q", ".", &copy.display().to_string()]);
    let state = tempfile::tempdir().unwrap();
    let sources = [copy.display().to_string(), repo.path().display().to_string()];
    let both = mirrors(state.path(), &[&sources[0], &sources[1]]);
    both.mirror("o/n", &[&repo.base], &NoLog).unwrap();
    std::fs::remove_dir_all(&copy).unwrap();
    let mirror = both.mirror("o/n", &[&repo.base], &NoLog).unwrap();
    let alternates =
        std::fs::read_to_string(mirror.path().join("objects/info/alternates")).unwrap();
    assert!(!alternates.contains("copy"), "{alternates}");
    whole(&mirror, &repo.base);
}

#[test]
fn a_source_that_looks_like_an_option_is_no_option() {
    let repo = Repo::new();
    let ran = repo.dir.path().join("ran");
    let source = format!("--upload-pack=touch {}; git-upload-pack:x", ran.display());
    let state = tempfile::tempdir().unwrap();
    let refused = mirrors(state.path(), &[&source]).mirror("o/n", &[&repo.base], &NoLog);
    assert!(matches!(refused, Err(SourceError::NoCommit { .. })));
    assert!(!ran.exists());
}

#[test]
fn no_source_and_no_commit_is_an_option_or_a_command() {
    let repo = Repo::new();
    let state = tempfile::tempdir().unwrap();
    let mark = state.path().join("ran");
    let touch = mark.display();
    for source in [
        format!("ext::sh -c touch% {touch}% x"),
        format!("--upload-pack=touch {touch}; :"),
        format!("fd::17/{touch}"),
        format!("ssh://-oProxyCommand=touch {touch}/x"),
        format!("-u:touch {touch}"),
    ] {
        let refused = mirrors(state.path(), &[&source]).mirror("o/n", &[&repo.base], &NoLog);
        assert!(matches!(refused.map(drop), Err(SourceError::NoCommit { .. })), "{source}");
        assert!(!mark.exists(), "{source}");
    }
    let whole = repo.path().display().to_string();
    for commit in ["--upload-pack=x", "HEAD", "main:refs/heads/x", "../x", ""] {
        let refused = mirrors(state.path(), &[&whole]).mirror("o/n", &[commit], &NoLog);
        assert!(matches!(refused.map(drop), Err(SourceError::NotACommit { .. })), "{commit:?}");
    }
}
