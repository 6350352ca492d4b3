"""Where the program is looked for."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from imgforge_sandbox import BinaryNotFound, find_binary


def program(directory: Path, mode: int = 0o755) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "imgforge"
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An interpreter that has no program beside it; returns the directory where it is."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setattr(sys, "executable", str(directory / "python"))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(directory))
    return directory


def test_the_nearest_one_is_taken(tmp_path: Path, elsewhere: Path) -> None:
    in_path = program(tmp_path / "path")
    environ = {"PATH": str(in_path.parent)}
    assert find_binary(environ=environ) == in_path
    beside = program(elsewhere)
    assert find_binary(environ=environ) == beside
    by_variable = program(tmp_path / "variable")
    environ["IMGFORGE_BIN"] = str(by_variable)
    assert find_binary(environ=environ) == by_variable
    given = program(tmp_path / "given")
    assert find_binary(given, environ) == given


def test_what_is_named_has_to_be_there(tmp_path: Path, elsewhere: Path) -> None:
    environ = {"PATH": str(program(tmp_path / "path").parent)}
    with pytest.raises(BinaryNotFound, match="is not there") as caught:
        find_binary(tmp_path / "nothing", environ)
    assert "`binary`" in (caught.value.hint or "")
    environ["IMGFORGE_BIN"] = str(tmp_path / "nothing")
    with pytest.raises(BinaryNotFound, match="is not there") as caught:
        find_binary(environ=environ)
    assert "IMGFORGE_BIN" in (caught.value.hint or "")


def test_what_cannot_be_run_is_no_program(tmp_path: Path, elsewhere: Path) -> None:
    path = program(tmp_path / "path", 0o644)
    with pytest.raises(BinaryNotFound, match="is not a program"):
        find_binary(path, {})
    with pytest.raises(BinaryNotFound, match="is not a program"):
        find_binary(path.parent, {})
    with pytest.raises(BinaryNotFound, match="there is no program") as caught:
        find_binary(environ={"PATH": str(path.parent)})
    assert "pip install" in (caught.value.hint or "")


def test_a_relative_path_is_made_absolute(
    tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = program(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    assert find_binary(os.path.join("a", "imgforge"), {}) == path
