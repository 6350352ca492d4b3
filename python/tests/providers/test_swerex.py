"""SWE-ReX: its deployment on a session."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from mending import DATASET, INSTANCE_ID, MEND, PROOF
from swerex.deployment.remote import RemoteDeployment
from swerex.exceptions import CommandTimeoutError, DeploymentNotStartedError, SwerexException
from swerex.runtime.abstract import (
    BashAction,
    Command,
    CreateBashSessionRequest,
    ReadFileRequest,
    UploadRequest,
    WriteFileRequest,
)

from imgforge_sandbox import InvalidRequest
from imgforge_sandbox.swerex import ImgforgeDeployment


def imgforge(*words: str) -> str:
    environ = {name: value for name, value in os.environ.items() if name != "IMGFORGE_BIN"}
    program = os.environ["IMGFORGE_BIN"]
    return subprocess.run(
        [program, *words], check=True, stdout=subprocess.PIPE, text=True, env=environ
    ).stdout


@pytest.fixture(scope="module", autouse=True)
def server(binary: str) -> Iterator[None]:
    """The server that the first session starts lives on, for those of others; here it ends."""
    yield
    with contextlib.suppress(subprocess.CalledProcessError):
        imgforge("serve", "stop", "--swerex")


def sessions() -> set[str]:
    return {session["id"] for session in json.loads(imgforge("session", "ls", "--json"))}


def use(
    work: Callable[[ImgforgeDeployment], Coroutine[Any, Any, None]], **options: Any
) -> ImgforgeDeployment:
    deployment = ImgforgeDeployment(dataset=DATASET, instance_id=INSTANCE_ID, **options)

    async def run() -> None:
        await deployment.start()
        try:
            await work(deployment)
        finally:
            await deployment.stop()
            await deployment.stop()

    asyncio.run(run())
    return deployment


def test_a_session_is_mended(tmp_path: Path) -> None:
    (tmp_path / "up").write_text("up")
    ids = []

    async def work(deployment: ImgforgeDeployment) -> None:
        assert isinstance(deployment, RemoteDeployment)
        ids.append(deployment.session_id)
        assert deployment.session_id in sessions()
        assert await deployment.is_alive()
        runtime = deployment.runtime
        await runtime.create_session(CreateBashSessionRequest())
        await runtime.run_in_session(BashAction(command="cd /testbed && export X=$GREETING"))
        told = await runtime.run_in_session(
            BashAction(command="pwd; echo $X; false", check="silent")
        )
        assert (told.exit_code, told.output.split()) == (1, ["/testbed", "hello"])
        with pytest.raises(CommandTimeoutError):
            await runtime.run_in_session(BashAction(command="sleep 60", timeout=1))
        ran = await runtime.execute(Command(command=["sh", "-c", f"{MEND} && {PROOF}"]))
        assert ran.stdout == "-6\n"
        await runtime.write_file(WriteFileRequest(path="/tmp/a", content="one\r\n\u2713"))
        assert (await runtime.read_file(ReadFileRequest(path="/tmp/a"))).content == "one\r\n\u2713"
        await runtime.upload(UploadRequest(source_path=str(tmp_path / "up"), target_path="/tmp/up"))
        assert (await runtime.execute(Command(command=["cat", "/tmp/up"]))).stdout == "up"

        # Another process, such as SWE-agent, reaches it with these values.
        other: Any = RemoteDeployment.from_config(deployment.remote)
        await other.start()
        ran = await other.runtime.execute(Command(command=["cat", "/tmp/up"]))
        assert ran.stdout == "up"
        await other.stop()
        assert deployment.session_id is not None
        assert "return -self.atom()" in imgforge("session", "patch", deployment.session_id)

    ended = use(work, env={"GREETING": "hello"}, memory=1 << 30, pids=100)
    assert ids[0] not in sessions()
    with pytest.raises(DeploymentNotStartedError):
        _ = ended.runtime
    with pytest.raises(InvalidRequest):
        _ = ended.remote


def test_a_session_that_ends_is_no_result() -> None:
    async def work(deployment: ImgforgeDeployment) -> None:
        with pytest.raises(SwerexException):
            await deployment.runtime.execute(Command(command=["sleep", "60"], timeout=30))

    use(work, ttl=2)


def test_a_start_that_is_cancelled_leaves_nothing() -> None:
    before = sessions()

    async def run() -> None:
        deployment = ImgforgeDeployment(dataset=DATASET, instance_id=INSTANCE_ID)
        starting = asyncio.ensure_future(deployment.start())
        # It waits for the program now, which is started all the same.
        await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting

    asyncio.run(run())
    assert sessions() <= before


def test_what_cannot_be_started() -> None:
    with pytest.raises(InvalidRequest, match="none of them"):
        ImgforgeDeployment()
    with pytest.raises(InvalidRequest, match="no-such"):
        asyncio.run(ImgforgeDeployment(dataset=DATASET, instance_id="no-such").start())
