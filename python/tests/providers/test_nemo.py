"""NeMo Gym: its sandboxes on our provider, which it finds by the entry point of the package."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Callable

import pytest
from mending import DATASET, INSTANCE_ID, MEND, PROOF
from nemo_gym.sandbox import (
    AsyncSandbox,
    Sandbox,
    SandboxCreateError,
    SandboxProvider,
    SandboxPtyError,
    SandboxPtySession,
    SandboxSpec,
    SandboxStatus,
    SupportsSandboxEndpoint,
    SupportsSandboxPty,
    get_provider_class,
    list_providers,
)
from nemo_gym.sandbox.providers.base import SupportsSandboxPauseResume
from procs import ends, marked_sleep, starts

from imgforge_sandbox import ImgforgeError, SessionEnded
from imgforge_sandbox.nemo import ImgforgeProvider

INSTANCE = {"dataset": DATASET, "instance_id": INSTANCE_ID}
IMAGE = "docker://python:3.11.10-slim-bookworm"


def test_it_is_found_and_has_the_protocol() -> None:
    assert "imgforge" in list_providers()
    assert get_provider_class("imgforge") is ImgforgeProvider
    provider: SandboxProvider = ImgforgeProvider()
    for capability in (SupportsSandboxEndpoint, SupportsSandboxPty, SupportsSandboxPauseResume):
        assert isinstance(provider, capability)


def test_a_sandbox_is_mended(binary: str, tmp_path: Path) -> None:
    spec = SandboxSpec(
        provider_options=INSTANCE,
        env={"GREETING": "hello"},
        files={"/seed/input.txt": "seeded"},
        resources={"cpu": 1, "memory_mib": 1024},
        metadata={"run": "1"},
    )
    (tmp_path / "up.sh").write_text("#!/bin/sh\necho ran\n")
    (tmp_path / "up.sh").chmod(0o755)
    with Sandbox({"imgforge": {"pids": 200}}, spec) as box:
        box.start()
        assert box.status() is SandboxStatus.RUNNING
        told = box.exec("echo $GREETING; cat /seed/input.txt; echo err >&2; exit 3")
        assert (told.stdout, told.stderr, told.return_code) == ("hello\nseeded", "err\n", 3)
        assert told.error_type is None
        assert box.exec("echo $GREETING", env={"GREETING": "other"}).stdout == "other\n"
        assert box.exec("pwd; id -u", cwd="/tmp", user=65534).stdout == "/tmp\n65534\n"
        box.upload(tmp_path / "up.sh", "/new/dir/up.sh")
        assert box.exec("/new/dir/up.sh; stat -c %u /new/dir/up.sh").stdout == "ran\n0\n"
        with pytest.raises(IsADirectoryError):
            box.upload(tmp_path / "up.sh", "/new")
        box.download("/new/dir/up.sh", tmp_path / "down" / "up.sh")
        assert (tmp_path / "down" / "up.sh").read_text() == (tmp_path / "up.sh").read_text()
        assert box.exec(f"{MEND} && {PROOF}").stdout == "-6\n"
    assert box.status() is SandboxStatus.STOPPED


def use(work: Callable[[Any], Coroutine[Any, Any, None]], **spec: Any) -> None:
    async def run() -> None:
        box = AsyncSandbox({"imgforge": {}}, SandboxSpec(**{"image": IMAGE, **spec}))
        await box.start()
        try:
            await work(box)
        finally:
            await box.stop()
            await box.stop()

    asyncio.run(run())


def test_limits_of_time(binary: str) -> None:
    command, mark = marked_sleep()

    async def work(box: Any) -> None:
        told = await box.exec(f"echo so far; setsid {command} & {command}", timeout_s=1)
        assert (told.stdout, told.error_type, told.return_code) == ("so far\n", "timeout", 125)
        assert await asyncio.to_thread(ends, mark)
        told = await box.exec("exit 124", timeout_s=60)
        assert (told.return_code, told.error_type) == (124, None)

    use(work, workdir="/made/here")


def test_a_session_that_ends_is_no_result(binary: str) -> None:
    async def work(box: Any) -> None:
        with pytest.raises(SessionEnded):
            await box.exec("sleep 60")
        assert await box.status() is SandboxStatus.STOPPED
        with pytest.raises(ImgforgeError):
            await box.exec("true")

    use(work, ttl_s=2)


def test_terminals(binary: str) -> None:
    command, mark = marked_sleep()

    async def work(box: Any) -> None:
        async with await box.pty.create(
            "stty size; read line; echo got $line", rows=30, cols=90
        ) as pty:
            await pty.write(b"hello\n")
            said = b"".join([piece async for piece in pty])
            assert b"30 90" in said
            assert b"got hello" in said
            assert await pty.wait_exit() == 0
            assert await pty.read() == b""
        assert pty.closed
        assert isinstance(pty, SandboxPtySession)

        # NeMo Gym's own way to run commands in a shell that lives on.
        shell = await box.pty.create(pty=False)
        told = await box.pty.exec("cd /tmp; X=1; echo out; echo err >&2; false", session=shell)
        assert (told.stdout, told.stderr, told.return_code) == ("out\n", "err\n", 1)
        told = await box.pty.exec("pwd; echo $X", session=shell)
        assert (told.stdout, told.return_code) == ("/tmp\n1\n", 0)
        with pytest.raises(TimeoutError):
            await shell.read(timeout_s=0.1)
        for terminal in (shell, await box.pty.create()):
            command_of_two_lines = "printf 'a\\nb'; echo err >&2\n(exit 6)"
            output, code = await terminal.run_detached(command_of_two_lines)
            assert (output.replace(b"\r", b""), code) == (b"a\nberr\n", 6)
            with pytest.raises(SandboxPtyError):
                await terminal.run_detached("exit 1")
            await terminal.close()

        told = await box.pty.exec("echo out; echo err >&2; exit 4", pty=False)
        assert (told.stdout, told.stderr, told.return_code) == ("out\n", "err\n", 4)
        pty = await box.pty.create(f"exec {command}", pty=False)
        assert await asyncio.to_thread(starts, mark)
        with pytest.raises(ValueError, match="SIGNONE"):
            await pty.send_signal("SIGNONE")
        await pty.send_signal("SIGTERM")
        assert await pty.wait_exit(timeout_s=30) == 143
        told = await box.pty.exec(command, timeout_s=1)
        assert told.error_type == "timeout"
        assert await asyncio.to_thread(ends, mark)

    use(work)


def test_ports_and_pauses(binary: str) -> None:
    async def work(box: Any) -> None:
        await box.exec("mkdir /www; echo served >/www/index.html")
        await box.exec("python3 -m http.server 8000 -d /www >/dev/null 2>&1 &")
        url = (await box.endpoint(8000)).endpoint

        def fetch() -> bytes:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(url, timeout=30) as answer:
                content: bytes = answer.read()
                return content

        for attempt in range(100):
            try:
                assert await asyncio.to_thread(fetch) == b"served\n"
                break
            except OSError:
                assert attempt < 99
                await asyncio.sleep(0.1)
        with pytest.raises(ValueError, match="8001"):
            await box.endpoint(8001)
        await box.pause()
        await box.resume()
        assert (await box.exec("echo alive")).stdout == "alive\n"

    use(work, ports=[8000])


@pytest.mark.parametrize(
    ("spec", "kind", "said"),
    [
        ({"image": "no-such-image:1"}, SandboxCreateError, "no-such-image"),
        ({"image": None}, SandboxCreateError, "none of them"),
        ({"entrypoint": ["nginx"]}, SandboxCreateError, "entrypoint"),
        ({"resources": {"gpu": 1}}, SandboxCreateError, "GPU"),
        ({"provider_options": {"netwrok": "none"}}, ValueError, "netwrok"),
    ],
)
def test_what_cannot_be_made(
    binary: str, spec: dict[str, Any], kind: type[Exception], said: str
) -> None:
    async def work(box: Any) -> None:
        raise AssertionError("it was made")

    with pytest.raises(kind, match=said):
        use(work, **spec)
