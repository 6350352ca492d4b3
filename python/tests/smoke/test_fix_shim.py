"""The fix `collections-abc`: a `.pth` file, in real virtual environments of real Pythons."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Dict, List

import pytest
from fix_scripts import Python, commit_all, fix, git_status, named_python, pythons

OLD = [python for python in pythons() if python.version < (3, 10)]
NEW = pythons((3, 10))

USES = """
from collections import Mapping, MutableSet as M, OrderedDict
import collections, collections.abc as abc
assert Mapping is abc.Mapping and M is abc.MutableSet and collections.Callable is abc.Callable
assert "Callable" in vars(collections) and "Mapping" not in collections.__all__
assert not hasattr(collections, "Buffer") and not hasattr(collections, "Nothing")
try:
    from collections import Nothing
except ImportError as error:
    assert "cannot import name 'Nothing' from 'collections'" in str(error), error
try:
    collections.Nothing
except AttributeError as error:
    assert str(error) == "module 'collections' has no attribute 'Nothing'", error
"""

ALIASES = """
    AsyncGenerator AsyncIterable AsyncIterator Awaitable ByteString Callable Collection Container
    Coroutine Generator Hashable ItemsView Iterable Iterator KeysView Mapping MappingView
    MutableMapping MutableSequence MutableSet Reversible Sequence Set Sized ValuesView
""".split()  # noqa: SIM905


def environment(top: Path, python: Python) -> Path:
    """Makes a virtual environment, and returns the directory of its programs."""
    make = [python.path, "-m", "venv", "--without-pip", str(top / "venv")]
    subprocess.run(make, check=True)
    return top / "venv" / "bin"


def run(path: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    command = [str(path / "python"), *argv]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, cwd="/")


def files(top: Path) -> Dict[str, bytes]:
    return {str(path): path.read_bytes() for path in top.rglob("*") if path.is_file()}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository with a file that needs the fix, and one that would hide a module of Python."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a.py").write_text(USES)
    (tree / "json.py").write_text("raise SystemExit('this is not json')\n")
    commit_all(tree)
    return tree


@pytest.mark.parametrize("python", NEW, ids=str)
def test_the_aliases_are_there_and_the_repository_is_as_it_was(
    python: Python, tmp_path: Path, tree: Path
) -> None:
    path = environment(tmp_path, python)
    assert "cannot import name 'Mapping'" in run(path, str(tree / "a.py")).stderr
    before = files(tmp_path)
    dry = fix(path, "collections-abc", tree, dry_run=True)
    assert (dry.report["status"], dry.report["dry_run"]) == ("would do", True), dry
    assert files(tmp_path) == before
    first = fix(path, "collections-abc", tree)
    assert first.report["status"] == "done", first
    made: List[str] = first.report["files"]
    assert made == dry.report["files"]
    after = files(tmp_path)
    assert set(after) - set(before) == set(made)
    assert {name: after[name] for name in before} == before
    assert git_status(tree) == ""
    # The warnings of Python 3.9 are not there: they would be errors for some.
    for options in [[], ["-I"], ["-E"], ["-s"], ["-W", "error"], ["-O"]]:
        ended = run(path, *options, str(tree / "a.py"))
        assert ended.returncode == 0, (options, ended.stderr)
    assert run(path, "-S", str(tree / "a.py")).returncode == 1
    second = fix(path, "collections-abc", tree)
    assert (second.report["status"], second.report["files"]) == ("nothing to do", [])
    # The environment with the fix's own `__pycache__` is no difference: Python made it.
    assert {name: text for name, text in files(tmp_path).items() if "pycache" not in name} == after


@pytest.mark.parametrize("python", NEW, ids=str)
def test_the_aliases_are_those_of_python_3_9(python: Python, tmp_path: Path, tree: Path) -> None:
    path = environment(tmp_path, python)
    assert fix(path, "collections-abc", tree).code == 0
    code = f"import collections, collections.abc as abc; names = {ALIASES}\n"
    code += "there = [n for n in names if hasattr(abc, n)]; assert len(there) > 23\n"
    code += "assert all(getattr(collections, n) is getattr(abc, n) for n in there)\n"
    ended = run(path, "-W", "ignore", "-c", code)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("python", OLD, ids=str)
def test_there_is_nothing_to_do_where_python_has_the_aliases(
    python: Python, tmp_path: Path, tree: Path
) -> None:
    before = files(tmp_path)
    path = named_python(tmp_path / "bin", python.path)
    ended = fix(path, "collections-abc", tree)
    assert ended.report["status"] == "nothing to do", ended
    assert ended.report["python"]["version"].startswith(f"{python}.")
    assert {name: text for name, text in files(tmp_path).items() if "/bin/" not in name} == before


def test_a_stale_file_is_made_again(tmp_path: Path, tree: Path) -> None:
    path = environment(tmp_path, NEW[-1])
    first = fix(path, "collections-abc", tree)
    module = next(name for name in first.report["files"] if name.endswith(".py"))
    text = Path(module).read_text()
    Path(module).write_text("# an older one\n")
    assert fix(path, "collections-abc", tree).report["status"] == "done"
    assert Path(module).read_text() == text


def test_where_nothing_can_be_written_it_is_an_error(tmp_path: Path, tree: Path) -> None:
    path = environment(tmp_path, NEW[-1])
    read_only = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    before = ["unshare", "--map-root-user", "--mount", "sh", "-c", read_only]
    ended = fix(path, "collections-abc", tree, before=[*before, str(tmp_path / "venv")])
    assert ended.code == 1
    assert ended.error.startswith("error: "), ended.error
    assert str(tmp_path / "venv") in ended.error


def test_without_a_python_it_is_an_error(tmp_path: Path, tree: Path) -> None:
    ended = fix(tmp_path, "collections-abc", tree, env={"PATH": str(tmp_path)})
    assert ended.code == 1
    wanted = "error: neither `python` nor `python3` on PATH starts: PATH is "
    assert ended.error == f"{wanted}{tmp_path}\n"


def test_an_old_python_is_refused_and_one_that_does_not_start_is_passed_by(
    tmp_path: Path, tree: Path
) -> None:
    # It is what a Python 2 answers here: it knows no `-I`, and its version is lower.
    old = tmp_path / "old"
    old.mkdir()
    (old / "python").write_text("#!/bin/sh\nexit 66\n")
    (old / "python").chmod(0o755)
    ended = fix(old, "collections-abc", tree)
    assert ended.error == "error: `python` is older than Python 3.6, which this fix needs\n"
    (old / "python").write_text("#!/bin/sh\nexit 127\n")
    (old / "python3").symlink_to(sys.executable)
    assert fix(old, "collections-abc", tree, dry_run=True).code == 0
