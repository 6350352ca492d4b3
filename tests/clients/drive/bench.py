"""How long things take on `imgforge serve` and on Docker, by turns in one run, through docker-py.

Only the ratios mean something: the times are those of this machine and of what else it did.
"""

import io
import json
import os
import statistics
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor

import docker

IMAGE = os.environ["CLIENTS_IMAGE"]
TIMES = int(os.environ.get("CLIENTS_BENCH_TIMES", "8"))
CLIENTS = {"serve": os.environ["CLIENTS_SERVE"], "docker": os.environ["CLIENTS_DOCKER"]}


def archive(files: int, size: int) -> bytes:
    """Returns a tar archive of so many files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(files):
            head = tarfile.TarInfo(f"files/{number:04}")
            head.size = size
            tar.addfile(head, io.BytesIO(os.urandom(size)))
    return buffer.getvalue()


SMALL, LARGE = archive(1000, 4096), archive(1, 20 << 20)


def execute(api: docker.APIClient, container: str, *command: str) -> None:
    """Runs a command as docker-py's exec_run does, and looks at how it ended."""
    made = api.exec_create(container, list(command))
    api.exec_start(made["Id"])
    assert api.exec_inspect(made["Id"])["ExitCode"] == 0, command


def create(api: docker.APIClient) -> str:
    made = api.create_container(IMAGE, ["sleep", "1h"], host_config=api.create_host_config(
        network_mode="none", init=True))
    api.start(made["Id"])
    return made["Id"]


def get(api: docker.APIClient, container: str) -> int:
    stream, _ = api.get_archive(container, "/tmp/files")
    return sum(len(chunk) for chunk in stream)


def one_round(api: docker.APIClient) -> dict[str, float]:
    """Does each thing once, and returns the seconds of each."""
    taken, container = {}, ""

    def timed(name: str, work):
        started = time.monotonic()
        result = work()
        taken[name] = time.monotonic() - started
        return result

    container = timed("create and start", lambda: create(api))
    timed("exec true", lambda: execute(api, container, "true"))
    for name, data in (("1,000 files of 4 KB", SMALL), ("a file of 20 MB", LARGE)):
        timed(f"put {name}", lambda: api.put_archive(container, "/tmp", data))
        assert timed(f"get {name}", lambda: get(api, container)) >= len(data) // 2
        execute(api, container, "rm", "-r", "/tmp/files")
    timed("rm -f", lambda: api.remove_container(container, force=True))
    return taken


def many(address: str) -> float:
    """Returns the seconds of 32 times start, three commands and rm -f, on 16 threads."""
    def life(_: int) -> None:
        api = docker.APIClient(address, timeout=300)
        container = create(api)
        for _ in range(3):
            execute(api, container, "true")
        api.remove_container(container, force=True)
        api.close()

    started = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(life, range(32)))
    return time.monotonic() - started


seconds: dict[str, dict[str, list[float]]] = {}
for number in range(TIMES + 1):
    for engine, address in CLIENTS.items():
        api = docker.APIClient(address, timeout=300)
        taken = one_round(api)
        api.close()
        # The first round reads what is not in memory yet.
        if number:
            for name, value in taken.items():
                seconds.setdefault(name, {}).setdefault(engine, []).append(value)
for _ in range(max(1, TIMES // 2)):
    for engine, address in CLIENTS.items():
        seconds.setdefault("32 × (start, 3 exec, rm), 16 threads", {}).setdefault(
            engine, []).append(many(address))

print(f"median (minimum) in ms, n={TIMES}; load at the end {os.getloadavg()[0]:.1f}\n")
print("| what | Docker | serve | Docker / serve |\n| --- | --- | --- | --- |")
for name, engines in seconds.items():
    cells, middle = [], {}
    for engine in ("docker", "serve"):
        values = [value * 1000 for value in engines[engine]]
        middle[engine] = statistics.median(values)
        cells.append(f"{middle[engine]:.0f} ({min(values):.0f})")
    print(f"| {name} | {' | '.join(cells)} | {middle['docker'] / middle['serve']:.1f} |")
print(json.dumps(seconds), file=open("seconds.json", "w"))
