"""Who owns a run, told apart from any later process with the same pid, and locks that end with their holder."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwenlong.core.errors import QwenlongError

VARIABLE = "QWENLONG_RUN"
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
# File descriptors of the locks that this process holds for life; never closed, never inherited (O_CLOEXEC).
_HELD: dict[Path, int] = {}


@dataclass(frozen=True)
class Identity:
    """A process, told apart from any later one with the same pid."""

    pid: int
    start: str
    """Kernel's start time in clock ticks and the boot it belongs to: the wall clock may be set, ticks cannot."""

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """Return the identity of a live process; None for one that is dead, a zombie, or unknown."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except FileNotFoundError:
            return None if Path("/proc/self/stat").exists() else cls._portable(pid)
        except (ProcessLookupError, PermissionError):
            return None
        # Fields after the name: state is the first, start time the twentieth.
        return None if fields[0] in "ZXx" else cls(pid, f"{fields[19]}@{_boot()}")

    @classmethod
    def _portable(cls, pid: int) -> Identity | None:
        import psutil

        try:
            process = psutil.Process(pid)
            dead = process.status() == psutil.STATUS_ZOMBIE
            return None if dead else cls(pid, f"{process.create_time():.2f}")
        except psutil.Error:
            return None

    @classmethod
    def own(cls) -> Identity:
        """Return the identity of this process."""
        found = cls.of(os.getpid())
        assert found is not None
        return found

    def here(self) -> bool:
        """Tell whether it is a process of this boot and this process's namespace, which alone can be looked up."""
        own = Identity.of(os.getpid())
        return own is not None and own.start.partition("@")[2] == self.start.partition("@")[2]

    def alive(self) -> bool:
        """Tell whether this very process still runs."""
        return Identity.of(self.pid) == self


def _boot() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
        # Containers of one machine share its boot, not its process ids.
        return f"{boot}.{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return "boot"


def host() -> str:
    """Return this machine's name, as recorded beside process ids."""
    return socket.gethostname()


def run_digest(results: str | Path) -> str:
    """Return the digest of the resolved results folder, which its processes carry."""
    return hashlib.sha256(str(Path(results).resolve()).encode()).hexdigest()[:16]


def parse_mark(value: str | None) -> tuple[str, Identity] | None:
    """Return the digest of the results folder and the owner from the value of `VARIABLE`; None if it is no mark."""
    parts = (value or "").split(":")
    if len(parts) != 3 or not parts[1].isdigit():
        return None
    return parts[0], Identity(int(parts[1]), parts[2])


def join(results: str | Path) -> Identity:
    """Make this process, and all it starts from now on, part of the run on `results`; return the run's owner.

    The owner is the one inherited (the main snakemake) while it lives, else this process.
    """
    inherited = parse_mark(os.environ.get(VARIABLE))
    if inherited and inherited[0] == run_digest(results) and inherited[1].alive():
        return inherited[1]
    own = Identity.own()
    os.environ[VARIABLE] = mark(results, own)
    return own


def mark(results: str | Path, owner: Identity) -> str:
    """Return the value of `VARIABLE` for a run on `results` and its owner."""
    return f"{run_digest(results)}:{owner.pid}:{owner.start}"


def lock(path: str | Path, what: str, on: str | Path, **note: str) -> None:
    """Take an exclusive lock on a file until this process ends, however it ends. A second call here is a no-op.

    `note` is stored with the holder's pid and start. Raises QwenlongError `another {what} (pid N, since T) works on
    {on}` when another live process holds it.
    """
    file = Path(path).resolve()
    if file in _HELD:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _flock(descriptor)
    except OSError as error:
        holder = _holder(descriptor)
        unsupported = error.errno in _UNSUPPORTED
        if error.errno != errno.EWOULDBLOCK and not unsupported:
            os.close(descriptor)
            raise
        # A file system without locks (some cluster mounts): the record is all there is.
        if not unsupported or _holder_lives(holder):
            os.close(descriptor)
            raise _refusal(what, holder, on) from None
        print(f"warning: {file.parent} has no file locks; start one {what} at a time", file=sys.stderr)
    own = Identity.own()
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    record = {"pid": own.pid, "start": own.start, "since": since, "host": host(), **note}
    # Written in place: a renamed file would be another file, with another lock.
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(record).encode(), 0)
    _HELD[file] = descriptor


def _flock(descriptor: int) -> None:
    # Another run's look at this lock (`held_since`) holds it for an instant, a dying process for a little more.
    for remaining in reversed(range(10)):
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not remaining:
                raise
            time.sleep(0.1)


def _holder(descriptor: int) -> dict[str, Any]:
    try:
        value = json.loads(os.pread(descriptor, 4096, 0))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _holder_lives(holder: dict[str, Any]) -> bool:
    if holder.get("host") != host() or not isinstance(holder.get("pid"), int):
        return False
    return Identity(holder["pid"], str(holder.get("start"))).alive()


def _refusal(what: str, holder: dict[str, Any], on: str | Path) -> QwenlongError:
    elsewhere = f" on {holder['host']}" if holder.get("host") not in (None, host()) else ""
    who = f"pid {holder.get('pid', 'unknown')}{elsewhere}, since {holder.get('since', 'just now')}"
    return QwenlongError(f"another {what} ({who}) works on {on}; wait for it or stop it")


def held_since(file: Path) -> tuple[float | None, Path | None]:
    """Return when another process took the lock, None if nobody else holds it; and its holder's results folder."""
    if file.resolve() in _HELD:
        return None, None
    with file.open("rb") as stream:
        where = _holder(stream.fileno()).get("results")
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return file.stat().st_mtime, Path(where) if where else None
    return None, Path(where) if where else None
