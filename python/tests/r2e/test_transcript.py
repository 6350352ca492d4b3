"""R2E-Gym itself on imgforge's Docker API, and this package in exact mode: the same actions.

R2E-Gym runs in another process, with docker-py. What comes of each action is equal, but for the
corrections that `CORRECTED` names: each of them has to differ, and nothing else may.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator, Set

import pytest

from imgforge_sandbox import Client
from imgforge_sandbox.r2e import Action, EnvArgs, RepoEnv
from imgforge_sandbox.r2e._compat import Compat
from r2e import images, transcript
from r2e.r2e_gym import R2EGym

CORRECTED: Dict[str, str] = {
    "run nowhere": "a directory that is not there is said in the engine's own words",
    "copy nowhere": "it is NoSuchPath, and not an exception of docker-py",
    "create file": "it returns a pair, as it is declared",
    "read file": "it can be called",
    "patches left": "a patch is not left in the container",
    "soft reset before": "it is a ValueError that says what to do",
    "reward of tests that do not end": "it is no reward of 0",
}
FIRST: Dict[str, str] = {
    "an action that is not allowed": "the first release has an UnboundLocalError",
}
WHOLE = "the whole text is one for bash, and the limit is for all of it"
FIXED: Dict[str, str] = {
    "an action that is not allowed": "the agent is told why",
    "no action": "a code is a text",
    "patch": "the tests are not in the repository",
    "commit": "the tests are not in the repository",
    "checkout": "the tests are not in the repository",
    "apply nothing": "an empty patch does nothing",
    "demux too long": "it is told as `run` tells it",
    "run cd /tmp && pwd": WHOLE,
    "run source /dev/null": WHOLE,
    "run sh -c 'exit 124'": "124 is an exit code like others",
    "run sh -c 'kill -9 $$'": "bash says nothing of it",
    "run nothing-of-this-name": "bash says it in its own words",
    "run echo 'a": "bash says it in its own words",
    "demux cd /tmp && pwd": WHOLE,
    "demux echo out; sleep 0.5; echo err >&2": WHOLE,
    "demux source /dev/null": WHOLE,
    "demux true && cd /usr && pwd": WHOLE,
    "demux nothing-of-this-name": "bash says it in its own words",
    "demux echo $PATH": WHOLE,
    "demux echo 'a": WHOLE,
}


@pytest.fixture
def image(client: Client, r2e_image: str) -> Iterator[str]:
    """The image of R2E with chardet, which R2E-Gym's tools need, of this interpreter."""
    pytest.importorskip("chardet", reason="needs chardet, for R2E-Gym's tools")
    pytest.importorskip("docker", reason="needs docker-py, for R2E-Gym")
    distribution = importlib.metadata.distribution("chardet")
    with client.start(image=r2e_image) as session:
        found = session.run(
            [f"{images.ENVIRONMENT}/bin/python", "-c", "import pytest; print(pytest.__file__)"]
        )
        packages = str(Path(found.text.strip()).parent.parent)
        # All of it: what is compiled may lie beside the package.
        tops = {file.parts[0] for file in distribution.files or ()}
        for name in sorted(tops - {"..", "__pycache__"}):
            place = Path(str(distribution.locate_file(name)))
            session.put(place, f"{packages}/{name}", owner=(0, 0))
        made = session.checkpoint()
    yield made.image
    client.remove_checkpoint(made)


@pytest.fixture
def docker_host(client: Client, tmp_path: Path) -> Iterator[str]:
    """A server of the Docker API, on the state directory of the client."""
    url = f"unix://{tmp_path}/docker.sock"
    server = subprocess.Popen(
        [os.environ["IMGFORGE_BIN"], "serve", "--docker-api", url],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 60
        while not answers(tmp_path / "docker.sock"):
            assert server.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        yield url
    finally:
        server.terminate()
        server.wait(30)


def answers(path: Path) -> bool:
    """Tells whether somebody listens: the file may be there before."""
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(str(path)) == 0


def test_the_same_actions(
    theirs: R2EGym, client: Client, image: str, docker_host: str, tmp_path: Path
) -> None:
    row: Dict[str, Any] = images.r2e_row(image)
    (tmp_path / "row.json").write_text(json.dumps(row))
    # The first release starts `docker exec` beside docker-py, and does not use it.
    (tmp_path / "docker").write_text("#!/bin/sh\nexec sleep 600\n")
    (tmp_path / "docker").chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "r2e.transcript", str(tmp_path / "row.json")],
        env={
            **os.environ,
            "DOCKER_HOST": docker_host,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            # The packages of this test are found as here, and before those of R2E-Gym: the fork has
            # an `r2e` too.
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
        },
        stdout=subprocess.PIPE,
        timeout=280,
    )
    assert done.returncode == 0
    their = json.loads(done.stdout.decode().splitlines()[-1])

    exact = ours(client, row, theirs.tools, tmp_path, "exact")
    assert len(exact) > 80
    assert exact["reward before"] == ["returned", 0.0]
    assert exact["reward after"] == ["returned", 1.0]
    named = {**CORRECTED, **(FIRST if theirs.is_first else {})}
    assert different(their, exact) == {name for name in named if name in their}

    fixed = ours(client, row, theirs.tools, tmp_path, "fixed")
    assert different(their, fixed) == {name for name in {**named, **FIXED} if name in their}


def ours(
    client: Client, row: Dict[str, Any], tools: Path, tmp_path: Path, compat: Compat
) -> Dict[str, Any]:
    with RepoEnv(EnvArgs(row), client=client, compat=compat) as env:
        told = transcript.play(
            env, lambda text: Action.from_string(text, compat=compat), tools, tmp_path
        )
    # As JSON has them: tuples are lists.
    found: Dict[str, Any] = json.loads(json.dumps(told))
    return found


def different(their: Dict[str, Any], ours: Dict[str, Any]) -> Set[str]:
    """The names of what differs; it is printed, for who has to read it."""
    names = {name for name, told in their.items() if ours[name] != told}
    for name in sorted(names):
        print(name, "\n  theirs", their[name], "\n  ours  ", ours[name])
    return names
