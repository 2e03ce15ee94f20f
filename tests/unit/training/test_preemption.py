"""SIGTERM while steps are trained: the one under way is finished within the grace, and never after it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

# A loop as verl's: steps that take a while, each saved when the process was told to end.
LOOP = """
import sys, time
from qwenlong.training.verl_plugin.preemption import WATCH

grace, seconds = float(sys.argv[1]), float(sys.argv[2])
WATCH.install(grace)
print("installed", flush=True)
if sys.argv[3:]:
    time.sleep(300)
step, saved = 1, 0
while True:
    WATCH.next_step(saved == step - 1)
    print("step", step, flush=True)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.02)
    if WATCH.told:
        print("saved", step, flush=True)
        saved = step
    step += 1
"""


def begin(*arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", LOOP, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "installed\n"
    return process


def told_at(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    while process.stdout.readline() != line:
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)  # schedulers repeat themselves


def test_the_step_under_way_is_finished_and_saved() -> None:
    process = begin("60", "0.5")
    told_at(process, "step 2\n")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143 and out.split() == ["saved", "2"]
    assert "finishing and saving the step under way, for at most 60 s" in err and "is saved" in err


def test_a_step_that_takes_longer_than_the_grace_is_given_up() -> None:
    process = begin("0.5", "300")
    began = time.monotonic()
    told_at(process, "step 1\n")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143 and out == "" and time.monotonic() - began < 30
    assert "took longer than run.grace_seconds" in err


@pytest.mark.parametrize("arguments", [("60", "0.1", "before"), ("0", "300")])
def test_without_a_step_or_a_grace_it_ends_at_once(arguments: tuple[str, ...]) -> None:
    process = begin(*arguments)
    if arguments[2:]:
        process.send_signal(signal.SIGTERM)
    else:
        told_at(process, "step 1\n")
    assert "ended by SIGTERM: no step was under way" in process.communicate(timeout=60)[1]
    assert process.returncode == 143
