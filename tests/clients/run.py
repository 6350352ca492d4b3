"""Runs clients of Docker that nobody here wrote, unmodified, on `imgforge serve` or on Docker.

`scripts/test-clients` starts this; its head says how.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import install
from clients import CLIENTS, Client, named
from engine import TASK, Engine
from install import HERE, cache, say

# What the results of a run are called, and what they ran on.
PLACES = {"serve": "imgforge serve, root", "user": "imgforge serve, plain user", "docker": "Docker"}


def environment_of(client: Client, engine: Engine, place: str, work: Path) -> dict[str, str]:
    """Returns what the script of a client finds in its environment."""
    home = work / "home"
    home.mkdir(exist_ok=True)
    binaries = cache() / "venv" / client.home / "bin"
    return engine.environment | {
        "HOME": str(home),
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        # Several of them have litellm, which fetches a list of prices unless it is told not to.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "CLIENTS": str(HERE),
        "CLIENTS_CACHE": str(cache()),
        "CLIENTS_IMAGE": TASK,
        "CLIENTS_PLACE": place,
        "CLIENTS_ROWS": os.environ.get("IMGFORGE_CLIENTS_ROWS", ""),
        "CLIENTS_IMGFORGE": engine.program,
        "CLIENTS_STATE": str(engine.state),
    }


def program_of(client: Client) -> str:
    """Returns what runs the client's script: its own Python, or a shell."""
    if client.script.endswith(".sh"):
        return "bash"
    return str(cache() / "venv" / client.home / "bin" / "python")


def last_words(log: Path) -> str:
    """Returns what a client said last of an error, for the table."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "rror" in line] or lines or ["it said nothing"]
    return errors[-1].strip()[-160:]


def drive(client: Client, engine: Engine, place: str, work: Path, log: Path) -> dict:
    """Runs one client, and returns its row of the table."""
    say(f"{client.name} {version_of(client, engine)}")
    work.mkdir()
    started = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            [program_of(client), str(HERE / "drive" / client.script)], cwd=work,
            env=environment_of(client, engine, place, work), stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = process.wait(client.limit)
        except subprocess.TimeoutExpired:
            status = None
        # A client that ends, or is ended, leaves nothing that runs on.
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
    told = [line for line in log.read_text(errors="replace").splitlines()
            if line.startswith("result: ")]
    result = told[-1].removeprefix("result: ") if told else f"no result: {last_words(log)}"
    if status is None:
        result = f"nothing for {client.limit} s"
    return {"client": client.name, "version": version_of(client, engine),
            "command": client.command, "result": result, "passed": status == 0,
            "seconds": round(time.monotonic() - started, 1)}


def bench(work: Path, state: Path) -> int:
    """Measures both engines by turns, and prints a table."""
    program = os.environ["IMGFORGE_CLIENTS_PROGRAM"]
    client = named(["docker-py"])[0]
    install.install(client)
    shutil.copytree(cache() / "docker-config", work / "docker-config")
    with Engine("docker", program, state, work) as docker, \
            Engine("serve", program, state, work) as serve:
        for engine in (docker, serve):
            say(f"on {engine.version()}")
            engine.make_images()
        environment = environment_of(client, serve, "bench", work) | {
            "CLIENTS_SERVE": serve.environment["DOCKER_HOST"],
            "CLIENTS_DOCKER": os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")}
        return subprocess.run([program_of(client), HERE / "drive" / "bench.py"], cwd=work,
                              env=environment).returncode


def version_of(client: Client, engine: Engine) -> str:
    if client.name == "docker-cli":
        return engine.docker("version", "--format", "{{.Client.Version}}").stdout.strip()
    if client.name == "compose":
        return engine.docker("compose", "version", "--short").stdout.strip()
    return install.version(client)


def show(rows: list[dict]) -> None:
    """Prints the table of a run."""
    heads = ["client", "version", "command", "result", "seconds"]
    cells = [heads] + [[str(row[head]) for head in heads] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(heads))]
    for line, row in zip(cells, [None, *rows]):
        mark = "  " if row is None or row["passed"] else "! " if row["passed"] is False else "- "
        print(mark + "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


def show_side_by_side() -> None:
    """Prints what the last runs in each place gave, as Markdown."""
    found = {}
    for place in PLACES:
        file = results_file(place)
        found[place] = json.loads(file.read_text()) if file.exists() else {}
    print("| client | version | " + " | ".join(PLACES.values()) + " |")
    print("| --- " * (len(PLACES) + 2) + "|")
    for client in CLIENTS:
        rows = [found[place].get(client.name) for place in PLACES]
        version = next((row["version"] for row in rows if row), "")
        cells = [f"{row['result']}, {row['seconds']:.0f} s" if row else "" for row in rows]
        print(f"| {client.name} | {version} | " + " | ".join(cells) + " |")


def results_file(place: str) -> Path:
    return Path(os.environ["IMGFORGE_CLIENTS_RESULTS"]) / f"{place}.json"


def keep(place: str, rows: list[dict]) -> None:
    """Writes the rows down, over those of the same clients that were there."""
    file = results_file(place)
    kept = json.loads(file.read_text()) if file.exists() else {}
    kept |= {row["client"]: row for row in rows if row["passed"] is not None}
    file.write_text(json.dumps(kept, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/test-clients", description=__doc__)
    parser.add_argument("clients", nargs="*", help="these clients, by default all")
    parser.add_argument("--on", choices=["serve", "docker"], default="serve")
    parser.add_argument("--quick", action="store_true", help="those that take a few seconds")
    parser.add_argument("--install-only", action="store_true", help="install the clients alone")
    parser.add_argument("--installed", action="store_true", help="install nothing")
    parser.add_argument("--table", action="store_true", help="what the last runs gave, side by side")
    parser.add_argument("--bench", action="store_true", help="measure serve against Docker")
    asked = parser.parse_args()
    if asked.table:
        show_side_by_side()
        return 0
    if asked.bench:
        with tempfile.TemporaryDirectory(prefix="imgforge-clients-") as work:
            return bench(Path(work), Path(os.environ["IMGFORGE_CLIENTS_STATE"]))

    chosen = named(asked.clients) if asked.clients else CLIENTS
    if asked.quick:
        chosen = [client for client in chosen if client.quick]
    out = {client.name: reason for client in chosen if (reason := install.why_left_out(client))}
    if not asked.installed:
        for client in chosen:
            if client.name not in out:
                install.install(client)
    if asked.install_only:
        return 0

    place = "docker" if asked.on == "docker" else "serve" if os.getuid() == 0 else "user"
    state = Path(os.environ["IMGFORGE_CLIENTS_STATE"])
    logs = Path(os.environ["IMGFORGE_CLIENTS_RESULTS"]) / place
    logs.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="imgforge-clients-"))
    rows = []
    try:
        shutil.copytree(cache() / "docker-config", work / "docker-config")
        with Engine(asked.on, os.environ["IMGFORGE_CLIENTS_PROGRAM"], state, work) as engine:
            say(f"on {engine.version()}")
            engine.make_images()
            for client in chosen:
                if client.name in out:
                    rows.append({"client": client.name, "version": install.version(client),
                                 "command": client.command, "passed": None, "seconds": 0,
                                 "result": f"left out: {out[client.name]}"})
                    continue
                before = engine.left()
                row = drive(client, engine, place, work / client.name, logs / f"{client.name}.log")
                # Docker's daemon may have other users, whose containers are no concern of this.
                over = [] if place == "docker" else [
                    name for name in engine.left() if name not in before]
                if over:
                    row["result"] += f"; leaves {len(over)} containers"
                    engine.docker("rm", "-f", *over)
                rows.append(row)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    keep(place, rows)
    show(rows)
    failed = [row["client"] for row in rows if row["passed"] is False]
    if failed:
        say(f"less than expected: {', '.join(failed)}; what they said is in {logs}")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: `{' '.join(map(str, error.cmd))}` ends with {error.returncode}")
