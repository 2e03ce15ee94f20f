"""Who works on a results folder: a register of commands, a lock for the one snakemake, an end to what a dead run left.

Every process of a run carries `QWENLONG_RUN=<digest of the results folder>:<owner's pid>:<owner's start>` in its
environment, Ray's workers too, since variables are inherited. The owner is the main snakemake, or a command started by
hand. A process whose owner is dead is a survivor: it would go on writing under the feet of the run that comes next.
Nothing is ever ended by its name, and nothing whose owner lives.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenlong.core.errors import QwenlongError
from qwenlong.core.files import write_json
from qwenlong.core.logs import command_line

if TYPE_CHECKING:
    import psutil

VARIABLE = "QWENLONG_RUN"
#: Seconds that survivors have between SIGTERM and SIGKILL, and after SIGKILL.
GRACE = 15.0
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

    def alive(self) -> bool:
        """Tell whether this very process still runs."""
        return Identity.of(self.pid) == self


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        return "boot"


def host() -> str:
    """Return this machine's name, as recorded beside process ids."""
    return socket.gethostname()


def run_digest(results: str | Path) -> str:
    """Return the digest of the resolved results folder, which its processes carry."""
    return hashlib.sha256(str(Path(results).resolve()).encode()).hexdigest()[:16]


def _parse(value: str | None) -> tuple[str, Identity] | None:
    parts = (value or "").split(":")
    if len(parts) != 3 or not parts[1].isdigit():
        return None
    return parts[0], Identity(int(parts[1]), parts[2])


def join(results: str | Path) -> Identity:
    """Make this process, and all it starts from now on, part of the run on `results`; return the run's owner.

    The owner is the one inherited (the main snakemake) while it lives, else this process.
    """
    inherited = _parse(os.environ.get(VARIABLE))
    if inherited and inherited[0] == run_digest(results) and inherited[1].alive():
        return inherited[1]
    own = Identity.own()
    os.environ[VARIABLE] = f"{run_digest(results)}:{own.pid}:{own.start}"
    return own


@contextlib.contextmanager
def terminate_as_exit() -> Iterator[None]:
    """Turn SIGTERM into SystemExit(143) in the main thread, so that `finally` runs; a second SIGTERM is ignored.

    Another handler that is already there (Ray's, a server's) is kept.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def handler(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(143)

    signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def register(results: str | Path, name: str) -> Iterator[None]:
    """Record this process in `<results>/state/processes` while the block runs; every long command does.

    Joins the run (see `join`), and turns SIGTERM into an orderly exit.
    """
    import psutil

    join(results)
    own = Identity.own()
    file = Path(results) / "state" / "processes" / f"{own.pid}.json"
    record = {
        "pid": own.pid,
        "start": own.start,
        "create_time": psutil.Process().create_time(),
        "name": name,
        "host": host(),
        "command": command_line(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }
    write_json(file, record)
    with terminate_as_exit():
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


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
    # Another run's look at this lock (`_held_since`) holds it for an instant, a dying process for a little more.
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


def guard(results: str | Path, workdir: str | Path) -> None:
    """Make this process the one snakemake that works on `results`, and clear up after one that was killed.

    Takes `<results>/state/snakemake.lock` for the life of the process, ends survivors of dead runs, and removes
    Snakemake's own locks under `workdir` that belong to nobody alive. Raises QwenlongError naming the pid and since
    when, where another live snakemake holds the lock, or when a survivor cannot be ended.
    """
    state = Path(results) / "state"
    lock(state / "snakemake.lock", "snakemake", results)
    owner = Identity.own()
    os.environ[VARIABLE] = f"{run_digest(results)}:{owner.pid}:{owner.start}"
    end_survivors(results)
    _clean_register(state / "processes")
    _remove_stale_locks(Path(workdir) / ".snakemake", Path(results))


def survivors(results: str | Path) -> list[psutil.Process]:
    """Return live processes of runs on `results` whose owner is dead, with all their descendants."""
    import psutil

    digest, alive = run_digest(results), {}
    own = psutil.Process()
    spared = {own.pid, *(p.pid for p in own.parents())}
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        if process.pid in spared:
            continue
        # Other users' processes and those that end meanwhile cannot be read, and are not ours.
        with contextlib.suppress(psutil.Error, OSError):
            mark = _parse(process.environ().get(VARIABLE))
            if mark is None or mark[0] != digest or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if mark[1] not in alive:
                alive[mark[1]] = mark[1].alive()
            if not alive[mark[1]]:
                found[process.pid] = process
                found |= {p.pid: p for p in process.children(recursive=True) if p.pid not in spared}
    return [found[pid] for pid in sorted(found)]


def end_survivors(results: str | Path) -> list[int]:
    """End survivors: SIGTERM, up to 15 s, SIGKILL; say on stderr what was ended; return their pids.

    Raises QwenlongError naming those that would not end.
    """
    import psutil

    names = _registered(Path(results) / "state" / "processes")
    ended: list[int] = []
    left: list[psutil.Process] = []
    for _ in range(3):  # A survivor may start another process while it is being ended.
        left = survivors(results)
        if not left:
            return ended
        for process in left:
            with contextlib.suppress(psutil.Error):
                label = names.get(process.pid) or " ".join(process.cmdline()[:4])[:100] or process.name()
                print(f"ending survivor of a dead run: pid {process.pid} ({label})", file=sys.stderr)
                process.terminate()
        stubborn = _wait(left)
        for process in stubborn:
            with contextlib.suppress(psutil.Error):
                print(f"pid {process.pid} did not end within {GRACE:.0f} s: killed", file=sys.stderr)
                process.kill()
        _wait(stubborn)
        ended += [p.pid for p in left if not _running(p)]
    left = survivors(results)
    if left:
        pids = ", ".join(str(p.pid) for p in left)
        raise QwenlongError(f"processes of an earlier run on {results} do not end: {pids}; stop them, then run again")
    return ended


def _wait(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Wait up to `GRACE` seconds; return those that still run. A zombie has ended, whoever should reap it."""
    end = time.monotonic() + GRACE
    while (running := [p for p in processes if _running(p)]) and time.monotonic() < end:
        time.sleep(0.1)
    return running


def _running(process: psutil.Process) -> bool:
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _records(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for file in sorted(folder.glob("*.json")):
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(record, dict) and isinstance(record.get("pid"), int):
            yield file, record


def _registered(folder: Path) -> dict[int, str]:
    names = {}
    for _, record in _records(folder):
        if record.get("host") == host() and Identity(record["pid"], str(record.get("start"))).alive():
            names[record["pid"]] = str(record.get("name"))
    return names


def _clean_register(folder: Path) -> None:
    for file, record in _records(folder):
        if record.get("host") != host():
            job = f", Slurm job {record['slurm_job']}" if record.get("slurm_job") else ""
            print(
                f"warning: {record.get('name')} may still run on {record.get('host')} (pid {record['pid']}{job}); "
                f"if it does, stop it; if not, remove {file}",
                file=sys.stderr,
            )
        elif not Identity(record["pid"], str(record.get("start"))).alive():
            file.unlink(missing_ok=True)


def _remove_stale_locks(folder: Path, results: Path) -> None:
    """Remove Snakemake's lock files, which name paths but no process, where no live run can own them.

    Runs on other results may share the working directory, so each main run holds a file lock under
    `.snakemake/qwenlong`. A Snakemake lock is stale when it names a file of a run that is dead (or of ours, which
    nobody else can hold), or, naming no run's file, when it is older than every other live run.
    """
    runs, ours = folder / "qwenlong", results.resolve()
    lock(runs / f"{run_digest(results)}.lock", "snakemake", results, results=str(ours))
    dead, live = {ours}, []
    for file in runs.glob("*.lock"):
        if file.resolve() in _HELD:
            continue
        since, where = _held_since(file)
        if since is not None:
            live.append(since)
        elif where is not None:
            dead.add(where)
    for file in (folder / "locks").glob("*.lock"):
        with contextlib.suppress(FileNotFoundError):
            paths = [(folder.parent / line).resolve() for line in file.read_text().splitlines() if line]
            named = any(path.is_relative_to(run) for path in paths for run in dead)
            if named or all(file.stat().st_mtime < since for since in live):
                file.unlink()


def _held_since(file: Path) -> tuple[float | None, Path | None]:
    """Return when the lock was taken, None if nobody holds it; and the results folder that its holder works on."""
    with file.open("rb") as stream:
        where = _holder(stream.fileno()).get("results")
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return file.stat().st_mtime, Path(where) if where else None
    return None, Path(where) if where else None


def protect(workflow: Any, results: str | Path) -> None:
    """Guard a Snakemake run on `results`; called once in the Snakefile, before the rules.

    When Snakemake begins to execute in its main process, `guard` runs first: before it locks and before it looks at
    any file. Dry-runs, lint, `--unlock`, `--summary`, plots of the DAG and the child processes of jobs take no guard.
    Interrupted jobs are run again without `--rerun-incomplete`: rules write whole files, so a mark is only a hint.

    Works on this one workflow object, since Snakemake hands its settings over only after the Snakefile was read.
    """
    from snakemake.exceptions import ApiError

    kind = type(workflow)
    folder = Path(results).resolve()

    class Protected(kind):  # type: ignore[misc, valid-type]
        def __setattr__(self, name: str, value: Any) -> None:
            if name == "dag_settings" and value is not None:
                value.force_incomplete = True
            super().__setattr__(name, value)

        def execute(self, executor_plugin: Any, *args: Any, **kwargs: Any) -> Any:
            if self.is_main_process and not executor_plugin.common_settings.dryrun_exec:
                try:
                    guard(folder, Path.cwd())
                except QwenlongError as error:
                    raise ApiError(str(error)) from None
            return super().execute(executor_plugin, *args, **kwargs)

    Protected.__name__, Protected.__qualname__ = kind.__name__, kind.__qualname__
    workflow.__class__ = Protected
    if workflow.dag_settings is not None:
        workflow.dag_settings.force_incomplete = True
