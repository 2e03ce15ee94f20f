"""The register, the lock and the end of survivors, on real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from qwenlong.core import processes
from qwenlong.core.errors import QwenlongError
from qwenlong.core.processes import Identity

SLEEP = "import time; time.sleep(300)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(300)"
)


@pytest.fixture(autouse=True)
def _no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    # Also brings the variable back after code under test has set it.
    monkeypatch.setenv(processes.VARIABLE, "")


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start Python code as a process, in a session of its own; whatever is left at the end is killed."""
    begun: list[psutil.Process] = []

    def run(code: str, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=os.environ | (env or {}),
        )
        begun.append(psutil.Process(process.pid))
        return process

    yield run
    for process in begun:
        try:
            for child in [*process.children(recursive=True), process]:
                child.kill()
        except psutil.NoSuchProcess:
            continue


def dead_owner(results: Path) -> str:
    """The mark of a run on `results` whose owner has ended."""
    gone = subprocess.Popen([sys.executable, "-c", SLEEP])
    identity = Identity.of(gone.pid)
    gone.kill()
    gone.wait()
    assert identity is not None
    return processes.mark(results, identity)


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie that nobody reaps has)."""
    return Identity.of(pid) is None


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_identity_is_of_one_process_only(start: Callable[..., subprocess.Popen[str]]) -> None:
    own = Identity.own()
    assert own.alive() and own == Identity.of(os.getpid())
    assert not Identity(own.pid, "1@another").alive()  # the same pid at another time
    child = start(SLEEP)
    identity = Identity.of(child.pid)
    assert identity is not None and identity.alive()
    child.kill()
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert not identity.alive() and Identity.of(child.pid) is None
    child.wait()
    assert not identity.alive()


def test_join_keeps_a_living_owner_and_replaces_a_dead_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Callable[..., subprocess.Popen[str]]
) -> None:
    owner = Identity.of(start(SLEEP).pid)
    assert owner is not None
    mark = processes.mark(tmp_path, owner)
    monkeypatch.setenv(processes.VARIABLE, mark)
    assert processes.join(tmp_path) == owner and os.environ[processes.VARIABLE] == mark
    assert processes.join(tmp_path / "other") == Identity.own()
    monkeypatch.setenv(processes.VARIABLE, dead_owner(tmp_path))
    assert processes.join(tmp_path) == Identity.own()
    monkeypatch.setenv(processes.VARIABLE, "nonsense")
    assert processes.join(tmp_path) == Identity.own()


def test_register_leaves_a_record_while_it_lasts(tmp_path: Path) -> None:
    file = tmp_path / "state" / "processes" / f"{processes.host()}-{os.getpid()}.json"
    with pytest.raises(RuntimeError), processes.register(tmp_path, "stage rl_1"):
        record = json.loads(file.read_text())
        assert record["name"] == "stage rl_1" and record["pid"] == os.getpid()
        assert record["create_time"] == psutil.Process().create_time()
        raise RuntimeError
    assert not file.exists()


def test_register_removes_its_record_on_sigterm(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    code = (
        "import sys, time; from qwenlong.core.processes import register\n"
        "with register(sys.argv[1], 'x'): print('up', flush=True); time.sleep(300)"
    )
    child = start(code, str(tmp_path))
    assert read_line(child) == "up"
    assert len(list((tmp_path / "state" / "processes").iterdir())) == 1
    child.terminate()
    assert child.wait(10) == 143
    assert list((tmp_path / "state" / "processes").iterdir()) == []


HOLDER = (
    "import subprocess, sys, time; from qwenlong.core.processes import lock\n"
    "lock(sys.argv[1], 'snakemake', 'R')\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'], start_new_session=True)\n"
    "print(child.pid, flush=True); time.sleep(300)"
)


def test_lock_names_its_holder_and_ends_with_it(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    file = tmp_path / "state" / "a.lock"
    holder = start(HOLDER, str(file))
    child = int(read_line(holder))
    with pytest.raises(QwenlongError, match=rf"another snakemake \(pid {holder.pid}, since 20.*\) works on R; wait"):
        processes.lock(file, "snakemake", "R")
    holder.kill()
    holder.wait()
    assert not gone(child)  # lives on, and has not inherited the lock
    processes.lock(file, "snakemake", "R")
    processes.lock(file, "snakemake", "R")  # held already
    assert json.loads(file.read_text())["pid"] == os.getpid()
    os.kill(child, signal.SIGKILL)


def test_survivors_are_ended_and_others_spared(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    monkeypatch.setattr(processes, "GRACE", 1.0)
    mine, other = tmp_path / "mine", tmp_path / "other"
    dead = {processes.VARIABLE: dead_owner(mine)}
    own = Identity.own()
    live = {processes.VARIABLE: processes.mark(mine, own)}
    # A parent that carries the mark and a child that does not, as when a tool cleans its environment.
    parent = start(
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {SLEEP!r}], env={{}})\n"
        "print(child.pid, flush=True); time.sleep(300)",
        env=dead,
    )
    child = int(read_line(parent))
    stubborn = start(STUBBORN, env=dead)
    assert read_line(stubborn) == "up"
    spared = [start(SLEEP, env=live), start(SLEEP, env={processes.VARIABLE: dead_owner(other)}), start(SLEEP)]
    # Records of pids that belong to other processes by now must end nobody.
    folder = mine / "state" / "processes"
    folder.mkdir(parents=True)
    for pid in (spared[2].pid, os.getpid()):
        record = {
            "pid": pid,
            "start": "1@another",
            "owner": [pid, "1@another"],
            "name": "old",
            "host": processes.host(),
            "descendants": [[spared[2].pid, "1@another"]],
        }
        (folder / f"{pid}.json").write_text(json.dumps(record))

    ended = processes.end_survivors(mine)

    assert sorted(ended) == sorted([parent.pid, child, stubborn.pid])
    assert gone(parent.pid) and gone(child) and gone(stubborn.pid)
    assert parent.wait(5) == -signal.SIGTERM and stubborn.wait(5) == -signal.SIGKILL
    assert all(p.poll() is None for p in spared)
    report = capfd.readouterr().err
    assert f"pid {parent.pid} (" in report and f"pid {stubborn.pid} did not end" in report
    assert processes.end_survivors(mine) == []


def test_descendants_that_carry_no_mark_are_known_by_record(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    """Ray's workers write their title over their environment; once their parent is killed only the record is left."""
    code = (
        "import subprocess, sys, time; from qwenlong.core import processes\n"
        "processes.WATCH = 0.05\n"
        "with processes.register(sys.argv[1], 'train rl_2'):\n"
        f"    child = subprocess.Popen([sys.executable, '-c', {SLEEP!r}], env={{}}, start_new_session=True)\n"
        "    print(child.pid, flush=True); time.sleep(300)"
    )
    parent = start(code, str(tmp_path))
    child = int(read_line(parent))
    file = tmp_path / "state" / "processes" / f"{processes.host()}-{parent.pid}.json"
    end = time.monotonic() + 20
    while not json.loads(file.read_text())["descendants"]:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert processes.end_survivors(tmp_path) == []  # its owner lives
    parent.kill()
    parent.wait()
    assert not gone(child)
    assert processes.end_survivors(tmp_path) == [child] and gone(child)


def test_survivors_spare_ourselves_and_our_ancestors(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    """A run begun from inside a dead run's process (a shell in a job) does not end itself."""
    code = (
        "import subprocess, sys\n"
        "inner = 'import sys; from qwenlong.core.processes import end_survivors; print(end_survivors(sys.argv[1]))'\n"
        "print(subprocess.run([sys.executable, '-c', inner, sys.argv[1]], capture_output=True, text=True).stdout)"
    )
    outer = start(code, str(tmp_path), env={processes.VARIABLE: dead_owner(tmp_path)})
    assert outer.communicate(timeout=30)[0].strip() == "[]"


def test_guard_clears_the_register_and_warns_of_other_hosts(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    folder = tmp_path / "state" / "processes"
    folder.mkdir(parents=True)
    here = {"pid": 999999, "start": "1@x", "name": "dead", "host": processes.host()}
    there = {"pid": 5, "start": "1@x", "name": "train rl_2", "host": "elsewhere", "slurm_job": "77"}
    (folder / "999999.json").write_text(json.dumps(here))
    (folder / "5.json").write_text(json.dumps(there))
    (folder / "broken.json").write_text("{")
    code = "import sys; from qwenlong.core.processes import guard; guard(sys.argv[1], sys.argv[2])"
    done = start(code, str(tmp_path), str(tmp_path / "work"))
    _, report = done.communicate(timeout=30)
    assert done.returncode == 0, report
    assert not (folder / "999999.json").exists() and (folder / "5.json").exists()
    assert "train rl_2 may still run on elsewhere (pid 5, Slurm job 77)" in report


GUARD = (
    "import sys, time; from qwenlong.core.processes import guard; guard(sys.argv[1], sys.argv[2])\n"
    "print('up', flush=True); time.sleep(float(sys.argv[3]))"
)


def test_snakemakes_locks_of_dead_runs_go_and_those_of_live_runs_stay(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    locks = tmp_path / ".snakemake" / "locks"
    locks.mkdir(parents=True)
    write = {
        "0.output": "results/mine/a\ndata/cache/x\n",  # ours, from a killed run
        "1.output": "results/dead/a\n",  # of a run that is known and dead
        "2.input": "data/cache/old\n",  # nobody's, from before the live run began
    }
    for name, text in write.items():
        (locks / f"{name}.lock").write_text(text)
        os.utime(locks / f"{name}.lock", (1, 1))
    killed = start(GUARD, "results/dead", ".", "300", env={})
    killed.kill()
    killed.wait()
    # Started in the working directory of the toy project.
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        for results, seconds in (("results/dead", "0"), ("results/live", "300")):
            process = start(GUARD, results, ".", seconds)
            assert read_line(process) == "up"
            if seconds == "0":
                process.wait()
                for name, text in write.items():  # the guard of that run took them
                    (locks / f"{name}.lock").write_text(text)
                    os.utime(locks / f"{name}.lock", (1, 1))
        (locks / "0.output.lock").write_text(write["0.output"])
        (locks / "1.output.lock").write_text(write["1.output"])
        (locks / "3.input.lock").write_text("data/cache/new\n")
        (locks / "4.output.lock").write_text("results/live/a\ndata/cache/new\n")
        mine = start(GUARD, "results/mine", ".", "0")
        assert mine.wait(30) == 0
    finally:
        os.chdir(here)
    assert sorted(f.name for f in locks.iterdir()) == ["3.input.lock", "4.output.lock"]


def test_what_is_known_of_a_process_depends_on_where_it_was_recorded() -> None:
    own = Identity.own()
    ticks, _, place = own.start.partition("@")
    boot, _, space = place.partition(".")
    assert space and own.where(processes.host()) == "alive"
    assert Identity(own.pid, f"1@{place}").where(processes.host()) == "dead"
    assert Identity(own.pid, f"{ticks}@00000000.{space}").where(processes.host()) == "dead"  # before the last start
    # Another container of this machine, or another machine: its pid means nothing here, whatever it is.
    for pid in (own.pid, 999999):
        assert Identity(pid, f"{ticks}@{boot}.1").where(processes.host()) == "elsewhere"
        assert Identity(pid, own.start).where("another-node") == "elsewhere"


def test_processes_of_other_containers_are_neither_ended_nor_forgotten(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    """Two containers on one machine may have its name, and the same pids."""
    child = start(SLEEP)
    identity = Identity.of(child.pid)
    assert identity is not None
    there = identity.start.partition(".")[0] + ".1"
    record = {"pid": child.pid, "start": there, "owner": [child.pid, there], "name": "rl_2", "host": processes.host()}
    file = tmp_path / "state/processes/there.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(record | {"descendants": [[child.pid, identity.start]]}))
    marked = start(SLEEP, env={processes.VARIABLE: processes.mark(tmp_path, Identity(child.pid, there))})
    assert processes.end_survivors(tmp_path) == []
    assert child.poll() is None and marked.poll() is None
    code = "import sys; from qwenlong.core.processes import guard; guard(sys.argv[1], sys.argv[2])"
    done = start(code, str(tmp_path), str(tmp_path / "work"))
    assert f"rl_2 may still run on {processes.host()}" in done.communicate(timeout=60)[1]
    assert file.exists() and child.poll() is None


LOCKLESS = (
    "import errno, fcntl, os, socket, sys, time\n"
    "def refuse(*_): raise OSError(errno.ENOLCK, 'No locks available')\n"
    "fcntl.flock = refuse\n"
    "if len(sys.argv) > 3: socket.gethostname = lambda: sys.argv[3]\n"
    "from qwenlong.core import ownership\n"
    "ownership.BEAT = 0.2; ownership.SILENT = 2.0\n"
    "try: ownership.lock(sys.argv[1], 'trainer', 'R')\n"
    "except Exception as error: print(error, flush=True); sys.exit(1)\n"
    "print('up', flush=True); time.sleep(float(sys.argv[2]))"
)


def test_without_file_locks_a_holder_on_another_machine_is_alive_until_it_is_silent(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    file = tmp_path / "a.lock"
    holder = start(LOCKLESS, str(file), "300", "node1")
    assert read_line(holder) == "up"
    time.sleep(3)  # longer than silence is borne
    refused = start(LOCKLESS, str(file), "0", "node2")
    said = refused.communicate(timeout=60)[0]
    assert refused.returncode == 1 and f"another trainer (pid {holder.pid} on node1, since" in said
    holder.kill()
    holder.wait()
    end = time.monotonic() + 60
    while (another := start(LOCKLESS, str(file), "0", "node2")).communicate(timeout=60)[0].strip() != "up":
        assert time.monotonic() < end
        time.sleep(0.2)
    assert another.returncode == 0 and file.read_text() == ""  # its end is its own release
    assert read_line(start(LOCKLESS, str(file), "0", "node1")) == "up"


def test_a_command_that_hangs_after_sigterm_ends_all_the_same(start: Callable[..., subprocess.Popen[str]]) -> None:
    code = (
        "import threading, time; from qwenlong.core import processes\n"
        "processes.end_within(1.0)\n"
        "with processes.terminate_as_exit():\n"
        "    threading.Thread(target=time.sleep, args=(300,)).start()\n"  # Python waits for it
        "    print('up', flush=True); time.sleep(300)"
    )
    child = start(code)
    assert read_line(child) == "up"
    child.terminate()
    assert child.wait(60) == 143
    assert child.stderr is not None and "still busy" in child.stderr.read()
