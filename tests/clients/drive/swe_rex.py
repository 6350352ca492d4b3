"""SWE-ReX: a deployment in Docker, a shell in it, files, a time limit; then its own tests of that."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from swerex.deployment.docker import DockerDeployment
from swerex.exceptions import CommandTimeoutError
from swerex.runtime.abstract import (
    BashAction, BashInterruptAction, Command, CreateBashSessionRequest, ReadFileRequest, UploadRequest,
    WriteFileRequest)


async def use_deployment() -> None:
    deployment = DockerDeployment(image=os.environ["CLIENTS_IMAGE"], pull="never",
                                  startup_timeout=60)
    await deployment.start()
    try:
        runtime = deployment.runtime
        await runtime.create_session(CreateBashSessionRequest())
        await runtime.run_in_session(BashAction(command="cd /testbed && export X=1"))
        told = await runtime.run_in_session(BashAction(command="pwd; echo $X; false", check="silent"))
        assert told.exit_code == 1 and told.output.split() == ["/testbed", "1"], told

        told = await runtime.execute(Command(command=["git", "status", "-sb"], cwd="/testbed"))
        assert told.stdout.startswith("## main"), told
        await runtime.write_file(WriteFileRequest(path="/tmp/a.txt", content="one\r\n✓"))
        told = await runtime.read_file(ReadFileRequest(path="/tmp/a.txt"))
        assert told.content.split() == ["one", "✓"], told
        Path("up").mkdir()
        Path("up/file.txt").write_text("up")
        await runtime.upload(UploadRequest(source_path="up", target_path="/tmp/up"))
        told = await runtime.execute(Command(command=["cat", "/tmp/up/file.txt"]))
        assert told.stdout == "up", told

        try:
            await runtime.run_in_session(BashAction(command="sleep 60", timeout=1))
            raise AssertionError("sleep 60 ended within a second")
        except CommandTimeoutError:
            await runtime.run_in_session(BashInterruptAction())
        told = await runtime.run_in_session(BashAction(command="echo alive"))
        assert "alive" in told.output, told
    finally:
        await deployment.stop()


asyncio.run(use_deployment())
suite = Path(os.environ["CLIENTS_CACHE"]) / "suites" / "swe-rex" / "tests" / "test_docker_deployment.py"
# Those that are slow pull an image or compile a Python.
own = subprocess.run(
    [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto",
     "-m", "not slow", "-W", "ignore", suite], stdout=subprocess.PIPE, text=True)
print(own.stdout)
print(f"result: shell, files and limits work; its own tests: {own.stdout.strip().splitlines()[-1]}")
sys.exit(own.returncode)
