"""Shells: directory, variables and functions stay between commands."""

from __future__ import annotations

import contextlib
import queue
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from types import TracebackType
from typing import Any, Mapping, Optional

from . import _calls
from ._connection import Connection
from ._errors import ConnectionLost, ImgforgeError, NotFound, SessionEnded
from ._execute import KILL_SECONDS, OnOutput, piece
from .results import ShellResult


class Shell:
    """A shell of a session, see `Session.shell`. Commands of several threads run one by one."""

    def __init__(self, connection: Connection, session: str, name: str, process: Any) -> None:
        self._connection = connection
        self.session_id = session
        self._lock = threading.Lock()
        self.name = name
        self.process = process

    def run(
        self,
        command: str,
        *,
        timeout: Optional[float] = None,
        max_output: Optional[int] = None,
        keep: Optional[str] = None,
        on_output: Optional[OnOutput] = None,
    ) -> ShellResult:
        """Runs a command to its end.

        After `timeout` seconds what it started is killed, nothing else of it is run, and the
        shell lives on. `max_output`, `keep` and `on_output` are as for `Session.exec`. Ctrl-C, or
        an exception of `on_output`, kills what it runs. Raises `NoSuchShell` where the shell has
        ended.
        """
        call = _calls.shell_run(self.session_id, self.name, command, timeout, max_output, keep)
        with self._lock:
            return call.read(self._waited(call.method, call.params, on_output))

    def interrupt(self) -> None:
        """Sends SIGINT to what it runs. For another thread than that of `run`.

        A shell that is not `interactive` may end with it.
        """
        self._do("shell.interrupt")

    def kill(self) -> None:
        """Kills what it runs, which ends with code 137. For another thread than that of `run`."""
        self._do("shell.kill")

    def close(self) -> None:
        """Ends the shell, and all that it runs. Another call does nothing."""
        with contextlib.suppress(NotFound, SessionEnded, ConnectionLost):
            self._do("shell.close")

    def __enter__(self) -> Shell:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def _waited(self, method: str, params: Mapping[str, Any], on_output: Optional[OnOutput]) -> Any:
        if on_output is None:
            future = self._connection.submit(method, params)
            return self._result(future)
        pieces: queue.SimpleQueue[Optional[Mapping[str, Any]]] = queue.SimpleQueue()
        key = ("output", self.session_id, self.name)
        self._connection.subscribe(key, pieces.put)
        try:
            future = self._connection.submit(method, {**params, "stream": True})
            future.add_done_callback(lambda _: pieces.put(None))
            return self._result(future, pieces, on_output)
        finally:
            self._connection.unsubscribe(key)

    def _result(
        self,
        future: Future[Any],
        pieces: Optional[queue.SimpleQueue[Optional[Mapping[str, Any]]]] = None,
        on_output: Optional[OnOutput] = None,
    ) -> Any:
        try:
            while pieces is not None and on_output is not None:
                params = pieces.get()
                if params is None:
                    break
                on_output(*piece(params))
            return future.result()
        except BaseException:
            if not future.done():
                self.kill_and_wait(future)
            raise

    def kill_and_wait(self, future: Future[Any]) -> None:
        """Kills what it runs, for a caller that gives up. It does not raise."""
        try:
            self._connection.submit("shell.kill", self._named()).result(KILL_SECONDS)
            future.exception(KILL_SECONDS)
        except (ImgforgeError, FutureTimeoutError):
            pass

    def _named(self) -> dict[str, str]:
        return {"session": self.session_id, "shell": self.name}

    def _do(self, method: str) -> None:
        self._connection.submit(method, self._named()).result()
