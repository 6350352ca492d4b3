"""The engine under test, and the images that the clients find there."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from install import HERE, cache, digest, run, say

BASE = "python:3.11.10-slim-bookworm"
TASK = "imgforge-clients/task:1"
# The names under which clients' own tests look for an image.
OTHER_NAMES = ["alpine:3.10", "alpine:latest", "busybox:latest",
               "swe-rex-test:latest"]
MAKER = "imgforge-clients-maker"
# What a container needs to reach what this machine reaches.
PROXIES = ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
           "PIP_INDEX_URL"]
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def bound() -> list[str]:
    """Returns what containers of OpenHands have of this machine: its environment, and its Python."""
    told = cache() / "venv" / "openhands" / "pyvenv.cfg"
    if not told.exists():
        return []
    homes = [line.partition("=")[2].strip() for line in told.read_text().splitlines()
             if line.startswith("home")]
    return [str(told.parent), *(str(Path(home).resolve().parent) for home in homes)]


class Engine:
    """A Docker Engine API that answers: dockerd's, or imgforge's."""

    def __init__(self, kind: str, program: str, state: Path, work: Path) -> None:
        self.kind = kind
        self.program = program
        self.state = state
        self.work = work
        self.server: subprocess.Popen | None = None
        self.environment = {name: value for name, value in os.environ.items()
                            if not name.startswith(("DOCKER_", "IMGFORGE_"))}
        self.environment |= {"DOCKER_CONFIG": str(work / "docker-config")}

    def imgforge(self, *words: str) -> None:
        """Runs imgforge on the images of this engine."""
        kind = "docker" if self.kind == "docker" else "embedded"
        run(self.program, "--engine", kind, "--state-dir", self.state, *words, cwd=self.work,
            env=self.environment)

    def docker(self, *words: str, **options: object) -> subprocess.CompletedProcess:
        return subprocess.run(["docker", *words], env=self.environment, capture_output=True,
                              text=True, **options)

    def __enter__(self) -> "Engine":
        self.state.mkdir(parents=True, exist_ok=True)
        if self.kind == "docker":
            # As Docker's own client does.
            if host := os.environ.get("DOCKER_HOST"):
                self.environment["DOCKER_HOST"] = host
            return self
        socket = self.work / "docker.sock"
        self.environment["DOCKER_HOST"] = f"unix://{socket}"
        self.log = open(self.work / "serve.log", "w")
        binds = [word for place in ["/tmp", *bound()] for word in ("--allow-bind", place)]
        self.server = subprocess.Popen(
            [self.program, "--engine", "embedded", "--state-dir", self.state, "serve",
             "--docker-api", f"unix://{socket}", "--with-pid", str(os.getpid()),
             *binds],
            env=self.environment, cwd=self.work, stdout=self.log, stderr=self.log)
        for _ in range(600):
            if self.docker("version").returncode == 0:
                return self
            if self.server.poll() is not None:
                break
            time.sleep(0.1)
        raise SystemExit(f"error: imgforge serve does not answer\n\n"
                         f"{(self.work / 'serve.log').read_text()}")

    def __exit__(self, *_: object) -> None:
        if self.server:
            self.server.terminate()
            self.server.wait(60)
            self.log.close()

    def version(self) -> str:
        told = self.docker("version", "--format", "{{.Server.Version}}").stdout.strip()
        if self.kind == "docker":
            return f"Docker {told}"
        mine = subprocess.run([self.program, "--version"], capture_output=True, text=True).stdout
        return f"{mine.strip()}, as Docker {told}"

    def has(self, image: str) -> bool:
        return self.docker("image", "inspect", image).returncode == 0

    def make_images(self) -> None:
        """Makes the image of the clients, by what every engine can: run, cp, exec, commit."""
        recipe = [*(HERE / "image").iterdir(), HERE / "requirements" / "swe-rex.txt"]
        wanted = digest(*recipe)
        label = '{{index .Config.Labels "imgforge.clients"}}'
        if self.docker("image", "inspect", "-f", label, TASK).stdout.strip() != wanted:
            self.make_task_image(recipe, wanted)
        for name in OTHER_NAMES:
            run("docker", "tag", TASK, name, env=self.environment)

    def make_task_image(self, recipe: list[Path], wanted: str) -> None:
        if not self.has(BASE):
            say(f"making {BASE} of Debian's packages")
            self.imgforge("base", "bootstrap", BASE)
        say(f"making {TASK}")
        folder = self.work / "image"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for file in recipe:
            shutil.copy(file, folder)
        (folder / "swe-rex.txt").rename(folder / "requirements.txt")
        if CERTIFICATES.exists():
            shutil.copy(CERTIFICATES, folder / "certificates.pem")
        passed = [word for name in PROXIES if name in os.environ for word in ("-e", name)]
        self.docker("rm", "-f", MAKER)
        try:
            # The image has the settings of the container: bash, which waits for its open input.
            for words in (["run", "-d", "-i", "--name", MAKER, "--network", "host", *passed,
                           "-w", "/testbed", "--label", f"imgforge.clients={wanted}", BASE, "bash"],
                          ["cp", f"{folder}/.", f"{MAKER}:/tmp/image"],
                          ["exec", MAKER, "/tmp/image/make"],
                          ["commit", MAKER, TASK]):
                run("docker", *words, env=self.environment, stdout=subprocess.DEVNULL)
        finally:
            self.docker("rm", "-f", MAKER)

    def left(self) -> list[str]:
        """Returns the names of the containers that there are."""
        told = self.docker("ps", "-a", "--format", "{{json .}}").stdout
        return sorted(json.loads(line)["Names"] for line in told.splitlines())
