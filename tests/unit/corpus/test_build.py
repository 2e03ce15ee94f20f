"""The build as a whole: same input and seed, same bytes; what cannot be used is told by name."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from corpus_archives import CAPITALS, config, factbook, registry, sdist
from typer.testing import CliRunner

from qwenlong.core.config import CorpusConfig
from qwenlong.core.errors import ConfigError, DataError
from qwenlong.core.files import read_parquet, sha256_file
from qwenlong.core.records import CATEGORIES, Document
from qwenlong.corpus.build import build, write
from qwenlong.corpus.commands import app
from qwenlong.corpus.loaders import LOADERS
from qwenlong.corpus.sources import read_registry

PROJECT = Path(__file__).parents[3]


def guides(folder: Path, members: dict[str, str | bytes]) -> Path:
    """Write an sdist of guides into the cache place of the source `guides`."""
    return sdist(folder / "guides" / "manual-1.0.tar.gz", {f"manual-1.0/doc/{k}": v for k, v in members.items()})


def guide(title: str) -> str:
    """Return a guide of a few sections."""
    parts = [f"Part {n} of {title}\n{'-' * 40}\n\n" + f"{title} says {n} things about {title}. " * 4 for n in range(6)]
    return f"{title}\n{'=' * len(title)}\n\n" + "\n\n".join(parts)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two sources in a cache, and their registry."""
    files = {
        "facts": (factbook(tmp_path / "cache"), "professional", "factbook"),
        "guides": (
            guides(tmp_path / "cache", {f"g{n}.rst": guide(f"Guide {n}") for n in range(9)}),
            "academic",
            "guides",
        ),
    }
    return registry(tmp_path / "sources.csv", files)


def test_documents_are_sorted_and_counted(table: Path, tmp_path: Path) -> None:
    documents, stats = build(config(table, "facts", "guides"), tmp_path / "cache")
    ids = [document.id for document in documents]
    assert ids == sorted(ids) and len(ids) == len(set(ids)) == stats["documents"]
    assert {d.title for d in documents if d.source == "facts"} == {name for name, _, _ in CAPITALS.values()}
    assert stats["categories"] == {c: {"professional": 4, "academic": 9}.get(c, 0) for c in CATEGORIES}
    assert stats["characters"] == sum(len(document.text) for document in documents)
    assert stats["sources"]["facts"]["sha256"] == sha256_file(tmp_path / "cache/facts/book-1.0-py3-none-any.whl")


def test_every_section_is_accounted_for(table: Path, tmp_path: Path) -> None:
    settings = config(table, "facts", "guides", section_characters=250, max_documents_per_source=7, min_characters=60)
    documents, stats = build(settings, tmp_path / "cache")
    for name, numbers in stats["sources"].items():
        kept = [document for document in documents if document.source == name]
        assert len(kept) == numbers["documents"] <= 7
        assert numbers["sections"] == len(kept) + numbers["left_out"] + sum(numbers["dropped"].values())
        assert all(len(d.text) <= 250 and d.metadata["parent"] == d.id.split("#")[0] for d in kept)
    # The bound is spent on several documents, with the first sections of each.
    facts = [document for document in documents if document.source == "facts"]
    assert len({document.metadata["parent"] for document in facts}) >= 2


def test_same_seed_same_bytes_other_seed_other_choice(table: Path, tmp_path: Path) -> None:
    settings = config(table, "facts", "guides", section_characters=250, max_documents_per_source=7)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(settings.model_dump(mode="json", include={"corpus", "tracking"})))
    script = "from qwenlong.corpus.commands import app; app()"
    digests = set()
    for run in range(2):
        out = tmp_path / f"run{run}"
        command = [sys.executable, "-c", script, "build", "--config", str(file), "--out", str(out)]
        environment = os.environ | {"PYTHONHASHSEED": str(run)}
        subprocess.run(
            [*command, "--sources", str(tmp_path / "cache")], env=environment, check=True, capture_output=True
        )
        digests.add((sha256_file(out / "documents.parquet"), sha256_file(out / "corpus.json")))
    assert len(digests) == 1
    here, stats = build(settings, tmp_path / "cache")
    assert read_parquet(tmp_path / "run0" / "documents.parquet", Document) == here
    assert json.loads((tmp_path / "run0" / "corpus.json").read_text()) == stats
    other = settings.model_copy(update={"run": settings.run.model_copy(update={"seed": 18})})
    assert [d.id for d in build(other, tmp_path / "cache")[0]] != [d.id for d in here]


def test_one_invalid_document_is_dropped_counted_and_told(
    table: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = {"book/data/europe/bad.json": b'{"Government": "\xe9"}', "book/data/europe/odd.json": "[1]"}
    files = {"facts": (factbook(tmp_path / "cache", bad), "professional", "factbook")}
    with caplog.at_level(logging.WARNING):
        documents, stats = build(config(registry(table, files), "facts"), tmp_path / "cache")
    assert len(documents) == 4
    numbers = stats["sources"]["facts"]
    assert numbers["dropped_documents"] == {"invalid_utf8": 1, "unreadable": 1} and numbers["read"] == 6
    place = "source facts, book/data/europe/bad.json: byte 0xe9 at offset 16 is not UTF-8"
    assert place in numbers["messages"][0] and place in caplog.text
    assert "odd.json" in numbers["messages"][1]


def test_a_source_of_which_nothing_is_left_is_named(table: Path, tmp_path: Path) -> None:
    files = {
        "facts": (factbook(tmp_path / "cache"), "professional", "factbook"),
        "guides": (guides(tmp_path / "cache", {"a.rst": b"abc \xff", "b.rst": b"\xfe"}), "academic", "guides"),
    }
    settings = config(registry(table, files), "facts", "guides")
    with pytest.raises(DataError) as caught:
        build(settings, tmp_path / "cache")
    message = str(caught.value)
    assert message.startswith("source guides (manual-1.0.tar.gz) keeps no document: invalid_utf8 2")
    assert "manual-1.0/doc/a.rst: byte 0xff at offset 4" in message and "take it out of corpus.sources" in message


def test_an_empty_corpus_is_told_with_the_remedy(table: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        build(config(table, "facts", "guides", min_characters=10**6), tmp_path / "cache")
    message = str(caught.value)
    assert message.startswith("the corpus is empty: source facts")
    assert "too_short 4" in message and "min_characters = 1000000" in message and "source guides" in message


def test_a_source_that_is_not_fetched_fails_before_anything_is_read(table: Path, tmp_path: Path) -> None:
    (tmp_path / "cache/guides/manual-1.0.tar.gz").unlink()
    with pytest.raises(DataError, match="source guides: .* run `qwenlong corpus fetch`"):
        build(config(table, "facts", "guides"), tmp_path / "cache")


def test_near_duplicate_guides_leave_the_first(tmp_path: Path) -> None:
    text = "\n".join(f"Line {n} tells about thing {n * n}." for n in range(60))
    files = {"guides": (guides(tmp_path / "cache", {"b.rst": text, "a.rst": text + " More."}), "academic", "guides")}
    documents, stats = build(config(registry(tmp_path / "s.csv", files), "guides"), tmp_path / "cache")
    assert [document.id for document in documents] == ["guides/a"]
    assert stats["sources"]["guides"]["dropped"] == {"near_duplicate": 1}


def test_bad_names_in_the_configuration(table: Path, tmp_path: Path) -> None:
    for names, words in ((("wiki",), "'wiki' is not in"), (("facts", "facts"), "twice"), ((), "empty")):
        with pytest.raises(ConfigError, match=words):
            build(config(table, *names), tmp_path / "cache")


def test_a_heading_longer_than_a_section_is_a_configuration_error(tmp_path: Path) -> None:
    rows = [{"Date": f"Dec-{'2' * 60}{n}", "Assets": "1"} for n in range(4)]
    from corpus_archives import wheel

    text = json.dumps({"symbol": "A", "BalanceSheet": rows})
    file = wheel(tmp_path / "cache/money/money-1.0-py3-none-any.whl", {"m/stock_json/A.json": text})
    table = registry(tmp_path / "s.csv", {"money": (file, "professional", "finance")})
    with pytest.raises(ConfigError, match="corpus.section_characters = 200: source money"):
        build(config(table, "money", section_characters=200), tmp_path / "cache")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("sha256", "xyz"), "sha256 = 'xyz'"),
        (("filename", "../evil.whl"), "filename = '../evil.whl'"),
        (("category", "poetry"), "category = 'poetry'"),
        (("registry", "ftp"), "registry = 'ftp'"),
    ],
)
def test_a_bad_row_names_line_and_column(table: Path, change: tuple[str, str], words: str) -> None:
    import csv

    rows = list(csv.DictReader(table.read_text().splitlines()))
    rows[1][change[0]] = change[1]
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(ConfigError, match="line 3: " + words.replace(".", r"\.")):
        read_registry(table)


def test_a_registry_without_its_columns_is_told(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("name,url\n")
    with pytest.raises(ConfigError, match="columns are"):
        read_registry(tmp_path / "s.csv")
    with pytest.raises(ConfigError, match="does not exist"):
        read_registry(tmp_path / "none.csv")


def test_the_shipped_registry_covers_the_five_categories() -> None:
    sources = read_registry(PROJECT / "data" / "sources.csv")
    default = [sources[name] for name in CorpusConfig().sources]
    assert {source.category for source in default} == set(CATEGORIES)
    assert len({source.package for source in default}) >= 5
    assert all(source.loader in LOADERS for source in sources.values() if source.category != "model")


def test_documents_that_hold_a_benchmark_are_dropped_and_counted(table: Path, tmp_path: Path) -> None:
    file = tmp_path / "b.jsonl"
    file.write_text(json.dumps({"q": "GUIDE 4 – says: 3 things about Guide 4"}) + "\n")
    settings = config(table, "facts", "guides", decontaminate=[{"name": "b", "path": str(file), "fields": ["q"]}])
    documents, stats = build(settings, tmp_path / "cache")
    assert len(documents) == 12
    assert stats["contaminated"] == {"b": 1}
    assert stats["sources"]["guides"]["dropped"]["contaminated"] == 1
    write(settings, tmp_path / "cache", tmp_path / "out", documents, stats)
    provenance = json.loads((tmp_path / "out" / "documents.parquet.provenance.json").read_text())
    assert "benchmark b" in provenance["inputs"]


def test_commands(table: Path, tmp_path: Path) -> None:
    settings = config(table, "facts", "guides", cache=str(tmp_path / "cache"))
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(settings.model_dump(mode="json", include={"corpus", "tracking"})))
    out = tmp_path / "corpus"
    runner = CliRunner()
    fetched = runner.invoke(app, ["fetch", "--config", str(file), "--json"], catch_exceptions=False)
    assert json.loads(fetched.stdout)["downloaded"] == {"facts": False, "guides": False}
    arguments = ["build", "--config", str(file), "--sources", str(tmp_path / "cache"), "--out", str(out), "--json"]
    built = json.loads(runner.invoke(app, arguments, catch_exceptions=False).stdout)
    assert built["documents"] == len(read_parquet(out / "documents.parquet", Document)) == 13
    shown = runner.invoke(app, ["stats", str(out), "--json"], catch_exceptions=False)
    assert json.loads(shown.stdout) == built
    text = runner.invoke(app, ["stats", str(out)], catch_exceptions=False).stdout
    assert "13 documents" in text and "facts" in text
    provenance = json.loads((out / "documents.parquet.provenance.json").read_text())
    assert set(provenance["inputs"]) == {"facts", "guides", "registry"}


def test_write_leaves_nothing_half_written(table: Path, tmp_path: Path) -> None:
    settings = config(table, "facts")
    documents, stats = build(settings, tmp_path / "cache")
    write(settings, tmp_path / "cache", tmp_path / "out", documents, stats)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "corpus.json",
        "corpus.json.provenance.json",
        "documents.parquet",
        "documents.parquet.provenance.json",
    ]
