"""Instances of a dataset that imgforge knows: it has their images and their tests."""

from __future__ import annotations

from typing import Any, Mapping, Tuple

from .._errors import NoVerdict
from ..client import Client
from .errors import OutOfMemory, TimedOut


def instance_of(row: Mapping[str, Any], dataset: str) -> Tuple[str, str]:
    """Returns the instance of a row. Raises `ValueError` where the row does not name it."""
    if not row.get("instance_id"):
        raise ValueError(f"the row has no instance_id: which instance of {dataset} is it?")
    return dataset, str(row["instance_id"])


def grade(
    client: Client, instance: Tuple[str, str], patch: bytes, timeout: float
) -> Tuple[bool, str]:
    """Grades a patch as `imgforge eval` does; returns whether it is resolved, and the log.

    A patch that changes nothing is not resolved. Raises `TimedOut`, `OutOfMemory` and `NoVerdict`
    where there is no verdict.
    """
    found = client.grade(instance, patch, timeout=timeout)
    log = found.log.decode("utf-8", "replace") if isinstance(found.log, bytes) else ""
    if found.verdict == "timed_out":
        raise TimedOut(timeout, log)
    if found.verdict == "out_of_memory":
        raise OutOfMemory(log)
    if found.resolved is None:
        why = f"{instance[1]}: {found.verdict}: {found.reason}"
        raise NoVerdict(why, grade=found, hint=found.hint)
    return found.resolved, log
