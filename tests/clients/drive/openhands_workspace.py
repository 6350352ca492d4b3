"""OpenHands: its workspace in Docker runs commands and takes files, through its own agent server.

The server is in this machine's virtual environment, which containers see at the same place.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from openhands.workspace import DockerWorkspace

image, maker = "imgforge-clients/openhands:1", "openhands-maker"
environment = Path(sys.prefix)
python = Path(sys.base_prefix)
start = Path("agent-server")
start.write_text(f"#!/bin/sh\nexec {sys.executable} -m openhands.agent_server \"$@\"\n")
start.chmod(0o755)


def docker(*words: str) -> None:
    subprocess.run(["docker", *words], check=True, stdout=subprocess.DEVNULL)


docker("create", "--name", maker, "--entrypoint", "/agent-server", os.environ["CLIENTS_IMAGE"])
try:
    docker("cp", str(start), f"{maker}:/agent-server")
    docker("commit", maker, image)
finally:
    docker("rm", "-f", maker)

with DockerWorkspace(server_image=image, working_dir="/testbed", detach_logs=False,
                     volumes=[f"{path}:{path}:ro" for path in (environment, python)],
                     health_check_timeout=300) as workspace:
    told = workspace.execute_command("git status -sb; exit 3", cwd="/testbed")
    assert told.exit_code == 3 and told.stdout.startswith("## main"), told
    # Client and server each count the second. Where the server ends the command first, it says -1, and the
    # client does not call that a time-out.
    began = time.monotonic()
    told = workspace.execute_command("sleep 60", timeout=1)
    assert told.exit_code == -1 and time.monotonic() - began < 30, told
    Path("up.txt").write_text("up")
    assert workspace.file_upload("up.txt", "/testbed/up.txt").success
    assert workspace.file_download("/testbed/up.txt", "down.txt").success
    assert Path("down.txt").read_text() == "up"
    workspace.pause()
    workspace.resume()
    told = workspace.execute_command("echo alive")
    assert told.stdout.strip() == "alive", told
docker("rmi", "-f", image)
print("result: commands run, files go in and out, it pauses and resumes")
