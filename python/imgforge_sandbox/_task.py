"""Requests that take their time, and are shown while they are done."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
from concurrent.futures import Future
from typing import Any, Callable, Generic, Mapping, Optional

from ._connection import Call, Connection, T
from ._progress import Shown

TICK_SECONDS = 0.5
"""How often what is shown is drawn again."""

TOLD = ("session.start", "session.grade", "instance.grade")
"""Methods of which the server tells what goes on."""

_names = itertools.count(1)


async def result_of(future: Future[Any]) -> Any:
    """Waits for a future of the connection. A task that is cancelled leaves it alone."""
    waiting = asyncio.wrap_future(future)
    # It may fail after nobody waits for it any more.
    waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
    return await asyncio.shield(waiting)


class Task(Generic[T]):
    """A request that was sent, and what is shown of it. `future` is that of its answer."""

    def __init__(
        self,
        connection: Connection,
        call: Call[T],
        name: str,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """Sends it. `name` is what people read, such as `starting debian:12`.

        `wake` is called in another thread where there is something new. Raises as `submit`.
        """
        self._connection = connection
        self._call = call
        self._wake = wake
        self._news: queue.SimpleQueue[Optional[Mapping[str, Any]]] = queue.SimpleQueue()
        self._key: Optional[tuple[str, str, str]] = None
        self._shown: Optional[Shown] = None
        params = dict(call.params)
        option = connection.progress
        if option is not False:
            self._shown = Shown(name, option)
            if call.method in TOLD and "events" in connection.features:
                params["events"] = f"e{next(_names)}"
                self._key = ("event", str(None), params["events"])
                connection.subscribe(self._key, self._took)
        try:
            self.future = connection.submit(call.method, params)
        except BaseException:
            self._over()
            raise
        self.future.add_done_callback(lambda _: self._add(None))

    def result(self) -> T:
        """Waits for its result. What is shown is shown in this thread."""
        try:
            while self._shown is not None:
                try:
                    news = self._news.get(timeout=TICK_SECONDS)
                except queue.Empty:
                    self._shown.tick()
                    continue
                if news is None:
                    break
                self._shown.took(news)
            return self._read(self.future.result())
        finally:
            self._over()

    def _read(self, result: Any) -> T:
        read = self._call.read(result)
        if self._shown is not None:
            self._shown.end()
        return read

    def _took(self, params: Mapping[str, Any]) -> None:
        """Takes a notification, in the thread that reads."""
        event = params.get("event")
        if isinstance(event, dict):
            self._add(event)

    def _add(self, news: Optional[Mapping[str, Any]]) -> None:
        """Adds an event, or the end of all."""
        self._news.put(news)
        self._wake()

    def _over(self) -> None:
        if self._key is not None:
            self._connection.unsubscribe(self._key)
        if self._shown is not None:
            self._shown.close()


class AsyncTask(Task[T]):
    """The same in an event loop: what is shown is shown there."""

    def __init__(self, connection: Connection, call: Call[T], name: str) -> None:
        """Sends it. Call it in the loop."""
        loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()

        def wake() -> None:
            # A loop that was closed has nobody who waits.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._woken.set)

        super().__init__(connection, call, name, wake)

    async def outcome(self) -> T:
        """Does as `result`. A task that is cancelled leaves the request alone."""
        try:
            if self._shown is not None:
                await self._until_done(self._shown)
            return self._read(await result_of(self.future))
        finally:
            self._over()

    async def _until_done(self, shown: Shown) -> None:
        while True:
            waiting = asyncio.ensure_future(self._woken.wait())
            try:
                done, _ = await asyncio.wait({waiting}, timeout=TICK_SECONDS)
            finally:
                waiting.cancel()
            if not done:
                shown.tick()
                continue
            self._woken.clear()
            while not self._news.empty():
                news = self._news.get()
                if news is None:
                    return
                shown.took(news)
