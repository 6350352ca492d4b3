"""Runs a smoke run by a configuration file: `python -m imgforge_sandbox.run_smoke --config FILE`.

It is `imgforge smoke` with the same options and the same exit status: 0 for success, 1 where a
stage failed, 2 for a wrong configuration, 3 where engine, machine or network are at fault.
"""

from __future__ import annotations

import os
import sys
from typing import Sequence

from ._binary import VARIABLE, find_binary
from ._errors import BinaryNotFound


def main(arguments: Sequence[str]) -> int:
    """Becomes `imgforge smoke`. It returns only where there is no program: 3."""
    try:
        binary = str(find_binary())
    except BinaryNotFound as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    # It is for this package: the program warns of variables that it does not know.
    environ = {name: value for name, value in os.environ.items() if name != VARIABLE}
    sys.stdout.flush()
    os.execve(binary, [binary, "smoke", *arguments], environ)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
