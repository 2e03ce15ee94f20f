"""Files that are whole or absent, also when the disk is full."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qwenlong.core.errors import QwenlongError
from qwenlong.core.files import all_or_none, atomic_directory, atomic_file, remove_partials, write_json


def test_a_full_disk_leaves_nothing_and_is_named(tmp_path: Path) -> None:
    target = tmp_path / "out" / "records.jsonl"
    with (
        pytest.raises(QwenlongError, match=r"cannot write .*records\.jsonl: .*Free space"),
        atomic_file(target) as partial,
    ):
        partial.write_text("half")
        # The kernel's own answer of a device without space.
        with open("/dev/full", "w") as full:
            full.write("x")
            full.flush()
    assert list(target.parent.iterdir()) == []


def test_other_faults_of_the_system_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Permission"), atomic_directory(tmp_path / "model"):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_rewrite_keeps_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(RuntimeError), atomic_file(tmp_path / "a.json") as partial:
        partial.write_text("new")
        raise RuntimeError
    assert (tmp_path / "a.json").read_text() == '{\n  "old": 1\n}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_files_that_belong_together_are_all_there_or_none(tmp_path: Path) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    with all_or_none(one, two):
        write_json(one, 1)
        write_json(two, 2)
    assert one.exists() and two.exists()
    with pytest.raises(KeyboardInterrupt), all_or_none(one, two):
        write_json(one, 3)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "deep" / ".model.1234abcd.partial" / "inner").mkdir(parents=True)
    (tmp_path / "deep" / ".a.json.1234abcd.partial").touch()
    for name in ("a.partial", ".hidden", "deep/report.partial.html"):
        (tmp_path / name).touch()
    assert remove_partials(tmp_path) == 2
    left = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*"))
    assert left == [".hidden", "a.partial", "deep", "deep/report.partial.html"]
    assert remove_partials(tmp_path / "nothing here") == 0


WRITER = """
import sys
from pathlib import Path
from qwenlong.core.files import atomic_directory
with atomic_directory(Path(sys.argv[1])) as partial:
    (partial / "weights").write_text("half")
    print(partial.name, flush=True)
    sys.stdin.read()
    (partial / "weights").write_text("whole")
"""


def test_a_directory_of_a_killed_writer_goes_and_that_of_a_live_one_stays(tmp_path: Path) -> None:
    target = tmp_path / "model [1]"
    writers, names = [], []
    for _ in range(2):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        names.append(writer.stdout.readline().strip())
        writers.append(writer)
    killed, live = writers
    killed.kill()
    killed.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    with atomic_directory(target) as partial:
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([names[1], partial.name])
    live.communicate("", timeout=30)
    assert live.returncode == 0 and (target / "weights").read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
