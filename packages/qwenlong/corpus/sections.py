"""Split documents at headings, paragraphs and lines into sections that a small window holds."""

from __future__ import annotations

import re
from collections.abc import Iterator

from qwenlong.core.records import Document
from qwenlong.corpus.loaders.guides import ADORNMENT, is_heading

#: Kinds whose headings are "# …", as files of Markdown, HTML and PDF give them.
_MARKED = frozenset(("markdown", "html", "pdf"))
_MARKED_HEADING = re.compile(r"^#{1,6} +(.+?)[ #]*$")
_TOP_LEVEL = re.compile(r"^(?:async def|def|class) (\w+)")

#: What stands before the first heading.
_UNNAMED = {"code": "module", "guide": "introduction"} | dict.fromkeys(_MARKED, "introduction")


def split(document: Document, limit: int) -> list[Document]:
    """Return the sections of a document in order, each of at most `limit` characters.

    Ids are `<document>#<n>` with n from 000; a heading marked "##" and a table's head are repeated in each piece of
    theirs, so that every section can be read alone. Titles add the heading, and "(k)" from a heading's second piece on;
    without headings "part k". Raises ValueError when `limit` cannot hold a heading and a line.
    """
    kind = str(document.metadata.get("kind", ""))
    sections: list[Document] = []
    for heading, text, piece in _pieces(document.text, kind, limit):
        number = len(sections)
        name = heading if piece == 1 else f"{heading} ({piece})"
        if not heading:
            name = f"part {piece}"
        sections.append(
            document.model_copy(
                update={
                    "id": f"{document.id}#{number:03d}",
                    "title": f"{document.title} – {name}",
                    "text": text,
                    "metadata": document.metadata
                    | {"parent": document.id, "section": number, "heading": heading, "piece": piece},
                }
            )
        )
    return sections


def _pieces(text: str, kind: str, limit: int) -> Iterator[tuple[str, str, int]]:
    """Yield (heading, text, which piece of the heading)."""
    if kind in ("factbook", "finance", "table"):
        for block in re.split(r"\n\n(?=## )", text):
            first, _, body = block.partition("\n")
            head = first + "\n"
            if body.startswith("| ") and (table := re.match(r"(?:\|.*\n){2}", body)):
                head, body = head + table[0], body[table.end() :]
            for n, piece in enumerate(_pack(body, limit - len(head)), 1):
                yield first.removeprefix("## "), head + piece, n
        return
    blocks = list(_blocks(text, kind))
    while blocks:
        heading, body = blocks.pop(0)
        # Small neighbours share a section: a guide's or a module's parts are often a few lines.
        while blocks and len(body) + 2 + len(blocks[0][1]) <= limit:
            following, more = blocks.pop(0)
            # A name from the text says more than "module" or "introduction".
            heading, body = (following if heading in _UNNAMED.values() else heading), f"{body}\n\n{more}"
        for n, piece in enumerate(_pack(body, limit), 1):
            yield heading, piece, n


def _blocks(text: str, kind: str) -> Iterator[tuple[str, str]]:
    """Yield (heading, text) parts of a guide, a page, a module, or of anything else as one."""
    lines = text.split("\n")
    starts: dict[int, str] = {}
    fenced = False
    for n, line in enumerate(lines):
        # A "#" in a fenced block of Markdown is a comment of its code.
        fenced ^= kind == "markdown" and line.startswith("```")
        if kind in _MARKED and not fenced and (marked := _MARKED_HEADING.match(line)):
            starts[n] = marked[1]
        elif kind == "code" and (match := _TOP_LEVEL.match(line)):
            # Decorators and comments right above belong to it.
            start = n
            while start > 0 and lines[start - 1].startswith(("@", "#", ")")):
                start -= 1
            starts[start] = match[1]
        elif kind == "guide" and is_heading(lines, n):
            over = n > 0 and ADORNMENT.match(lines[n - 1])
            starts[n - 1 if over else n] = line.strip()
    bounds = sorted(starts)
    if not bounds or bounds[0] > 0:
        starts[0] = _UNNAMED.get(kind, "")
        bounds.insert(0, 0)
    for start, end in zip(bounds, [*bounds[1:], len(lines)], strict=True):
        body = "\n".join(lines[start:end]).strip("\n")
        if body.strip():
            yield starts[start], body


def _pack(text: str, limit: int) -> Iterator[str]:
    """Yield pieces of at most `limit` characters, cut at paragraphs, else lines, else sentences, else words."""
    if limit < 1:
        raise ValueError("a heading or table head alone is longer than a section; raise corpus.section_characters")
    piece = ""
    for separator, unit in _units(text, limit):
        if piece and len(piece) + len(separator) + len(unit) <= limit:
            piece += separator + unit
        else:
            if piece.strip():
                yield piece
            piece = unit
    if piece.strip():
        yield piece


def _units(text: str, limit: int) -> Iterator[tuple[str, str]]:
    """Yield (separator before, unit) with units of at most `limit` characters."""
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        if len(paragraph) <= limit:
            yield "\n\n", paragraph
            continue
        separator = "\n\n"
        for line in paragraph.split("\n"):
            for n, unit in enumerate(_cut(line, limit)):
                yield (" " if n else separator), unit
            separator = "\n"


def _cut(line: str, limit: int) -> Iterator[str]:
    """Cut a line that is too long after a sentence, else at a space, else anywhere."""
    while len(line) > limit:
        window = line[: limit + 1]
        at = max(window.rfind(mark) + 1 for mark in (". ", "; ", "? ", "! "))
        if at < limit // 3:
            at = window.rfind(" ")
        if at < limit // 3:
            at = limit
        yield line[:at].rstrip()
        line = line[at:].lstrip()
    if line:
        yield line
