"""Repositories that come in, and patches, on the real program."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Iterator

import pytest
from executor_boxes import commit, executor, git, image_of, repository

from imgforge_sandbox import Client
from imgforge_sandbox.executor import SandboxExecutor
from imgforge_sandbox.executor._repository import find, parts


@pytest.fixture(scope="module")
def image(client: Client) -> str:
    return image_of(client)


@pytest.fixture
def box(client: Client, image: str) -> Iterator[SandboxExecutor]:
    with executor(client, image) as box:
        yield box


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A repository with five commits, some of them tagged, and one that nothing leads to."""
    path = tmp_path_factory.mktemp("repos") / "history"
    commits = [repository(path, {"a.txt": "0\n"})]
    for number in range(1, 5):
        commits.append(commit(path, {"a.txt": f"{number}\n"}))
        git(path, "tag", f"v{number}", *(["-a", "-m", "x"] if number == 1 else []))
        if number == 2:
            git(path, "gc", "-q")
    lost = commit(path, {"a.txt": "lost\n"})
    git(path, "reset", "-q", "--hard", commits[-1])
    return path, [*commits, lost]


@pytest.mark.parametrize("number", range(6))
def test_any_commit(box: SandboxExecutor, history: tuple[Path, list[str]], number: int) -> None:
    path, commits = history
    done = box.clone_repo(str(path), commits[number])
    assert done.success, done
    assert done.stdout == commits[number] + "\n"
    text = "lost\n" if number == 5 else f"{number}\n"
    assert box.run("cat a.txt").stdout == text
    # What came later is not there, in no form.
    listed = box.run("git cat-file --batch-all-objects --batch-check").stdout
    before = [*commits[:5], commits[5]] if number == 5 else commits[: number + 1]
    for one in commits:
        assert (one in listed) == (one in before), one
    tags = box.run("git tag").stdout.split()
    assert tags == [f"v{one}" for one in range(1, min(number, 4) + 1)]
    assert box.run("git log --format=%H").stdout.split() == before[::-1]
    assert box.run("git branch -a --format=%(refname:lstrip=2)").stdout.count("\n") == 1
    assert box.run("git status --porcelain").stdout == ""


def test_names_of_commits(box: SandboxExecutor, history: tuple[Path, list[str]]) -> None:
    path, commits = history
    assert box.clone_repo(str(path), commits[1][:10], "short").success
    assert box.run("cat a.txt").stdout == "1\n"
    assert box.clone_repo(path.as_uri(), "v1", "tag").success
    assert box.run("cat a.txt").stdout == "1\n"
    assert box.run("ls ..").stdout == "short\ntag\n"


def test_a_few_commits(box: SandboxExecutor, history: tuple[Path, list[str]]) -> None:
    path, commits = history
    assert box.clone_repo(str(path), commits[3], depth=2).success
    assert box.run("git log --format=%H").stdout.split() == [commits[3], commits[2]]


def test_a_commit_that_is_not_there(box: SandboxExecutor, history: tuple[Path, list[str]]) -> None:
    done = box.clone_repo(str(history[0]), "f" * 40)
    assert (done.success, done.returncode) == (False, 128)
    assert "is not in the repository" in done.stderr
    for text in ("", "-x", "--upload-pack=x", "a b", "HEAD..x", "a\nb", "$(id)", "a;b"):
        with pytest.raises(ValueError, match="is no commit"):
            box.clone_repo(str(history[0]), text)


def test_a_directory_that_is_there(box: SandboxExecutor, history: tuple[Path, list[str]]) -> None:
    path, commits = history
    assert box.clone_repo(str(path), commits[1]).success
    done = box.clone_repo(str(path), commits[2])
    assert done.returncode == 128
    assert "not an empty directory" in done.stderr
    assert box.run("cat a.txt").stdout == "1\n"


def test_mirrors(
    client: Client, image: str, history: tuple[Path, list[str]], tmp_path: Path
) -> None:
    path, commits = history
    git(tmp_path, "clone", "-q", "--mirror", str(path), str(tmp_path / "some__one.git"))
    git(tmp_path, "clone", "-q", "--mirror", str(path), str(tmp_path / "some" / "other.git"))
    with executor(client, image, mirrors=tmp_path) as box:
        for name in ("some/one", "some/other"):
            assert box.clone_repo(name, commits[2], name.replace("/", "-")).success
            assert box.run("cat a.txt").stdout == "2\n"
        for name in ("some/none", "../one", "some", "some/.."):
            with pytest.raises(FileNotFoundError, match="there is no repository"):
                box.clone_repo(name, commits[2])


def test_sha256(box: SandboxExecutor, tmp_path: Path) -> None:
    first = repository(tmp_path / "r", {"a.txt": "1\n"}, "--object-format=sha256")
    assert len(first) == 64
    done = box.clone_repo(str(tmp_path / "r"), first)
    assert done.success, done
    git(tmp_path / "r", "gc", "-q")
    done = box.clone_repo(str(tmp_path / "r"), first, "packed")
    assert done.success, done
    assert box.run("git rev-parse HEAD").stdout == first + "\n"


def hostile(path: Path, mark: Path) -> str:
    """Makes a repository that runs something wherever git lets it."""
    base = repository(path, {"a.txt": "1\n", ".gitattributes": "* filter=evil diff=evil\n"})
    script = path / "evil"
    script.write_text(f"#!/bin/sh\necho run >> {mark}\ncat\n")
    script.chmod(0o755)
    hooks = path / ".git" / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("post-checkout", "pre-commit", "reference-transaction", "post-index-change"):
        shutil.copy(script, hooks / name)
    (path / "included").write_text(f"[core]\n\tsshCommand = {script}\n")
    with (path / ".git" / "config").open("a") as file:
        file.write(
            f"[core]\n\tfsmonitor = {script}\n\thooksPath = {hooks}\n\tpager = {script}\n"
            f'[filter "evil"]\n\tsmudge = {script}\n\tclean = {script}\n\trequired = true\n'
            f'[diff "evil"]\n\ttextconv = {script}\n\texternal = {script}\n'
            f"[uploadpack]\n\tpackObjectsHook = {script}\n"
            f"[include]\n\tpath = {path}/included\n[alias]\n\tstatus = !{script}\n"
        )
    return base


def test_a_hostile_repository_runs_nothing_here(box: SandboxExecutor, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    base = hostile(tmp_path / "r", mark)
    # It would, where git reads its configuration.
    git(tmp_path / "r", "-c", "core.hooksPath=/dev/null", "diff")
    assert mark.exists()
    mark.unlink()
    before = sorted((tmp_path / "r").rglob("*"))
    done = box.clone_repo(str(tmp_path / "r"), base)
    assert done.success, done
    assert box.apply_patch("--- a/a.txt\n+++ b/a.txt\n@@ -1 +1 @@\n-1\n+2\n").success
    assert box.run("git status --porcelain").stdout == " M a.txt\n"
    assert box.run(["git", "commit", "-qam", "x"]).success
    assert not mark.exists()
    assert sorted((tmp_path / "r").rglob("*")) == before
    # Nothing of it came along either.
    config = box.run("cat .git/config").stdout
    assert "evil" not in config
    assert "include" not in config
    assert box.run("ls .git/hooks").stdout.count("post-checkout\n") == 0


def test_links_do_not_lead_out(box: SandboxExecutor, tmp_path: Path) -> None:
    """A repository cannot bring in other files of this host."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("secret\n")
    base = repository(tmp_path / "r", {"a.txt": "1\n"})
    inside = tmp_path / "r" / ".git"
    os.symlink(secret, inside / "objects" / "more")
    os.symlink(secret / "key", inside / "refs" / "heads" / "more")
    os.symlink(secret / "key", inside / "packed-refs")
    assert "packed-refs" not in parts(inside)
    assert box.clone_repo(str(tmp_path / "r"), base).success
    found = box.run(["grep", "-rs", "secret", "/workspace"])
    assert found.stdout == ""
    os.rename(inside / "objects", tmp_path / "objects")
    os.symlink(tmp_path / "objects", inside / "objects")
    assert "objects" not in parts(inside)
    os.rename(inside, tmp_path / "inside")
    os.symlink(tmp_path / "inside", inside)
    with pytest.raises(ValueError, match="is a symbolic link"):
        find(str(tmp_path / "r"), None)


def test_what_cannot_be_brought_in(box: SandboxExecutor, tmp_path: Path) -> None:
    base = repository(tmp_path / "r", {"a.txt": "1\n"})
    git(tmp_path, "clone", "-q", "--shared", str(tmp_path / "r"), str(tmp_path / "shared"))
    with pytest.raises(ValueError, match=r"borrows objects.*--no-local"):
        box.clone_repo(str(tmp_path / "shared"), base)
    git(tmp_path / "r", "worktree", "add", "-q", str(tmp_path / "tree"))
    with pytest.raises(ValueError, match="is a work tree"):
        box.clone_repo(str(tmp_path / "tree"), base)
    with pytest.raises(FileNotFoundError, match="mirrors="):
        box.clone_repo(str(tmp_path / "none"), base)
    for url in ("https://github.com/a/b", "git@github.com:a/b.git", "ssh://host/a"):
        with pytest.raises(ValueError, match="has no network"):
            box.clone_repo(url, base)
    with pytest.raises(ValueError, match="number of commits"):
        box.clone_repo(str(tmp_path / "r"), base, depth=0)


GOOD = "--- a/a.txt\n+++ b/a.txt\n@@ -1 +1 @@\n-1\n+{}\n"


@pytest.mark.parametrize("text", ["2", "2  ", "2\r", "ü", "\t"])
def test_patches_keep_their_bytes(box: SandboxExecutor, tmp_path: Path, text: str) -> None:
    base = repository(tmp_path / "r", {"a.txt": "1\n"})
    box.clone_repo(str(tmp_path / "r"), base)
    done = box.apply_patch(GOOD.format(text))
    assert done.success, done
    assert box._box is not None
    assert box._box.session.read("/workspace/repo/a.txt") == (text + "\n").encode()


def test_patches_that_do_not_apply(box: SandboxExecutor, tmp_path: Path) -> None:
    base = repository(tmp_path / "r", {"a.txt": "1\n", "b.txt": "1\n"})
    box.clone_repo(str(tmp_path / "r"), base)
    half = GOOD.format(2) + "--- a/b.txt\n+++ b/b.txt\n@@ -1 +1 @@\n-0\n+2\n"
    outside = "--- a/../../x\n+++ b/../../x\n@@ -0,0 +1 @@\n+x\n"
    inside = "--- /dev/null\n+++ b/.git/hooks/pre-commit\n@@ -0,0 +1 @@\n+x\n"
    for patch in (half, outside, inside, "", "no patch\n"):
        done = box.apply_patch(patch)
        assert not done.success, patch
        assert done.stderr, patch
        # Nothing was changed.
        assert box.run("git status --porcelain").stdout == ""
    assert box.run("ls ..").stdout == "repo\n"


def test_a_workspace_that_is_too_small(client: Client, image: str, tmp_path: Path) -> None:
    path = tmp_path / "r"
    path.mkdir()
    (path / "big").write_bytes(os.urandom(40 << 20))
    base = repository(path, {"a.txt": "1\n"})
    with executor(client, image, workspace_size="32m") as box:
        with pytest.raises(Exception, match=r"(?i)no space") as raised:
            box.clone_repo(str(path), base)
        print(repr(raised.value))
