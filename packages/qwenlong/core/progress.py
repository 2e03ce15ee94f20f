"""Progress with rate and time left: a bar on a terminal, otherwise a log line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import Any, TypeVar

from qwenlong.core.logs import get

T = TypeVar("T")
_LOG = get(__name__)

#: Seconds between two log lines where there is no terminal.
INTERVAL = 10.0


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """Progress of one piece of work, updated by hand: `with Progress("scoring", total) as p: p.advance()`.

    On a terminal (stderr) it draws a bar; elsewhere it logs at most every `INTERVAL` seconds, and once at the end.
    """

    def __init__(self, description: str, total: int | None = None, unit: str = "it") -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done = 0
        self._start = self._logged = time.monotonic()
        self._rich: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        self._start = self._logged = time.monotonic()
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._rich = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._task = self._rich.add_task(self.description, total=self.total, rate="", note="")
            self._rich.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rich is not None:
            self._rich.stop()
        elif kind is None:
            self._log(end=True)
        else:
            _LOG.info("%s: stopped after %s", self.description, self._count())

    @property
    def rate(self) -> float:
        """Units per second since the start."""
        return self.done / max(time.monotonic() - self._start, 1e-9)

    def advance(self, n: int = 1, **values: float | int | str) -> None:
        """Count `n` units as done; `values` are shown beside (a loss, a reward)."""
        self.done += n
        note = " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in values.items())
        if self._rich is not None:
            self._rich.update(self._task, completed=self.done, rate=f"{self.rate:.1f} {self.unit}/s", note=note)
        elif time.monotonic() - self._logged >= INTERVAL:
            self._log(note=note)

    def _count(self) -> str:
        return f"{self.done}/{self.total} {self.unit}" if self.total is not None else f"{self.done} {self.unit}"

    def _log(self, note: str = "", end: bool = False) -> None:
        self._logged = time.monotonic()
        elapsed = self._logged - self._start
        line = f"{self.description}: {self._count()}, {self.rate:.1f} {self.unit}/s, {_clock(elapsed)} elapsed"
        if not end and self.total is not None and self.done:
            line += f", {_clock((self.total - self.done) / self.rate)} left"
        _LOG.info("%s", line + (f", {note}" if note else ""))


def track(
    iterable: Iterable[T], total: int | None = None, description: str = "working", unit: str = "it"
) -> Iterator[T]:
    """Yield from `iterable`, showing progress; `total` defaults to its length where it has one."""
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with Progress(description, total, unit) as progress:
        for item in iterable:
            yield item
            progress.advance()
