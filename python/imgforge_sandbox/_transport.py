"""The pipe to a server: a process of ours, or a Unix socket."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import Mapping, Protocol, Sequence

from ._errors import BinaryNotFound, ConnectionLost

_LOG = logging.getLogger("imgforge_sandbox")
_PIECE = 1 << 18
_STDERR_KEPT = 16 << 10


class Transport(Protocol):
    """Takes bytes to a server and brings its bytes. One thread reads, one thread writes."""

    def read(self) -> bytes:
        """Returns what came; empty at the end."""
        ...

    def write(self, data: bytes) -> None:
        """Sends all of it. Raises `OSError` where nobody reads any more."""
        ...

    def end_input(self) -> None:
        """Says that nothing more comes. Only the thread that writes may call it."""
        ...

    def end(self) -> tuple[str, str]:
        """Waits for the end of the other side, after `read` came to its end.

        Returns how it ended, and the end of what it printed.
        """
        ...

    def force(self) -> None:
        """Makes it end now, because it did not end when its input did."""
        ...

    def abandon(self) -> None:
        """Closes what this process has of it, in the child of a fork. The other side lives on."""
        ...


class ProcessTransport:
    """A server that is a child of this process, on its standard input and output."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Starts it. Call it with `_lifetime.lock` held. Raises `BinaryNotFound`.

        It has a session of its own: Ctrl-C is for this program, which decides what it ends.
        """
        try:
            self._process = subprocess.Popen(
                list(argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env=dict(env),
                start_new_session=True,
            )
        except OSError as error:
            raise BinaryNotFound(
                f"cannot run {argv[0]}: {error.strerror or error}",
                hint="it has to be a program for this machine that this user may run",
            ) from error
        stdin, stdout, stderr = self._process.stdin, self._process.stdout, self._process.stderr
        assert stdin is not None
        assert stdout is not None
        assert stderr is not None
        self._stdin, self._stdout, self._stderr = stdin, stdout, stderr
        self._said = bytearray()
        self._listener = threading.Thread(target=self._listen, name="imgforge-stderr", daemon=True)
        self._listener.start()

    def read(self) -> bytes:
        return os.read(self._stdout.fileno(), _PIECE)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._stdin.fileno(), view) :]

    def end_input(self) -> None:
        self._stdin.close()

    def end(self) -> tuple[str, str]:
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            # It closed its output and lives on: nothing can be said to it any more.
            self._process.kill()
            self._process.wait()
        self._listener.join(1)
        self._stdout.close()
        said = bytes(self._said).decode("utf-8", "replace").strip()
        return _how(self._process.returncode), said

    def force(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def abandon(self) -> None:
        for file in (self._stdin, self._stdout, self._stderr):
            file.close()
        # It is no child of this process: whoever waits for it waits in vain.
        self._process.returncode = 0

    def _listen(self) -> None:
        while True:
            try:
                piece = os.read(self._stderr.fileno(), _PIECE)
            except OSError:
                break
            if not piece:
                break
            self._said += piece
            del self._said[:-_STDERR_KEPT]
            if _LOG.isEnabledFor(logging.DEBUG):
                _LOG.debug("%s", piece.decode("utf-8", "replace").rstrip())
        self._stderr.close()


def _how(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


class SocketTransport:
    """A server that somebody else started, on a Unix socket."""

    def __init__(self, path: Path) -> None:
        """Connects. Call it with `_lifetime.lock` held. Raises `ConnectionLost`."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise ConnectionLost(
                f"cannot connect to {path}: {error.strerror or error}",
                hint=f"start a server there: `imgforge serve --rpc unix://{path}`",
            ) from error

    def read(self) -> bytes:
        return self._socket.recv(_PIECE)

    def write(self, data: bytes) -> None:
        self._socket.sendall(data)

    def end_input(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def end(self) -> tuple[str, str]:
        self._socket.close()
        return "closed the connection", ""

    def force(self) -> None:
        # It wakes the thread that reads, which closes the socket.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def abandon(self) -> None:
        self._socket.close()
