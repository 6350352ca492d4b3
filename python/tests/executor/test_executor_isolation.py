"""Whether limits are enforced, read from texts of real sandboxes."""

from __future__ import annotations

from typing import Optional

import pytest

from imgforge_sandbox.executor import SandboxExecutor
from imgforge_sandbox.executor._box import size
from imgforge_sandbox.executor._isolation import unenforced

UIDS = "uids\n         0          0 4294967295\n"
RANGE = "uids\n         0       1001          1\n         1     100000      65536\n"
ONE = "uids\n         0       1001          1\n"

# Root, control groups of version 1.
LIMITED = """groups
9:name=systemd:/
8:pids:/imgforge/54be8093a965.effffffc.14006-8073627-vaKjkR
7:blkio:/
4:memory:/imgforge/54be8093a965.effffffc.14006-8073627-vaKjkR
2:cpuacct:/
1:cpu:/imgforge/54be8093a965.effffffc.14006-8073627-vaKjkR
0::/
"""
# A plain user on the same machine.
FREE = """groups
9:name=systemd:/
8:pids:/
4:memory:/process_api/554bc479dbc098f9782b15a6396d76d3
1:cpu:/
0::/
"""
ALL = [
    "the limit of memory is not enforced",
    "the limit of cpu is not enforced",
    "the limit of pids is not enforced",
]


def found(
    printed: str,
    *,
    engine: str = "embedded",
    memory: Optional[int] = 512 << 20,
    cpus: Optional[float] = 1.5,
    pids: Optional[int] = 128,
    warnings: Optional[list[str]] = None,
) -> list[str]:
    return unenforced(engine, printed, warnings or [], memory=memory, cpus=cpus, pids=pids)


def test_limits_that_are_there() -> None:
    assert found(LIMITED + UIDS) == []
    unified = "groups\n0::/user.slice/imgforge/54be8093a965.effffffc.14006-8073627-vaKjkR\n"
    assert found(unified + RANGE) == []


def test_limits_that_are_not_there() -> None:
    assert found(FREE + RANGE) == ALL
    assert found(FREE + RANGE, memory=None, pids=None) == [ALL[1]]
    assert found(FREE + RANGE, memory=None, cpus=None, pids=None) == []
    assert found(LIMITED.replace("8:pids:/imgforge/", "8:pids:/") + UIDS) == [ALL[2]]
    # A group of somebody else, whose name only looks alike.
    assert found("groups\n0::/imgforge/some\n" + UIDS) == ALL
    assert found("groups\n0::/../54be8093a965.effffffc\n" + UIDS) == ALL


def test_what_cannot_be_read_is_missing() -> None:
    for text in ("", "groups\n" + UIDS, "groups\nx\n::\n" + UIDS):
        assert found(text)[:3] == ALL


def test_one_user() -> None:
    assert found(LIMITED + ONE) == [
        "the user 1000 is the same as root: there is one user id in the sandbox"
    ]
    assert len(found(LIMITED)) == 1


def test_what_the_engine_says_counts() -> None:
    assert found(LIMITED + UIDS, warnings=["memory is measured"]) == ["memory is measured"]


@pytest.mark.parametrize("version", [1, 2])
def test_docker(version: int) -> None:
    limits = {
        1: "limit memory/memory.limit_in_bytes 536870912\nlimit cpu/cpu.cfs_quota_us 150000\n"
        "limit cpu/cpu.cfs_period_us 100000\nlimit pids/pids.max 128\n",
        2: "limit memory.max 536870912\nlimit cpu.max 150000 100000\nlimit pids.max 128\n",
    }[version]
    assert found(UIDS + limits, engine="docker") == []
    assert found(UIDS + limits, engine="docker", memory=1, cpus=0.5, pids=1) == ALL
    assert found(UIDS, engine="docker") == ALL
    none = UIDS + "limit memory.max max\nlimit cpu.max max 100000\nlimit pids.max max\n"
    assert found(none, engine="docker") == ALL
    none = UIDS + "limit cpu/cpu.cfs_quota_us -1\nlimit cpu/cpu.cfs_period_us 100000\n"
    assert found(none, engine="docker") == ALL


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2g", 2 << 30),
        ("512m", 512 << 20),
        ("1.5G", 3 << 29),
        ("64MiB", 64 << 20),
        ("65536k", 64 << 20),
        ("134217728", 1 << 27),
        (1 << 27, 1 << 27),
    ],
)
def test_sizes(text: object, value: int) -> None:
    assert size(text) == value  # type: ignore[arg-type]


def test_settings_without_meaning() -> None:
    for text in ("2x", "", "-1g", "much"):
        with pytest.raises(ValueError, match="is no size"):
            SandboxExecutor(memory_limit=text)
    with pytest.raises(ValueError, match="more than memory_limit"):
        SandboxExecutor(memory_limit="512m", workspace_size="400m")
    with pytest.raises(ValueError, match="LD_PRELOAD"):
        SandboxExecutor(env={"LD_PRELOAD": "/workspace/x.so"})
    with pytest.raises(ValueError, match="too few"):
        SandboxExecutor(memory_limit="2")
    with pytest.raises(ValueError, match="more than 0 seconds"):
        SandboxExecutor(timeout=0)
    with pytest.raises(ValueError, match="number of processors"):
        SandboxExecutor(cpu_limit=0)
