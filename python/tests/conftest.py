"""What the tests share: the real program, and small programs that misbehave."""

from __future__ import annotations

import os
import stat
import sys
import textwrap
from pathlib import Path
from typing import Callable, Iterator

import pytest
from shared import HELLO, INSTANCE

from imgforge_sandbox import Client, Session


@pytest.fixture(scope="session")
def binary() -> str:
    """The real program. Without IMGFORGE_BIN the test is skipped; in CI it fails."""
    path = os.environ.get("IMGFORGE_BIN")
    if not path:
        if os.environ.get("CI"):
            pytest.fail("IMGFORGE_BIN names no program `imgforge`")
        pytest.skip("needs the program imgforge, named in IMGFORGE_BIN")
    return path


@pytest.fixture(scope="module")
def client(binary: str) -> Iterator[Client]:
    """A client of the real program."""
    with Client(binary) as client:
        yield client


@pytest.fixture
def session(client: Client) -> Iterator[Session]:
    """A fresh session of an instance."""
    with client.start(instance=INSTANCE) as session:
        yield session


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], str]:
    """Makes a program of Python text."""

    def make(text: str) -> str:
        path = tmp_path / "imgforge"
        path.write_text(f"#!{sys.executable}\n{textwrap.dedent(text)}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    return make


@pytest.fixture
def server(program: Callable[[str], str]) -> Callable[[str], str]:
    """Makes a server that answers `hello`, and then does what the text says."""
    return lambda text: program(textwrap.dedent(HELLO) + textwrap.dedent(text))
