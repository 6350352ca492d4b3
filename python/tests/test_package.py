"""The package as a whole: what it exports, needs and documents."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import imgforge_sandbox
from imgforge_sandbox import Client, Process, Session, Shell, aio

PAIRS = [
    (Client, aio.AsyncClient),
    (Session, aio.AsyncSession),
    (Shell, aio.AsyncShell),
    (Process, aio.AsyncProcess),
]
ONLY_HERE = {
    # What both need of each other, and what only one of them can have.
    Client: {"on_link", "version", "engine", "features"},
    Session: {"name", "mark_stopped", "put_until", "get_until", "write_long"},
    Shell: {"kill_and_wait"},
    Process: set[str](),
}
ONLY_THERE = {
    Client: {"on_link", "connect"},
    Session: set[str](),
    Shell: set[str](),
    Process: {"started"},
}


def public(kind: type) -> dict[str, Any]:
    return {name: value for name, value in vars(kind).items() if not name.startswith("_")}


@pytest.mark.parametrize(("sync", "other"), PAIRS)
def test_asyncio_has_the_same_methods(sync: type, other: type) -> None:
    here, there = public(sync), public(other)
    assert here.keys() - ONLY_HERE[sync] == there.keys() - ONLY_THERE[sync]
    for name in here.keys() & there.keys() - {"on_link", "wait"}:
        if isinstance(here[name], property):
            continue
        ours, theirs = (inspect.signature(value) for value in (here[name], there[name]))
        assert ours.parameters.keys() == theirs.parameters.keys(), name
        for parameter in ours.parameters:
            mine, other_one = ours.parameters[parameter], theirs.parameters[parameter]
            assert mine.default == other_one.default, (name, parameter)
            assert mine.annotation == other_one.annotation, (name, parameter)


def test_all_that_is_public_is_documented() -> None:
    missing = []
    for name in imgforge_sandbox.__all__:
        value = getattr(imgforge_sandbox, name)
        if not inspect.getdoc(value):
            missing.append(name)
    for kind in [*(pair[0] for pair in PAIRS), *(pair[1] for pair in PAIRS)]:
        missing += [
            f"{kind.__name__}.{name}" for name, value in public(kind).items() if not value.__doc__
        ]
    assert missing == []


def test_importing_it_needs_only_the_standard_library() -> None:
    code = (
        "import sys; before = set(sys.modules); import imgforge_sandbox, imgforge_sandbox.aio;"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "print(sorted(new - set(sys.stdlib_module_names) - {'imgforge_sandbox'}))"
    )
    if sys.version_info < (3, 10):
        pytest.skip("needs Python 3.10, which lists its standard library")
    run = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=Path(imgforge_sandbox.__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "[]"


def test_every_test_that_is_left_out_says_what_it_needs() -> None:
    reasons = []
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(), str(path))):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            if ast.unparse(call.func) == "pytest.skip":
                reasons += call.args
            if ast.unparse(call.func) == "pytest.importorskip":
                reasons += [word.value for word in call.keywords if word.arg == "reason"]
    assert len(reasons) > 10
    for reason in reasons:
        # A text with values in it begins with a text.
        begin = reason.values[0] if isinstance(reason, ast.JoinedStr) else reason
        assert isinstance(begin, ast.Constant), ast.unparse(reason)
        assert str(begin.value).startswith("needs "), ast.unparse(reason)


def test_there_are_types() -> None:
    assert (Path(imgforge_sandbox.__file__).parent / "py.typed").is_file()
