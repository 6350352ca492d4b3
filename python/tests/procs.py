"""Processes of this machine, those in sessions included."""

from __future__ import annotations

import secrets
import time
from pathlib import Path


def marked_sleep() -> tuple[str, str]:
    """Returns a command that sleeps for long, and a word by which it is found."""
    mark = f"97{secrets.randbelow(10**9):09d}"
    return f"sleep {mark}", mark


def running(mark: str) -> list[int]:
    """Returns the processes that have the word in their arguments."""
    found: list[int] = []
    for directory in Path("/proc").iterdir():
        if not directory.name.isdecimal():
            continue
        try:
            words = (directory / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        # This process and its children have it in longer arguments.
        if mark.encode() in words.split(b"\0"):
            found.append(int(directory.name))
    return found


def starts(mark: str, seconds: float = 30) -> bool:
    """Waits until a process with the word runs."""
    return _becomes(lambda: bool(running(mark)), seconds)


def ends(mark: str, seconds: float = 30) -> bool:
    """Waits until no process with the word runs."""
    return _becomes(lambda: not running(mark), seconds)


def _becomes(condition: object, seconds: float) -> bool:
    assert callable(condition)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.02)
    return False
