"""What is shown of work that takes its time: of a server that tells, and of the real one."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import pty
import struct
import subprocess
import sys
import termios
import textwrap
import threading
import time
from pathlib import Path
from typing import Any, Callable

import pytest
from shared import HELLO, INSTANCE

import imgforge_sandbox
from imgforge_sandbox import Client, InfraError, NoVerdict, Progress, Session, aio, log_progress

PACKAGE = Path(imgforge_sandbox.__file__).parent.parent

NODE = 'id="env:a/b@1", node_kind="env", key="00"'
TELLING = f"""
    def tell(name, **event):
        send(method="event", params={{"events": name, "event": event}})

    for request in requests():
        name = request["params"].get("events")
        if request["method"] == "session.start" and name:
            tell(name, event="notice", weight="waiting", text="reading the dataset demo")
            tell(name, event="notice", weight="warning", text="the disk\\x1b[31m is full")
            time.sleep(SLOW)
            tell(name, event="run_started", to_run=2, fresh=1)
            tell(name, event="node_started", {NODE})
            tell(name, event="node_step", step="install packages", {NODE})
            tell(name, event="node_output", line="Collecting numpy", {NODE})
            tell(name, event="a later kind", x=1)
            time.sleep(SLOW)
            tell(name, event="node_finished", outcome="built", seconds=3.25, {NODE})
        if request["method"] == "session.start":
            send(id=request["id"], result={{
                "session": "s1", "image": "i", "engine": "none", "instance": None,
                "repository": None, "base": None, "ports": [], "warnings": [], "start_ms": 1.0,
            }})
        elif request["method"] == "session.reset":
            time.sleep(SLOW)
            send(id=request["id"], result={{}})
        else:
            send(id=request["id"], result={{"how": "stopped"}})
"""
TEXTS = [
    (logging.DEBUG, "begins"),
    (logging.DEBUG, "reading the dataset demo"),
    (logging.WARNING, "the disk [31m is full"),
    (logging.INFO, "2 to do, 1 fresh"),
    (logging.INFO, "env:a/b@1"),
    (logging.INFO, "env:a/b@1: install packages"),
    (logging.DEBUG, "env:a/b@1: Collecting numpy"),
    (logging.INFO, "env:a/b@1: built (3.2 s)"),
]


@pytest.fixture
def telling(program: Callable[[str], str]) -> Callable[[float], str]:
    """Makes a server that tells what goes on, with pauses of so many seconds."""

    def make(slow: float) -> str:
        hello = textwrap.dedent(HELLO).replace('["a"]', '["events"]')
        return program(f"SLOW = {slow}\n{hello}{textwrap.dedent(TELLING)}")

    return make


def test_a_function_has_all_of_it_in_the_thread_that_waits(telling: Callable[[float], str]) -> None:
    told: list[Progress] = []
    threads = set()

    def take(progress: Progress) -> None:
        told.append(progress)
        threads.add(threading.current_thread())

    with Client(telling(0), progress=take) as client, client.start(image="debian:12"):
        pass
    assert [(one.level, one.text) for one in told[:-1]] == TEXTS
    assert {one.task for one in told} == {"starting debian:12"}
    assert threads == {threading.current_thread()}
    last = told[-1]
    assert (last.event, last.done, last.total) == ({"event": "end"}, 1, 2)
    assert last.text.startswith("done in ")


def test_asyncio_has_it_in_the_event_loop(telling: Callable[[float], str]) -> None:
    told: list[Progress] = []
    loops = set()

    def take(progress: Progress) -> None:
        told.append(progress)
        loops.add(asyncio.get_running_loop())

    async def start() -> None:
        async with aio.AsyncClient(telling(0), progress=take) as client:
            async with await client.start(image="debian:12"):
                loops.add(asyncio.get_running_loop())

    asyncio.run(start())
    assert [(one.level, one.text) for one in told[:-1]] == TEXTS
    assert len(loops) == 1


def test_what_a_function_raises_ends_the_waiting_and_the_session(
    telling: Callable[[float], str],
) -> None:
    class Enough(Exception):
        pass

    def take(progress: Progress) -> None:
        if progress.total:
            raise Enough

    async def start() -> None:
        async with aio.AsyncClient(telling(0), progress=take) as client:
            await client.start(image="debian:12")

    with Client(telling(0), progress=take) as client:
        with pytest.raises(Enough):
            client.start(image="debian:12")
    with pytest.raises(Enough):
        asyncio.run(start())


def test_without_a_terminal_it_is_logged(
    telling: Callable[[float], str],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.INFO, "imgforge_sandbox")
    with Client(telling(0.7)) as client, client.start(image="debian:12") as session:
        began = [record.getMessage() for record in caplog.records]
        session.reset()
    expected = [f"starting debian:12: {text}" for level, text in TEXTS if level > logging.DEBUG]
    assert began[:-1] == expected
    assert began[-1].startswith("starting debian:12: done in 1.")
    # It took less than a moment, and nobody told of anything.
    assert len(caplog.records) == len(began)
    assert capfd.readouterr() == ("", "")


def test_what_takes_longer_than_a_moment_is_logged(
    telling: Callable[[float], str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "imgforge_sandbox")
    with Client(telling(1.6)) as client, client.start(image="debian:12") as session:
        caplog.clear()
        session.reset()
    texts = [record.getMessage() for record in caplog.records]
    assert texts[0] == "resetting session s1: waiting for the server"
    assert texts[1].startswith("resetting session s1: done in 1.")
    assert len(texts) == 2


@pytest.mark.parametrize("configured", ["", "logging.basicConfig(level='INFO')"])
def test_nothing_is_printed_that_nobody_asked_for(
    telling: Callable[[float], str], configured: str
) -> None:
    code = f"""
    import logging
    from imgforge_sandbox import Client
    {configured}
    with Client({telling(0)!r}) as client, client.start(image="debian:12"):
        pass
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
    asked = "INFO:imgforge_sandbox:starting debian:12: env:a/b@1: install packages"
    assert (asked in done.stderr) if configured else (done.stderr == "")


def test_it_can_be_off(
    telling: Callable[[float], str], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG, "imgforge_sandbox")
    with Client(telling(0), progress=False) as client, client.start(image="debian:12"):
        pass
    assert caplog.records == []


def on_terminal(code: str) -> str:
    """Runs a program with a terminal of 100 columns as its stderr; returns what it wrote there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    written = bytearray()

    def read() -> None:
        while True:
            try:
                piece = os.read(ours, 1 << 16)
            except OSError:
                return
            if not piece:
                return
            written.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    environ = {**os.environ, "PYTHONPATH": str(PACKAGE)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environ,
        stderr=theirs,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    os.close(theirs)
    reader.join(10)
    os.close(ours)
    text = written.decode()
    assert done.returncode == 0, text
    assert done.stdout == b""
    return text


def test_a_terminal_has_a_bar(telling: Callable[[float], str]) -> None:
    shown = on_terminal(
        f"""
        from imgforge_sandbox import Client
        with Client({telling(1.6)!r}) as client, client.start(image="debian:12"):
            pass
        """
    )
    assert "imgforge: starting debian:12: the disk [31m is full" in shown
    assert "starting debian:12: 00:01, reading the dataset demo" in shown
    assert "starting debian:12: 0/2 |" in shown
    assert "env:a/b@1: Collecting numpy" in shown
    assert "starting debian:12: 1/2 |" in shown
    # The last line stays.
    assert shown.endswith("\n")
    assert shown.rstrip().rpartition("\r")[2].startswith("starting debian:12: 1/2 |")


def test_what_is_over_in_a_moment_draws_no_bar(telling: Callable[[float], str]) -> None:
    shown = on_terminal(
        f"""
        from imgforge_sandbox import Client
        with Client({telling(0)!r}) as client, client.start(image="debian:12"):
            pass
        """
    )
    assert shown == "imgforge: starting debian:12: the disk [31m is full\r\n"


def test_a_terminal_without_tqdm_is_left_alone(telling: Callable[[float], str]) -> None:
    shown = on_terminal(
        f"""
        import sys
        sys.modules["tqdm"] = None
        from imgforge_sandbox import Client
        with Client({telling(1.2)!r}) as client, client.start(image="debian:12"):
            pass
        """
    )
    assert shown == ""


def test_a_server_that_does_not_tell_is_not_asked(server: Callable[[str], str]) -> None:
    # It refuses what it does not know.
    path = server(
        """
        for request in requests():
            assert "events" not in request["params"], request
            send(id=request["id"], error={"code": -32000, "message": "no", "data": {
                "kind": "infra", "hint": "wait"}})
        """
    )
    told: list[Progress] = []
    with Client(path, progress=told.append) as client:
        with pytest.raises(InfraError) as caught:
            client.start(image="debian:12")
    assert str(caught.value) == "no\nhint: wait"
    # What failed has no end: the exception says it.
    assert [one.text for one in told] == ["begins"]


def test_the_real_server_tells(binary: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "imgforge_sandbox")
    told: list[Progress] = []
    begin = "diff --git a/n b/n\nnew file mode 100644\n--- /dev/null\n+++ b/n\n@@ -0,0 +1 @@\n"
    # One that was not run before.
    new = f"{begin}+{time.time()}\n"

    def take(progress: Progress) -> None:
        told.append(progress)
        log_progress(progress)

    with Client(binary, progress=take) as client:
        assert client.grade(INSTANCE, new).verdict == "unresolved"
    kinds: list[Any] = [one.event["event"] for one in told]
    for kind in ("begin", "notice", "run_started", "node_step", "node_finished", "end"):
        assert kind in kinds, kind
    assert told[-1].done == told[-1].total
    assert any("run the tests" in record.getMessage() for record in caplog.records)


def test_what_has_no_verdict_says_what_to_do(session: Session) -> None:
    session.write("/testbed/tests/conftest.py", "import time\ntime.sleep(100)\n")
    grade = session.grade(timeout=1)
    assert grade.verdict == "timed_out"
    assert "--timeout" in str(grade.hint)
    with pytest.raises(NoVerdict, match="timed_out") as caught:
        _ = grade.reward
    assert caught.value.hint == grade.hint


def test_an_engine_that_is_not_there_is_said_as_the_command_line_says_it(
    binary: str, tmp_path: Path
) -> None:
    with pytest.raises(InfraError, match="unix:///nowhere") as caught:
        Client(binary, engine="docker", state_dir=tmp_path, env={"DOCKER_HOST": "unix:///nowhere"})
    assert "DOCKER_HOST" in str(caught.value.hint)
