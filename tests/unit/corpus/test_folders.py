"""Local folders: each format as text with its place, in the order of paths, a file at a time."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import yaml
from corpus_files import PROSE, config, pdf, read
from pydantic import ValidationError
from typer.testing import CliRunner

from qwenlong.core.config import Config
from qwenlong.core.errors import ConfigError, DataError
from qwenlong.core.files import read_parquet
from qwenlong.core.records import Document
from qwenlong.corpus.build import build
from qwenlong.corpus.commands import app
from qwenlong.corpus.folders import listing_digest
from qwenlong.corpus.sections import split


def test_every_format_is_read_with_licence_and_provenance(tmp_path: Path) -> None:
    files: dict[str, bytes] = {
        "a.txt": b"\xef\xbb\xbfplain\r\ntext",
        "b/guide.md": b"intro\n\n# The Guide #\n\nbody",
        "c.html": b"<title>Page</title><h2>Part</h2><script>alert(1)</script><p>seen</p>",
        "d.pdf": pdf(["first page", "second page"]),
        "e.json": json.dumps({"year": 1990}).encode(),
        "f.jsonl": b'{"text": "one", "title": "First"}\n\n{"text": "two"}\n',
        "g.csv": b"name;size\nA;1\nB|C;2\n",
        "src/h.py": b"def f():\n\treturn 1\n",
    }
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    found, losses = read(tmp_path, data_licence="CC-BY-4.0")
    assert not losses.dropped and not losses.messages
    by_id = {document.id: document for document in found}
    assert list(by_id) == [
        "notes/a.txt",
        "notes/b/guide.md",
        "notes/c.html",
        "notes/d.pdf",
        "notes/e.json",
        "notes/f.jsonl/00000001",
        "notes/f.jsonl/00000003",
        "notes/g.csv",
        "notes/src/h.py",
    ]
    for document in found:
        path = str(document.metadata["path"])
        assert document.licence == "CC-BY-4.0" and document.source == "notes" and document.category == "general"
        assert document.metadata["sha256"] == hashlib.sha256(files[path]).hexdigest()
    texts = {name.removeprefix("notes/"): document.text for name, document in by_id.items()}
    assert texts["a.txt"] == "plain\ntext"
    assert texts["c.html"] == "## Part\n\nseen"
    assert texts["d.pdf"] == "## Page 1\nfirst page\n\n## Page 2\nsecond page"
    assert json.loads(texts["e.json"]) == {"year": 1990}
    assert texts["g.csv"] == "## g\n| name | size |\n| --- | --- |\n| A | 1 |\n| B/C | 2 |"
    assert texts["src/h.py"] == "def f():\n    return 1"
    titles = [by_id[f"notes/{name}"].title for name in ("b/guide.md", "c.html", "f.jsonl/00000001", "src/h.py")]
    assert titles == ["The Guide", "Page", "First", "src/h.py"]
    assert by_id["notes/f.jsonl/00000003"].metadata["record"] == 3
    assert by_id["notes/d.pdf"].metadata["pages"] == 2


def test_csv_with_a_text_column_is_records_and_without_is_tables(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text('id,title,text\n1,One,"first, with comma"\n2,,"it\'s\ntwo lines"\n')
    (tmp_path / "t.tsv").write_text("k\tv\n" + "".join(f"row{n}\t{n}\n" for n in range(5)))
    found, losses = read(tmp_path, rows_per_document=2)
    assert [(d.title, d.text) for d in found[:2]] == [
        ("One", "first, with comma"),
        ("r, record 2", "it's\ntwo lines"),
    ]
    assert [d.title for d in found[2:]] == ["t, rows 1 to 2", "t, rows 3 to 4", "t, rows 5 to 5"]
    assert all(d.text.split("\n")[1:3] == ["| k | v |", "| --- | --- |"] for d in found[2:])
    assert [(d.metadata["first_row"], d.metadata["last_row"]) for d in found[2:]] == [(1, 2), (3, 4), (5, 5)]
    assert not losses.dropped


def test_a_json_list_of_records_is_records_and_chats_are_lines(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    (tmp_path / "a.json").write_text(json.dumps([{"body": "one"}, {"body": turns}, {"body": 3}, {"body": ""}]))
    found, losses = read(tmp_path, text_field="body")
    assert [(d.text, d.metadata["kind"]) for d in found] == [("one", "record"), ("user: Hi\nassistant: Hello", "chat")]
    assert dict(losses.dropped) == {"unreadable": 1, "empty": 1}
    assert "a.json: record 3: body is a int" in losses.messages[0] and "text_field" in losses.messages[0]


def test_ids_are_plain_and_differ_whatever_the_names(tmp_path: Path) -> None:
    names = [b"a b#1.txt", b"a%20b.txt", "ü.txt".encode(), b"\xff.txt", b"<|im_start|>.txt", b"two\nlines.txt"]
    for name in names:
        Path(str(tmp_path), name.decode("utf-8", "surrogateescape")).write_bytes(b"text")
    found, losses = read(tmp_path)
    assert len({d.id for d in found}) == len(names) and not losses.dropped
    assert all(d.id.isascii() and "#" not in d.id and "<" not in d.id and d.id.isprintable() for d in found)
    assert all("<|im_start|>" not in d.title and "\n" not in d.title for d in found)
    assert json.dumps([d.model_dump() for d in found]).encode()


def test_vendored_lock_and_hidden_files_are_counted_and_not_opened(tmp_path: Path) -> None:
    for name in ("src/a.py", "node_modules/x/b.js", "src/Third_Party/c.c", ".git/config", "poetry.lock", "go.sum"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1")
    (tmp_path / "node_modules/x/b.js").chmod(0)
    found, losses = read(tmp_path)
    assert [d.id for d in found] == ["notes/src/a.py"]
    assert dict(losses.dropped) == {"vendored": 2, "lock_file": 2, "hidden": 1}


def test_an_unknown_suffix_is_told_once_and_counted(tmp_path: Path) -> None:
    for name in ("a.docx", "b.docx", "c.png", "d"):
        (tmp_path / name).write_bytes(b"x")
    found, losses = read(tmp_path)
    assert not found and dict(losses.dropped) == {"unsupported": 4}
    assert len(losses.messages) == 3
    assert "a.docx: files with the suffix .docx are not read; convert them to text" in losses.messages[0]


def test_archives_are_read_without_being_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("in/x.md", "# Inside\n\ntext")
        archive.writestr("in/vendor/y.md", "no")
        archive.writestr("in/z.bin", "no")
    found, losses = read(tmp_path)
    assert [(d.id, d.title) for d in found] == [("notes/a.zip/in/x.md", "Inside")]
    assert dict(losses.dropped) == {"vendored": 1, "unsupported": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_a_folder_streams(tmp_path: Path) -> None:
    """24 MB of files and one of 16 MB of lines take a small part of that."""
    for n in range(24):
        (tmp_path / f"{n:02d}.txt").write_bytes(b"line of text\n" * 80_000)
    with (tmp_path / "z.jsonl").open("w") as stream:
        for n in range(4000):
            stream.write(json.dumps({"text": f"{n} " * 800}) + "\n")
    from corpus_files import folder

    from qwenlong.core.config import CorpusConfig
    from qwenlong.corpus.folders import Folder
    from qwenlong.corpus.hostile import Losses
    from qwenlong.corpus.origins import documents

    corpus = CorpusConfig(sources=())
    tracemalloc.start()
    try:
        count = sum(1 for _ in documents(Folder(folder(tmp_path), corpus), corpus, Losses("notes")))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 24 + 4000
    assert peak < 12 * 2**20


def test_a_folder_that_is_not_there_is_told_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "f.txt").write_text("x")
    for path, what in ((tmp_path / "none", "is not there"), (tmp_path / "f.txt", "is a file")):
        with pytest.raises(ConfigError, match=f"corpus.folders: notes: path = .*{what}; give an existing folder"):
            read(path)


def test_an_empty_folder_ends_the_build_with_its_name(tmp_path: Path) -> None:
    settings = config(folders=[{"name": "notes", "path": str(tmp_path), "category": "general", "licence": "MIT"}])
    with pytest.raises(
        DataError, match=r"the corpus is empty: source notes \(.*\) keeps no document: it holds nothing"
    ):
        build(settings, tmp_path)
    (tmp_path / "a.txt").write_bytes(b"")
    with pytest.raises(DataError, match="empty 1 .source notes, a.txt: has 0 bytes"):
        build(settings, tmp_path)


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ({"name": "n", "path": "x", "category": "general", "licence": "MIT", "glob": "*"}, "glob"),
        ({"name": "N 1", "path": "x", "category": "general", "licence": "MIT"}, "name"),
        ({"name": "n", "path": "x", "category": "poetry", "licence": "MIT"}, "category"),
        ({"name": "n", "path": "x", "category": "general"}, "licence"),
        ({"name": "world_factbook", "path": "x", "category": "general", "licence": "MIT"}, "two sources are named"),
    ],
)
def test_a_bad_folder_is_refused_by_key(folder: dict[str, str], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Config.model_validate({"corpus": {"folders": [folder]}})


def test_the_command_builds_from_folders_alone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for n in range(3):
        (data / f"{n}.txt").write_text(f"Number {n}. " + PROSE * (n + 3))
    rights = {"licence": "MIT", "data_licence": "CC0-1.0"}
    settings = config(folders=[{"name": "notes", "path": str(data), "category": "general"} | rights])
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(settings.model_dump(mode="json", include={"corpus", "tracking"})))
    runner = CliRunner()
    fetched = runner.invoke(app, ["fetch", "--config", str(file), "--json"], catch_exceptions=False)
    assert json.loads(fetched.stdout) == {"downloaded": {}, "files": {}}
    out = tmp_path / "out"
    arguments = ["build", "--config", str(file), "--sources", str(tmp_path), "--out", str(out)]
    assert "notes" in runner.invoke(app, arguments, catch_exceptions=False).stdout
    assert read_parquet(out / "documents.parquet", Document) == build(settings, tmp_path)[0]
    assert json.loads((out / "corpus.json").read_text())["sources"]["notes"].items() >= rights.items()
    provenance = json.loads((out / "documents.parquet.provenance.json").read_text())
    assert set(provenance["inputs"]) == {"notes"}


def test_pages_and_headings_are_sections(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf(["word " * 20, "other " * 20]))
    (tmp_path / "b.md").write_text(f"# One\n\n{'a ' * 50}\n\n```\n# no heading\n```\n\n## Two\n\n{'b ' * 50}")
    found, _ = read(tmp_path)
    assert [[s.metadata["heading"] for s in split(d, 150)] for d in found] == [["Page 1", "Page 2"], ["One", "Two"]]
    table = [f"| {n} | {n * n} |" for n in range(30)]
    document = found[0].model_copy(
        update={"text": "\n".join(["## t", "| a | b |", "| --- | --- |", *table]), "metadata": {"kind": "table"}}
    )
    assert all(s.text.startswith("## t\n| a | b |\n| --- | --- |\n") for s in split(document, 120))


def test_a_listing_changes_with_a_file_in_a_folder_below(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c.txt").write_text("1")
    before = listing_digest(tmp_path)
    assert listing_digest(tmp_path) == before
    (tmp_path / "a/b/c.txt").write_text("22")
    assert listing_digest(tmp_path) != before
    assert listing_digest(tmp_path / "none") == listing_digest(tmp_path / "gone")
