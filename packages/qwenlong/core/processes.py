"""Who works on a results folder: a register of commands, a lock for the one snakemake, an end to what a dead run left.

Every process of a run carries `QWENLONG_RUN=<digest of the results folder>:<owner's pid>:<owner's start>` in its
environment, Ray's workers too, since variables are inherited. The owner is the main snakemake, or a command started by
hand. A process whose owner is dead is a survivor: it would go on writing under the feet of the run that comes next.
Nothing is ever ended by its name, and nothing whose owner lives.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenlong.core import slurm
from qwenlong.core.endings import end_late, end_within, terminate_as_exit
from qwenlong.core.errors import QwenlongError
from qwenlong.core.files import remove_partials, write_json
from qwenlong.core.logs import command_line
from qwenlong.core.ownership import VARIABLE, Identity, held_since, host, join, lock, mark, parse_mark, run_digest

if TYPE_CHECKING:
    import psutil

__all__ = [
    "VARIABLE",
    "Identity",
    "end_late",
    "end_survivors",
    "end_within",
    "guard",
    "host",
    "join",
    "lock",
    "mark",
    "protect",
    "register",
    "run_digest",
    "survivors",
    "terminate_as_exit",
]

#: Seconds that survivors have between SIGTERM and SIGKILL, and after SIGKILL.
GRACE = 15.0
#: Leases of the workflow's jobs on services, below the state folder, and seconds between two touches.
LEASES, BEAT = "services/*/leases/*.job.json", 15.0
#: Seconds between two looks at a command's descendants.
WATCH = 2.0


@contextlib.contextmanager
def register(results: str | Path, name: str) -> Iterator[None]:
    """Record this process and its descendants in `<results>/state/processes` while the block runs.

    Every long command does. Joins the run (see `join`), and turns SIGTERM into an orderly exit.
    """
    import psutil

    owner, own = join(results), Identity.own()
    record = {
        "pid": own.pid,
        "start": own.start,
        "create_time": psutil.Process().create_time(),
        "owner": [owner.pid, owner.start],
        "name": name,
        "host": host(),
        "command": command_line(),
        "slurm_job": slurm.own_job(),
        "descendants": [],
    }
    # Machines that share the folder count their processes alike.
    watch = _Watch(Path(results) / "state" / "processes" / f"{host()}-{own.pid}.json", record)
    with terminate_as_exit():
        try:
            watch.start()
            yield
        finally:
            watch.end()


class _Watch(threading.Thread):
    """Keeps a record's list of descendants up to date.

    Programs that write their title over their environment (Ray's workers and agents do) cannot be told by it later,
    and once their parent is gone nothing else leads to them.
    """

    def __init__(self, file: Path, record: dict[str, Any]) -> None:
        super().__init__(name="qwenlong-register", daemon=True)
        self._file, self._record = file, record
        self._over = threading.Event()

    def start(self) -> None:
        write_json(self._file, self._record)
        super().start()

    def run(self) -> None:
        import psutil

        while not self._over.wait(WATCH):
            # A full disk, or a process that ends meanwhile, is no reason to end the work.
            with contextlib.suppress(psutil.Error, OSError, QwenlongError):
                below = [Identity.of(p.pid) for p in psutil.Process().children(recursive=True)]
                found = [[i.pid, i.start] for i in below if i is not None]
                if found != self._record["descendants"]:
                    self._record["descendants"] = found
                    write_json(self._file, self._record)

    def end(self) -> None:
        """Stop, and remove the record."""
        self._over.set()
        if self.is_alive():
            self.join()
        self._file.unlink(missing_ok=True)


def guard(results: str | Path, workdir: str | Path) -> None:
    """Make this process the one snakemake that works on `results`, and clear up after one that was killed.

    Takes `<results>/state/snakemake.lock` for the life of the process, ends survivors of dead runs, and removes their
    half-written files and Snakemake's own locks under `workdir` that belong to nobody alive. Raises QwenlongError
    naming the pid and since when, where another live snakemake holds the lock, or when a survivor cannot be ended.
    """
    state = Path(results) / "state"
    lock(state / "snakemake.lock", "snakemake", results)
    os.environ[VARIABLE] = mark(results, Identity.own())
    end_survivors(results)
    remove_partials(results)
    _clean_register(state / "processes")
    # What the workflow needed of services (serving.leases): their jobs are over, and start anew.
    for lease in state.glob(LEASES):
        lease.unlink(missing_ok=True)
    _remove_stale_locks(Path(workdir) / ".snakemake", Path(results))


def keep_leases(state: Path) -> None:
    """Touch the leases of the workflow's jobs while this process lives: services on other machines see that it does."""

    def beat() -> None:
        while True:
            time.sleep(BEAT)
            for lease in state.glob(LEASES):
                with contextlib.suppress(OSError):
                    os.utime(lease)

    threading.Thread(target=beat, name="qwenlong-leases", daemon=True).start()


def survivors(results: str | Path) -> list[psutil.Process]:
    """Return live processes of runs on `results` whose owner is dead: by their mark, by record, and all below them."""
    import psutil

    digest = run_digest(results)
    alive: dict[Identity, bool] = {}
    own = psutil.Process()
    spared = {own.pid, *(p.pid for p in own.parents())}
    found: dict[int, psutil.Process] = {}
    recorded = set(_recorded(Path(results) / "state" / "processes"))
    for process in psutil.process_iter():
        # Other users' processes and those that end meanwhile cannot be read, and are not ours.
        with contextlib.suppress(psutil.Error, OSError):
            identity = Identity.of(process.pid)
            if identity is None or process.pid in spared:
                continue
            dead = identity in recorded
            found_mark = None if dead else parse_mark(process.environ().get(VARIABLE))
            # A mark from elsewhere (a Slurm job's, of the snakemake on the login node) says nothing of who lives there.
            if found_mark and found_mark[0] == digest and found_mark[1].here():
                dead = not alive.setdefault(found_mark[1], found_mark[1].alive())
            if dead:
                found[process.pid] = process
                found |= {p.pid: p for p in process.children(recursive=True) if p.pid not in spared}
    return [found[pid] for pid in sorted(found)]


def _recorded(folder: Path) -> Iterator[Identity]:
    """Yield what commands whose run is dead have recorded: themselves and their descendants."""
    for _, record in _records(folder):
        with contextlib.suppress(KeyError, TypeError, ValueError):
            if Identity(*record["owner"]).where(record["host"]) == "dead":
                yield Identity(record["pid"], record["start"])
                yield from (Identity(*pair) for pair in record["descendants"])


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
        if Identity(record["pid"], str(record.get("start"))).where(record.get("host")) == "alive":
            names[record["pid"]] = str(record.get("name"))
    return names


def _clean_register(folder: Path) -> None:
    """Remove records of processes that have ended; of those elsewhere Slurm may know."""
    jobs = slurm.Jobs()
    for file, record in _records(folder):
        where = Identity(record["pid"], str(record.get("start"))).where(record.get("host"))
        job = str(record.get("slurm_job") or "")
        if where == "dead" or (where == "elsewhere" and jobs.ended(job)):
            file.unlink(missing_ok=True)
        elif where == "elsewhere":
            number = job.partition(".")[0]
            named = f", Slurm job {number}" if number else ""
            print(
                f"warning: {record.get('name')} may still run on {record.get('host')} (pid {record['pid']}{named}); "
                f"if it does, stop it{f' (scancel {number})' if number else ''}; if not, remove {file}",
                file=sys.stderr,
            )


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
        since, where = held_since(file)
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


def tell_commands(results: str | Path) -> list[int]:
    """Send SIGTERM to the registered commands below this process, and return their pids."""
    import psutil

    below = {p.pid for p in psutil.Process().children(recursive=True)}
    told = sorted(below & _registered(Path(results) / "state" / "processes").keys())
    for pid in told:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    return told


def _pass_sigterm_on(results: Path) -> None:
    """Let the snakemake of one job tell its command that it was told to end.

    On SIGTERM Snakemake waits for what runs. A scheduler often signals the first process of a job's step alone: the
    command would work on until it is killed.
    """
    from snakemake.scheduling.job_scheduler import JobScheduler

    wait = JobScheduler.exit_gracefully

    def exit_gracefully(self: Any, *args: Any) -> None:
        tell_commands(results)
        wait(self, *args)

    JobScheduler.exit_gracefully = exit_gracefully


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
            if not self.is_main_process:
                _pass_sigterm_on(folder)
            if self.is_main_process and not executor_plugin.common_settings.dryrun_exec:
                try:
                    guard(folder, Path.cwd())
                except QwenlongError as error:
                    raise ApiError(str(error)) from None
                keep_leases(folder / "state")
            return super().execute(executor_plugin, *args, **kwargs)

    Protected.__name__, Protected.__qualname__ = kind.__name__, kind.__qualname__
    workflow.__class__ = Protected
    if workflow.dag_settings is not None:
        workflow.dag_settings.force_incomplete = True
