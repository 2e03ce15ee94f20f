"""RL stage 2 killed in three ways, each twice; the same bare command goes on each time. One run, some ten minutes.

The three ways: the trainer alone; snakemake alone, whose children live on; the whole tree.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]
STEPS = 14
KILLS = ("trainer", "trainer", "snakemake", "snakemake", "tree", "tree")


class Run:
    """A working directory, and the one command."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "results/tiny/state"
        self.words = [
            sys.executable, "-m", "snakemake", "--cores", "2", "--snakefile", str(root / "Snakefile"),
            "--configfile", str(root / "configs/tiny.yaml"),
            "--config", f"corpus={{registry: {root}/data/sources.csv, cache: {root}/data/cache}}",
            f"stages={{rl_2: {{steps: {STEPS}}}}}", "--", "rl_stage_2",
        ]  # fmt: skip

    def start(self) -> subprocess.Popen[bytes]:
        log = (self.folder / "snakemake.log").open("ab")
        return subprocess.Popen(self.words, cwd=self.folder, stdout=log, stderr=subprocess.STDOUT)

    def steps(self) -> int:
        """Last step that has a whole checkpoint."""
        markers = self.state.glob("stages/rl_2/*/global_step_*/complete.json")
        return max((int(m.parent.name.rsplit("_", 1)[1]) for m in markers), default=0)

    def attempts(self) -> list[dict[str, int]]:
        """What each try of the stage began after, as the trainer records it when it begins."""
        for file in self.state.glob("stages/rl_2/*/attempts.json"):
            return json.loads(file.read_text())
        return []

    def trainer(self) -> psutil.Process | None:
        for file in (self.state / "processes").glob("*.json"):
            record = json.loads(file.read_text())
            if record["name"] == "rl_2" and psutil.pid_exists(record["pid"]):
                return psutil.Process(record["pid"])
        return None

    def statuses(self) -> list[str]:
        with sqlite3.connect(self.folder / "results/tiny/mlflow.db") as store:
            return [s for (s,) in store.execute("select status from runs where name = 'rl_2' order by start_time")]


def _kill(run: Run, how: str, snakemake: subprocess.Popen[bytes]) -> None:
    if how == "trainer":
        trainer = run.trainer()
        assert trainer is not None
        trainer.kill()
        assert snakemake.wait(120) != 0  # snakemake sees it and ends by itself
    elif how == "snakemake":
        os.kill(snakemake.pid, signal.SIGKILL)
        snakemake.wait()
        trainer = run.trainer()
        assert trainer is not None and trainer.is_running(), "the trainer should live on"
    else:
        tree = [psutil.Process(snakemake.pid), *psutil.Process(snakemake.pid).children(recursive=True)]
        for process in tree:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        snakemake.wait()


def _wait_for_a_step(run: Run, attempt: int, snakemake: subprocess.Popen[bytes]) -> None:
    """Wait until try number `attempt` has finished a step of its own; a survivor's step does not count."""
    deadline = time.monotonic() + 900
    while len(tries := run.attempts()) < attempt or run.steps() <= tries[-1]["after"]:
        assert snakemake.poll() is None, (run.folder / "snakemake.log").read_text()[-4000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_killed_stage_goes_on_with_the_same_command(root, tmp_path, capsys):
    run = Run(root, tmp_path)
    lines: list[str] = []
    for number, how in enumerate(KILLS):
        before = run.steps()
        snakemake = run.start()
        _wait_for_a_step(run, number + 1, snakemake)
        if number == 0:
            second = subprocess.run(run.words, cwd=run.folder, capture_output=True, text=True)
            assert second.returncode != 0 and "another snakemake" in second.stdout + second.stderr
        _kill(run, how, snakemake)
        whole = run.steps()
        assert whole > before
        assert not (tmp_path / "results/tiny/stages/rl_2/policy").exists()
        lines.append(f"killed {how} after the checkpoint of step {whole}")
    done = subprocess.run(run.words, cwd=run.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]

    policy = tmp_path / "results/tiny/stages/rl_2/policy"
    record = json.loads((policy / "stage.json").read_text())
    steps = [json.loads(line)["step"] for line in (policy / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1))
    tries = record["attempts"]
    assert len(tries) == len(KILLS) + 1
    for earlier, later in zip(tries, tries[1:], strict=False):
        repeated = earlier["reached"] - later["after"]
        lines.append(f"resumed at step k = {later['after']}, steps repeated: {repeated}")
        assert later["after"] > 0 and repeated <= 1
    log = (tmp_path / "results/tiny/logs/rl_2.log").read_text()
    assert re.search(r"resuming at step k = \d+ of 14", log)

    statuses = run.statuses()
    assert statuses == ["FAILED"] * len(KILLS) + ["FINISHED"]
    assert [p for p in (tmp_path / "results").rglob("*.partial")] == []
    with capsys.disabled():
        print("\n" + "\n".join(lines))
