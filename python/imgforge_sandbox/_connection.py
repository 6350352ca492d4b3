"""A connection to a server: requests with their answers, and notifications.

Any thread may call. One thread writes and one reads, so that a call never waits for a pipe that is
full, and `post` may be called by a destructor.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import queue
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any, Callable, Generic, Mapping, Optional, TypeVar

from . import _lifetime
from ._errors import (
    ConnectionLost,
    ImgforgeError,
    InfraError,
    InvalidRequest,
    LimitExceeded,
    ProtocolError,
    Refused,
    VersionMismatch,
    of_answer,
)
from ._progress import ProgressOption
from ._transport import Transport
from ._version import __version__

PROTOCOL = 1
"""The version of the protocol."""

LONGEST_LINE = 64 << 20
"""The longest request that a server takes, in bytes."""

HELLO_SECONDS = 60.0
"""How long a server may take until it answers the first request."""

CLOSE_SECONDS = 20.0
"""How long a server may take to end its sessions, before it is killed."""

_LOG = logging.getLogger("imgforge_sandbox")

T = TypeVar("T")
Handler = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request, and how its result is read."""

    method: str
    params: Mapping[str, Any]
    read: Callable[[Any], T]


class Connection:
    """A connection whose server has answered `hello`."""

    def __init__(
        self, open_transport: Callable[[], Transport], progress: ProgressOption = False
    ) -> None:
        """Connects. Raises `BinaryNotFound`, `VersionMismatch`, `ConnectionLost`, `InfraError`.

        `progress` says what is shown of requests that take their time.
        """
        self.progress = progress
        self._pid = os.getpid()
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._pending: dict[int, Future[Any]] = {}
        self._handlers: dict[tuple[str, str, str], Handler] = {}
        self._lost: Optional[Callable[[], ImgforgeError]] = None
        self._closing = False
        self._outgoing: queue.SimpleQueue[Optional[bytes]] = queue.SimpleQueue()
        with _lifetime.lock:
            self._transport = open_transport()
            _lifetime.opened(self)
        self._reader = threading.Thread(target=self._read, name="imgforge-read", daemon=True)
        self._writer = threading.Thread(target=self._write, name="imgforge-write", daemon=True)
        self._reader.start()
        self._writer.start()
        try:
            self.version, self.engine, self.features = self._hello()
        except BaseException:
            self.close(0)
            raise

    def submit(self, method: str, params: Mapping[str, Any]) -> Future[Any]:
        """Sends a request. The future has its result or the exception that the answer is.

        Raises `InvalidRequest` and `LimitExceeded` for what cannot be sent, and `ConnectionLost`.
        """
        number = next(self._ids)
        line = _encoded(number, method, params)
        future: Future[Any] = Future()
        if self._pid != os.getpid():
            raise ConnectionLost(
                "this belongs to the process that forked",
                hint="start sessions in the process that uses them: a `Client` makes a "
                "connection of its own in each process",
            )
        with self._lock:
            if self._lost is not None:
                raise self._lost()
            self._pending[number] = future
        self._outgoing.put(line)
        return future

    def call(self, call: Call[T]) -> T:
        """Sends a request and waits for its result."""
        return call.read(self.submit(call.method, call.params).result())

    def post(self, method: str, params: Mapping[str, Any]) -> None:
        """Sends a request whose answer nobody reads. It never blocks and never raises."""
        if self._pid == os.getpid():
            self._outgoing.put(_encoded(next(self._ids), method, params))

    def subscribe(self, key: tuple[str, str, str], handler: Handler) -> None:
        """Lets `handler` have notifications: method, session, and a name.

        It runs in the thread that reads: it must be quick and must not call.
        """
        with self._lock:
            self._handlers[key] = handler

    def unsubscribe(self, key: tuple[str, str, str]) -> None:
        """Ends that. Later notifications are dropped."""
        with self._lock:
            self._handlers.pop(key, None)

    @property
    def is_open(self) -> bool:
        """Whether requests can be sent."""
        return self._lost is None and self._pid == os.getpid()

    def close(self, grace: float = CLOSE_SECONDS) -> None:
        """Ends the connection and waits for it: all sessions that it started have ended then.

        After `grace` seconds the server is killed. Calls that wait get `ConnectionLost`.
        """
        if self._pid != os.getpid():
            return
        self.close_soon()
        if threading.current_thread() is self._reader:
            return
        self._reader.join(grace)
        if self._reader.is_alive():
            self._transport.force()
            self._reader.join(CLOSE_SECONDS)

    def close_soon(self) -> None:
        """Ends the connection without waiting for it. It never blocks."""
        self._closing = True
        self._outgoing.put(None)

    def after_fork_in_child(self) -> None:
        """Closes the descriptors: the connection is the parent's."""
        self._transport.abandon()

    def _hello(self) -> tuple[str, str, list[str]]:
        params = {"protocol": PROTOCOL, "client": f"imgforge-sandbox {__version__}"}
        try:
            answer = self.submit("hello", params).result(HELLO_SECONDS)
        except ConnectionLost as error:
            raise ConnectionLost(
                f"the server ended before it answered: {error.message}",
                hint="it is perhaps too old for this package: `imgforge serve --help` has to know "
                "`--stdio`",
                stderr=error.stderr,
            ) from None
        except FutureTimeoutError as error:
            raise InfraError(
                f"the server did not answer within {HELLO_SECONDS:.0f} seconds",
                hint="is it imgforge? `imgforge --version` says so",
            ) from error
        protocol = answer.get("protocol") if isinstance(answer, dict) else None
        if protocol != PROTOCOL:
            raise VersionMismatch(
                f"the server speaks protocol {protocol!r}, this package speaks {PROTOCOL}",
                hint="install versions of imgforge and imgforge-sandbox that belong together",
            )
        return (
            str(answer.get("version", "")),
            str(answer.get("engine", "")),
            [str(feature) for feature in answer.get("features", [])],
        )

    def _write(self) -> None:
        try:
            while True:
                line = self._outgoing.get()
                if line is None:
                    self._transport.end_input()
                    return
                self._transport.write(line)
        except OSError:
            # The server reads no more: the thread that reads will see its end.
            with contextlib.suppress(OSError):
                self._transport.end_input()

    def _read(self) -> None:
        broken: Optional[ImgforgeError] = None
        pieces: list[bytes] = []
        try:
            while True:
                piece = self._transport.read()
                if not piece:
                    break
                *lines, rest = piece.split(b"\n")
                for line in lines:
                    pieces.append(line)
                    self._took(b"".join(pieces))
                    pieces.clear()
                if rest:
                    pieces.append(rest)
        except OSError:
            pass
        except ImgforgeError as error:
            broken = error
        except Exception as error:
            broken = ProtocolError(f"cannot read what the server sent: {error!r}")
        if broken is not None:
            self._transport.force()
        self._lose(broken)

    def _took(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            message = json.loads(line)
        except ValueError as error:
            raise _no_message(line) from error
        if not isinstance(message, dict):
            raise _no_message(line)
        if "method" in message:
            self._notified(message["method"], message.get("params"))
            return
        if "error" not in message and "result" not in message:
            raise _no_message(line)
        number = message.get("id")
        with self._lock:
            future = self._pending.pop(number, None) if isinstance(number, int) else None
        if future is None:
            if number is None:
                # An answer to what was no request: it is not known which call waits for it.
                raise of_answer(message.get("error"))
            return
        if not future.set_running_or_notify_cancel():
            return
        if "error" in message:
            future.set_exception(of_answer(message["error"]))
        else:
            future.set_result(message["result"])

    def _notified(self, method: Any, params: Any) -> None:
        if not isinstance(params, dict):
            return
        names = ("exec", "shell", "transfer", "events")
        name = next((params[one] for one in names if params.get(one)), None)
        with self._lock:
            handler = self._handlers.get((str(method), str(params.get("session")), str(name)))
        if handler is not None:
            try:
                handler(params)
            except Exception:
                # Whoever waits for it is gone, such as an event loop that was closed.
                _LOG.debug("a notification was not taken", exc_info=True)

    def _lose(self, broken: Optional[ImgforgeError]) -> None:
        how, said = self._transport.end()

        def lost() -> ImgforgeError:
            if broken is not None:
                # A server that cannot serve says why; else it sent what is no answer.
                says_why = isinstance(broken, (InfraError, Refused))
                kind = type(broken) if says_why else ProtocolError
                return kind(broken.message, hint=broken.hint, data=broken.data)
            if self._closing:
                return ConnectionLost("the client was closed", stderr=said)
            last = "\n".join(said.splitlines()[-10:])
            return ConnectionLost(
                f"the server {how}" + (f":\n{last}" if last else ""),
                hint="its sessions are gone; make a new client",
                stderr=said,
            )

        with self._lock:
            self._lost = lost
            pending, self._pending = self._pending, {}
            self._handlers.clear()
        # The thread that writes has nothing to do any more.
        self._outgoing.put(None)
        _lifetime.closed(self)
        for future in pending.values():
            if future.set_running_or_notify_cancel():
                future.set_exception(lost())


def _encoded(number: int, method: str, params: Mapping[str, Any]) -> bytes:
    request = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    try:
        text = json.dumps(request, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        line = text.encode("utf-8") + b"\n"
    except UnicodeEncodeError as error:
        bad = error.object[max(0, error.start - 20) : error.end + 20]
        raise InvalidRequest(
            f"{method}: {bad!r} is no text that can be sent",
            hint="names and arguments are UTF-8; bytes go in files or in the input",
        ) from error
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"{method}: {error}") from error
    if len(line) > LONGEST_LINE:
        raise LimitExceeded(
            f"{method}: the request has {len(line)} bytes, more than {LONGEST_LINE}",
            hint="put what is long into a file of the session",
        )
    return line


def _no_message(line: bytes) -> ProtocolError:
    return ProtocolError(
        f"the server sent what is no message: {line[:200]!r}",
        hint="is it `imgforge serve`?",
    )
