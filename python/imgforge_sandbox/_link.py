"""The connection of a client: made when it is needed, one for each process."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Mapping, Optional, Sequence, Union

from . import _lifetime
from ._binary import VARIABLE, find_binary
from ._connection import Connection
from ._errors import ConnectionLost, InvalidRequest
from ._progress import ProgressOption
from ._transport import ProcessTransport, SocketTransport, Transport

StrPath = Union[str, "os.PathLike[str]"]


class Spawn:
    """Starts a server as a child."""

    def __init__(
        self,
        binary: Optional[StrPath],
        engine: Optional[str],
        state_dir: Optional[StrPath],
        options: Sequence[str],
        env: Optional[Mapping[str, str]],
        backend: Optional[str] = None,
    ) -> None:
        if backend is not None and engine is not None and backend in ("docker", "embedded"):
            raise InvalidRequest(f"backend={backend!r} and engine={engine!r}: name one of them")
        self._binary = binary
        self._options = list(options)
        if backend == "kubernetes":
            self._options += ["--runner", "kubernetes"]
        elif backend in ("docker", "embedded"):
            engine = backend
        elif backend is not None:
            raise InvalidRequest(
                f"{backend!r} is no backend", hint="docker, embedded and kubernetes are"
            )
        if engine is not None:
            self._options += ["--engine", engine]
        if state_dir is not None:
            self._options += ["--state-dir", os.fspath(state_dir)]
        self._env = dict(env or {})

    def __call__(self) -> Transport:
        environ = {**os.environ, **self._env}
        binary = find_binary(self._binary, environ)
        # It is for this package: the program warns of variables that it does not know.
        environ.pop(VARIABLE, None)
        return ProcessTransport([str(binary), "serve", "--stdio", *self._options], environ)


class Connect:
    """Connects to a server that runs."""

    def __init__(self, url: str) -> None:
        scheme, separator, path = url.partition("://")
        if scheme != "unix" or not separator or not path.startswith("/"):
            raise InvalidRequest(
                f"{url!r} is no address of a server", hint="such as unix:///run/imgforge.sock"
            )
        self._path = Path(path)

    def __call__(self) -> Transport:
        return SocketTransport(self._path)


class Link:
    """Has the connection. A child that was forked gets one of its own."""

    def __init__(self, opener: Union[Spawn, Connect], progress: ProgressOption = True) -> None:
        self._opener = opener
        self._progress = progress
        self._lock = threading.Lock()
        self._connection: Optional[Connection] = None
        self._closed = False
        _lifetime.watch(self)

    def get(self) -> Connection:
        """Returns the connection, and makes it where there is none yet.

        It is not made again after it was lost: the sessions are lost with it.
        """
        with self._lock:
            if self._closed:
                raise ConnectionLost("the client was closed", hint="make a new client")
            if self._connection is None:
                self._connection = Connection(self._opener, self._progress)
            return self._connection

    def close(self) -> None:
        """Ends the connection and waits for it. Another call does nothing."""
        with self._lock:
            self._closed = True
            connection = self._connection
        if connection is not None:
            connection.close()

    def close_soon(self) -> None:
        """Ends the connection, without waiting. For destructors: it never blocks."""
        self._closed = True
        connection = self._connection
        if connection is not None:
            connection.close_soon()

    def after_fork_in_child(self) -> None:
        """Forgets the connection of the parent."""
        self._lock = threading.Lock()
        self._connection = None
