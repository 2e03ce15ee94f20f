"""Data sets: local Parquet and JSON lines stream; the hub wants a commit and says what to do when it cannot be had."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_files import config
from pydantic import ValidationError

from qwenlong.core.config import CorpusConfig, DatasetConfig
from qwenlong.core.errors import ConfigError, DataError
from qwenlong.core.records import Document
from qwenlong.corpus.build import build
from qwenlong.corpus.hf_datasets import Dataset
from qwenlong.corpus.hostile import Losses
from qwenlong.corpus.origins import documents

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def settings(path: object, **values: Any) -> DatasetConfig:
    """Return the settings of a data set named `set`."""
    base = {"name": "set", "path": str(path), "category": "academic", "licence": "ODC-By-1.0"}
    return DatasetConfig.model_validate(base | values)


def read(path: object, **values: Any) -> tuple[list[Document], Losses]:
    """Return the documents of a data set after the guard, and what was lost."""
    corpus = CorpusConfig(sources=())
    losses = Losses("set")
    origin = Dataset(settings(path, **values), corpus)
    origin.check()
    return list(documents(origin, corpus, losses)), losses


def parquet(path: Path, **columns: Any) -> Path:
    """Write a Parquet file of these columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=100)
    return path


def test_a_parquet_file(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    file = parquet(
        tmp_path / "a.parquet", body=["one <|im_end|>", None, "three"], name=["First", "b", None], other=[1, 2, 3]
    )
    found, losses = read(file, text_field="body", title_field="name")
    assert [(d.id, d.title, d.text) for d in found] == [
        ("set/00000001", "First", "one <| im_end|>"),
        ("set/00000003", "a, record 3", "three"),
    ]
    assert dict(losses.dropped) == {"empty": 1} and dict(losses.neutralised) == {"control_tokens": 1}
    assert found[0].licence == "ODC-By-1.0" and found[0].category == "academic"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    entity = {"entity": "a, record 3", "kind": "record"}
    assert found[1].metadata == entity | {"path": "a.parquet", "sha256": digest, "record": 3}
    turns = parquet(tmp_path / "b.parquet", messages=[chat])
    assert read(turns, text_field="messages")[0][0].text == "user: Hi\nassistant: Ho"


def test_json_lines_and_a_folder_by_split(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text('{"text": "a"}\n{"no": 1}\nnot json\n')
    found, losses = read(tmp_path / "one.jsonl")
    assert [d.text for d in found][0] == "a" and losses.dropped == {"unreadable": 1}
    (tmp_path / "one.jsonl").unlink()
    for name in (
        "data/train-00001-of-2.parquet",
        "data/train-00000-of-2.parquet",
        "test/x.parquet",
        "training.parquet",
    ):
        parquet(tmp_path / name, text=[f"in {name}"])
    assert [d.text for d in read(tmp_path, split="train")[0]] == [
        "in data/train-00000-of-2.parquet",
        "in data/train-00001-of-2.parquet",
    ]
    found, _ = read(tmp_path, split="test")
    assert [d.id for d in found] == ["set/test/x.parquet/00000001"] and found[0].metadata["split"] == "test"
    assert len(read(tmp_path)[0]) == 4


def test_a_wrong_column_names_those_that_are_there(tmp_path: Path) -> None:
    file = parquet(tmp_path / "a.parquet", body=["x"], title=["y"])
    with pytest.raises(
        DataError, match="source set: .*a.parquet has no column 'text'; set text_field to one of body, t"
    ):
        read(file)
    found, losses = read(parquet(tmp_path / "b.parquet", text=[7]))
    assert not found and "record 1: text is a int, not text; name another text_field" in losses.messages[0]


def test_a_broken_parquet_file_is_told_and_the_others_read(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    parquet(tmp_path / "b.parquet", text=["fine"])
    found, losses = read(tmp_path)
    assert [d.text for d in found] == ["fine"] and losses.dropped == {"unreadable": 1}
    assert "a.parquet: cannot be read as Parquet" in losses.messages[0] and "write it anew" in losses.messages[0]


def test_a_parquet_bomb_is_refused_by_what_it_unpacks_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x" * 4_000_000]}), file, compression="zstd", use_dictionary=False)
    assert file.stat().st_size < 10_000
    assert len(read(file)[1].messages) == 1  # a line of 4 MB
    monkeypatch.setattr("qwenlong.corpus.hf_datasets.MAX_COLUMN_BYTES", 2**20)
    found, losses = read(file)
    assert (
        not found and "row group 0 unpacks to 40" in losses.messages[0] and "smaller row groups" in losses.messages[0]
    )


def test_a_text_that_a_dictionary_repeats_is_held_once(tmp_path: Path) -> None:
    """500 times 4 MB in a small file: 256 MB, were a batch of 64 rows unpacked."""
    text = "word " * 800_000
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 500, pa.int32()), pa.array([text]))
    # Without the schema of Arrow the column is one of plain strings, as other writers give it.
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet", store_schema=False)
    assert (tmp_path / "a.parquet").stat().st_size < 1_000_000
    del column
    rows = Dataset(settings(tmp_path / "a.parquet"), CorpusConfig(sources=())).read(Losses("set"))
    for _ in range(100):
        assert next(rows).text == text
        assert pa.total_allocated_bytes() < 64 * 2**20


def test_it_builds_beside_folders(tmp_path: Path) -> None:
    file = parquet(tmp_path / "a.parquet", text=[" ".join(f"word{n}x{k}" for k in range(50)) for n in range(3)])
    documents, stats = build(config(datasets=[settings(file).model_dump()]), tmp_path)
    assert len(documents) == 3 and stats["sources"]["set"]["version"] == "local"
    assert stats["categories"]["academic"] == 3


@pytest.mark.parametrize(
    ("path", "values", "words"),
    [
        ("owner/name", {"split": "train"}, "taken for a hub id, which needs revision .the commit, 40 hex digits"),
        ("owner/name", {"revision": COMMIT}, "needs split"),
        ("./no/such/folder", {}, "is not there and is no hub id; give an existing path or owner/name"),
        ("data/gone.parquet", {"revision": COMMIT, "split": "train"}, "is not there and is no hub id"),
    ],
)
def test_what_a_hub_id_needs(path: str, values: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=f"corpus.datasets: set: path = '{path}'.*{words}"):
        read(path, **values)


def test_a_local_file_of_another_format_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\nx\n")
    with pytest.raises(ConfigError, match="is no .parquet, .jsonl, .ndjson file; convert it, or use corpus.folders"):
        read(tmp_path / "a.csv")


@pytest.mark.parametrize("values", [{"revision": "main"}, {"token": "x"}, {"split": "../train"}, {"licence": ""}])
def test_bad_settings_are_refused_by_key(values: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match=next(iter(values))):
        settings("owner/name", **values)


class GatedRepoError(OSError):
    """As the hub's client calls it."""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (GatedRepoError("Cannot access gated repo"), ("wants permission", "Accept the set's terms", "HF_TOKEN")),
        (OSError("401 Client Error: Unauthorized"), ("wants permission", "hf auth login")),
        (ConnectionError("no route to host"), ("cannot be read from the hub", "no route to host", "HF_HUB_OFFLINE")),
        (ValueError("Unknown split"), ("Unknown split", "Check path, revision, subset and split")),
    ],
)
def test_errors_of_the_hub_say_how_to_get_the_set(
    monkeypatch: pytest.MonkeyPatch, error: Exception, words: tuple[str, ...]
) -> None:
    import datasets

    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError) as caught:
        read("owner/name", revision=COMMIT, split="train")
    for word in ("source set: owner/name at 0123456789ab", "give that folder as path", *words):
        assert word in str(caught.value)


def test_the_hub_is_asked_for_the_pinned_commit_as_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: dict[str, object] = {}

    def rows(path: str, name: str | None, **kwargs: object) -> Any:
        asked.update(kwargs, path=path, name=name)
        return ({"text": f"row {n}", "label": n} for n in range(3))

    monkeypatch.setattr(datasets, "load_dataset", rows)
    found, _ = read("owner/name", revision=COMMIT, split="train", subset="en")
    assert asked == {"path": "owner/name", "name": "en", "revision": COMMIT, "split": "train", "streaming": True}
    assert [d.id for d in found] == ["set/00000001", "set/00000002", "set/00000003"]
    assert found[0].metadata["revision"] == COMMIT and found[0].metadata["split"] == "train"
    with pytest.raises(DataError, match="owner/name has no column 'body'; set text_field to one of label, text"):
        read("owner/name", revision=COMMIT, split="train", text_field="body")


def test_an_unreachable_hub_fails_with_one_clear_message(tmp_path: Path) -> None:
    """The real library, told to stay offline: in a process of its own, since it reads that when it is imported."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_datasets import read, COMMIT; "
        "read('owner/no-such-set', revision=COMMIT, split='train')"
    )
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parent)], env=environment, capture_output=True, text=True
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and "DataError: source set: owner/no-such-set at 0123456789ab" in last
    assert "cannot be read from the hub" in last and "put them in a folder here" in last
