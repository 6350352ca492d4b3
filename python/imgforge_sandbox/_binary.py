"""Where the program `imgforge` is."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Mapping, Optional, Union

from ._errors import BinaryNotFound

VARIABLE = "IMGFORGE_BIN"
"""The environment variable that names the program."""


def find_binary(
    binary: Optional[Union[str, os.PathLike[str]]] = None,
    environ: Optional[Mapping[str, str]] = None,
) -> Path:
    """Returns the path of the program.

    It is, in this order: `binary`, the value of IMGFORGE_BIN, the one beside this interpreter
    (where a wheel puts it), the first one of PATH. What is named has to be there: another one is
    not taken instead. Raises `BinaryNotFound`.
    """
    environ = os.environ if environ is None else environ
    for named, what in ((binary, "`binary`"), (environ.get(VARIABLE), VARIABLE)):
        if not named:
            continue
        path = Path(os.path.expanduser(named))
        if not _runs(path):
            found = "is not a program" if path.exists() else "is not there"
            raise BinaryNotFound(
                f"{path} {found}", hint=f"{what} names it; leave it out to search for the program"
            )
        return path.absolute()
    beside = {Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))}
    for directory in sorted(beside):
        if _runs(directory / "imgforge"):
            return directory / "imgforge"
    found_in_path = shutil.which("imgforge", path=environ.get("PATH"))
    if found_in_path:
        return Path(found_in_path).absolute()
    raise BinaryNotFound(
        "there is no program `imgforge`",
        hint="a wheel of imgforge-sandbox has it: `pip install imgforge-sandbox`. Or build it "
        f"(`cargo build --release`) and name it in {VARIABLE}",
    )


def _runs(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
