"""Makes an archive of files of this machine, for a session."""

from __future__ import annotations

import io
import os
import tarfile
import time
from pathlib import Path
from typing import Callable, Optional

PIECE = 256 << 10
"""The bytes of a piece that is sent."""


class _Pieces(io.RawIOBase):
    """Passes on what is written, in pieces of one size."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._waiting = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        piece = bytes(data)  # type: ignore[call-overload]
        self._waiting += piece
        while len(self._waiting) >= PIECE:
            self._send(bytes(self._waiting[:PIECE]))
            del self._waiting[:PIECE]
        return len(piece)

    def finish(self) -> None:
        if self._waiting:
            self._send(bytes(self._waiting))
            self._waiting.clear()


def pack(
    source: Path, name: str, owner: Optional[tuple[int, int]], send: Callable[[bytes], None]
) -> None:
    """Sends an archive in which `source`, a file or a directory with all in it, is called `name`.

    Links stay links, modes and times stay. Owners stay as numbers, or all are `owner`. What is no
    file, directory or link (a socket) is left out, as tar does.
    """

    def changed(member: tarfile.TarInfo) -> tarfile.TarInfo:
        if owner is not None:
            member.uid, member.gid = owner
        # Names of users here mean nothing there: the numbers count.
        member.uname = member.gname = ""
        return member

    out = _Pieces(send)
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.GNU_FORMAT, bufsize=PIECE) as archive:
        archive.add(source, arcname=name, filter=changed)
    out.finish()


def pack_bytes(
    data: bytes,
    name: str,
    mode: int,
    owner: tuple[int, int],
    send: Callable[[bytes], None],
) -> None:
    """Sends an archive of one file with these bytes."""
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(data), mode, int(time.time())
    member.uid, member.gid = owner
    out = _Pieces(send)
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.GNU_FORMAT, bufsize=PIECE) as archive:
        archive.addfile(member, io.BytesIO(data))
    out.finish()


def split(path: str) -> tuple[str, str]:
    """Splits an absolute path of a session into its directory and its name."""
    directory, name = os.path.split(path.rstrip("/"))
    if not path.startswith("/") or name in ("", ".", ".."):
        raise ValueError(f"{path!r} names no file or directory from the root of the session")
    return directory, name
