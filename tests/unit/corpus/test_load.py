"""Sources to shards in parts: the same documents as a build, each with where it is from; a killed run goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import planted
import pytest
import yaml
from corpus_archives import registry, sdist
from corpus_files import PROSE, config, folder

from qwenlong.core.config import Config
from qwenlong.core.errors import ConfigError, DataError
from qwenlong.core.files import read_parquet, write_jsonl
from qwenlong.core.records import Document
from qwenlong.corpus.build import build
from qwenlong.corpus.load import load

HASH = 64


def prose(n: int) -> str:
    return f"Ferry number {n} is painted in colour {n * 7}. " + PROSE.replace("ferry", f"ferry{n}") * 4


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Files of several formats in two folders, records, an archive, and what cannot be read."""
    root = tmp_path / "in"
    for n in range(60):
        below = root / f"f{n % 2}"
        below.mkdir(parents=True, exist_ok=True)
        (below / f"{n:02d}.{('txt', 'md', 'html')[n % 3]}").write_text(prose(n))
    write_jsonl(root / "records.jsonl", [{"text": prose(100 + n)} for n in range(20)] + [{"text": ""}])
    sdist(root / "a.tar.gz", {"x/a.txt": prose(200)})
    (root / "bad\x1b[2J.txt").write_bytes(b"\xff")
    (root / "empty.txt").write_text("")
    (root / "photo.jpg").write_bytes(b"x")
    return root


def documents(files: list[Path]) -> list[Document]:
    return sorted((d for file in files for d in read_parquet(file, Document)), key=lambda d: d.id)


def settings(place: Path, **corpus: Any) -> Config:
    return config(folders=[folder(place, data_licence="CC-BY-4.0").model_dump()], **corpus)


def test_a_folder_in_parts_holds_what_a_build_reads(place: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("qwenlong.corpus.load.PART_FILES", 7)
    run = settings(place, workers=1)
    files, numbers = load(run.corpus, tmp_path, tmp_path / "out")
    found = documents(files)
    built, stats = build(run, tmp_path)
    assert found == built and len(found) == 81
    assert len(files) == 10  # 63 files that can be read, 7 a part
    told = numbers["notes"]
    assert told["dropped_documents"] == stats["sources"]["notes"]["dropped_documents"]
    assert told["dropped_documents"] == {"empty": 2, "invalid_utf8": 1, "unsupported": 1}
    assert told["read"] == 85 and told["loaded"] == 81 and len(told["messages"]) == 4
    assert all(message.isprintable() for message in told["messages"])
    for document in found:
        assert document.licence == "CC-BY-4.0" and len(str(document.metadata["sha256"])) == HASH
        assert document.id.startswith("notes/") and document.metadata["path"]


def test_same_bytes_elsewhere_and_with_other_workers_and_what_is_done_is_not_done_again(
    place: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("qwenlong.corpus.load.PART_FILES", 20)
    files, numbers = load(settings(place, workers=1).corpus, tmp_path, tmp_path / "one")
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "one").rglob("*.*") if file.is_file()}
    again, told = load(settings(place, workers=2).corpus, tmp_path, tmp_path / "one")
    assert (again, told) == (files, numbers)
    assert {file: file.stat().st_mtime_ns for file in times} == times
    other = tmp_path / "elsewhere"
    shutil.copytree(place, other)
    moved, _ = load(settings(other, workers=2).corpus, tmp_path, tmp_path / "two")
    assert [file.read_bytes() for file in moved] == [file.read_bytes() for file in files]
    # A file that changes makes its own part anew, no other; a part that is no more is removed.
    (place / "f0" / "00.txt").write_text(prose(999))
    load(settings(place, workers=1).corpus, tmp_path, tmp_path / "one")
    changed = {file.parent.name for file, time_ in times.items() if file.stat().st_mtime_ns != time_}
    assert len(changed) == 1
    shutil.rmtree(place / "f1")
    fewer, _ = load(settings(place, workers=1).corpus, tmp_path, tmp_path / "one")
    assert len(fewer) < len(files) and {d.parent for d in fewer} == set((tmp_path / "one" / "notes").iterdir())


def test_packages_and_data_sets_are_loaded_too(place: Path, tmp_path: Path) -> None:
    path = sdist(tmp_path / "cache/guides/m-1.0.tar.gz", {"m-1/doc/a.rst": "A\n===\n\n" + prose(1) * 3})
    table = registry(tmp_path / "s.csv", {"guides": (path, "academic", "guides")})
    dataset = {"name": "set", "path": str(place / "records.jsonl"), "category": "general", "licence": "MIT"}
    run = config(registry=str(table), sources=("guides",), datasets=[dataset], workers=1)
    files, numbers = load(run.corpus, tmp_path / "cache", tmp_path / "out")
    found = documents(files)
    assert {d.source for d in found} == {"guides", "set"} and numbers["set"]["loaded"] == 20
    assert all(d.licence for d in found) and numbers["guides"]["version"]
    assert found == sorted(build(run, tmp_path / "cache")[0], key=lambda d: d.id)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "holds nothing that its loader reads"),
        ({"a.jpg": "x", "b.bin": "y"}, "unsupported 2"),
        ({"a.txt": ""}, "empty 1 (source notes, a.txt: has 0 bytes; remove it"),
    ],
)
def test_a_folder_without_a_document_is_told(tmp_path: Path, files: dict[str, str], words: str) -> None:
    (tmp_path / "in").mkdir()
    for name, text in files.items():
        (tmp_path / "in" / name).write_text(text)
    run = config(folders=[folder(tmp_path / "in").model_dump()], workers=1)
    for attempt in (lambda: load(run.corpus, tmp_path, tmp_path / "out"), lambda: build(run, tmp_path)):
        with pytest.raises(DataError) as error:
            attempt()
        assert words in str(error.value) and "source notes" in str(error.value)


def test_what_shards_cannot_do_and_what_is_missing_is_said_first(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="corpus.section_characters = 300: .*corpus build"):
        load(settings(place, section_characters=300).corpus, tmp_path, tmp_path / "out")
    missing = [{"name": name, "path": str(tmp_path / f"{name}.json"), "fields": ["q"]} for name in ("one", "two")]
    run = settings(place, decontaminate=missing)
    for attempt in (lambda: load(run.corpus, tmp_path, tmp_path / "out"), lambda: build(run, tmp_path)):
        with pytest.raises(DataError, match=r"2 of 2 benchmark files .*one.json \(one\), .*two.json \(two\)"):
            attempt()
    assert not (tmp_path / "out").exists()


def test_a_build_that_memory_cannot_hold_is_refused_before_it_reads(place: Path, tmp_path: Path) -> None:
    with (place / "big.jsonl").open("wb") as stream:
        stream.truncate(2**43)  # takes no room on disk
    with pytest.raises(DataError, match="`corpus build` holds all documents, .*`qwenlong corpus shards`"):
        build(settings(place), tmp_path)


def _start(root: Path, file: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "qwenlong", "corpus", "shards", "--config", str(file), "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(root / "packages")}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_while_loading_it_goes_on_and_two_at_once_are_refused(tmp_path: Path, root: Path) -> None:
    made = planted.corpus(4, 400, 0)
    write = tmp_path / "in"
    write.mkdir()
    for n in range(4):
        rows = [{"text": f"{d.text} " * 8} for d in made[n::4]]
        write_jsonl(write / f"{n}.jsonl", rows * 2 if n == 3 else rows)
    file = tmp_path / "c.yaml"
    corpus = {"sources": [], "folders": [folder(write).model_dump()], "workers": 2, "shard_megabytes": 1}
    corpus["max_repetition"] = 1.0
    file.write_text(yaml.safe_dump({"corpus": corpus, "tracking": {"enabled": False}}))
    whole = _start(root, file, tmp_path / "straight")
    assert whole.communicate()[0] and whole.returncode == 0
    out = tmp_path / "out"
    first = _start(root, file, out)
    limit = time.monotonic() + 120
    done = out / "loaded" / "notes" / "00000" / "losses.json"
    while not (out / ".lock").exists() and time.monotonic() < limit:
        time.sleep(0.005)
    second = _start(root, file, out)
    assert "another `corpus shards`" in second.communicate()[1] and second.returncode == 1
    while not done.exists() and first.poll() is None and time.monotonic() < limit:
        time.sleep(0.002)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    finished = {f: f.stat().st_mtime_ns for f in (out / "loaded").rglob("losses.json")}
    assert finished
    last = _start(root, file, out)
    assert last.communicate()[0] and last.returncode == 0
    assert {f: f.stat().st_mtime_ns for f in finished} == finished

    def files(folder: Path) -> dict[str, bytes]:
        names = [f for f in folder.rglob("*") if f.is_file() and not f.name.startswith(".")]
        return {str(f.relative_to(folder)): f.read_bytes() for f in names if "provenance" not in f.name}

    assert files(out) == files(tmp_path / "straight")
    counts = json.loads((out / "counts.json").read_text())
    assert counts["kept"] == 400 and counts["sources"]["notes"]["loaded"] == 500
