"""What the clients need before they run: one virtual environment each, compose, docker-py's tests."""

import glob
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from clients import Client

HERE = Path(__file__).resolve().parent
UV = "uv==0.13.9"
# Compose 2 is in Debian 13. Its package is one static program, which runs on Debian 12 too.
COMPOSE = "2.26.1-4"
# The last source distribution of docker-py that has its integration tests in it.
DOCKER_PY_SUITE = "docker==7.0.0"
R2E_COMMIT = "69bc953542b428d1e4c8a59ce3ea1a32e50ef0f0"


def say(text: str) -> None:
    print(f"test-clients: {text}", file=sys.stderr, flush=True)


def run(*command: object, **options: object) -> None:
    """Runs a command that has to work."""
    subprocess.run([str(word) for word in command], check=True, **options)


def cache() -> Path:
    """Returns the directory of all that is installed."""
    return Path(os.environ["IMGFORGE_CLIENTS_CACHE"])


def requirements(name: str) -> Path:
    return HERE / "requirements" / f"{name}.txt"


def version(client: Client) -> str:
    """Returns the version that is asked for, of what comes from PyPI."""
    if client.name == "r2e-gym":
        return R2E_COMMIT[:7]
    for line in requirements(client.home).read_text().splitlines():
        if line.startswith(f"{client.distribution}=="):
            return line.split("==")[1]
    raise LookupError(client.name)


def why_left_out(client: Client) -> str:
    """Says why a client cannot be had here; nothing where it can."""
    if client.name == "r2e-gym" and not os.environ.get("IMGFORGE_CLIENTS_R2E"):
        return "not on PyPI: name its repository in IMGFORGE_CLIENTS_R2E"
    if requirements(client.home).exists() and not python_for(client):
        return f"needs Python {client.python[0]}.{client.python[1]}: name one in IMGFORGE_CLIENTS_PYTHON"
    return ""


def python_for(client: Client) -> str:
    """Returns the first Python of this machine that is new enough, and nothing where none is."""
    places = ["/usr/bin/python3", os.environ.get("IMGFORGE_CLIENTS_PYTHON", "")]
    places += [f"python3.{minor}" for minor in (11, 12, 13)]
    places += sorted(glob.glob(os.path.expanduser("~/.pyenv/versions/3.*/bin/python3")))
    for place in places:
        program = shutil.which(place) if place else None
        if not program:
            continue
        # A shim of pyenv is found, and says that there is no such version.
        told = subprocess.run([program, "-c", "import sys; print(*sys.version_info[:2])"],
                              capture_output=True, text=True)
        if told.returncode == 0 and tuple(map(int, told.stdout.split())) >= client.python:
            return program
    return ""


def digest(*paths: Path) -> str:
    """Returns a name for the content of files."""
    told = hashlib.sha256()
    for path in sorted(paths):
        told.update(path.name.encode() + b"\0" + path.read_bytes())
    return told.hexdigest()[:16]


def is_done(mark: Path, wanted: str) -> bool:
    return mark.exists() and mark.read_text() == wanted


def install_environment(client: Client) -> None:
    """Makes the client's virtual environment, unless it is there with these versions."""
    wanted = requirements(client.home)
    place = cache() / "venv" / client.home
    mark = place / "installed"
    if is_done(mark, digest(wanted)):
        return
    uv = cache() / "uv" / "bin" / "uv"
    if not uv.exists():
        say(f"installing {UV}")
        run(sys.executable, "-m", "venv", cache() / "uv")
        run(cache() / "uv" / "bin" / "pip", "-q", "install", UV)
    say(f"installing {client.home} {version(client)}")
    # Packages that several clients have are one file on the disk.
    environment = os.environ | {"UV_CACHE_DIR": str(cache() / "uv-cache")}
    run(uv, "venv", "-q", "--clear", "--python", python_for(client), place, env=environment)
    run(uv, "pip", "install", "-q", "--python", place / "bin" / "python", "-r", wanted,
        env=environment)
    mark.write_text(digest(wanted))


def install_suite(client: Client, wanted: str) -> None:
    """Takes the tests of a client out of a source distribution."""
    place = cache() / "suites" / client.home
    if is_done(place / "installed", wanted):
        return
    say(f"fetching the tests of {wanted}")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:",
        "--dest", place, wanted)
    source = next(place.glob("*.tar.gz"))
    with tarfile.open(source) as archive:
        for member in archive:
            path = member.name.partition("/")[2]
            if member.isfile() and path.startswith("tests/") and ".." not in path.split("/"):
                (place / path).parent.mkdir(parents=True, exist_ok=True)
                (place / path).write_bytes(archive.extractfile(member).read())
    source.unlink()
    (place / "installed").write_text(wanted)


def install_compose() -> None:
    """Brings compose 2, as a plugin of the docker command."""
    plugin = cache() / "docker-config" / "cli-plugins" / "docker-compose"
    mark = cache() / "docker-config" / "installed"
    if is_done(mark, COMPOSE):
        return
    say(f"installing docker-compose {COMPOSE} of Debian 13")
    place = cache() / "apt"
    for name in ("lists/partial", "archives/partial"):
        (place / name).mkdir(parents=True, exist_ok=True)
    (place / "sources.list").write_text(
        "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] "
        "http://deb.debian.org/debian trixie main\n")
    # Debian 13's packages are for this download alone, and not for the machine's own apt.
    apt = ["apt-get", "-qq", "-o", f"Dir::Etc::SourceList={place}/sources.list",
           "-o", "Dir::Etc::SourceParts=/dev/null", "-o", f"Dir::State::Lists={place}/lists",
           "-o", f"Dir::Cache={place}", "-o", "APT::Sandbox::User=root"]
    run(*apt, "update")
    run(*apt, "download", f"docker-compose={COMPOSE}", cwd=place)
    run("dpkg-deb", "--extract", next(place.glob("docker-compose_*.deb")), place / "unpacked")
    plugin.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(next((place / "unpacked").glob("usr/lib*/docker/cli-plugins/docker-compose")), plugin)
    mark.write_text(COMPOSE)
    shutil.rmtree(place)


def install_r2e() -> None:
    """Checks out R2E-Gym, which is not on PyPI."""
    place = cache() / "suites" / "r2e-gym"
    if is_done(place / "installed", R2E_COMMIT):
        return
    say(f"fetching R2E-Gym {R2E_COMMIT[:7]}")
    shutil.rmtree(place, ignore_errors=True)
    run("git", "clone", "-q", "--no-checkout", os.environ["IMGFORGE_CLIENTS_R2E"], place)
    run("git", "-C", place, "checkout", "-q", R2E_COMMIT, "--", "src")
    (place / "installed").write_text(R2E_COMMIT)


def install(client: Client) -> None:
    """Installs all that a client needs."""
    install_compose()
    if requirements(client.home).exists():
        install_environment(client)
    if client.name == "docker-py":
        install_suite(client, DOCKER_PY_SUITE)
    if client.home == "swe-rex":
        install_suite(client, f"swe-rex=={version(client)}")
    if client.name == "r2e-gym":
        install_r2e()
