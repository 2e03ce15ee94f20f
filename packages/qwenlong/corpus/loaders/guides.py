"""User guides in reStructuredText: one document a file under doc/ or docs/."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from qwenlong.core.records import Document
from qwenlong.corpus.sources import Source

_LEFT_OUT = {
    "tests",
    "templates",
    "_templates",
    "themes",
    "includes",
    "whats_new",
    "release",
    "images",
    "binder",
    "api",
}
#: A reStructuredText adornment: a line of one repeated punctuation mark.
ADORNMENT = re.compile(r"^([=\-~^\"'`#*+.:_<>])\1{2,}\s*$")


def wanted(member: str) -> bool:
    """Return whether the member is a guide."""
    path = PurePosixPath(member)
    return path.suffix == ".rst" and bool({"doc", "docs"} & set(path.parts)) and not _LEFT_OUT & set(path.parts)


def parse(source: Source, member: str, text: str) -> Iterator[Document]:
    """Yield the guide's document; its title is the first heading, or else the path."""
    path = re.sub(r"^.*?/docs?/", "", member).removesuffix(".rst")
    yield Document(
        id=f"{source.name}/{path}",
        source=source.name,
        category=source.document_category,
        title=_title(text) or path,
        text=_body(text),
        n_tokens=0,
        metadata={"entity": path, "kind": "guide", "path": member.split("/", 1)[-1]},
        licence=source.data_licence,
    )


def is_heading(lines: list[str], n: int) -> bool:
    """Return whether line `n` is a heading: text at the margin with an adornment below."""
    line = lines[n]
    return (
        bool(line.strip())
        and not line.startswith((" ", ".."))
        and not ADORNMENT.match(line)
        and n + 1 < len(lines)
        and bool(ADORNMENT.match(lines[n + 1]))
    )


def _title(text: str) -> str:
    lines = text.split("\n")
    return next((line.strip() for n, line in enumerate(lines) if is_heading(lines, n)), "")


def _body(text: str) -> str:
    """Return the text without comments and settings that only the documentation builder reads."""
    kept = [
        line.rstrip()
        for line in text.expandtabs(4).split("\n")
        if not re.match(r"^\.\. (_[^ ].*:|currentmodule::.*|index::.*|include::.*|raw::.*|toctree::.*)\s*$", line)
    ]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip("\n")
