"""How a command ends when it is told to: `finally` runs, and nothing holds it up for ever."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

#: Seconds that a command has between SIGTERM and its end, by whatever means; none: as long as it takes.
_deadline: float | None = None


def end_within(seconds: float) -> None:
    """Let SIGTERM end this process after at most so many seconds, though threads or locks hold it up.

    Nothing is lost by it that a kill would not lose: files are whole or absent.
    """
    global _deadline
    _deadline = seconds


def end_late(seconds: float) -> None:
    """End this process in so many seconds, if it still runs then."""

    def end() -> None:
        print(f"still busy {seconds:.0f} s after it was told to end: ended", file=sys.stderr, flush=True)
        os._exit(143)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


@contextlib.contextmanager
def terminate_as_exit() -> Iterator[None]:
    """Turn SIGTERM into SystemExit(143) in the main thread, so that `finally` runs; a second SIGTERM is ignored.

    Another handler that is already there (Ray's, a server's) is kept. See `end_within`.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def handler(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if _deadline is not None:
            end_late(_deadline)
        raise SystemExit(143)

    signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
