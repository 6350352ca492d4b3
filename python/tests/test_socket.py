"""A server on a Unix socket, which several programs share, on the real program."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Iterator

import pytest
from procs import ends, marked_sleep, starts
from shared import INSTANCE

from imgforge_sandbox import ConnectionLost, NoSuchSession, SessionEnded, connect


@pytest.fixture
def served(binary: str, tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Starts a server; returns its address and its process."""
    path = tmp_path / "socket"
    process = subprocess.Popen([binary, "serve", "--rpc", f"unix://{path}"])
    try:
        until = time.monotonic() + 60
        while not path.exists():
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
        yield f"unix://{path}", process
    finally:
        process.terminate()
        process.wait(60)


def test_two_clients_of_one_server(served: tuple[str, subprocess.Popen[bytes]]) -> None:
    url, _ = served
    with connect(url) as first, connect(url) as second:
        mine, yours = first.start(instance=INSTANCE), second.start(instance=INSTANCE)
        mine.write("/tmp/a", "1")
        shared = second.session(mine.id)
        assert shared.read("/tmp/a") == b"1"
        shared.write("/tmp/a", "2")
        assert mine.read("/tmp/a") == b"2"
        # Who started it ends it.
        sleep, mark = marked_sleep()
        mine.spawn(sleep)
        assert starts(mark)
        first.close()
        assert ends(mark)
        with pytest.raises((NoSuchSession, SessionEnded)):
            shared.exec("true")
        assert yours.exec("true").ok
        assert [one.id for one in second.sessions()] == [yours.id]
        yours.stop()
    # It lives on.
    with connect(url) as third:
        assert third.sessions() == []


def test_the_end_of_the_server(served: tuple[str, subprocess.Popen[bytes]]) -> None:
    url, process = served
    client = connect(url)
    session = client.start(instance=INSTANCE)
    sleep, mark = marked_sleep()
    session.spawn(sleep)
    assert starts(mark)
    process.kill()
    assert ends(mark)
    with pytest.raises(ConnectionLost):
        session.exec("true")
    client.close()
    with pytest.raises(ConnectionLost, match="cannot connect"):
        connect(url)
