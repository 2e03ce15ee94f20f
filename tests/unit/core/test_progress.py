"""Progress on a terminal (a real pseudo-terminal) and elsewhere."""

from __future__ import annotations

import logging
import os
import pty
import subprocess
import sys

import pytest

from qwenlong.core import progress


def test_log_lines_are_sparse_and_give_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "qwenlong")
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.Progress("scoring", 100, unit="samples") as bar:
        for _ in range(50):
            now[0] += 0.5
            bar.advance(loss=0.25)
    lines = [r.getMessage() for r in caplog.records]
    assert lines == [
        "scoring: 20/100 samples, 2.0 samples/s, 0:10 elapsed, 0:40 left, loss=0.25",
        "scoring: 40/100 samples, 2.0 samples/s, 0:20 elapsed, 0:30 left, loss=0.25",
        "scoring: 50/100 samples, 2.0 samples/s, 0:25 elapsed",
    ]


def test_track_yields_all_and_takes_the_length(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "qwenlong")
    assert list(progress.track([3, 1, 2], description="reading")) == [3, 1, 2]
    assert "reading: 3/3 it" in caplog.text
    assert list(progress.track(iter("ab"))) == ["a", "b"]
    assert "working: 2 it" in caplog.text


def test_a_failure_says_where_it_stopped(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "qwenlong")
    with pytest.raises(RuntimeError), progress.Progress("reading", 9) as bar:
        bar.advance(4)
        raise RuntimeError
    assert "reading: stopped after 4/9 it" in caplog.text


def test_a_terminal_gets_a_bar_with_rate_and_time_left() -> None:
    code = (
        "import time; from qwenlong.core.progress import track\n"
        "for _ in track(range(8), description='folding', unit='chunks'): time.sleep(0.1)"
    )
    leader, follower = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    child = subprocess.Popen([sys.executable, "-c", code], stderr=follower, env=environment)
    os.close(follower)
    seen = b""
    while True:
        try:
            block = os.read(leader, 4096)
        except OSError:  # Linux: the other end is closed
            break
        if not block:
            break
        seen += block
    os.close(leader)
    assert child.wait(30) == 0
    text = seen.decode(errors="replace")
    assert "folding" in text and "8/8" in text and "chunks/s" in text and "left" in text
