"""Tests that need Debian's packages say which ones, where they cannot be installed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import debian


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without programs, apt-get included, that has room for PostgreSQL's."""
    monkeypatch.setattr(debian, "PLACES", ())
    monkeypatch.setattr(debian, "POSTGRESQL", f"{tmp_path}/*/bin")
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_what_cannot_be_installed_is_named(bare: Path) -> None:
    with pytest.raises(debian.Missing, match="packages postgresql, util-linux are missing.* install postgresql util-"):
        debian.install({"initdb": "postgresql", "postgres": "postgresql", "runuser": "util-linux"})


def test_programs_of_the_newest_version_are_found(bare: Path) -> None:
    for version in ("9.6", "15"):
        file = bare / version / "bin" / "initdb"
        file.parent.mkdir(parents=True)
        file.touch(0o755)
    debian.install({"initdb": "postgresql"})
    assert os.environ["PATH"].split(os.pathsep) == [str(bare), f"{bare}/15/bin", f"{bare}/9.6/bin"]
