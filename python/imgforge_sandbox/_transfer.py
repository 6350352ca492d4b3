"""Archives on their way into a session and out of one, in pieces.

These functions block, and may run in any thread.
"""

from __future__ import annotations

import base64
import collections
import io
import queue
import secrets
import threading
from concurrent.futures import Future
from typing import IO, Any, Callable, Mapping, Optional

from . import _calls
from ._connection import Connection
from ._errors import ImgforgeError, ProtocolError

_AHEAD = 4
"""How many pieces are under way before the first of them was taken."""

_WAITING = 64
"""How many pieces that came may wait to be unpacked, before the server has to wait."""


class Cancelled(Exception):
    """The transfer was given up."""


def put(
    connection: Connection,
    session: str,
    directory: str,
    produce: Callable[[Callable[[bytes], None]], None],
    cancelled: threading.Event,
) -> None:
    """Unpacks an archive into a directory of a session, which is made if it is missing.

    `produce` gets a function that takes the pieces of the archive.
    """
    name = secrets.token_hex(8)
    params = {"session": session, "directory": directory, "make": True, "transfer": name}
    done = connection.submit("file.put", {**params, **_calls.CONCURRENT})
    under_way: collections.deque[Future[Any]] = collections.deque()

    def send(piece: Optional[bytes]) -> None:
        params = {"session": session, "transfer": name}
        if piece is not None:
            params["data"] = _calls.encoded(piece)
        under_way.append(connection.submit("file.data", params))
        while len(under_way) > _AHEAD:
            under_way.popleft().result()

    def send_piece(piece: bytes) -> None:
        if cancelled.is_set():
            raise Cancelled
        if done.done():
            # It was refused: there is no use in sending the rest.
            done.result()
        send(piece)

    try:
        produce(send_piece)
    except BaseException:
        # The server must not wait for more. What it gets is no whole archive, which it refuses.
        if connection.is_open and not done.done():
            try:
                send(None)
                done.exception()
            except ImgforgeError:
                pass
        raise
    send(None)
    done.result()


def get(
    connection: Connection,
    session: str,
    path: str,
    consume: Callable[[IO[bytes], Callable[[], None]], None],
    cancelled: threading.Event,
) -> None:
    """Gets an archive of a path of a session.

    `consume` gets a file to read it from, and a function that raises where it is not all of it.
    """
    name = secrets.token_hex(8)
    pieces: queue.Queue[Optional[str]] = queue.Queue(_WAITING)
    given_up = threading.Event()

    def came(params: Mapping[str, Any]) -> None:
        put_unless_given_up(str(params.get("data", "")))

    def put_unless_given_up(piece: Optional[str]) -> None:
        # It runs in the thread that reads: where the unpacking is slow, the server has to wait.
        while not given_up.is_set():
            try:
                pieces.put(piece, timeout=0.1)
                return
            except queue.Full:
                continue

    def next_piece() -> Optional[bytes]:
        if cancelled.is_set():
            raise Cancelled
        piece = pieces.get()
        if piece is None:
            return None
        try:
            return base64.b64decode(piece, validate=True)
        except ValueError as error:
            raise ProtocolError("file.get: the server sent what is no base64") from error

    key = ("data", session, name)
    connection.subscribe(key, came)
    try:
        params = {"session": session, "path": path, "transfer": name, **_calls.CONCURRENT}
        done = connection.submit("file.get", params)
        done.add_done_callback(lambda _: put_unless_given_up(None))
        stream = _Stream(next_piece)

        def check() -> None:
            # What follows the end of the archive is padding.
            while stream.read(1 << 18):
                pass
            done.result()

        consume(io.BufferedReader(stream, 1 << 18), check)
    finally:
        given_up.set()
        connection.unsubscribe(key)


class _Stream(io.RawIOBase):
    """A file of pieces that come."""

    def __init__(self, next_piece: Callable[[], Optional[bytes]]) -> None:
        self._next = next_piece
        self._rest = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest and not self._ended:
            piece = self._next()
            self._ended = piece is None
            self._rest = piece or b""
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
