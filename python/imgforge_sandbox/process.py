"""A command that runs while you do something else."""

from __future__ import annotations

import queue
from concurrent.futures import Future
from typing import Any, Iterator, Mapping, Optional

from . import _calls
from ._connection import Connection
from ._execute import Running, piece
from .results import ExecResult


class Process:
    """A command of `Session.spawn`. Any thread may use it."""

    def __init__(
        self,
        connection: Connection,
        session: str,
        options: _calls.ExecOptions,
        tty: Optional[tuple[int, int]],
        stream: bool,
    ) -> None:
        self._connection = connection
        self._session = session
        self._pieces: queue.SimpleQueue[Optional[Mapping[str, Any]]] = queue.SimpleQueue()
        self._running = Running(
            connection,
            session,
            options,
            None,
            self._pieces.put if stream else None,
            keep_open=True,
            tty=tty,
        )
        self._running.future.add_done_callback(self._has_ended)
        self._running.started.result()

    def write(self, data: _calls.Text) -> None:
        """Writes to its input, and returns when that was written.

        Raises `NoSuchExec` where it has ended.
        """
        self._do("exec.input", data=_calls.encoded(data))

    def close_stdin(self) -> None:
        """Ends its input."""
        self._do("exec.close_input")

    def resize(self, rows: int, columns: int) -> None:
        """Gives its terminal another size."""
        self._do("exec.resize", rows=rows, columns=columns)

    def kill(self, signal: Optional[int] = None) -> None:
        """Sends it a signal; without one every process of it is killed."""
        self._running.signal(signal).result()

    def output(self) -> Iterator[tuple[str, bytes]]:
        """Gives the pieces of its output as they come, until it ends: `stdout` or `stderr`, and
        bytes.

        It needs `stream=True`. Each piece comes once.
        """
        while True:
            params = self._pieces.get()
            if params is None:
                self._pieces.put(None)
                return
            yield piece(params)

    def wait(self, timeout: Optional[float] = None) -> ExecResult:
        """Waits for its end and returns its result. It may be called again.

        Raises `TimeoutError` of `concurrent.futures` after `timeout` seconds: it runs on.
        """
        return _calls.exec_result(self._running.future.result(timeout))

    @property
    def running(self) -> bool:
        """Whether its end is not known yet."""
        return not self._running.future.done()

    def _has_ended(self, future: Future[Any]) -> None:
        del future
        self._pieces.put(None)

    def _do(self, method: str, **params: Any) -> None:
        params.update(session=self._session, exec=self._running.name)
        self._connection.submit(method, params).result()
