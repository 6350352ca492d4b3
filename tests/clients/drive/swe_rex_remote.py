"""SWE-ReX without its server: a RemoteDeployment on a session of imgforge; then SWE-ReX's own tests.

expected/swe-rex-remote.txt says which of them cannot pass, and why.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from suite import expectations, judge
from swerex.deployment.remote import RemoteDeployment
from swerex.exceptions import CommandTimeoutError
from swerex.runtime.abstract import (
    BashAction, BashInterruptAction, Command, CreateBashSessionRequest, ReadFileRequest, UploadRequest,
    WriteFileRequest)

place = os.environ["CLIENTS_PLACE"]
program = [os.environ["CLIENTS_IMGFORGE"], "--engine", "docker" if place == "docker" else "embedded",
           "--state-dir", os.environ["CLIENTS_STATE"]]
# Some of the tests look at files of the server as if they were theirs: they have this directory together.
shared = Path("shared").resolve()
shared.mkdir()


def imgforge(*words: str) -> str:
    return subprocess.run([*program, *words], check=True, stdout=subprocess.PIPE, text=True).stdout


async def use_deployment(values: dict) -> None:
    deployment = RemoteDeployment(**values)
    await deployment.start()
    runtime = deployment.runtime
    await runtime.create_session(
        CreateBashSessionRequest(startup_source=["/root/.bashrc"], startup_timeout=10))
    await runtime.run_in_session(BashAction(command="cd /testbed && export X=1"))
    told = await runtime.run_in_session(BashAction(command="pwd; echo $X; false", check="silent"))
    assert told.exit_code == 1 and told.output.split() == ["/testbed", "1"], told
    told = await runtime.execute(Command(command=["git", "status", "-sb"], cwd="/testbed"))
    assert told.stdout.startswith("## main"), told
    await runtime.write_file(WriteFileRequest(path="/tmp/a.txt", content="one\r\n✓"))
    told = await runtime.read_file(ReadFileRequest(path="/tmp/a.txt"))
    assert told.content == "one\r\n✓", told
    Path("up").mkdir()
    Path("up/file.txt").write_text("up")
    await runtime.upload(UploadRequest(source_path="up", target_path="/tmp/up"))
    told = await runtime.execute(Command(command=["cat", "/tmp/up/file.txt"]))
    assert told.stdout == "up", told
    try:
        await runtime.run_in_session(BashAction(command="sleep 60; touch /tmp/over", timeout=1))
        raise AssertionError("sleep 60 ended within a second")
    except CommandTimeoutError:
        await runtime.run_in_session(BashInterruptAction())
    told = await runtime.run_in_session(BashAction(command="echo alive; ls /tmp/over", check="silent"))
    assert told.output.startswith("alive\n") and told.exit_code == 2, told
    await deployment.stop()


def own_tests(values: dict) -> tuple[str, bool]:
    package = Path("suite/tests")
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    source = Path(os.environ["CLIENTS_CACHE"]) / "suites" / "swe-rex" / "tests"
    names = [f"test_{name}.py" for name in ("execution", "runtime", "server", "remote_deployment")]
    for name in names:
        shutil.copy(source / name, package)
    shutil.copy(Path(os.environ["CLIENTS"]) / "drive" / "swe_rex" / "conftest.py", package)
    port = values["host"].removeprefix("http://127.0.0.1:").partition("/")[0]
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto",
         "-W", "ignore", "--tb", "short", "--basetemp", shared / "pytest", "--junitxml",
         os.path.abspath("results.xml"), *(f"tests/{name}" for name in names)],
        cwd="suite", env=os.environ | {"SWEREX_KEY": values["auth_token"], "SWEREX_PORT": port})
    return judge(Path("results.xml"), "tests", expectations("swe-rex-remote", place)[1])


started = json.loads(imgforge(
    "session", "start", "--image", os.environ["CLIENTS_IMAGE"], "--swerex", "--ttl", "30m", "--bind",
    f"{shared}:{shared}", "--json"))
try:
    asyncio.run(use_deployment(started["swerex"]))
    result, is_good = own_tests(started["swerex"])
finally:
    imgforge("session", "stop", started["id"])
    imgforge("serve", "stop", "--swerex")
print(f"result: shell, files and limits work; its own tests: {result}")
sys.exit(0 if is_good else 1)
