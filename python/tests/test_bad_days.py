"""What happens when processes die, fork, end and print too much, on the real program."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from procs import ends, marked_sleep, running, starts
from shared import INSTANCE

import imgforge_sandbox
from imgforge_sandbox import Client, ConnectionLost, InfraError, Session
from imgforge_sandbox.aio import AsyncClient

PACKAGE = Path(imgforge_sandbox.__file__).parent.parent


def server_of(client: Client) -> int:
    """Returns the process of a client's server."""
    transport: Any = client.link.get()._transport
    return int(transport._process.pid)


def script(text: str, **options: Any) -> subprocess.Popen[str]:
    """Starts a Python of its own that uses the package."""
    environ = {**os.environ, "PYTHONPATH": str(PACKAGE), "PYTHONWARNINGS": "default"}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(text)],
        env=environ,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


BEGIN = f"""
from imgforge_sandbox import Client
import os, sys, threading, time
client = Client()
session = client.start(instance=("demo", {INSTANCE.instance_id!r}))
"""


def test_a_server_that_is_killed(binary: str) -> None:
    client = Client(binary)
    session = client.start(instance=INSTANCE)
    sleeps = [marked_sleep() for _ in range(3)]
    errors: list[BaseException] = []

    def wait(command: str) -> None:
        try:
            session.exec(command)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=wait, args=(sleep,)) for sleep, _ in sleeps]
    for thread in threads:
        thread.start()
    assert all(starts(mark) for _, mark in sleeps)
    os.kill(server_of(client), signal.SIGKILL)
    for thread in threads:
        thread.join(30)
    assert [type(error) for error in errors] == [ConnectionLost] * 3
    assert all(isinstance(error, InfraError) and "SIGKILL" in str(error) for error in errors)
    assert all(ends(mark) for _, mark in sleeps)
    with pytest.raises(ConnectionLost):
        session.exec("true")
    assert session.stop() == ""
    client.close()
    # Another client begins anew.
    with Client(binary) as client, client.start(instance=INSTANCE) as session:
        assert session.exec("true").ok


def test_a_python_that_is_killed_leaves_nothing(binary: str) -> None:
    sleep, mark = marked_sleep()
    process = script(BEGIN + f"session.exec({sleep!r})")
    try:
        assert starts(mark)
    finally:
        process.kill()
        process.communicate(timeout=30)
    assert ends(mark)


@pytest.mark.parametrize(
    "end",
    [
        "",
        "sys.exit(0)",
        "del client",
        "import atexit; atexit.register(lambda: session.run('true'))",
        "import gc; gc.disable(); loop = [client, session]; loop.append(loop)",
        "import asyncio, imgforge_sandbox.aio as aio; asyncio.run(aio.AsyncClient().connect())",
    ],
)
def test_the_end_of_the_interpreter(binary: str, end: str) -> None:
    sleep, mark = marked_sleep()
    text = f"""
def wait():
    try:
        session.exec({sleep!r})
    except Exception as error:
        print(type(error).__name__)

thread = threading.Thread(target=wait, daemon=True)
thread.start()
"""
    process = script(BEGIN + text + f"time.sleep(1)\nprint('begun', flush=True)\n{end}\n")
    started = time.monotonic()
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    assert out.startswith("begun")
    assert "Traceback" not in error
    assert "Fatal" not in error
    assert time.monotonic() - started < 30
    # When the interpreter has ended, so has the session.
    assert not running(mark)


def test_ctrl_c_kills_the_command(binary: str) -> None:
    sleep, mark = marked_sleep()
    # Who starts the tests in the background has them ignore the signal.
    text = f"""
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    session.exec({sleep!r})
except KeyboardInterrupt:
    print("interrupted", session.run("echo here").text, flush=True)
time.sleep(100)
"""
    process = script(BEGIN + text, start_new_session=True)
    assert process.stdout is not None
    try:
        assert starts(mark)
        # As a terminal does: to the whole group, of which the server is none.
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.readline() == "interrupted here\n"
        assert not running(mark)
    finally:
        process.kill()
        process.communicate(timeout=30)


def test_a_fork_has_a_server_of_its_own(binary: str) -> None:
    client = Client(binary)
    session = client.start(instance=INSTANCE)
    session.write("/tmp/who", "parent")
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        answer = "failed"
        try:
            try:
                session.exec("true")
            except ConnectionLost as error:
                with client.start(instance=INSTANCE) as own:
                    own.run("! test -e /tmp/who")
                    answer = f"{own.id} {server_of(client)} {error.hint is not None}"
            session.stop()
            del session
        finally:
            os.write(write, answer.encode())
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        said = file.read().split()
    os.waitpid(pid, 0)
    assert len(said) == 3, said
    assert said[0] != session.id
    assert int(said[1]) != server_of(client)
    assert said[2] == "True"
    # The parent's are whole.
    assert session.read("/tmp/who") == b"parent"
    client.close()


def test_a_child_that_lives_on_does_not_keep_the_server(binary: str) -> None:
    sleep, mark = marked_sleep()
    client = Client(binary)
    session = client.start(instance=INSTANCE)
    session.spawn(sleep)
    assert starts(mark)
    server = server_of(client)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        # It has a copy of every descriptor that nobody closed.
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    try:
        started = time.monotonic()
        client.close()
        assert time.monotonic() - started < 15
        assert not os.path.exists(f"/proc/{server}")
        assert ends(mark)
    finally:
        os.close(write)
        os.waitpid(pid, 0)


def in_child(number: int) -> str:
    with Client() as client, client.start(instance=INSTANCE) as session:
        return session.run(f"echo {number}").text


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_pool_of_processes(binary: str, client: Client) -> None:
    assert client.sessions() == [] or client.sessions()
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(3) as pool:
            assert pool.map(in_child, range(3)) == ["0\n", "1\n", "2\n"]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forks_while_other_threads_call(client: Client, session: Session) -> None:
    stop = threading.Event()
    failed: list[BaseException] = []

    def call() -> None:
        try:
            while not stop.is_set():
                session.stat("/etc/passwd")
                Client().close()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    with Client() as own:
                        own.sessions()
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert failed == []


def test_threads_and_asyncio_at_once(binary: str) -> None:
    failed: list[BaseException] = []

    def in_thread(number: int) -> None:
        try:
            with client.start(instance=INSTANCE) as session:
                for turn in range(5):
                    word = f"{number}-{turn}"
                    assert session.run(["echo", word]).text == f"{word}\n"
                    session.write("/tmp/x", word)
                    assert session.read("/tmp/x") == word.encode()
        except BaseException as error:
            failed.append(error)

    async def in_loop() -> None:
        async def one(number: int) -> None:
            async with await other.start(instance=INSTANCE) as session:
                for turn in range(5):
                    word = f"{number}:{turn}"
                    assert (await session.run(["echo", word])).text == f"{word}\n"
                    await session.write("/tmp/x", word)
                    assert await session.read("/tmp/x") == word.encode()

        async with AsyncClient(binary) as other:
            await asyncio.gather(*(one(number) for number in range(4)))

    with Client(binary) as client:
        threads = [threading.Thread(target=in_thread, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        asyncio.run(in_loop())
        for thread in threads:
            thread.join(120)
    assert failed == []


@pytest.mark.parametrize("how", ["kept", "streamed"])
@pytest.mark.slow
def test_a_gigabyte_of_output(binary: str, how: str) -> None:
    text = """
import resource
taken = 0
def take(stream, data):
    global taken
    taken += len(data)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = session.exec("head -c 1073741824 /dev/zero", on_output=%s, timeout=280)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(result.end, len(result.stdout), result.dropped_stdout, taken, grown)
session.stop()
client.close()
"""
    process = script(BEGIN + text % ("take" if how == "streamed" else "None"))
    out, error = process.communicate(timeout=290)
    assert process.returncode == 0, error
    end, kept, dropped, taken, grown = out.split()
    assert (end, int(kept), int(dropped)) == ("exited", 10 << 20, (1 << 30) - (10 << 20))
    assert int(taken) == ((1 << 30) if how == "streamed" else 0)
    # In KiB: the result as JSON, as text and as bytes, and not the whole of it.
    assert int(grown) < 300 << 10
