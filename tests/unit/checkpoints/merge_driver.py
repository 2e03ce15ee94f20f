"""The `qwenlong` command in a process of its own, which stands still at a named point.

    MERGE_HOLD=tensor:25|rename:GLOB MERGE_REACHED=FILE python merge_driver.py WORD…

At the point (the n-th tensor is done; a file is about to be renamed to a name of that pattern) it makes FILE and waits
until FILE is gone: the test looks at what lies on the disk and ends it from outside, or lets it go on.
"""

from __future__ import annotations

import fnmatch
import os
import sys
import time
from pathlib import Path
from typing import Any


def _hold() -> None:
    reached = Path(os.environ["MERGE_REACHED"])
    reached.touch()
    while reached.exists():
        time.sleep(0.02)


def _install() -> None:
    kind, _, value = os.environ.get("MERGE_HOLD", "").partition(":")
    if kind == "tensor":
        from qwenlong.core.progress import Progress

        advance, done = Progress.advance, [0]

        def advanced(self: Any, *words: Any, **values: Any) -> None:
            advance(self, *words, **values)
            done[0] += 1
            if done[0] == int(value):
                _hold()

        Progress.advance = advanced  # type: ignore[method-assign]
    elif kind == "rename":
        held: list[str] = []

        def hook(event: str, words: tuple[Any, ...]) -> None:
            if event == "os.rename" and not held and fnmatch.fnmatch(Path(os.fsdecode(words[1])).name, value):
                held.append(value)
                _hold()

        sys.addaudithook(hook)


if __name__ == "__main__":
    from qwenlong.cli import main

    _install()
    main()
