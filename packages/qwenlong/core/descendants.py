"""What becomes of a process's descendants when a process between them ends; Linux alone can be asked."""

from __future__ import annotations

import contextlib
import ctypes
import signal

_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent ends, in init's place."""
    _prctl(_SET_CHILD_SUBREAPER, 1)


def die_with_parent(number: signal.Signals) -> None:
    """Let this process get a signal when its parent ends, however it ends."""
    _prctl(_SET_PDEATHSIG, number)


def _prctl(option: int, value: int) -> None:
    # Elsewhere than on Linux descendants are left to whoever started them.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
