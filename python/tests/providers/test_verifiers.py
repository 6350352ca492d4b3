"""verifiers: a rollout of its agent on our runtime, and the runtime by itself."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Coroutine
from typing import Any, Callable

import pytest
import verifiers.v1 as vf
from mending import DATASET, INSTANCE_ID, MEND
from procs import ends, marked_sleep, starts
from verifiers.v1.agent import Agent
from verifiers.v1.configs.agent import AgentConfig
from verifiers.v1.errors import SandboxError
from verifiers.v1.harnesses.null.harness import NullHarness
from verifiers.v1.runtimes import SubprocessConfig
from verifiers.v1.task import Task, TaskData
from verifiers.v1.trace import WireTrace

from imgforge_sandbox import InvalidRequest
from imgforge_sandbox.verifiers import ImgforgeConfig, ImgforgeRuntime, provision

INSTANCE = ImgforgeConfig(dataset=DATASET, instance_id=INSTANCE_ID)


class Runs(NullHarness):
    """Runs a command instead of asking a model."""

    command = ""

    async def setup(self, runtime: Any) -> None:
        pass

    async def launch(self, ctx: Any, trace: Any, runtime: Any, *rest: Any, **named: Any) -> Any:
        return await runtime.run_program(["sh", "-c", self.command], {})


class Graded(Task[TaskData]):
    """Graded in a fresh container. No verdict is an error of the task, and no reward."""

    @vf.reward(weight=1.0)  # type: ignore[untyped-decorator]
    async def graded(self, runtime: Any) -> float:
        reward: float = (await runtime.session.grade()).reward
        return reward


def rollout(command: str, config: ImgforgeConfig = INSTANCE) -> Any:
    async def run() -> Any:
        agent = Agent(AgentConfig(model="none", runtime=SubprocessConfig(), harness={"id": "null"}))
        agent.harness = Runs(agent.config.harness)
        agent.harness.command = command
        async with provision(config) as runtime:
            return await agent.run(Graded(TaskData(idx=0, prompt="mend it")), runtime=runtime)

    return asyncio.run(run())


@pytest.mark.filterwarnings("error")
def test_rollouts(binary: str) -> None:
    trace = rollout(MEND)
    assert (trace.ok, trace.reward, trace.errors) == (True, 1.0, [])
    again = WireTrace.model_validate(trace.to_record())
    assert again.agent.runtime.id == trace.agent.runtime.id
    assert "checkout" in again.agent.runtime.image
    trace = rollout("true")
    assert (trace.ok, trace.reward) == (True, 0.0)


def test_a_grade_without_a_verdict_is_no_reward(binary: str) -> None:
    trace = rollout("true", ImgforgeConfig(image="python:3.11.10-slim-bookworm"))
    assert not trace.ok
    assert trace.rewards == {"graded": None}
    (error,) = trace.errors
    assert error.type == "TaskError", error


def test_a_session_that_ends_is_an_error_of_the_sandbox(binary: str) -> None:
    trace = rollout("sleep 60", INSTANCE.model_copy(update={"ttl": 2.0}))
    assert not trace.ok
    assert [error.type for error in trace.errors][:1] == ["SandboxError"], trace.errors


def use(
    config: ImgforgeConfig, work: Callable[[ImgforgeRuntime], Coroutine[Any, Any, None]]
) -> None:
    async def run() -> None:
        async with provision(config, env={"TASK": "task"}) as runtime:
            await work(runtime)
        assert not await runtime.alive()
        await runtime.stop()
        with pytest.raises(SandboxError):
            await runtime.run(["true"], {})

    asyncio.run(run())


def test_commands_and_files(binary: str) -> None:
    command, mark = marked_sleep()

    async def work(box: ImgforgeRuntime) -> None:
        assert await box.alive()
        told = await box.run(["sh", "-c", "pwd; echo $TASK $A; echo err >&2; exit 3"], {"A": "b"})
        assert (told.exit_code, told.stdout, told.stderr) == (3, "/made/here\ntask b\n", "err\n")
        told = await box.run(["no-such-program"], {})
        assert told.exit_code == 127
        assert "no-such-program" in told.stderr

        data = bytes(range(256)) * 5000
        await box.write("a/b c.bin", data)
        assert await box.read("/made/here/a/b c.bin") == data
        assert await box.read("a/b c.bin", max_bytes=len(data)) == data
        with pytest.raises(SandboxError, match="limit"):
            await box.read("a/b c.bin", max_bytes=len(data) - 1)
        for missing in (box.read("none"), box.read("none", max_bytes=5)):
            with pytest.raises(SandboxError, match="none"):
                await missing
        with pytest.raises(SandboxError, match="passwd"):
            await box.write("/etc/passwd/x", b"x")

        nobody = box.with_user("nobody", home="/tmp")
        told = await nobody.run(["sh", "-c", "id -un; echo $HOME"], {})
        assert told.stdout == "nobody\n/tmp\n"
        await nobody.write("/tmp/mine", b"x")
        assert (await box.run(["stat", "-c", "%U", "/tmp/mine"], {})).stdout == "nobody\n"
        with pytest.raises(SandboxError, match="ermission"):
            await nobody.write("/etc/not-mine", b"x")

        task = asyncio.ensure_future(box.run(["sh", "-c", f"{command} & {command}"], {}))
        assert await asyncio.to_thread(starts, mark)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(ends, mark)

    use(INSTANCE.model_copy(update={"workdir": "/made/here", "memory": 1.0}), work)


def test_processes_and_servers(binary: str) -> None:
    command, mark = marked_sleep()

    async def work(box: ImgforgeRuntime) -> None:
        assert box.supports_live_processes
        process = await box.open_process(
            ["sh", "-c", "read line; echo got $line $A; echo err >&2; exit 5"], {"A": "b"}
        )
        assert await process.poll() is None
        await process.write(b"hello\n")
        out = b"".join([piece async for piece in process.stdout])
        err = b"".join([piece async for piece in process.stderr])
        assert (out, err) == (b"got hello b\n", b"err\n")
        assert (await process.wait(), await process.poll()) == (5, 5)
        await process.kill()

        for end, code in (("terminate", 143), ("kill", 137)):
            process = await box.open_process(["sh", "-c", f"exec {command}"], {})
            assert await asyncio.to_thread(starts, mark)
            await getattr(process, end)()
            assert await process.wait() == code
            assert await asyncio.to_thread(ends, mark)

        port = box.published_port
        assert port is not None
        await box.write("/tmp/www/index.html", b"served")
        await box.run_background(
            ["python3", "-m", "http.server", str(port), "-d", "/tmp/www"], {}, "/tmp/log"
        )
        url = await box.expose(port)

        def fetch() -> bytes:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url) as answer:
                content: bytes = answer.read()
                return content

        for _ in range(100):
            try:
                assert await asyncio.to_thread(fetch) == b"served"
                return
            except OSError:
                await asyncio.sleep(0.1)
        raise AssertionError((await box.run(["cat", "/tmp/log"], {})).stdout)

    use(INSTANCE, work)


def test_configurations_that_are_none() -> None:
    with pytest.raises(InvalidRequest, match="none of them"):
        ImgforgeRuntime(ImgforgeConfig())
    with pytest.raises(ValueError, match="imagee"):
        ImgforgeConfig(imagee="a")
