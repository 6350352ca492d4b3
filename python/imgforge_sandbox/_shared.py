"""What the providers share: one client a process, and what a session is started from."""

from __future__ import annotations

import asyncio
import errno
import threading
from typing import Any, Optional

from . import _lifetime
from ._errors import InvalidRequest, NoSuchPath
from ._link import StrPath
from ._progress import log_progress
from .aio import AsyncClient, AsyncSession
from .client import Client
from .results import Instance

ROOT = (0, 0)
"""The owner of what is copied into a session."""


class _Shared:
    """The client of this process. A child that was forked has one of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: Optional[tuple[Client, AsyncClient]] = None
        _lifetime.watch(self)

    def get(self) -> tuple[Client, AsyncClient]:
        with self._lock:
            if self._clients is None or not self._clients[0].link.get().is_open:
                # A framework has a screen of its own.
                client = Client(progress=log_progress)
                # They live as long as each other: the end of one is the end of the link.
                self._clients = client, AsyncClient.on_link(client.link)
            return self._clients

    def after_fork_in_child(self) -> None:
        self._lock = threading.Lock()


_shared = _Shared()


def shared_client() -> Client:
    """Returns the client of this process, and starts its server where none runs.

    IMGFORGE_BIN, IMGFORGE_ENGINE and IMGFORGE_STATE_DIR say which. Where a server was lost, the
    next call starts another one; the sessions of the first are lost with it. It ends with the
    process. Any thread may call it. Raises as `Client`.
    """
    return _shared.get()[0]


async def shared_async_client() -> AsyncClient:
    """Does as `shared_client`, for asyncio: of the same server."""
    return (await asyncio.get_running_loop().run_in_executor(None, _shared.get))[1]


async def put_file(session: AsyncSession, path: StrPath, target: str) -> None:
    """Copies a file into a session, with its mode, as a file of root.

    Raises `IsADirectoryError` where `target` is a directory: that would be gone otherwise.
    """
    try:
        found = await session.stat(target)
    except NoSuchPath:
        found = None
    if found is not None and found.kind == "directory":
        raise IsADirectoryError(errno.EISDIR, "Is a directory", target)
    await session.put(path, target, owner=ROOT)


def source(
    image: Optional[str],
    dataset: Optional[str],
    instance_id: Optional[str],
    split: str = "test",
) -> dict[str, Any]:
    """Returns what `Client.start` is told to start from: an image, or an instance of a dataset.

    Raises `InvalidRequest` where neither is named, both are, or a half of an instance is.
    """
    if image and not dataset and not instance_id:
        return {"image": image}
    if dataset and instance_id and not image:
        return {"instance": Instance(dataset, instance_id, split)}
    given = {"image": image, "dataset": dataset, "instance_id": instance_id}
    named = ", ".join(f"`{name}`" for name, value in given.items() if value) or "none of them"
    raise InvalidRequest(
        f"a session starts from `image`, or from `dataset` and `instance_id`; here is {named}",
        hint="name one of the two",
    )
