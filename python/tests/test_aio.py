"""The same for asyncio, on the real program."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path
from typing import Awaitable, Callable

import pytest
from procs import ends, marked_sleep, running, starts
from shared import INSTANCE

from imgforge_sandbox import (
    CommandFailed,
    NoSuchPath,
    NoSuchSession,
    NoSuchShell,
    Refused,
    VersionMismatch,
)
from imgforge_sandbox.aio import AsyncClient, AsyncSession


def in_session(binary: str, work: Callable[[AsyncSession], Awaitable[None]]) -> None:
    async def main() -> None:
        async with AsyncClient(binary) as client:
            async with await client.start(instance=INSTANCE) as session:
                await work(session)

    asyncio.run(main())


async def begun(mark: str) -> None:
    """Waits until a process with the word runs."""
    assert await asyncio.get_running_loop().run_in_executor(None, starts, mark)


def test_all_of_it(binary: str, tmp_path: Path) -> None:
    made: set[str] = set()

    async def work(session: AsyncSession) -> None:
        assert (await session.run("echo a")).text == "a\n"
        with pytest.raises(CommandFailed):
            await session.run("exit 3")
        await session.write("/tmp/a", "1")
        assert await session.read("/tmp/a") == b"1"
        assert await session.read_text("/tmp/a") == "1"
        assert (await session.stat("/tmp/a")).size == 1
        assert [entry.name for entry in await session.list("/tmp")] == ["a"]
        with pytest.raises(NoSuchPath):
            await session.read("/nothing")
        await session.put(tmp_path, "/tmp/b")
        assert await session.get("/tmp/a", tmp_path / "a") == tmp_path / "a"
        assert (tmp_path / "a").read_text() == "1"
        long = os.urandom(1 << 20) * 40
        await session.write("/tmp/long", long)
        assert await session.read("/tmp/long") == long
        assert (await session.exec("wc -c", stdin=long)).text.split() == [str(len(long))]
        await session.write("/testbed/new", "x\n")
        patch = await session.patch()
        await session.apply(patch, reverse=True)
        assert await session.patch() == b""
        checkpoint = await session.checkpoint()
        forks = await session.fork(2)
        for fork in forks:
            assert (await fork.run("echo b")).text == "b\n"
            await fork.stop()
        await session.reset(checkpoint)
        made.update({checkpoint.id, str(forks[0].info.checkpoint)})
        with pytest.raises(Refused):
            await session.network()
        await session.pause()
        await session.resume()
        assert await session.stats()
        assert isinstance(await session.processes(), list)
        assert await session.diff() == []

    in_session(binary, work)

    async def clean() -> None:
        async with AsyncClient(binary) as client:
            for checkpoint in made:
                assert checkpoint in str(await client.checkpoints())
                await client.remove_checkpoint(checkpoint)
            assert not made & {one["checkpoint"] for one in await client.checkpoints()}

    asyncio.run(clean())


def test_commands_of_tasks_run_at_once(binary: str) -> None:
    async def work(session: AsyncSession) -> None:
        # More than the default executor has threads. One after another they would wait for ever.
        async def one(number: int) -> int:
            here = f"touch /tmp/at-{number}"
            all_here = "until [ $(ls /tmp/at-* | wc -l) = 40 ]; do sleep 0.1; done"
            result = await session.exec(f"{here}; {all_here}", timeout=100)
            return -1 if result.code is None else result.code

        assert await asyncio.gather(*(one(number) for number in range(40))) == [0] * 40

    in_session(binary, work)


def test_cancelling_kills_the_command(binary: str) -> None:
    async def work(session: AsyncSession) -> None:
        for stdin in (None, b"x" * (20 << 20)):
            sleep, mark = marked_sleep()
            task = asyncio.ensure_future(session.exec(f"setsid {sleep} & wait", stdin=stdin))
            await begun(mark)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not running(mark)
        assert (await session.run("echo here")).text == "here\n"

    in_session(binary, work)


def test_a_limit_of_asyncio_kills_the_command(binary: str) -> None:
    async def work(session: AsyncSession) -> None:
        sleep, mark = marked_sleep()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(session.exec(sleep), 1)
        assert not running(mark)

    in_session(binary, work)


def test_cancelling_at_once(binary: str) -> None:
    async def work(session: AsyncSession) -> None:
        marks: list[str] = []
        for delay in (0, 0, 0.001, 0.002, 0.005, 0.01, 0.02):
            sleep, mark = marked_sleep()
            marks.append(mark)
            task = asyncio.ensure_future(session.exec(sleep))
            await asyncio.sleep(delay)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert [mark for mark in marks if running(mark)] == []
        assert (await session.run("echo here")).text == "here\n"

    in_session(binary, work)


def test_output_comes_in_the_loop(binary: str) -> None:
    async def work(session: AsyncSession) -> None:
        seen: list[tuple[str, bytes]] = []
        loop = asyncio.get_running_loop()

        def take(stream: str, data: bytes) -> None:
            assert asyncio.get_running_loop() is loop
            seen.append((stream, data))

        result = await session.exec("echo a; echo b >&2", on_output=take)
        # All of it is there when the result is.
        assert sorted(seen) == [("stderr", b"b\n"), ("stdout", b"a\n")]
        assert (result.stdout, result.stderr) == (b"a\n", b"b\n")

    in_session(binary, work)


def test_an_exception_of_the_caller_kills_the_command(binary: str) -> None:
    async def work(session: AsyncSession) -> None:
        def take(stream: str, data: bytes) -> None:
            assert starts(mark)
            raise ZeroDivisionError

        sleep, mark = marked_sleep()
        with pytest.raises(ZeroDivisionError):
            await session.exec(f"echo a; {sleep}", on_output=take)
        assert not running(mark)
        shell = await session.shell()
        with pytest.raises(ZeroDivisionError):
            await shell.run(f"echo a; {sleep}", on_output=take)
        assert not running(mark)
        assert (await shell.run("echo here")).output == b"here\n"

    in_session(binary, work)


def test_shells(binary: str) -> None:
    async def work(session: AsyncSession) -> None:
        async with await session.shell() as shell:
            assert (await shell.run("cd /usr; X=1")).ok
            results = await asyncio.gather(*(shell.run(f"echo {n} $X $PWD") for n in range(5)))
            assert [r.output for r in results] == [b"%d 1 /usr\n" % n for n in range(5)]
            sleep, mark = marked_sleep()
            task = asyncio.ensure_future(shell.run(sleep))
            await begun(mark)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not running(mark)
            seen: list[bytes] = []
            await shell.run("echo a", on_output=lambda _, data: seen.append(data))
            assert seen == [b"a\n"]
            sleep, mark = marked_sleep()
            task = asyncio.ensure_future(shell.run(sleep))
            await begun(mark)
            await shell.interrupt()
            assert not (await task).ok
        with pytest.raises(NoSuchShell):
            await shell.run("true")

    in_session(binary, work)


def test_processes(binary: str) -> None:
    async def work(session: AsyncSession) -> None:
        process = await session.spawn("cat", stream=True)
        await process.write("a\n")
        pieces = process.output()
        assert await pieces.__anext__() == ("stdout", b"a\n")
        await process.close_stdin()
        assert (await process.wait()).stdout == b"a\n"
        assert [piece async for piece in pieces] == []
        process = await session.spawn(["sleep", "1000"])
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(process.wait(), 0.2)
        assert process.running
        await process.kill()
        assert (await process.wait()).signal == 9

    in_session(binary, work)


def test_a_start_that_is_cancelled_leaves_no_session(binary: str) -> None:
    async def main() -> None:
        async with AsyncClient(binary) as client:
            for delay in (0, 0.001, 0.01, 0.05):
                task = asyncio.ensure_future(client.start(instance=INSTANCE))
                await asyncio.sleep(delay)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await (await task).stop()
            until = time.monotonic() + 30
            while await client.sessions():
                assert time.monotonic() < until
                await asyncio.sleep(0.05)

    asyncio.run(main())


def test_one_client_in_several_loops(binary: str) -> None:
    client = AsyncClient(binary)

    async def start() -> AsyncSession:
        return await client.start(instance=INSTANCE)

    session = asyncio.run(start())
    assert asyncio.run(session.run("echo a")).text == "a\n"
    asyncio.run(session.stop())
    with pytest.raises(NoSuchSession):
        asyncio.run(session.exec("true"))
    asyncio.run(client.close())


def test_the_loop_goes_on_meanwhile(binary: str) -> None:
    async def main() -> None:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0.01)

        counting = asyncio.ensure_future(count())
        async with AsyncClient(binary) as client:
            async with await client.start(instance=INSTANCE) as session:
                await session.exec("sleep 1")
        counting.cancel()
        assert turns > 50

    asyncio.run(main())


def test_a_program_of_another_version(program: Callable[[str], str]) -> None:
    path = program(
        """
        import json, sys
        request = json.loads(sys.stdin.readline())
        print(json.dumps({"id": request["id"], "result": {"protocol": 7}}), flush=True)
        sys.stdin.read()
        """
    )
    with pytest.raises(VersionMismatch):
        asyncio.run(AsyncClient(path).connect())


def test_a_loop_that_is_closed_under_a_command(binary: str) -> None:
    client = AsyncClient(binary)
    sleep, mark = marked_sleep()

    async def abandon() -> AsyncSession:
        session = await client.start(instance=INSTANCE)
        task = asyncio.ensure_future(session.exec(sleep, on_output=lambda *_: None))
        await begun(mark)
        assert not task.done()
        return session

    # `asyncio.run` cancels what is left, and waits for it.
    session = asyncio.run(abandon())
    assert ends(mark, 5)
    assert asyncio.run(session.run("echo here")).text == "here\n"
    asyncio.run(client.close())
