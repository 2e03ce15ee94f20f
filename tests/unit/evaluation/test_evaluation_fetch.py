"""Published files from a hub on loopback through the real client: pinned, checked, whole; and every way it fails."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_helpers import endpoint, make_tokenizer
from hub import COMMIT, Hub, serving
from quiz import configuration, lines, quiz
from typer.testing import CliRunner

from qwenlong.core.errors import DataError, QwenlongError, UsageError
from qwenlong.evaluation import fetching, registry
from qwenlong.evaluation.commands import app
from qwenlong.evaluation.sources import Source

RUN = CliRunner()
NAME = "data/items.jsonl"
DIGEST = hashlib.sha256(lines(5)).hexdigest()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub with one file, that the client is told of."""
    with serving(Hub({NAME: lines(5), "data/more.jsonl": lines(3, 5)})) as made:
        monkeypatch.setenv("HF_ENDPOINT", made.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield made


def source(**more: Any) -> Source:
    """The pinned file."""
    return Source(**{"hub": "owner/items", "files": (NAME,), "revision": COMMIT, "sha256": (DIGEST,)} | more)


def test_a_pinned_file_is_fetched_once(hub: Hub, tmp_path: Path) -> None:
    """Later it costs no request, and no network at all."""
    got = fetching.fetch(quiz(source()), tmp_path / "cache")
    assert got.path.read_bytes() == lines(5) and got.path.is_relative_to(tmp_path / "cache/owner/items" / COMMIT)
    assert (got.commit, got.sha256, got.downloaded) == (COMMIT, {NAME: DIGEST}, (NAME,))
    hub.asked.clear()
    again = fetching.fetch(quiz(source()), tmp_path / "cache")
    assert again.path == got.path and again.downloaded == () and hub.asked == []
    assert sorted(p.name for p in got.path.parent.parent.iterdir()) == ["data", "fetched.json"]


def test_a_branch_is_told_with_what_was_read(hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No commit is known: the hub's own and the digest stand in the warning and in what run.json gets."""
    got = fetching.fetch(quiz(source(revision="main", sha256=())), tmp_path / "cache")
    assert got.describe() == {"hub": "owner/items", "revision": "main", "commit": COMMIT, "sha256": {NAME: DIGEST}}
    assert "no commit and may move" in caplog.text and COMMIT in caplog.text and DIGEST in caplog.text
    # Then the branch is what was read, until the file is removed.
    hub.files[NAME] = lines(4)
    assert fetching.fetch(quiz(source(revision="main", sha256=())), tmp_path / "cache").sha256 == {NAME: DIGEST}


def test_a_damaged_file_is_fetched_anew(hub: Hub, tmp_path: Path) -> None:
    """Known by its digest."""
    got = fetching.fetch(quiz(source()), tmp_path / "cache")
    got.path.write_bytes(lines(5)[:-9])
    assert fetching.fetch(quiz(source()), tmp_path / "cache").path.read_bytes() == lines(5)


def test_a_file_put_there_by_hand_is_taken(hub: Hub, tmp_path: Path) -> None:
    """As the messages say."""
    hub.fault = "down"
    place = tmp_path / "cache/owner/items" / COMMIT / NAME
    place.parent.mkdir(parents=True)
    place.write_bytes(lines(5))
    assert fetching.fetch(quiz(source()), tmp_path / "cache").path == place and hub.asked == []


def test_several_files_are_one_folder(hub: Hub, tmp_path: Path) -> None:
    """A folder of the benchmark's own files, whatever else the data set's folder holds."""
    both = source(files=(NAME, "data/more.jsonl"), sha256=())
    fetching.fetch(quiz(source(files=("data/more.jsonl",), sha256=())), tmp_path / "cache")
    (tmp_path / "cache/owner/items" / COMMIT / "data/other.jsonl").write_text("{}")
    for _ in range(2):
        got = fetching.fetch(quiz(both), tmp_path / "cache")
        assert [item.id for item in quiz().load(got.path, None)] == [f"q{n}" for n in range(8)]


def test_two_fetches_at_once_download_once(hub: Hub, tmp_path: Path) -> None:
    """The second waits for the first."""
    found: list[fetching.Fetched] = []
    threads = [
        threading.Thread(target=lambda: found.append(fetching.fetch(quiz(source()), tmp_path / "cache")))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(one.downloaded) for one in found) == [0, 0, 1]
    assert sum(line.startswith("GET") for line in hub.asked) == 1


FAULTS = {
    "gated": ("is gated: accept its terms", "HF_TOKEN", "Ask its authors", "--data"),
    "missing": ("is not on the hub", "HF_TOKEN", "Ask its authors", "--data"),
    "down": ("cannot be read from the hub", "HF_ENDPOINT", "Ask its authors", "--data"),
    "torn": ("cannot be read from the hub", "network", "--data"),
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_hub_that_fails_is_told_with_the_way_out(fault: str, hub: Hub, tmp_path: Path) -> None:
    """Nothing is left where the file belongs."""
    hub.fault = fault
    with pytest.raises(DataError) as raised:
        fetching.fetch(quiz(source(gated=True, obtain="Ask its authors")), tmp_path / "cache")
    said = str(raised.value)
    assert all(words in said for words in ("quiz", NAME, "owner/items", DIGEST, *FAULTS[fault])), said
    assert not (tmp_path / "cache/owner/items" / COMMIT / NAME).exists()
    # The same command, when the hub is well again.
    hub.fault = ""
    assert fetching.fetch(quiz(source()), tmp_path / "cache").path.read_bytes() == lines(5)


def test_an_unknown_revision_and_an_unknown_file(hub: Hub, tmp_path: Path) -> None:
    """Both are not on the hub."""
    for changed in ({"revision": "f" * 40}, {"files": ("data/none.jsonl",)}):
        with pytest.raises(DataError, match="is not on the hub"):
            fetching.fetch(quiz(source(**changed)), tmp_path / "cache")


def test_an_unreachable_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens there; and a client that is told to stay offline."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"cannot be read from the hub: .*Check the network, proxies and HF_ENDPOINT"):
        fetching.fetch(quiz(source()), tmp_path / "cache")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="HF_HUB_OFFLINE is set; unset it"):
        fetching.fetch(quiz(source()), tmp_path / "cache")


def test_other_bytes_are_thrown_away(hub: Hub, tmp_path: Path) -> None:
    """With both digests in the message."""
    hub.files[NAME] = lines(4)
    with pytest.raises(DataError, match=rf"{hashlib.sha256(lines(4)).hexdigest()}.*{DIGEST}.*thrown away"):
        fetching.fetch(quiz(source()), tmp_path / "cache")
    assert not any(path.is_file() and path.suffix == ".jsonl" for path in (tmp_path / "cache").rglob("*"))


def test_a_full_disk(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the folder."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fetching.os, "replace", full)
    with pytest.raises(QwenlongError, match=r"cannot write .*No space left"):
        fetching.fetch(quiz(source()), tmp_path / "cache")


def test_a_benchmark_without_files() -> None:
    """Its own samples are given by hand."""
    with pytest.raises(UsageError, match="heldout has no published file to fetch; give --data"):
        fetching.fetch(registry.find("heldout"))


def test_a_run_fetches_its_data(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--data left out: the verb fetches, run.json says which bytes were read; --to takes a folder of one's own."""
    monkeypatch.setitem(registry.BENCHMARKS, "quiz", quiz(source()))
    make_tokenizer(tmp_path / "tokenizer")
    with endpoint(lambda request: (200, "3 or so")) as (url, requests):
        line = ["run", "quiz", "--model", "m", "--base-url", url, "--tokenizer", str(tmp_path / "tokenizer"), "--json"]
        line += ["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
        done = RUN.invoke(app, [*line, "--config", str(configuration(tmp_path))])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["n_attempted"] == 5 == len(requests)
    data = json.loads((tmp_path / "out/run.json").read_text())["data"]
    assert data == {
        "digest": DIGEST,
        "hub": "owner/items",
        "revision": COMMIT,
        "commit": COMMIT,
        "sha256": {NAME: DIGEST},
    }
    done = RUN.invoke(app, ["fetch", "quiz", "--to", str(tmp_path / "mine"), "--json"])
    assert json.loads(done.stdout)["path"] == str(tmp_path / "mine" / NAME)
    assert (tmp_path / "mine" / NAME).read_bytes() == lines(5)
    hub.fault = "gated"
    done = RUN.invoke(app, ["fetch", "quiz", "--to", str(tmp_path / "other")])
    assert done.exit_code == 1 and "HF_TOKEN" in done.output
