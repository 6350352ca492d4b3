"""Makes this package known to an environment without building its program.

`python editable.py` puts the directory of the package on the path of the interpreter that runs it,
and installs the entry points of pyproject.toml: what frameworks find a provider by. IMGFORGE_BIN
names the program then.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

import tomllib

HERE = Path(__file__).resolve().parents[2]


def main() -> None:
    project = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    site = Path(sysconfig.get_path("purelib"))
    (site / "imgforge_sandbox.pth").write_text(f"{HERE}\n", encoding="utf-8")
    place = site / "imgforge_sandbox-0.dist-info"
    place.mkdir(exist_ok=True)
    (place / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0\n", encoding="utf-8"
    )
    lines = []
    for group, entries in project.get("entry-points", {}).items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (place / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


main()
