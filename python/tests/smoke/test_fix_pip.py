"""The fixes `setuptools-cap` and `pytest-min`, with packages of PyPI in real environments.

The fixes write into the configuration of the machine. Here `/etc` is an overlay that only they see.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Mapping, Optional

import pytest
from fix_scripts import Ended, Python, commit_all, fix, git_status

PYTHON = Python(sys.executable, sys.version_info[:2])

pytestmark = pytest.mark.slow

BUILD = """\
import setuptools
open("{built}", "w").write(setuptools.__version__)
setuptools.setup(name="old", version="1")
"""


class Machine:
    """A virtual environment, a repository, and an `/etc` and a home of their own."""

    def __init__(self, top: Path, *packages: str) -> None:
        self.top = top
        for name in ["upper", "work", "home", "tree"]:
            (top / name).mkdir()
        self.tree = top / "tree"
        self.built = top / "built"
        subprocess.run([PYTHON.path, "-m", "venv", str(top / "venv")], check=True)
        self.path = top / "venv" / "bin"
        self.run("-m", "pip", "install", "--quiet", *packages)
        project = '[build-system]\nrequires = ["setuptools"]\n'
        project += 'build-backend = "setuptools.build_meta"\n'
        (self.tree / "pyproject.toml").write_text(project)
        (self.tree / "setup.py").write_text(BUILD.format(built=self.built))
        (self.tree / ".gitignore").write_text("build/\n*.egg-info/\n")
        commit_all(self.tree)

    def start(self) -> List[str]:
        overlay = f"lowerdir=/etc,upperdir={self.top}/upper,workdir={self.top}/work"
        script = f'mount -t overlay -o {overlay} overlay /etc && exec "$@"'
        return ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "-"]

    def env(self, more: Optional[Mapping[str, str]] = None) -> Dict[str, str]:
        return {"HOME": str(self.top / "home"), "XDG_CONFIG_HOME": "", **(more or {})}

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs the interpreter, with the `/etc` of this machine."""
        return subprocess.run(
            [*self.start(), str(self.path / "python"), *argv],
            check=check,
            cwd="/",
            env={**os.environ, **self.env()},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def fix(
        self, name: str, dry_run: bool = False, env: Optional[Mapping[str, str]] = None
    ) -> Ended:
        more = self.env(env)
        return fix(self.path, name, self.tree, dry_run=dry_run, env=more, before=self.start())

    def version(self, package: str) -> str:
        code = f"import {package}; print({package}.__version__)"
        return self.run("-W", "ignore", "-c", code).stdout.strip()

    def install(self, *options: str) -> str:
        """Installs the repository; returns the setuptools that built it, or what pip said."""
        self.built.write_text("")
        argv = ["-m", "pip", "install", "--no-deps", "--force-reinstall", *options, str(self.tree)]
        ended = self.run(*argv, check=False)
        return self.built.read_text() if ended.returncode == 0 else ended.stdout

    def files(self) -> Dict[str, bytes]:
        tops = [self.top / name for name in ["upper", "home", "venv", "tree"]]
        every = [path for top in tops for path in top.rglob("*") if path.is_file()]
        kept = [path for path in every if "__pycache__" not in path.parts]
        return {str(path.relative_to(self.top)): path.read_bytes() for path in kept}


@pytest.mark.parametrize("pip", ["21.2.4", "24.0", "25.2", "25.3", "26.1", "26.3"])
def test_a_cap_reaches_isolated_builds_of_every_pip(pip: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path, f"pip=={pip}", "setuptools==65.5.0", "wheel")
    before = machine.files()
    dry = machine.fix("setuptools-cap=58", dry_run=True)
    assert (dry.report["status"], dry.report["replaced"]) == ("would do", "65.5.0"), dry
    assert machine.files() == before
    first = machine.fix("setuptools-cap=58")
    assert first.report["status"] == "done", first
    assert first.report["files"] == ["/etc/pip.conf", "/etc/imgforge/setuptools-cap.txt"]
    assert (first.report["replaced"], first.report["installed"]) == ("65.5.0", "57.5.0")
    assert git_status(machine.tree) == ""
    second = machine.fix("setuptools-cap=58")
    assert (second.report["status"], second.report["files"]) == ("nothing to do", []), second
    assert machine.version("setuptools") == "57.5.0"
    assert machine.install() == "57.5.0"
    # A pip that has build constraints refuses this: the report says what to do.
    if "note" in first.report:
        assert "cannot be used with --no-build-isolation" in machine.install("--no-build-isolation")
    else:
        assert machine.install("--no-build-isolation") == "57.5.0"


def test_a_cap_holds_in_environments_that_are_made_later(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "pip==24.0", "setuptools==57.5.0", "wheel")
    assert machine.fix("setuptools-cap=58").report["replaced"] is None
    machine.run("-m", "venv", str(tmp_path / "later"))
    machine.path = tmp_path / "later" / "bin"
    machine.run("-m", "pip", "install", "--quiet", "--upgrade", "pip", "setuptools")
    assert machine.version("setuptools") == "57.5.0"
    assert machine.install() == "57.5.0"


def test_another_cap_takes_the_place_of_the_first(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "pip==24.0", "setuptools==57.5.0", "wheel")
    machine.fix("setuptools-cap=58")
    second = machine.fix("setuptools-cap=50.0")
    assert second.report["files"] == ["/etc/imgforge/setuptools-cap.txt"]
    assert second.report["installed"] == machine.install() == machine.version("setuptools")
    assert machine.version("setuptools").startswith("49.")


def test_constraints_that_are_there_stay(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "pip==24.0", "setuptools==57.5.0", "wheel==0.37.0")
    theirs = tmp_path / "theirs.txt"
    theirs.write_text("wheel==0.37.1\n")
    configuration = machine.path.parent / "pip.conf"
    configuration.write_text(f"[install]\nconstraint = {theirs}\n")
    first = machine.fix("setuptools-cap=50")
    assert str(configuration) in first.report["files"], first
    assert machine.fix("setuptools-cap=50").report["status"] == "nothing to do"
    machine.run("-m", "pip", "install", "--quiet", "--upgrade", "wheel")
    assert machine.version("wheel") == "0.37.1"
    assert machine.install().startswith("49.")


def test_a_user_who_may_not_write_to_etc_gets_the_cap_at_home(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "pip==24.0", "setuptools==57.5.0", "wheel")
    plain = machine.start()
    plain[-2] = 'mount --bind /etc /etc && mount -o remount,bind,ro /etc && exec "$@"'
    ended = fix(machine.path, "setuptools-cap=50", machine.tree, env=machine.env(), before=plain)
    directory = tmp_path / "home" / ".config"
    files = [str(directory / name) for name in ["pip/pip.conf", "imgforge/setuptools-cap.txt"]]
    assert ended.report["files"] == files, ended
    assert machine.install().startswith("49.")


def test_what_makes_the_cap_void_is_an_error(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "pip==24.0", "setuptools==57.5.0", "wheel")
    before = machine.files()
    for env, said in [
        ({"PIP_CONSTRAINT": "/c.txt"}, "PIP_CONSTRAINT is set to `/c.txt`, and wins over pip's"),
        ({"PIP_CONFIG_FILE": os.devnull}, "PIP_CONFIG_FILE is /dev/null, so that pip reads no"),
    ]:
        ended = machine.fix("setuptools-cap=58", env=env)
        assert (ended.code, said in ended.error) == (1, True), ended
    assert machine.files() == before
    machine.run("-m", "pip", "uninstall", "--quiet", "--yes", "pip")
    ended = machine.fix("setuptools-cap=58")
    assert "has no pip, which this fix is for" in ended.error, ended


def test_a_pytest_that_is_too_old_is_raised_to_the_smallest_that_runs(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "pip==24.0", "setuptools==65.5.0", "pytest==5.4.3")
    before = machine.files()
    dry = machine.fix("pytest-min=6.2", dry_run=True)
    assert (dry.report["status"], dry.report["before"]) == ("would do", "5.4.3"), dry
    assert machine.files() == before
    first = machine.fix("pytest-min=6.2")
    assert first.report["status"] == "done", first
    after = first.report["after"]
    assert dry.report["after"] == machine.version("pytest") == after
    # It is 6.2.0 or the first that runs: on Python 3.11 that is 6.2.4.
    assert after.startswith("6.2.") or PYTHON.version > (3, 11)
    assert first.report["tried"][after] == "runs"
    assert git_status(machine.tree) == ""
    second = machine.fix("pytest-min=6.2")
    assert (second.report["status"], second.report["before"]) == ("nothing to do", after)


@pytest.mark.skipif(PYTHON.version < (3, 10), reason="older Pythons run older releases")
def test_a_release_that_does_not_run_is_passed_over(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "pip==24.0", "setuptools==65.5.0", "pytest==5.4.3")
    first = machine.fix("pytest-min=5")
    assert first.report["status"] == "done", first
    tried = first.report["tried"]
    assert tried["5.0.0"] == "does not run"
    assert tried[first.report["after"]] == "runs"
    assert machine.version("pytest") == first.report["after"]
    assert first.report["after"].startswith("6.2.") or PYTHON.version > (3, 11)


def test_pytest_is_installed_where_it_is_missing(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "pip==24.0")
    first = machine.fix("pytest-min=7.4.4")
    assert (first.report["before"], first.report["after"]) == (None, "7.4.4"), first
    assert machine.fix("pytest-min=7").report["status"] == "nothing to do"


def test_a_pytest_that_nobody_released_is_an_error(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "pip==24.0")
    ended = machine.fix("pytest-min=999")
    assert ended.code == 1
    assert ended.error.startswith("error: there is no pytest 999 or later for Python "), ended
