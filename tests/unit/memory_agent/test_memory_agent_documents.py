"""Documents of every kind and size: streamed, told what was wrong, refused by name."""

from __future__ import annotations

import gzip
import json
import os
import sys
import tracemalloc
import zipfile
from collections.abc import Iterator
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenlong.core.errors import DataError, UsageError
from qwenlong.core.json_items import json_items
from qwenlong.core.reading import Refused
from qwenlong.core.templates import around
from qwenlong.core.tokens import Tokenizer
from qwenlong.memory_agent import formats
from qwenlong.memory_agent.documents import STDIN, Report, chunks, made_safe, pieces, read_document, render


def written(folder: Path, name: str, content: bytes | str) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def shown(*paths: Path) -> tuple[str, Report]:
    report = Report()
    return "".join(pieces(paths, report)), report


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-8"])
def test_encodings_are_known_by_their_mark(tmp_path: Path, encoding: str) -> None:
    text = "Ärger über 漢字 𝄞\nzweite Zeile" * 9000
    assert read_document(written(tmp_path, "a.txt", text.encode(encoding))) == text


@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-32-be"])
def test_big_endian_marks(tmp_path: Path, encoding: str) -> None:
    assert read_document(written(tmp_path, "a.txt", "\ufeffÄ 漢".encode(encoding))) == "Ä 漢"


def test_line_ends_are_one_kind(tmp_path: Path) -> None:
    """Also where a pair lies on both sides of what is read at a time."""
    text = "x" * (formats.BLOCK - 1) + "\r\n" + "a\rb\r\nc\n\r\n"
    assert read_document(written(tmp_path, "a.txt", text)) == "x" * (formats.BLOCK - 1) + "\na\nb\nc\n\n"


def test_bytes_of_no_character_are_shown_and_counted(tmp_path: Path) -> None:
    """The mark itself may stand in a text; it is not counted."""
    text, report = shown(written(tmp_path, "a.txt", b"caf\xe9 au lait, 100 \xa3 and a real \xef\xbf\xbd.\n" * 5000))
    assert text.count("\ufffd") == 15000 and report.documents[0].replaced == 10000
    assert report.lines() == ["a.txt: 10000 bytes are no character and are shown as \ufffd"]
    text, report = shown(written(tmp_path, "b.txt", "odd".encode("utf-16") + b"\x41"))
    assert text == "[1] b.txt\nodd\ufffd" and report.documents[0].replaced == 1


@given(st.binary(max_size=300).filter(lambda data: data.strip() and b"\0" not in data), st.integers(1, 50))
def test_any_bytes_are_text_however_they_are_cut(data: bytes, size: int) -> None:
    notes = [formats.Notes("a"), formats.Notes("a")]
    cut = [data[at : at + size] for at in range(0, len(data), size)]
    texts = ["".join(formats.decoded(iter(blocks), "utf-8", n)) for blocks, n in zip(([data], cut), notes, strict=True)]
    assert texts[0] == texts[1] and notes[0].replaced == notes[1].replaced
    assert (
        texts[0] == TextIOWrapper(BytesIO(data.removeprefix(b"\xef\xbb\xbf")), "utf-8", "replace").read()
        or notes[0].replaced
    )


PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b" \n\t\r\n" * 99, "holds no text$"),
        ("a.md", b"\xef\xbb\xbf", "holds no text$"),
        ("a.txt", b"\x83e\x83X\x83g\x82\xc5\x82\xb7" * 50, "not UTF-8 .* convert it"),
        ("a.txt", "no mark".encode("utf-16-le"), "zero bytes"),
        ("a.png", PNG, "zero bytes"),
        ("a.txt.gz", gzip.compress(b"text", mtime=0), r"compressed \(gzip\); unpack it"),
        ("a.html", b"<script>x()</script><!-- nothing", "holds no text$"),
        ("a.json", b"[1, 2", "item 2 of its array"),
        ("a.json", b"[1, NaN]", "item 2: NaN"),
        ("a.json", b"[1] 2", "text behind its array"),
        ("a.json", b"[1 2]", "item 1 of its array: '2' behind it"),
        ("a.json", b"[1,]", "item 2"),
        ("a.json", b'{"a": 1} x', "is not JSON"),
        ("a.json", b"[" * 100 + b"]" * 100, "nested more than 64 levels"),
        ("a.json", b'{"a":' * 100_000, "nested more than 64 levels|not JSON"),
        ("a.jsonl", b'{"text": "ok"}\n\n{"text": \n', r"not JSON .* \(line 3 of the file\)"),
        ("a.rtf", rb"{\rtf1 text}", "is RTF"),
        ("a.pdf", b"%PDF-1.7 and no more", "cannot be read as PDF"),
    ],
)
def test_what_is_no_text_is_refused_by_name(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=rf"{name} .*(?:{message})"):
        render([written(tmp_path, name, content)])


def test_archives_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.docx", "w") as archive:
        archive.writestr("word/document.xml", "<w/>")
    with pytest.raises(DataError, match=r"a.docx is a zip archive"):
        render([tmp_path / "a.docx"])


def test_what_is_not_there_is_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match=r"no document .*absent"):
        render([written(tmp_path, "a.txt", "text"), tmp_path / "absent"])
    with pytest.raises(DataError, match="given twice"):
        render([STDIN, STDIN])
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"none holds no file with text"):
        chunks([tmp_path / "none"], tokenizer, 50)


def test_html_is_forgiving(tmp_path: Path) -> None:
    """No closing tags, and the page's own encoding."""
    page = '<html><head><meta charset="iso-8859-1"><title>T\xfcr</title><body><h1>Top<p>caf\xe9<li>one<li>two<p>end'
    text = read_document(written(tmp_path, "a.htm", page.encode("iso-8859-1")))
    assert "café" in text and "- one" in text and "end" in text and "�" not in text
    assert "ü" in read_document(written(tmp_path, "b.html", '<meta charset="klingon"><p>über'))


def test_json_is_read_item_by_item(tmp_path: Path) -> None:
    records = [{"title": "T", "text": f"body {n} Ä \ud800"} for n in range(3000)]
    text, report = shown(written(tmp_path, "a.json", json.dumps(records, indent=1)))
    assert text == "[1] a.json\n" + "\n".join(f"T\nbody {n} Ä �" for n in range(3000))
    assert report.documents[0].replaced == 3000
    assert read_document(written(tmp_path, "b.json", ' [1, "two" , null, [3], {"a": 4}]\n')).split("\n")[:3] == [
        "1",
        "two",
        "null",
    ]
    lines = '{"text": "a\u2028b"}\r\n\r\n"c"'
    assert read_document(written(tmp_path, "c.jsonl", lines)) == "a\u2028b\nc"


@given(
    st.lists(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
            max_leaves=8,
        ),
        max_size=9,
    ),
    st.integers(1, 7),
    st.sampled_from([None, 1]),
)
def test_json_arrays_are_read_as_they_were_written(items: list[Any], size: int, indent: int | None) -> None:
    text = json.dumps(items, indent=indent)
    parts: Iterator[str] = iter([text[at : at + size] for at in range(0, len(text), size)])
    assert list(json_items(lambda _: next(parts, ""), 64, 10_000)) == items


def test_an_item_of_json_is_bounded() -> None:
    text = BytesIO(b'["' + b"x" * 300_000 + b'"]')
    with pytest.raises(Refused, match="item of more than 1000 characters"):
        list(json_items(TextIOWrapper(text, "utf-8").read, 64, 1000))
    with pytest.raises(Refused, match="one JSON value of more than 9 characters"):
        list(json_items(TextIOWrapper(BytesIO(b'{"a": "0123"}'), "utf-8").read, 64, 9))


def pdf(file: Path, pages: list[str], password: str | None = None) -> Path:
    """A real PDF with a page of each text; an empty text is a page with a picture, as scans are."""
    import pypdf
    from matplotlib.backends.backend_pdf import PdfPages
    from matplotlib.figure import Figure

    with PdfPages(file) as book:
        for text in pages:
            figure = Figure()
            if text:
                figure.text(0.1, 0.5, text)
            else:
                figure.add_axes((0, 0, 1, 1)).imshow([[0, 1], [1, 0]])
                figure.axes[0].axis("off")
            book.savefig(figure)
    if password is not None:
        writer = pypdf.PdfWriter(clone_from=file)
        writer.encrypt(password, "owner")
        writer.write(file)
    return file


def test_pdfs_are_read_page_by_page(tmp_path: Path) -> None:
    """A sentence that runs over to the next page is not parted by a blank line; pages of scans are told."""
    pages = ["The first page ends.", "The second page runs", "on to the third.", ""] * 20
    text, report = shown(pdf(tmp_path / "a.pdf", pages))
    assert text.startswith("[1] a.pdf\nThe first page ends.\n\nThe second page runs\non to the third.\n\nThe first")
    assert report.lines() == ["a.pdf: 20 of 80 pages hold no text (scans need OCR)"]
    with pytest.raises(DataError, match=r"b.pdf holds no text; a scanned PDF needs OCR"):
        render([pdf(tmp_path / "b.pdf", ["", ""])])
    with pytest.raises(DataError, match=r"c.pdf asks for a password"):
        render([pdf(tmp_path / "c.pdf", ["secret"], "word")])
    assert "open" in read_document(pdf(tmp_path / "d.pdf", ["open to all"], ""))
    # Known by its bytes under any name.
    (tmp_path / "a.pdf").rename(tmp_path / "report.bin")
    assert "second page" in read_document(tmp_path / "report.bin")


def test_source_trees_are_read_in_order(tmp_path: Path) -> None:
    """Sorted, under relative paths; what is left out is named with the reason."""
    tree = tmp_path / "tree"
    written(tree, "b/z.py", "z = 1\n")
    written(tree, "b/a.md", "# Title\n")
    written(tree, "a.txt", "first\n\n")
    written(tree, "c.json", '{"a": 1} // with a comment')
    written(tree, "d/logo.png", PNG)
    written(tree, "e/empty.txt", "")
    written(tree, ".git/config", "[core]")
    written(tree, ".env", "KEY=1")
    written(tree, "CVS/Root", "x")
    written(tree, "bad\nname.txt", "odd name")
    written(tree, "broken.pdf", "%PDF-1.4 nothing")
    (tree / "loop").symlink_to(tree)
    os.mkfifo(tree / "pipe")
    text, report = shown(tree, written(tmp_path, "last.txt", "the last"))
    assert text == (
        "[1] a.txt\nfirst\n[2] b/a.md\n# Title\n[3] b/z.py\nz = 1\n[4] bad name.txt\nodd name\n"
        '[5] c.json\n{"a": 1} // with a comment\n[6] last.txt\nthe last'
    )
    left_out = dict(report.left_out)
    assert {name: reason.split()[1] for name, reason in left_out.items()} == {
        ".env": "hidden,", ".git": "hidden,", "CVS": "hidden,", "broken.pdf": "be",
        "d/logo.png": "no", "e/empty.txt": "empty;", "loop": "a", "pipe": "no",
    }  # fmt: skip
    assert all(f"{name}: left out; it " in "\n".join(report.lines()) for name in left_out)


def test_a_file_that_breaks_off_is_told(tmp_path: Path) -> None:
    written(tmp_path / "tree", "a.jsonl", '"one"\n' * 20_000 + "{broken\n")
    text, report = shown(tmp_path / "tree")
    assert text.startswith("[1] a.jsonl\none\none") and report.documents[0].problem.startswith("is not JSON")
    assert "read in part" in report.lines()[0]


def test_standard_input_is_a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO("\ufeffÄ\r\nb\n".encode())))
    assert render([STDIN, written(tmp_path, "b.txt", "x")]) == "[1] stdin\nÄ\nb\n[2] b.txt\nx"
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(b"")))
    with pytest.raises(DataError, match="- is empty"):
        render([STDIN])


def test_a_pipe_is_a_document(tmp_path: Path) -> None:
    """What a shell's <(command) gives: it can be read once, and not sought."""
    read, write = os.pipe()
    os.write(write, b"from a command")
    os.close(write)
    try:
        assert read_document(Path(f"/dev/fd/{read}")) == "from a command"
    finally:
        os.close(read)


def test_a_template_has_its_text_once() -> None:
    assert around("document", {"number": 2, "title": "{text}"}, "text") == ("[2] {text}\n", "")
    with pytest.raises(UsageError, match="slot {name} 0 times"):
        around("document", {"number": 2, "title": "t", "text": "x"}, "name")


def test_text_is_made_safe_some_lines_at_a_time() -> None:
    """A tag that lies on both sides of what is looked at together is found, in a line of any length too."""

    def safe(text: str) -> str:
        return text.replace("</memory>", "‹/memory›")

    line = "word " * 300_000
    text = "".join(f"{line[: n * 997]}</memory>{'x' * (n % 13)}\n" for n in range(300)) + line + "</memory>" * 150_000
    cut = [text[at : at + 65_531] for at in range(0, len(text), 65_531)]
    assert "".join(made_safe(cut, safe)) == safe(text)


def test_memory_does_not_grow_with_the_document(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Python's own allocations at their highest, for a document and one four times as long."""
    peaks = []
    paragraph = "The lighthouse was built in 1881. Its keeper was Anna; nobody knew her.\n\n" * 10
    chunks([written(tmp_path, "warm.txt", paragraph)], tokenizer, 500)[0].close()
    for times in (800, 2400):
        file = written(tmp_path, "a.txt", paragraph * times)
        tracemalloc.start()
        made, report = chunks([file], tokenizer, 500, safe=lambda text: text)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert report.documents[0].characters == len(paragraph) * times
        made.close()
    assert peaks[1] < 1.3 * peaks[0] + 100_000
