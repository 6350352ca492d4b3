"""A search tree over one instance: each node forks its parent, edits, runs the tests, and is kept as a checkpoint.

Leaves are graded. All checkpoints but that of one leaf are removed then, and `cache gc` runs. Prints seconds,
and the bytes on the disk that the state directory has more than before.

    IMGFORGE_BIN=target/release/imgforge PYTHONPATH=python python3 benches/search_tree.py [NODES]

It stands on the state directory that IMGFORGE_STATE_DIR names; the images of the demo have to be there.
"""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from imgforge_sandbox import Client

INSTANCE = ("demo", "imgforge__abacus-1")
DEPTH, WORKERS = 8, 2
SIGNS = r"""sed -i '/def atom(self):/a\        if self.accept("-"):\n            return -self.atom()
' src/abacus/parser.py
sed -i '/def atom(self):/a\        if self.accept("+"):\n            return self.atom()
' src/abacus/parser.py
"""


def tree(nodes: int) -> list[int]:
    """Returns the parent of each node, the same for each run; the first node has none (-1)."""
    chance, parents, depths = random.Random(1), [-1], [0]
    while len(parents) < nodes:
        parent = chance.randrange(len(parents))
        if depths[parent] < DEPTH:
            parents.append(parent)
            depths.append(depths[parent] + 1)
    return parents


def bytes_of(state: Path) -> int:
    """Returns the bytes that a directory has on the disk, each file once."""
    sizes = {}
    for root, _, files in os.walk(state):
        for name in files:
            try:
                told = os.lstat(os.path.join(root, name))
            except FileNotFoundError:
                continue
            sizes[told.st_ino] = told.st_blocks * 512
    return sum(sizes.values())


def main() -> None:
    nodes = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    state = Path(os.environ["IMGFORGE_STATE_DIR"])
    program = os.environ["IMGFORGE_BIN"]
    parents = tree(nodes)
    is_leaf = [node not in set(parents) for node in range(nodes)]
    checkpoints, verdicts, spent = {}, Counter(), Counter()

    def timed(what: str, work):
        started = time.monotonic()
        result = work()
        spent[what] += time.monotonic() - started
        return result

    with Client(progress=False) as client:
        with client.start(instance=INSTANCE) as session:
            checkpoints[0] = session.checkpoint(move=True)
        before = bytes_of(state)

        def grow(node: int) -> None:
            session = timed("fork", lambda: client.fork(checkpoints[parents[node]])[0])
            with session:
                # Each third leaf has the right edit.
                edit = f"echo '# {node}' >>src/abacus/parser.py"
                if is_leaf[node] and node % 3 == 0:
                    edit += "\n" + SIGNS
                timed("edit", lambda: session.run(edit))
                timed("tests", lambda: session.exec("pytest -q"))
                if is_leaf[node]:
                    grade = timed("grade", session.grade)
                    verdicts[grade.verdict] += 1
                    assert grade.resolved == (node % 3 == 0), (node, grade)
                checkpoints[node] = timed("checkpoint", lambda: session.checkpoint(move=True))

        started = time.monotonic()
        with ThreadPoolExecutor(WORKERS) as pool:
            level = [0]
            while level:
                level = [node for node in range(nodes) if parents[node] in set(level)]
                list(pool.map(grow, level))
        seconds = time.monotonic() - started
        after = bytes_of(state)
        kept = max(node for node in range(nodes) if is_leaf[node])
        for node in range(nodes):
            if node != kept:
                client.remove_checkpoint(checkpoints[node])
        left = len(client.checkpoints())
    subprocess.run([program, "cache", "gc"], check=True, stdout=subprocess.DEVNULL)
    print(f"{nodes} nodes, {sum(is_leaf)} leaves, depth {DEPTH}, {WORKERS} at once: {seconds:.1f} s")
    print("ms a node: " + ", ".join(
        f"{what} {spent[what] * 1000 / (sum(is_leaf) if what == 'grade' else nodes - 1):.0f}" for what in spent))
    print(f"leaves: {dict(verdicts)}")
    print(f"bytes: {(after - before) / 1e6:.1f} MB more with all checkpoints; "
          f"{(bytes_of(state) - before) / 1e6:.1f} MB after gc, with {left} checkpoint(s) left")


if __name__ == "__main__":
    main()
