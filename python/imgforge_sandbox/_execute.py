"""Commands under way: their start, their input and their end by force."""

from __future__ import annotations

import base64
import contextlib
import secrets
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, Callable, Mapping, Optional

from . import _calls
from ._connection import Connection
from ._errors import ImgforgeError, NoSuchExec, SessionEnded

KILL_SECONDS = 10.0
"""How long a caller that gives up waits until its command is dead."""

INLINE_INPUT = 16 << 20
"""The longest input that goes with the request, in bytes. Longer input goes in pieces."""

_PIECE = 1 << 20

OnOutput = Callable[[str, bytes], object]
"""Gets pieces of output while a command runs: `stdout` or `stderr`, and the bytes."""


class Running:
    """A command that was sent. `future` has what the server answers at its end."""

    def __init__(
        self,
        connection: Connection,
        session: str,
        options: _calls.ExecOptions,
        stdin: Optional[_calls.Text],
        handler: Optional[Callable[[Mapping[str, Any]], None]],
        *,
        keep_open: bool = False,
        tty: Optional[tuple[int, int]] = None,
    ) -> None:
        """Sends it. `handler` gets its notifications in the thread that reads.

        `keep_open` leaves the input open, for `Process`. Such a command is detached, so that
        `started` tells when it may have input.
        """
        self._connection = connection
        self._session = session
        self.name = secrets.token_hex(8)
        self._key = ("output", session, self.name)
        params = {**options.params(session, self.name), **_calls.CONCURRENT}
        data = stdin.encode("utf-8") if isinstance(stdin, str) else stdin
        in_pieces = data is not None and len(data) > INLINE_INPUT
        if handler is not None:
            params["stream"] = True
            connection.subscribe(self._key, handler)
        if keep_open or in_pieces:
            params["detach"] = True
            if tty is None:
                params["open_stdin"] = True
            else:
                params["tty"] = {"rows": tty[0], "columns": tty[1]}
        elif data is not None:
            params["stdin"] = _calls.encoded(data)
        try:
            self.started = connection.submit("session.exec", params)
        except BaseException:
            connection.unsubscribe(self._key)
            raise
        self.future: Future[Any] = self.started
        if "detach" in params:
            self.future = Future()
            self._fed = data if in_pieces and data is not None else None
            self.started.add_done_callback(self._has_started)
        if handler is not None:
            self.future.add_done_callback(lambda _: connection.unsubscribe(self._key))

    def signal(self, number: Optional[int]) -> Future[Any]:
        """Sends it a signal; without one every process of it is killed."""
        params = _calls.given(session=self._session, exec=self.name, signal=number)
        return self._connection.submit("exec.kill", params)

    def kill_and_wait(self) -> None:
        """Kills it and waits until it is dead, for a caller that gives up. It does not raise."""
        try:
            self.signal(None).result(KILL_SECONDS)
            self.future.exception(KILL_SECONDS)
        except (ImgforgeError, FutureTimeoutError):
            # It has ended, or the server is gone: then the command is gone too.
            pass

    def _has_started(self, started: Future[Any]) -> None:
        error = started.exception()
        if error is not None:
            self._fail(error)
            return
        params = {"session": self._session, "exec": self.name}
        try:
            wait = self._connection.submit("exec.wait", {**params, **_calls.CONCURRENT})
        except ImgforgeError as lost:
            self._fail(lost)
            return
        wait.add_done_callback(self._has_ended)
        if self._fed is not None:
            self._feed(0)

    def _has_ended(self, wait: Future[Any]) -> None:
        error = wait.exception()
        if error is not None:
            self._fail(error)
        elif self.future.set_running_or_notify_cancel():
            self.future.set_result(wait.result())

    def _fail(self, error: BaseException) -> None:
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)

    def _feed(self, offset: int) -> None:
        """Sends a piece of the input, and the next one when that was written."""
        assert self._fed is not None
        piece = self._fed[offset : offset + _PIECE]
        params: dict[str, Any] = {"session": self._session, "exec": self.name}
        try:
            if piece:
                params["data"] = _calls.encoded(piece)
                written = self._connection.submit("exec.input", params)
            else:
                written = self._connection.submit("exec.close_input", params)
        except ImgforgeError as lost:
            self._fail(lost)
            return

        def next_piece(written: Future[Any]) -> None:
            error = written.exception()
            if error is None:
                if piece:
                    self._feed(offset + _PIECE)
            elif not isinstance(error, (NoSuchExec, SessionEnded)):
                # It would go on with a part of its input, and its result would mean nothing.
                self._fail(error)
                with contextlib.suppress(ImgforgeError):
                    self.signal(None)

        written.add_done_callback(next_piece)


def piece(params: Mapping[str, Any]) -> tuple[str, bytes]:
    """Reads a notification `output`."""
    return str(params.get("stream")), base64.b64decode(str(params.get("data", "")))
