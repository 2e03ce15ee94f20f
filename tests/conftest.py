"""What all tests share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).parent))
Run = Callable[..., "subprocess.CompletedProcess[str]"]

# The same examples in every run of the same tests, so that a change is blamed for what it did;
# HYPOTHESIS_PROFILE=search draws new ones, to look for faults.
settings.register_profile("fixed", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("search", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root."""
    return ROOT


@pytest.fixture(scope="session")
def snakemake() -> Run:
    """Run Snakemake as a user does: `snakemake(*words, cwd=…, env=…)`; fails with it unless check=False."""

    def run(
        *words: object, cwd: Path = ROOT, check: bool = True, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "snakemake", *map(str, words)]
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**os.environ, **(env or {})})
        if check and done.returncode:
            pytest.fail(f"{' '.join(command)} gave {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
        return done

    return run


@pytest.fixture(autouse=True)
def log_ends_with_its_command(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A command that a test calls in this process logs to that command's stderr, which is closed after it.

    A process of its own has one stderr. Here the next command would log to the closed one of the command before: its
    lines would be in no output that a test looks into, and an error of the logging for each would.
    """
    import logging

    from qwenlong.core import logs

    root, setup = logging.getLogger(), logs.setup

    def end(stream: object = None) -> None:
        """Remove the command's handler, unless it writes to `stream`."""
        for handler in list(root.handlers):
            if getattr(handler, "_qwenlong", False) and getattr(handler, "stream", None) is not stream:
                root.removeHandler(handler)

    def begin(level: str | int | None = None) -> None:
        end(sys.stderr)
        setup(level)

    monkeypatch.setattr(logs, "setup", begin)
    yield
    end()


@pytest.fixture
def endpoint() -> Iterator[Any]:
    """A scripted model endpoint (tests/scripted.py)."""
    from scripted import serving

    with serving() as server:
        yield server
