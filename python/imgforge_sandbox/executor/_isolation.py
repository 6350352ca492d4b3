"""Whether the limits of a sandbox are enforced: read from what the kernel says in it.

The engine's warnings are looked at too, but their absence proves nothing.
"""

from __future__ import annotations

import re
from typing import Dict, List, Optional, Sequence

# Prints what `unenforced` reads. It is run as root, before anything else.
PROBE = """
printf 'groups\\n'; cat /proc/self/cgroup
printf 'uids\\n'; cat /proc/self/uid_map
for file in memory.max cpu.max pids.max memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us \
cpu/cpu.cfs_period_us pids/pids.max; do
    [ -r "/sys/fs/cgroup/$file" ] && printf 'limit %s %s\\n' "$file" "$(cat "/sys/fs/cgroup/$file")"
done
:
"""

ONE_USER = "the user 1000 is the same as root: there is one user id in the sandbox"

_GROUP = re.compile(r"/imgforge/[0-9a-f]{12}\.[^/]+\Z")
"""A control group of imgforge: the id of the container, and its owner."""


def unenforced(
    engine: str,
    printed: str,
    warnings: Sequence[str],
    *,
    memory: Optional[int],
    cpus: Optional[float],
    pids: Optional[int],
) -> List[str]:
    """Names what is not enforced, in sentences, of the limits that were asked for.

    `printed` is what `PROBE` printed. What cannot be told apart from a limit that is missing counts
    as missing.
    """
    groups, uids, limits = _read(printed)
    asked = {
        "memory": memory is not None,
        "cpu": cpus is not None,
        "pids": pids is not None,
    }
    if engine == "embedded":
        enforced = {name for name in asked if _has_group(groups, name)}
    else:
        enforced = _within(limits, memory, cpus, pids)
    wrong = [f"the limit of {name} is not enforced" for name in asked if asked[name]]
    wrong = [text for text in wrong if text.split()[3] not in enforced]
    if uids < 1001:
        wrong.append(ONE_USER)
    return [*wrong, *warnings]


def _read(printed: str) -> tuple[Dict[str, str], int, Dict[str, str]]:
    part = ""
    groups: Dict[str, str] = {}
    limits: Dict[str, str] = {}
    uids = 0
    for line in printed.splitlines():
        if line in ("groups", "uids"):
            part = line
        elif line.startswith("limit "):
            _, name, value = line.split(" ", 2)
            limits[name] = value
        elif part == "groups" and line.count(":") >= 2:
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                groups[controller] = path
        elif part == "uids":
            numbers = line.split()
            if len(numbers) == 3 and all(number.isdecimal() for number in numbers):
                uids += int(numbers[2])
    return groups, uids, limits


def _has_group(groups: Dict[str, str], controller: str) -> bool:
    """Tells whether the processes are in a group that imgforge made.

    It makes one only with its limits: where a limit cannot be set there is no group.
    """
    # Of version 1 the controller's own, else that of version 2, which has no name.
    path = groups.get(controller, groups.get(""))
    return path is not None and _GROUP.search(path) is not None


def _within(
    limits: Dict[str, str], memory: Optional[int], cpus: Optional[float], pids: Optional[int]
) -> set[str]:
    """Names the limits of Docker's container that are not above those asked for."""

    def number(*names: str) -> Optional[int]:
        for name in names:
            value = limits.get(name, "")
            if value.isdecimal():
                return int(value)
        return None

    enforced = set()
    most = number("memory.max", "memory/memory.limit_in_bytes")
    if memory is not None and most is not None and most <= memory:
        enforced.add("memory")
    most = number("pids.max", "pids/pids.max")
    if pids is not None and most is not None and most <= pids:
        enforced.add("pids")
    quota = limits.get("cpu.max") or " ".join(
        [limits.get("cpu/cpu.cfs_quota_us", ""), limits.get("cpu/cpu.cfs_period_us", "")]
    )
    parts = quota.split()
    if cpus is not None and len(parts) == 2 and all(part.isdecimal() for part in parts):
        time, period = int(parts[0]), int(parts[1])
        # The engine counts in thousandths of a processor.
        if period > 0 and time / period <= cpus + 0.001:
            enforced.add("cpu")
    return enforced
