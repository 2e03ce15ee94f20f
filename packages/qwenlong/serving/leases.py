"""Who needs a service: a file for each consumer below the service's folder. Without one, the service ends.

`qwenlong serve NAME -- COMMAND` holds a file while the command runs and touches it now and then. The workflow makes one
before a job and removes it after the job; it stands for the main snakemake, which touches it (core.processes).
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qwenlong.core.errors import QwenlongError
from qwenlong.core.files import write_json
from qwenlong.core.ownership import Identity, host, parse_mark
from qwenlong.core.processes import BEAT

#: Seconds after which a lease that is not touched any more counts for nothing.
STALE = 8 * BEAT


def folder(service: Path) -> Path:
    """Return the folder of a service's leases."""
    return service / "leases"


def write(file: Path, holder: Identity) -> None:
    """Write a lease held by a process of this machine, which is touched while it counts."""
    write_json(file, {"pid": holder.pid, "start": holder.start, "host": host()})


def owner(value: str | None) -> Identity | None:
    """Return the live main process of a run from the value of its mark."""
    mark = parse_mark(value)
    return mark[1] if mark is not None and mark[1].alive() else None


def live(service: Path) -> int:
    """Count the leases that count: of this machine those of live processes, of others those that are touched."""
    return sum(_counts(file) for file in sorted(folder(service).glob("*.json")))


def _counts(file: Path) -> bool:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        holder = Identity(int(found["pid"]), str(found["start"]))
        age = time.time() - file.stat().st_mtime
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if found.get("host") == host():
        return holder.alive()
    return age < STALE


@contextmanager
def held(service: Path) -> Iterator[None]:
    """Hold a lease of this process while the block runs."""
    file = folder(service) / f"{host()}-{uuid.uuid4().hex[:12]}.json"
    over = threading.Event()

    def touch() -> None:
        while not over.wait(BEAT):
            # A file that was removed comes back: the need is still there.
            with suppress(OSError, QwenlongError):
                write(file, Identity.own()) if not file.exists() else file.touch()

    write(file, Identity.own())
    thread = threading.Thread(target=touch, name="qwenlong-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        file.unlink(missing_ok=True)
