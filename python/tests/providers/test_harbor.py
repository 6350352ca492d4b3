"""Harbor: its own command with its oracle, and our environment by itself."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Callable

import pytest
from harbor.environments.factory import EnvironmentFactory
from harbor.models.task.config import EnvironmentConfig, NetworkMode, NetworkPolicy
from harbor.models.trial.paths import TrialPaths
from mending import DATASET, INSTANCE_ID, MEND, PROOF
from procs import ends, marked_sleep, running

from imgforge_sandbox import Client, SessionEnded
from imgforge_sandbox.harbor import ImgforgeEnvironment

IMPORT_PATH = "imgforge_sandbox.harbor:ImgforgeEnvironment"
IMAGE = "python:3.11.10-slim-bookworm"

TASK = """
schema_version = "1.4"

[task]
name = "imgforge/mend"

[verifier]
timeout_sec = 120.0
environment_mode = "shared"

[agent]
timeout_sec = 120.0

[environment]
network_mode = "{network}"
build_timeout_sec = 120.0
workdir = "/testbed"
cpus = 1
memory_mb = 1024
"""


SEPARATE = """
docker_image = "{agent_image}"

[verifier.environment]
docker_image = "{image}"
network_mode = "no-network"
"""

SEPARATE_TEST = """#!/bin/bash
mkdir -p /logs/verifier
if [ ! -e /root/of-the-agent ] && [ "$(cat /logs/artifacts/answer)" = 42 ]
then echo 1; else echo 0; fi >/logs/verifier/reward.txt
"""


def task(directory: Path, network: str = "no-network") -> Path:
    """Writes a task whose oracle mends the instance of the tests."""
    files = {
        "task.toml": TASK.format(network=network),
        "instruction.md": "Mend it.\n",
        "solution/solve.sh": f"#!/bin/bash\n{MEND}\n",
        "tests/test.sh": f"#!/bin/bash\nmkdir -p /logs/verifier\n({PROOF}) && echo 1 "
        ">/logs/verifier/reward.txt || echo 0 >/logs/verifier/reward.txt\n",
    }
    for name, text in files.items():
        path = directory / "task" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (directory / "task" / "environment").mkdir()
    return directory / "task"


def harbor(directory: Path, agent: str, *options: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "harbor"
    words = [program, "run", "-p", directory, "-a", agent, "-e", IMPORT_PATH, "--jobs-dir"]
    words += [directory.parent / "jobs", "--job-name", "job", "-y", *options]
    environ = {**os.environ, "HOME": str(directory.parent), "HARBOR_TELEMETRY": "0"}
    return subprocess.run(
        list(map(str, words)), capture_output=True, text=True, env=environ, check=False
    )


FROM_INSTANCE = ("--ek", f"dataset={DATASET}", "--ek", f"instance_id={INSTANCE_ID}")


@pytest.mark.parametrize(
    ("agent", "mounting", "reward"),
    [("oracle", (), "1"), ("oracle", ("--ek", "auto_mounting=true"), "1"), ("nop", (), "0")],
    ids=["copied", "bound", "nothing"],
)
def test_a_job(
    binary: str, tmp_path: Path, agent: str, mounting: tuple[str, ...], reward: str
) -> None:
    ran = harbor(task(tmp_path), agent, *FROM_INSTANCE, *mounting)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (told,) = (tmp_path / "jobs" / "job").glob("*/verifier/reward.txt")
    assert told.read_text().strip() == reward, ran.stdout


def test_a_verifier_of_its_own(binary: str, tmp_path: Path) -> None:
    """The image of the verifier has the tests; nothing of the agent gets there but artifacts."""
    with Client(binary) as client, client.start(image=IMAGE) as session:
        session.write("/tests/test.sh", SEPARATE_TEST, mode=0o755)
        checkpoint = session.checkpoint()
        try:
            directory = task(tmp_path)
            described = (directory / "task.toml").read_text()
            (directory / "task.toml").write_text(
                described.replace('"shared"', '"separate"')
                + SEPARATE.format(image=checkpoint.image, agent_image=IMAGE)
            )
            (directory / "solution" / "solve.sh").write_text(
                "#!/bin/bash\necho 42 >/logs/artifacts/answer; echo secret >/root/of-the-agent\n"
            )
            ran = harbor(directory, "oracle")
        finally:
            client.remove_checkpoint(checkpoint)
    (told,) = (tmp_path / "jobs" / "job").glob("*/verifier/reward.txt")
    assert told.read_text().strip() == "1", ran.stdout


def test_a_public_network_has_to_be_chosen(binary: str, tmp_path: Path) -> None:
    directory = task(tmp_path, network="public")
    ran = harbor(directory, "oracle", *FROM_INSTANCE)
    assert not list((tmp_path / "jobs").glob("**/reward.txt"))
    (said,) = (tmp_path / "jobs" / "job").glob("*/exception.txt")
    assert "public_network=none" in said.read_text(), ran.stdout
    ran = harbor(
        directory, "oracle", *FROM_INSTANCE, "--ek", "public_network=none", "--job-name", "2"
    )
    (told,) = (tmp_path / "jobs" / "2").glob("*/verifier/reward.txt")
    assert told.read_text().strip() == "1", ran.stdout


def made(directory: Path, **kwargs: Any) -> ImgforgeEnvironment:
    (directory / "environment").mkdir(exist_ok=True)
    paths = TrialPaths(trial_dir=directory / "trial")
    paths.mkdir()
    policy = NetworkPolicy(network_mode=NetworkMode.NO_NETWORK)
    config = EnvironmentConfig(docker_image=IMAGE, workdir="/tmp", env={"GREETING": "hello"})
    environment = EnvironmentFactory.create_environment_from_import_path(
        IMPORT_PATH,
        environment_dir=directory / "environment",
        environment_name="mend",
        session_id="mend__env",
        trial_paths=paths,
        task_env_config=kwargs.pop("task_env_config", config),
        logger=logging.getLogger("test"),
        **{"network_policy": policy, **kwargs},
    )
    assert isinstance(environment, ImgforgeEnvironment)
    return environment


def use(
    environment: ImgforgeEnvironment,
    work: Callable[[ImgforgeEnvironment], Coroutine[Any, Any, None]],
) -> None:
    async def run() -> None:
        await environment.start(force_build=False)
        try:
            await work(environment)
        finally:
            await environment.stop(delete=True)
            await environment.stop(delete=True)

    asyncio.run(run())


def test_commands(binary: str, tmp_path: Path) -> None:
    command, mark = marked_sleep()

    async def work(box: ImgforgeEnvironment) -> None:
        told = await box.exec("echo $GREETING $B; pwd; echo err >&2; exit 7", env={"B": "b"})
        assert told.model_dump() == {
            "stdout": "hello b\n/tmp\n",
            "stderr": "err\n",
            "return_code": 7,
        }
        assert (await box.exec("pwd; id -u", cwd="/", user=65534)).stdout == "/\n65534\n"
        with box.with_default_user("nobody"):
            assert (await box.exec("id -un")).stdout == "nobody\n"
        told = await box.exec("true", user="no-such-user")
        assert told.return_code == 126
        assert "no-such-user" in str(told.stderr)
        with pytest.raises(RuntimeError, match="timed out after 1 seconds"):
            await box.exec(f"setsid {command} & {command}", timeout_sec=1)
        assert await asyncio.to_thread(ends, mark)

        pieces: list[tuple[str, str]] = []

        async def take(text: str, stream: str) -> None:
            pieces.append((stream, text))

        with box.scoped_output_callback(take):
            told = await box.exec(r"printf 'a\342\234'; sleep 0.2; printf '\223b'; echo err >&2")
        assert told.stdout == "a\u2713b"
        assert "".join(text for stream, text in pieces if stream == "stdout") == "a\u2713b"
        assert "".join(text for stream, text in pieces if stream == "stderr") == "err\n"

    use(made(tmp_path), work)
    assert running(mark) == []


def test_files(binary: str, tmp_path: Path) -> None:
    up = tmp_path / "up"
    (up / "sub").mkdir(parents=True)
    (up / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (up / "run.sh").chmod(0o755)
    (up / "sub" / "data").write_bytes(bytes(range(256)))

    async def work(box: ImgforgeEnvironment) -> None:
        await box.exec("mkdir -p /tmp/there; echo old >/tmp/there/old")
        await box.upload_dir(up, "/tmp/there")
        await box.upload_file(up / "run.sh", "/tmp/new/dir/run.sh")
        with pytest.raises(IsADirectoryError):
            await box.upload_file(up / "run.sh", "/tmp/there")
        told = await box.exec(
            "./there/run.sh; new/dir/run.sh; cat there/old; stat -c %u there/run.sh"
        )
        assert told.stdout == "ran\nran\nold\n0\n"
        assert await box.is_dir("/tmp/there")
        assert await box.is_file("/tmp/there/old")
        await box.exec("ln -s /etc/passwd there/out; ln -s old there/in; : >there/empty")
        down = tmp_path / "down"
        down.mkdir()
        (down / "kept").write_text("kept")
        await box.download_dir("/tmp/there", down)
        names = {path.name for path in down.iterdir()}
        assert names == {"kept", "old", "run.sh", "sub", "in", "empty"}
        assert (down / "in").read_text() == "old\n"
        assert (down / "sub" / "data").read_bytes() == bytes(range(256))
        await box.download_file("/tmp/there/sub/data", tmp_path / "a" / "b")
        assert (tmp_path / "a" / "b").read_bytes() == bytes(range(256))
        await box.download_dir_with_exclusions(
            source_dir="/tmp/there", target_dir=tmp_path / "less", exclude=["sub", "out"]
        )
        assert (tmp_path / "less" / "old").read_text() == "old\n"
        assert not (tmp_path / "less" / "sub").exists()
        await box.upload_dir(tmp_path / "less", "/")
        assert (await box.exec("cat /old; ls -d /etc")).stdout == "old\n/etc\n"

    use(made(tmp_path), work)


def test_networks(binary: str, tmp_path: Path) -> None:
    some = NetworkPolicy(network_mode=NetworkMode.ALLOWLIST, allowed_hosts=["example.org"])
    none = NetworkPolicy(network_mode=NetworkMode.NO_NETWORK)

    async def work(box: ImgforgeEnvironment) -> None:
        assert (await box.session.network()).allowed == []
        await box.set_network_policy(some)
        assert (await box.session.network()).allowed == ["example.org"]
        await box.set_network_policy(none)
        assert (await box.session.network()).allowed == []

    use(made(tmp_path, phase_network_policies=[some]), work)
    addresses = NetworkPolicy(network_mode=NetworkMode.ALLOWLIST, allowed_hosts=["192.0.2.1"])
    with pytest.raises(ValueError, match="IPv4"):
        made(tmp_path, network_policy=addresses)


def test_a_session_that_ends_is_no_result(binary: str, tmp_path: Path) -> None:
    async def work(box: ImgforgeEnvironment) -> None:
        with pytest.raises(SessionEnded):
            await box.exec("sleep 60")

    use(made(tmp_path, ttl=2), work)


def test_what_cannot_be_done_is_refused(tmp_path: Path) -> None:
    (tmp_path / "environment").mkdir()
    (tmp_path / "environment" / "Dockerfile").write_text("FROM scratch\n")
    with pytest.raises(Exception, match="do not build"):
        made(tmp_path, task_env_config=EnvironmentConfig())
    with pytest.raises(ValueError, match="imagee"):
        made(tmp_path, imagee="a")
    with pytest.raises(RuntimeError, match="GPU"):
        made(tmp_path, task_env_config=EnvironmentConfig(docker_image=IMAGE, gpus=1))
