"""Resets and steps of `RepoEnv`: ours on the embedded engine beside R2E-Gym's on Docker, in turns.

    IMGFORGE_BIN=target/release/imgforge R2E_GYM=CHECKOUT PYTHONPATH=python:python/tests \
        python3 benches/r2e_resets.py [ROUNDS] [IMAGE]

CHECKOUT is a state of R2E-Gym whose `reset` makes a new container, such as fa83e02 of k-l-lambda's
fork; in the first release it does nothing. Python needs what R2E-Gym imports for it: docker,
simple-parsing, pydantic, PyYAML, swebench 3.0.2, and pytest. IMAGE is on both engines, with a
repository in /testbed; it is an instance of the demo by default. The state directory is that of
IMGFORGE_STATE_DIR.

It prints medians: of a reset, of the step `true`, and the resets a second of 16 environments at once.
"""

import json
import logging
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from imgforge_sandbox import Client
from imgforge_sandbox.r2e import EnvArgs, RepoEnv
from r2e import r2e_gym

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 6
IMAGE = sys.argv[2] if len(sys.argv) > 2 else "sweb.eval.x86_64.imgforge__abacus-1:latest"
AT_ONCE = 16
COMMIT = {
    "file_diffs": [], "old_commit_hash": "a" * 40, "new_commit_hash": "b" * 40,
    "commit_message": "m", "commit_date": "2024-01-02T03:04:05+00:00", "metadata": {},
}
ROW = {
    "docker_image": IMAGE, "repo_name": "demo", "expected_output_json": "{}", "commit_hash": "x",
    "parsed_commit_content": json.dumps(COMMIT),
}


def seconds(work) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def step(environment) -> None:
    environment.runtime.run("true", timeout=30)


def resets_at_once(make, rounds: int) -> float:
    """Returns how many resets a second several environments make."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        several = list(pool.map(lambda _: make(), range(AT_ONCE)))
        started = time.monotonic()
        for _ in range(rounds):
            list(pool.map(lambda one: one.reset(), several))
        took = time.monotonic() - started
        list(pool.map(lambda one: one.close(), several))
    return AT_ONCE * rounds / took


def main() -> None:
    logging.disable(logging.CRITICAL)
    r2e_gym.load()
    from r2egym.agenthub.environment.env import EnvArgs as TheirArgs
    from r2egym.agenthub.environment.env import RepoEnv as TheirEnv

    client = Client(engine="embedded")
    makers = {
        "R2E-Gym on Docker": lambda: TheirEnv(TheirArgs(ds=ROW)),
        "ours": lambda: RepoEnv(
            EnvArgs(ds=ROW), backend="embedded", client=client, verbose=False
        ),
    }
    resets = {name: [] for name in makers}
    steps = {name: [] for name in makers}
    environments = {name: make() for name, make in makers.items()}
    for _ in range(ROUNDS):
        for name, environment in environments.items():
            resets[name].append(seconds(environment.reset))
            steps[name] += [seconds(partial(step, environment)) for _ in range(5)]
    for environment in environments.values():
        environment.close()
    for name, make in makers.items():
        a_second = resets_at_once(make, 10 if name == "ours" else 1)
        print(f"{name}: reset {statistics.median(resets[name]):.3f} s, step"
              f" {statistics.median(steps[name]) * 1000:.1f} ms, {AT_ONCE} at once"
              f" {a_second:.2f} resets a second", flush=True)
    client.close()


if __name__ == "__main__":
    main()
