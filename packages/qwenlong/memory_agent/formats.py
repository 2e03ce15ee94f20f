"""One file as pieces of text, by its format: plain text, HTML, JSON, JSON lines, PDF."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from qwenlong.core.html_pages import html_stream
from qwenlong.core.json_items import json_items
from qwenlong.core.reading import Refused, iter_pdf_pages, json_text, load_json
from qwenlong.memory_agent.borders import closes

#: Deepest JSON that is read; what is nested deeper was made to break readers.
MAX_JSON_DEPTH = 64
#: Characters of one value of JSON, or of one of its lines: these are held whole. All else is streamed.
MAX_WHOLE = 1 << 25
#: Bytes read at a time.
BLOCK = 1 << 16
#: Share of a text's characters that may be bytes of no character before it is taken for another encoding.
MAX_REPLACED = 0.3
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.-]{1,40})", re.IGNORECASE)
#: Bytes at the beginning of files that hold no text of their own, and what to do.
_REFUSED = (
    (b"\x1f\x8b", "is compressed (gzip); unpack it first"),
    (b"BZh", "is compressed (bzip2); unpack it first"),
    (b"\xfd7zXZ", "is compressed (xz); unpack it first"),
    (b"\x28\xb5\x2f\xfd", "is compressed (zstd); unpack it first"),
    (b"PK\x03\x04", "is a zip archive (or a docx, xlsx, epub); unpack it, or save it as text or PDF"),
    (b"\xd0\xcf\x11\xe0", "is an old Office file; save it as text or PDF"),
    (b"{\\rtf", "is RTF; save it as text or PDF"),
)
_HALVES = re.compile("[\ud800-\udfff]")


@dataclass
class Notes:
    """What was seen while a document was read."""

    title: str
    format: str = "text"
    characters: int = 0
    replaced: int = 0
    """Bytes that are no character of the encoding, each read as U+FFFD."""
    pages: int = 0
    blank_pages: int = 0
    """Pages of a PDF without text, as scans are."""
    problem: str = ""
    """Why it was read in part only; empty when it was read whole."""


def read(stream: BinaryIO, suffix: str, notes: Notes) -> Iterator[str]:
    r"""Yield a file's text by what its bytes are, then by `suffix`; `notes` is filled on the way.

    Text is UTF-8, or UTF-16 or UTF-32 with its byte order mark; line ends become "\n". Raises Refused (`empty`,
    `binary`, `encoding`, and what the format raises) with a message that lacks the file's name.
    """
    head = stream.read(BLOCK)
    if not head:
        raise Refused("empty", "is empty; give a file with text")
    for beginning, said in _REFUSED:
        if head.startswith(beginning):
            raise Refused("binary", said)
    if head.startswith(b"%PDF-") or suffix == ".pdf":
        notes.format = "pdf"
        yield from _seen(_pdf(head, stream, notes), notes)
        return
    encoding = next((name for mark, name in _MARKS if head.startswith(mark)), "")
    if not encoding and b"\0" in head[:8192]:
        raise Refused("binary", "is no text (it holds zero bytes); save it as text in UTF-8, or as PDF")
    reader: Callable[[Iterator[str]], Iterator[str]] = iter
    if suffix in STRUCTURED:
        notes.format, reader = suffix[1:], STRUCTURED[suffix]
    if suffix in (".html", ".htm", ".xhtml") and not encoding and (found := _CHARSET.search(head[:2048])):
        encoding = _known(found[1].decode("ascii"))
    yield from _seen(reader(decoded(_chained(head, stream), encoding or "utf-8", notes)), notes)


def _seen(pieces: Iterator[str], notes: Notes) -> Iterator[str]:
    """Pass pieces on without halves of surrogate pairs, which JSON can hold and UTF-8 cannot; count characters."""
    text = False
    for piece in pieces:
        if not piece.isascii():
            piece, halves = _HALVES.subn("\ufffd", piece)
            notes.replaced += halves
        notes.characters += len(piece)
        text = text or not piece.isspace()
        yield piece
    if not text or not notes.characters:
        raise Refused("empty", "holds no text" + ("; a scanned PDF needs OCR first" if notes.pages else ""))
    if notes.replaced > MAX_REPLACED * notes.characters:
        raise Refused(
            "encoding",
            f"is not UTF-8 ({notes.replaced} bytes of {notes.characters} characters); convert it, or say UTF-16 by its "
            "byte order mark",
        )


def _chained(head: bytes, stream: BinaryIO) -> Iterator[bytes]:
    yield head
    while block := stream.read(BLOCK):
        yield block


def _known(name: str) -> str:
    """Return the encoding that an HTML page names, "" for one that is not known or not of bytes."""
    try:
        found = codecs.lookup(name)
    except LookupError:
        return ""
    return "" if found.name.startswith(("utf-16", "utf-32")) or not found._is_text_encoding else found.name


def decoded(blocks: Iterator[bytes], encoding: str, notes: Notes) -> Iterator[str]:
    r"""Yield text: bytes that are no character become U+FFFD and are counted, line ends become "\n"."""
    utf8 = encoding == "utf-8"
    # Bytes of no UTF-8 come out as halves of surrogate pairs, which nothing else can, and so can be counted.
    decoder = codecs.getincrementaldecoder(encoding)("surrogateescape" if utf8 else "replace")
    ends = io.IncrementalNewlineDecoder(decoder, translate=True)
    first = True
    for block in blocks:
        yield from _counted(ends.decode(block), utf8, first, notes)
        first = False
    yield from _counted(ends.decode(b"", final=True), utf8, first, notes)


def _counted(text: str, utf8: bool, first: bool, notes: Notes) -> Iterator[str]:
    if first:
        text = text.removeprefix("\ufeff")
    if utf8 and not text.isascii():
        text, bad = _HALVES.subn("\ufffd", text)
        notes.replaced += bad
    elif not utf8:
        notes.replaced += text.count("\ufffd")
    if text:
        yield text


def _reading(pieces: Iterator[str]) -> Callable[[int], str]:
    """Return a file's `read` over pieces: up to `size` characters, fewer only at the end."""
    held = ""

    def read(size: int) -> str:
        nonlocal held
        parts = []
        while size > 0 and (held or (held := next(pieces, ""))):
            parts.append(held[:size])
            held = held[size:]
            size -= len(parts[-1])
        return "".join(parts)

    return read


def _json(pieces: Iterator[str]) -> Iterator[str]:
    before = ""
    for item in json_items(_reading(pieces), MAX_JSON_DEPTH, MAX_WHOLE):
        yield before + json_text(item)
        before = "\n"


def _jsonl(pieces: Iterator[str]) -> Iterator[str]:
    before = ""
    for number, line in enumerate(_lines(pieces), 1):
        if line.strip():
            try:
                value = load_json(line, MAX_JSON_DEPTH)
            except Refused as error:
                raise Refused(error.reason, f"{error} (line {number} of the file)") from error
            yield before + json_text(value)
            before = "\n"


def _lines(pieces: Iterator[str]) -> Iterator[str]:
    held: list[str] = []
    length = 0
    for piece in pieces:
        *ended, rest = piece.split("\n")
        for line in ended:
            yield "".join([*held, line])
            held, length = [], 0
        held.append(rest)
        length += len(rest)
        if length > MAX_WHOLE:
            raise Refused("too_big", f"has a line of more than {MAX_WHOLE} characters; split the record")
    yield "".join(held)


def _pdf(head: bytes, stream: BinaryIO, notes: Notes) -> Iterator[str]:
    if not stream.seekable():
        raise Refused("unreadable", "is a PDF that comes through a pipe; give it as a file")
    stream.seek(0)
    before = ""
    for page in iter_pdf_pages(stream):
        notes.pages += 1
        page = page.strip()
        if not page:
            notes.blank_pages += 1
            continue
        yield before + page
        # A sentence that runs over to the next page must not be cut there: a blank line would be a border.
        before = "\n\n" if closes(page) else "\n"


#: Suffixes whose files are more than lines of text.
STRUCTURED: dict[str, Callable[[Iterator[str]], Iterator[str]]] = {
    ".html": html_stream,
    ".htm": html_stream,
    ".xhtml": html_stream,
    ".json": _json,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
}
