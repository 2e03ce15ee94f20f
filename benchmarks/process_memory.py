"""Run a command and watch the memory of its process tree, by kind of page, as the kernel counts them."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

#: Seconds between two samples of the known processes.
INTERVAL = 0.02
#: Samples between two looks for new descendants, which means reading the whole of /proc.
RESCAN = 5
_KINDS = ("RssAnon", "RssFile", "RssShmem")


def measure(command: list[str], log: Path, *, cores: int, env: dict[str, str] | None = None) -> dict[str, Any]:
    """Run `command` on `cores` cores, its output in `log`; return seconds, CPU seconds, peaks in bytes, disk bytes.

    Peaks are of the sum over the process tree at one sample, each kind of page for itself: anonymous memory is what
    the program asked for, RssFile is file cache that the kernel may drop. `disk_read` counts what came from the disk
    and not from the page cache. Raises SystemExit with the end of the log when the command fails.
    """
    mask = sorted(os.sched_getaffinity(0))[:cores]
    if len(mask) < cores:
        raise SystemExit(f"{cores} cores are asked for, this process may use {len(mask)}")
    log.parent.mkdir(parents=True, exist_ok=True)
    threads = {name: str(cores) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")}
    with log.open("wb") as stream:
        begin = time.monotonic()
        child = subprocess.Popen(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, **threads, **(env or {})},
            # In the child, before it begins: the mask is inherited by all its threads.
            preexec_fn=lambda: os.sched_setaffinity(0, mask),
        )
        sampler = _Sampler(child.pid)
        sampler.start()
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.monotonic() - begin
        child.returncode = os.waitstatus_to_exitcode(status)
        sampler.stop()
    if child.returncode:
        raise SystemExit(f"{command} ended with {child.returncode}:\n{log.read_text(errors='replace')[-3000:]}")
    return {
        "seconds": seconds,
        "cpu": usage.ru_utime + usage.ru_stime,
        "anon": sampler.peaks["RssAnon"],
        "file": sampler.peaks["RssFile"],
        "shmem": sampler.peaks["RssShmem"],
        "largest_process_rss": usage.ru_maxrss * 1024,
        "disk_read": usage.ru_inblock * 512,
        "disk_written": usage.ru_oublock * 512,
        "samples": sampler.samples,
        "processes": sampler.processes,
    }


class _Sampler(threading.Thread):
    def __init__(self, pid: int) -> None:
        super().__init__(name="memory-sampler", daemon=True)
        self._root, self._tree = pid, [pid]
        self._over = threading.Event()
        self.peaks = dict.fromkeys(_KINDS, 0)
        self.samples = 0
        self.processes = 1

    def run(self) -> None:
        while not self._over.wait(INTERVAL):
            if self.samples % RESCAN == 0:
                self._tree = _tree(self._root)
                self.processes = max(self.processes, len(self._tree))
            found = [_memory(pid) for pid in self._tree]
            for kind in _KINDS:
                self.peaks[kind] = max(self.peaks[kind], sum(one.get(kind, 0) for one in found))
            self.samples += 1

    def stop(self) -> None:
        self._over.set()
        self.join()


def _memory(pid: int) -> dict[str, int]:
    """Return the bytes of a process by kind of page; nothing for one that has ended."""
    found = {}
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as stream:
            for line in stream:
                name, _, value = line.partition(":")
                if name in _KINDS:
                    found[name] = int(value.split()[0]) * 1024
    except (OSError, ValueError):
        return {}
    return found


def _tree(root: int) -> list[int]:
    """Return a process and its descendants."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", encoding="ascii", errors="replace") as stream:
                    # The name in brackets may hold blanks and brackets itself.
                    parents[int(entry)] = int(stream.read().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue
    tree = [root]
    for pid in tree:
        tree += [child for child, parent in parents.items() if parent == pid]
    return tree
