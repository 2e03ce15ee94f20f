"""File formats by suffix: the text that a file holds, in one piece, or a record at a time where it has records.

A reader takes a stream of bytes and yields pieces. A record that cannot be used comes as a `Refused` among them, and
the rest goes on; a file that cannot be used raises one, or `InvalidText` with the offset of the first bad byte.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import IO, Any

from qwenlong.core.config import LimitsConfig
from qwenlong.core.html_pages import html_page
from qwenlong.core.reading import Refused, json_text, load_json, pdf_pages
from qwenlong.corpus.archive import InvalidText, decode


@dataclass(frozen=True)
class Piece:
    """The text of a document to be: `place` is "" for a whole file, else the number of its record, as a path part."""

    title: str
    text: str
    kind: str
    place: str = ""
    metadata: dict[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """How records are read; see FolderConfig."""

    limits: LimitsConfig
    text_field: str = "text"
    title_field: str | None = "title"
    rows_per_document: int = 200


Reader = Callable[[str, IO[bytes], Options], Iterator[Piece | Refused]]

#: Suffixes of source code, by which a file is taken for code.
CODE = frozenset(
    (".bash", ".c", ".cc", ".clj", ".cpp", ".cs", ".cu", ".cxx", ".dart", ".erl", ".ex", ".f90", ".go", ".h", ".hpp")
    + (
        ".hs",
        ".java",
        ".jl",
        ".js",
        ".jsx",
        ".kt",
        ".lisp",
        ".lua",
        ".m",
        ".ml",
        ".mm",
        ".php",
        ".pl",
        ".proto",
        ".ps1",
    )
    + (".py", ".pyi", ".pyx", ".r", ".rb", ".rs", ".scala", ".scss", ".sh", ".smk", ".sql", ".swift", ".toml", ".ts")
    + (".tsx", ".vb", ".vue", ".yaml", ".yml", ".zig", ".css", ".lock")
)
#: Suffixes of formats that stream: their files are bounded by the record, not as a whole.
STREAMED = frozenset((".csv", ".tsv", ".jsonl", ".ndjson"))
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_HEADING = re.compile(r"^#{1,6}[ \t]+(.+?)[ \t]*#*$", re.MULTILINE)


def suffix(name: str) -> str:
    """Return the lower-case suffix of a file name."""
    return PurePosixPath(name).suffix.lower()


def reader(name: str) -> Reader | None:
    """Return the reader of a file by its suffix; None for a format that is not read."""
    kind = suffix(name)
    return code if kind in CODE else FORMATS.get(kind)


def plain(name: str, stream: IO[bytes], options: Options) -> Iterator[Piece | Refused]:
    """Plain text: one piece, titled by the file's name."""
    yield Piece(_stem(name), decode(name, stream.read()).strip("\n"), "text")


def markdown(name: str, stream: IO[bytes], options: Options) -> Iterator[Piece | Refused]:
    """Markdown: one piece, titled by the first heading."""
    text = decode(name, stream.read()).strip("\n")
    heading = _HEADING.search(text)
    yield Piece(heading[1] if heading else _stem(name), text, "markdown")


def guide(name: str, stream: IO[bytes], options: Options) -> Iterator[Piece | Refused]:
    """A reStructuredText file: one piece."""
    yield Piece(_stem(name), decode(name, stream.read()).expandtabs(4).strip("\n"), "guide")


def html(name: str, stream: IO[bytes], options: Options) -> Iterator[Piece | Refused]:
    """An HTML page: one piece with headings and tables as Markdown (see core.html_pages)."""
    title, text = html_page(decode(name, stream.read()))
    if not text:
        raise Refused("no_text", "holds no text that a browser would show; save the page as it is displayed")
    yield Piece(title or _stem(name), text, "html")


def pdf(name: str, stream: IO[bytes], options: Options) -> Iterator[Piece | Refused]:
    """A PDF: one piece; the pages of a longer one begin with `## Page n`, so that each sentence tells its page."""
    pages = [page.strip() for page in pdf_pages(stream.read(), options.limits.max_pdf_pages)]
    if not any(pages):
        raise Refused("no_text", f"has {len(pages)} pages and no text; a scanned PDF needs OCR first")
    if len(pages) == 1:
        text = pages[0]
    else:
        text = "\n\n".join(f"## Page {n}\n{page}" for n, page in enumerate(pages, 1) if page)
    yield Piece(_stem(name), text, "pdf", metadata={"pages": len(pages)})


def code(name: str, stream: IO[bytes], options: Options) -> Iterator[Piece | Refused]:
    """Source code: one piece, titled by its path."""
    yield Piece(name, decode(name, stream.read()).expandtabs(4).strip("\n"), "code")


def json_file(name: str, stream: IO[bytes], options: Options) -> Iterator[Piece | Refused]:
    """JSON: a piece a record for a list of records with the text field, else one piece."""
    value = load_json(decode(name, stream.read()), options.limits.max_json_depth)
    if isinstance(value, list) and any(isinstance(part, dict) and options.text_field in part for part in value):
        for number, part in enumerate(value, 1):
            yield _refusable(name, number, part, options)
    else:
        yield Piece(_stem(name), json_text(value), "json")


def json_lines(name: str, stream: IO[bytes], options: Options) -> Iterator[Piece | Refused]:
    """JSON lines: a piece a line, read one at a time."""
    for number, line in _lines(name, stream, options.limits.max_record_bytes):
        if isinstance(line, Refused):
            yield line
        elif line.strip():
            try:
                value = load_json(line, options.limits.max_json_depth)
            except Refused as error:
                yield Refused(error.reason, f"line {number}: {error}")
                continue
            yield _refusable(name, number, value, options)


def table(name: str, stream: IO[bytes], options: Options) -> Iterator[Piece | Refused]:
    """A CSV file with a head: a piece a row where it has the text field, else Markdown tables of some rows each."""
    first = stream.readline(options.limits.max_record_bytes)
    stream.seek(0)
    comma = "\t" if suffix(name) == ".tsv" else ";" if first.count(b";") > first.count(b",") else ","
    before = csv.field_size_limit(options.limits.max_record_bytes)
    try:
        rows = csv.reader(_text_lines(name, stream, options), delimiter=comma, strict=True)
        try:
            head = next(rows, None)
            if head is None:
                raise Refused("empty", "holds no rows; remove it")
            yield from (_records if options.text_field in head else _tables)(name, head, rows, options)
        except csv.Error as error:
            # What follows cannot be told apart: a quote that never closes swallows it.
            raise Refused("unreadable", f"line {rows.line_num}: is not CSV ({error}); mend it") from error
    finally:
        csv.field_size_limit(before)


def _records(name: str, head: list[str], rows: Iterator[list[str]], options: Options) -> Iterator[Piece | Refused]:
    for number, row in enumerate(rows, 1):
        if row:
            wrong = _ragged(number, row, head)
            yield wrong or _refusable(name, number, dict(zip(head, row, strict=True)), options)


def _tables(name: str, head: list[str], rows: Iterator[list[str]], options: Options) -> Iterator[Piece | Refused]:
    held: list[list[str]] = []
    start = number = 1
    bound = options.limits.max_cell_characters
    for number, row in enumerate(rows, 1):
        wrong = _ragged(number, row, head) if row else None
        longest = max(map(len, row), default=0)
        if longest > bound:
            wrong = Refused(
                "too_big",
                f"row {number} has a cell of {longest} characters, above corpus.limits.max_cell_characters = {bound}; "
                "shorten it, or raise the bound",
            )
        if wrong:
            yield wrong
        elif row:
            if len(held) == options.rows_per_document:
                yield _table(name, head, held, start, number - 1)
                held, start = [], number
            held.append(row)
    if held:
        yield _table(name, head, held, start, number, whole=start == 1)


def _ragged(number: int, row: list[str], head: list[str]) -> Refused | None:
    if len(row) == len(head):
        return None
    return Refused("unreadable", f"row {number} has {len(row)} cells, the head {len(head)}; mend the row")


def _table(name: str, head: list[str], rows: list[list[str]], start: int, end: int, whole: bool = False) -> Piece:
    title = _stem(name) if whole else f"{_stem(name)}, rows {start} to {end}"
    lines = [f"## {title}", _row(head), "| " + " | ".join(["---"] * len(head)) + " |", *map(_row, rows)]
    place = "" if whole else f"{start:08d}"
    return Piece(title, "\n".join(lines), "table", place, {"first_row": start, "last_row": end})


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "/") for cell in cells) + " |"


def _refusable(name: str, number: int, value: Any, options: Options) -> Piece | Refused:
    try:
        return record(f"{_stem(name)}, record {number}", number, value, options)
    except Refused as error:
        return Refused(error.reason, f"record {number}: {error}")


def record(title: str, number: int, value: Any, options: Options) -> Piece:
    """Return the piece of a record, numbered from 1, under its own title or else `title`.

    The text is the text field (a list of chat messages becomes "role: content" lines), else the record as JSON. Raises
    Refused where the text field holds neither.
    """
    kind, text = "record", value
    if isinstance(value, dict):
        own = value.get(options.title_field) if options.title_field else None
        title = own if isinstance(own, str) and own.strip() else title
        if options.text_field in value:
            text = value[options.text_field]
            if isinstance(text, list) and text and all(isinstance(turn, dict) and "content" in turn for turn in text):
                kind = "chat"
            elif text is None or text == "":
                raise Refused("empty", f"{options.text_field} is empty; leave the record out")
            elif not isinstance(text, str):
                what = type(text).__name__
                raise Refused("unreadable", f"{options.text_field} is a {what}, not text; name another text_field")
    return Piece(title, json_text(text), kind, f"{number:08d}", {"record": number})


def _lines(name: str, stream: IO[bytes], bound: int) -> Iterator[tuple[int, str | Refused]]:
    """Yield (number from 1, line) without holding more than `bound` bytes; longer ones are skipped, and told."""
    number = offset = 0
    while line := stream.readline(bound + 1):
        number, start, length = number + 1, offset, len(line)
        offset += length
        if length > bound and not line.endswith(b"\n"):
            while rest := stream.readline(2**20):
                offset += len(rest)
                if rest.endswith(b"\n"):
                    break
            yield (
                number,
                Refused(
                    "too_big",
                    f"line {number} has {offset - start} bytes, above corpus.limits.max_record_bytes = {bound}; "
                    "split it, or raise the bound",
                ),
            )
            continue
        try:
            yield number, decode(name, line)
        except InvalidText as error:
            yield number, Refused("invalid_utf8", f"line {number}: {_moved(error, start, line)}; convert it to UTF-8")


def _moved(error: InvalidText, start: int, line: bytes) -> str:
    return f"byte 0x{line[error.offset]:02x} at offset {start + error.offset} is not UTF-8"


def _text_lines(name: str, stream: IO[bytes], options: Options) -> Iterator[str]:
    for _, line in _lines(name, stream, options.limits.max_record_bytes):
        if isinstance(line, Refused):
            # A CSV row may span lines: after a lost line, rows cannot be told apart.
            raise line
        yield line


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


FORMATS: dict[str, Reader] = {
    ".txt": plain,
    ".text": plain,
    ".tex": plain,
    ".md": markdown,
    ".markdown": markdown,
    ".rst": guide,
    ".html": html,
    ".htm": html,
    ".xhtml": html,
    ".pdf": pdf,
    ".json": json_file,
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".csv": table,
    ".tsv": table,
}
