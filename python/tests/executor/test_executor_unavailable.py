"""Where there is no sandbox nothing is run, least of all on this host."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Callable

import pytest
from executor_boxes import ROOT, executor, image_of, repository

from imgforge_sandbox import Client, InfraError, NoSuchImage
from imgforge_sandbox.executor import SandboxExecutor, SandboxUnavailable


def attempt(box: SandboxExecutor, path: Path) -> str:
    """Does all that an executor can, and returns what is raised."""
    commit = repository(path / "repo", {"test_a.py": f"open({str(path / 'mark')!r}, 'w')\n"})
    with pytest.raises(SandboxUnavailable) as cloned:
        box.clone_repo(str(path / "repo"), commit)
    with pytest.raises(SandboxUnavailable):
        box.run(["python", "-c", f"open({str(path / 'mark')!r}, 'w')"])
    with pytest.raises(SandboxUnavailable):
        box.run_tests(["test_a.py"])
    with pytest.raises(SandboxUnavailable):
        box.apply_patch("--- a/x\n+++ b/x\n@@ -0,0 +1 @@\n+x\n")
    with pytest.raises(SandboxUnavailable), box.workspace({"instance_id": "a"}):
        pytest.fail("there is a workspace")
    assert not (path / "mark").exists()
    assert isinstance(cloned.value, InfraError)
    return str(cloned.value)


def test_no_program(tmp_path: Path) -> None:
    with SandboxExecutor(binary=str(tmp_path / "none")) as box:
        assert "hint: " in attempt(box, tmp_path)


def test_a_program_that_is_none(tmp_path: Path, program: Callable[[str], str]) -> None:
    with SandboxExecutor(binary=program("raise SystemExit('broken')")) as box:
        assert "no engine" in attempt(box, tmp_path)


def test_no_namespaces(client: Client, binary: str, tmp_path: Path) -> None:
    """Neither Docker nor a right to make namespaces: the embedded engine cannot run."""
    image = image_of(client)
    places = [tmp_path / "bin", *map(Path, ("/usr/bin", "/bin"))]
    (tmp_path / "bin").mkdir()
    script = tmp_path / "imgforge"
    unshare, setpriv = shutil.which("unshare"), shutil.which("setpriv")
    assert unshare is not None, "needs util-linux"
    assert setpriv is not None, "needs util-linux"
    script.write_text(
        "#!/bin/sh\n"
        f"exec {unshare} --user --map-root-user sh -c '\n"
        "echo 0 > /proc/sys/user/max_user_namespaces || exit 9\n"
        f'exec {setpriv} --bounding-set=-all --inh-caps=-all --no-new-privs "$@"\' sh '
        f'{binary} "$@"\n'
    )
    script.chmod(0o755)
    path = os.pathsep.join(map(str, places))
    for use_docker in (True, False):
        env = {"PATH": path, "DOCKER_HOST": f"unix://{tmp_path}/none.sock"}
        engine = None if use_docker else "embedded"
        try:
            no_docker = Client(str(script), engine=engine, env=env)
        except InfraError:
            # It says so at once.
            box = SandboxExecutor(image, use_docker=use_docker, binary=str(script))
            assert "no such namespaces" in attempt(box, tmp_path / str(use_docker))
            continue
        with no_docker, SandboxExecutor(image, client=no_docker, use_docker=use_docker) as box:
            (tmp_path / str(use_docker)).mkdir()
            assert "namespaces" in attempt(box, tmp_path / str(use_docker))


def test_limits_that_cannot_be_enforced(client: Client, tmp_path: Path) -> None:
    image = image_of(client)
    before = len(client.sessions())
    with SandboxExecutor(image, client=client, memory_limit="256m") as box:
        if ROOT:
            assert box.unenforced_limits == []
            return
        message = attempt(box, tmp_path)
    assert "the limit of memory is not enforced" in message
    assert "the limit of cpu is not enforced" in message
    assert "the limit of pids is not enforced" in message
    assert "unenforced=True" in message
    assert len(client.sessions()) == before
    with executor(client, image) as box:
        # What the engine says of the cause comes behind them.
        assert box.unenforced_limits[:3] == [
            "the limit of memory is not enforced",
            "the limit of cpu is not enforced",
            "the limit of pids is not enforced",
        ]
    # What was not asked for need not be enforced.
    with SandboxExecutor(
        image, client=client, memory_limit=None, cpu_limit=None, pids_limit=None
    ) as box:
        assert box.unenforced_limits == []


def test_no_image(client: Client) -> None:
    with executor(client, "no/such-image:latest") as box, pytest.raises(NoSuchImage):
        box.run("ls")
