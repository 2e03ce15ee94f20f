"""What a conversion that was killed left beside its output: told from that of a live one by a lock, and removed."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def held(partial: Path) -> Iterator[None]:
    """Hold a lock on a directory in the making while the block runs; the kernel lets it go when the process dies."""
    descriptor = os.open(partial, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def sweep(target: Path) -> int:
    """Remove the unfinished directories of `target` that no live process holds; return how many there were.

    On a file system without locks nothing can be told, and nothing is removed.
    """
    removed = 0
    if not target.parent.is_dir():
        return 0
    for partial in sorted(target.parent.glob(f".{glob.escape(target.name)}.*.partial")):
        if partial.is_symlink() or not partial.is_dir():
            continue
        descriptor = os.open(partial, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _lock(descriptor):
                shutil.rmtree(partial, ignore_errors=True)
                removed += 1
        finally:
            os.close(descriptor)
    return removed


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
