"""What has to happen when the process forks or ends.

Descriptors of a server must not live on in a child that was forked: the server would not see the
end of its input. And at the end of the interpreter the servers that it started have to end.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from typing import Protocol


class Forkable(Protocol):
    """Has to know that it is in the child of a fork."""

    def after_fork_in_child(self) -> None:
        """Gives up what belongs to the parent. It must not block: no other thread lives here."""


class Closable(Forkable, Protocol):
    """Has to be closed at the end of the interpreter."""

    def close(self) -> None:
        """Ends it."""


# Held while a fork happens, and by whoever makes descriptors until they are registered.
lock = threading.RLock()
_open: set[Closable] = set()
_others: weakref.WeakSet[Forkable] = weakref.WeakSet()


def opened(thing: Closable) -> None:
    """Registers what is open. Call it with `lock` held since before its descriptors were made."""
    with lock:
        _open.add(thing)


def closed(thing: Closable) -> None:
    """Forgets it."""
    with lock:
        _open.discard(thing)


def watch(thing: Forkable) -> None:
    """Registers what has to know of a fork, as long as it lives."""
    with lock:
        _others.add(thing)


def _before_fork() -> None:
    lock.acquire()


def _in_parent() -> None:
    lock.release()


def _in_child() -> None:
    global lock
    lock = threading.RLock()
    for thing in [*_open, *_others]:
        thing.after_fork_in_child()
    _open.clear()


def _at_exit() -> None:
    with lock:
        things = list(_open)
    for thing in things:
        thing.close()


os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
atexit.register(_at_exit)
