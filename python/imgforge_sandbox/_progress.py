"""What is shown of work that takes its time: starts, grades, resets, checkpoints and forks.

`Client(progress=...)` says how: True (a bar of tqdm where it is installed and somebody looks, else
records of the logger `imgforge_sandbox`), False (nothing), or a function.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Mapping, Optional, Union

_LOG = logging.getLogger("imgforge_sandbox")

SILENT_SECONDS = 1.0
"""How long nothing is said of work that may be over soon."""

LONGEST_TEXT = 70
"""How many characters of a text are beside a bar."""


@dataclass(frozen=True)
class Progress:
    """Something that happened in work that takes its time.

    `task` is the work, such as `starting imgforge__abacus-1`, and `text` is what happened. `level`
    is that of `logging`: INFO for what is done, WARNING for what a person should know, DEBUG for
    the rest, such as lines that a build prints. `seconds` is the time since the work began. `done`
    and `total` count images and evaluations; `total` is None where they are not known. `event` is
    what the server sent (docs/protocol.md), or `{"event": "begin"}`, `{"event": "waiting"}` or
    `{"event": "end"}`.
    """

    task: str
    text: str
    level: int
    seconds: float
    done: int = 0
    total: Optional[int] = None
    event: Mapping[str, Any] = field(default_factory=dict, repr=False)


ProgressOption = Union[bool, Callable[[Progress], object]]
"""What `Client(progress=...)` takes."""


def log_progress(progress: Progress) -> None:
    """Logs it, through the logger `imgforge_sandbox`. For `Client(progress=log_progress)`."""
    _LOG.log(progress.level, "%s: %s", progress.task, progress.text)


class Shown:
    """Work that is shown. All of it is called in one thread, or one event loop."""

    def __init__(self, task: str, option: ProgressOption) -> None:
        """Begins. `option` is not False."""
        self._task = task
        self._began = time.monotonic()
        self._done = 0
        self._total: Optional[int] = None
        self._text = "waiting for the server"
        self._said = False
        self._bar: Optional[_Bar] = None
        if option is True:
            self._bar = _Bar.of(task)
            self._tell: Callable[[Progress], object] = self._bar.tell if self._bar else log_progress
        else:
            assert callable(option)
            self._tell = option
        self._say({"event": "begin"}, logging.DEBUG, "begins")

    def took(self, event: Mapping[str, Any]) -> None:
        """Shows an event of the server. One that is not known is passed by."""
        if event.get("event") == "run_started":
            self._total = _number(event.get("to_run"))
        if event.get("event") == "node_finished" and event.get("outcome") in _DONE:
            self._done += 1
        read = _read(event)
        if read is not None:
            level, text, lasts = read
            text = _plain(text)
            if lasts:
                self._text = text
                if self._bar is not None:
                    self._bar.text = text
            self._said = self._said or level >= logging.INFO
            self._say(event, level, text)

    def tick(self) -> None:
        """Lets time pass."""
        if self._bar is not None:
            self._bar.refresh()
        elif not self._said and self._seconds() >= SILENT_SECONDS:
            self._said = True
            self._say({"event": "waiting"}, logging.INFO, self._text)

    def end(self) -> None:
        """Shows that it has been done."""
        self.close()
        level = logging.INFO if self._seconds() >= SILENT_SECONDS else logging.DEBUG
        self._say({"event": "end"}, level, f"done in {self._seconds():.1f} s")

    def close(self) -> None:
        """Takes away what is drawn. Another call does nothing."""
        if self._bar is not None:
            self._bar.close()

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _say(self, event: Mapping[str, Any], level: int, text: str) -> None:
        self._tell(
            Progress(self._task, text, level, self._seconds(), self._done, self._total, dict(event))
        )


_DONE = ("built", "pulled", "found_fresh", "evaluated", "patch_refused")


def _read(event: Mapping[str, Any]) -> Optional[tuple[int, str, bool]]:
    """Returns level and text of an event, and whether that is what goes on from then on."""
    kind, node = event.get("event"), event.get("id")
    if kind == "notice":
        weight, text = event.get("weight"), str(event.get("text"))
        if weight in ("waiting", "output"):
            return logging.DEBUG, text, True
        return (logging.DEBUG if weight == "remark" else logging.WARNING), text, False
    if kind == "run_started":
        return logging.INFO, f"{event.get('to_run')} to do, {event.get('fresh')} fresh", True
    if kind == "node_started":
        return logging.INFO, f"{node}", True
    if kind == "node_step":
        return logging.INFO, f"{node}: {event.get('step')}", True
    if kind == "node_output":
        return logging.DEBUG, f"{node}: {event.get('line')}", True
    if kind == "node_retry":
        seconds = _number(event.get("delay")) or 0
        why = f"{event.get('reason')}; the next try is in {seconds} s"
        return logging.WARNING, f"{node}: {why}", True
    if kind == "warning":
        return logging.WARNING, str(event.get("text")), False
    if kind == "node_finished":
        outcome = str(event.get("outcome"))
        if outcome == "failed":
            causes = event.get("error")
            why = ": ".join(map(str, causes)) if isinstance(causes, list) else str(causes)
            return logging.WARNING, f"{node} failed: {why}", True
        took = event.get("seconds")
        time_taken = f" ({took:.1f} s)" if isinstance(took, (int, float)) else ""
        words = str(event.get("verdict")) if outcome == "evaluated" else outcome
        return logging.INFO, f"{node}: {words.replace('_', ' ')}{time_taken}", True
    return None


def _number(value: Any) -> Optional[int]:
    return int(value) if isinstance(value, (int, float)) else None


def _plain(text: str) -> str:
    """Returns a text on one line, without what a terminal would take for a command."""
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()


class _Bar:
    """A bar of tqdm, which is drawn where the work takes longer than a moment."""

    def __init__(self, tqdm: Any, task: str) -> None:
        self._tqdm = tqdm
        self._task = task
        self._began = time.monotonic()
        self._bar: Any = None
        self._last: Optional[Progress] = None
        self.text = ""

    @classmethod
    def of(cls, task: str) -> Optional[_Bar]:
        """Makes one, where somebody looks and tqdm is installed."""
        in_notebook = _in_notebook()
        if not (in_notebook or _is_terminal(sys.stderr)) or not _is_installed("tqdm"):
            return None
        # In a notebook without ipywidgets `tqdm.auto` would warn.
        with_widgets = in_notebook and _is_installed("ipywidgets")
        return cls(importlib.import_module("tqdm.auto" if with_widgets else "tqdm").tqdm, task)

    def tell(self, progress: Progress) -> None:
        """Shows it. Warnings stay above the bar."""
        if progress.level >= logging.WARNING:
            with _whatever_happens_to_the_terminal():
                self._tqdm.write(f"imgforge: {progress.task}: {progress.text}", file=sys.stderr)
        self._last = progress
        self.refresh()

    def refresh(self) -> None:
        """Draws it again, with the time."""
        now = time.monotonic()
        if now - self._began >= SILENT_SECONDS:
            with _whatever_happens_to_the_terminal():
                self._draw(now)

    def _draw(self, now: float) -> None:
        if self._bar is None:
            # What was only waited for does not stay.
            self._bar = self._tqdm(
                desc=self._task,
                bar_format="{desc}: {elapsed}{postfix}",
                leave=False,
                dynamic_ncols=True,
                file=sys.stderr,
                # It is drawn below, with its time.
                delay=1e-6,
            )
            self._bar.start_t -= now - self._began
        bar, last = self._bar, self._last
        if last is not None:
            if last.total and last.total != bar.total:
                began = bar.start_t
                bar.bar_format = "{desc}: {n_fmt}/{total_fmt} |{bar}| {elapsed}{postfix}"
                bar.reset(total=last.total)
                bar.start_t = began
                bar.leave = True
            bar.n = last.done
            bar.set_postfix_str(self.text[:LONGEST_TEXT], refresh=False)
        bar.refresh()

    def close(self) -> None:
        bar, self._bar = self._bar, None
        if bar is not None:
            if self._last is not None:
                bar.n = self._last.done
            with _whatever_happens_to_the_terminal():
                bar.set_postfix_str("", refresh=False)
                bar.close()
        # It is not drawn again.
        self._began = float("inf")


def _whatever_happens_to_the_terminal() -> contextlib.AbstractContextManager[None]:
    """A terminal that went away, or a stream that was closed, ends no work."""
    return contextlib.suppress(OSError, ValueError)


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _is_terminal(stream: Any) -> bool:
    try:
        return stream is not None and bool(stream.isatty())
    except (AttributeError, ValueError):
        # It is closed, or something that only writes.
        return False


def _in_notebook() -> bool:
    """Tells whether this is a kernel of Jupyter."""
    ipython = sys.modules.get("IPython")
    shell = getattr(ipython, "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in getattr(shell, "config", {})
