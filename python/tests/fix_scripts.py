"""Runs the scripts of `imgforge smoke`'s fixes on real Pythons, as a sandbox would run them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

SCRIPTS = Path(__file__).parents[2] / "src/smoke/compat/scripts"

PARTS: Dict[str, List[str]] = {
    "collections-abc": ["collections_abc.py"],
    "collections-abc=rewrite": ["abc_names.py", "abc_edits.py", "collections_abc_rewrite.py"],
    "setuptools-cap": ["setuptools_cap.py"],
    "pytest-min": ["pytest_min.py"],
}
"""The scripts of a fix after `common.py`, as `src/smoke/compat/mod.rs` has them."""


class Python(NamedTuple):
    """An interpreter, and its version."""

    path: str
    version: Tuple[int, ...]

    def __str__(self) -> str:
        return ".".join(map(str, self.version))


class Ended(NamedTuple):
    """How a fix ended: its report where it was made."""

    code: int
    report: Dict[str, Any]
    error: str


def pythons(oldest: Tuple[int, int] = (3, 6)) -> List[Python]:
    """The interpreter of the tests, and those of IMGFORGE_TEST_PYTHONS, with `:` between them."""
    paths = os.environ.get("IMGFORGE_TEST_PYTHONS", "").split(":")
    found: Dict[Tuple[int, ...], Python] = {}
    for path in [sys.executable, *filter(None, paths)]:
        code = "import sys; print(sys.version_info[0], sys.version_info[1])"
        out = subprocess.run([path, "-c", code], check=True, stdout=subprocess.PIPE).stdout
        version = tuple(map(int, out.split()))
        found.setdefault(version, Python(path, version))
    return [python for version, python in sorted(found.items()) if version >= oldest]


def named_python(directory: Path, path: str) -> Path:
    """A directory for PATH in which `python` is an interpreter."""
    directory.mkdir(exist_ok=True)
    program = directory / "python"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(path)} "$@"\n')
    program.chmod(0o755)
    return directory


def fix(
    path: Path,
    name: str,
    tree: Path,
    *,
    dry_run: bool = False,
    env: Optional[Mapping[str, str]] = None,
    before: Sequence[str] = (),
    cwd: Optional[Path] = None,
) -> Ended:
    """Runs a fix with a directory in front of PATH; `before` is a command that starts it."""
    parts = ["common.py", *PARTS[name if name in PARTS else name.partition("=")[0]]]
    script = "\n\n".join((SCRIPTS / part).read_text() for part in parts)
    find = (SCRIPTS / "find_python.sh").read_text()
    argv = [*before, "/bin/sh", "-c", find, "imgforge", name, str(tree)]
    ended = subprocess.run(
        argv + (["--dry-run"] if dry_run else []),
        input=script,
        capture_output=True,
        text=True,
        cwd=str(cwd or tree),
        env={**os.environ, "PATH": f"{path}:{os.environ['PATH']}", **(env or {})},
    )
    report = json.loads(ended.stdout) if ended.returncode == 0 else {}
    return Ended(ended.returncode, report, ended.stderr)


def git_status(tree: Path) -> str:
    """What git says of a working tree: nothing, where nothing changed."""
    status = ["git", "-C", str(tree), "status", "--porcelain", "--ignored"]
    return subprocess.run(status, check=True, stdout=subprocess.PIPE).stdout.decode()


def commit_all(tree: Path) -> None:
    """Makes a repository of a directory, with all that is in it."""
    settings = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "core.autocrlf=false"]
    for words in [["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "first"]]:
        subprocess.run(["git", *settings, *words], cwd=str(tree), check=True)
