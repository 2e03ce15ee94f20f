"""Files as text for the agent: plain text, Markdown, HTML, JSON, PDF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qwenlong.core.errors import DataError
from qwenlong.core.html_pages import html_text
from qwenlong.core.reading import Refused, json_text, load_json, pdf_pages
from qwenlong.core.templates import fill

#: Deepest JSON that is read; what is nested deeper was made to break readers.
MAX_JSON_DEPTH = 64


def read_document(path: Path) -> str:
    """Return a file's text by its suffix: .html, .json, .jsonl, .pdf; anything else is plain text.

    Raises DataError naming the file when it is missing, not UTF-8, not what its suffix says, or has no text.
    """
    suffix = path.suffix.lower()
    if not path.is_file():
        raise DataError(f"no document {path}; give an existing file")
    if suffix == ".pdf":
        try:
            text = "\n\n".join(pdf_pages(path))
        except Refused as error:
            raise DataError(f"{path} {error}") from error
    else:
        raw = path.read_bytes()
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 (byte {error.start}: {raw[error.start]:#04x}); convert it") from error
        text = _structured(path, suffix, text)
    if not text.strip():
        raise DataError(f"{path} holds no text; a scanned PDF needs OCR first")
    return text


def _structured(path: Path, suffix: str, text: str) -> str:
    if suffix in (".html", ".htm"):
        return html_text(text)
    try:
        if suffix == ".json":
            return json_text(load_json(text, MAX_JSON_DEPTH))
        if suffix == ".jsonl":
            return "\n".join(json_text(load_json(line, MAX_JSON_DEPTH)) for line in text.splitlines() if line.strip())
    except Refused as error:
        raise DataError(f"{path} {error}") from error
    return text


def render(paths: Sequence[Path]) -> str:
    """Return files as the prompt shows documents: numbered from 1, each under its file name."""
    shown = [{"number": n, "title": path.name, "text": read_document(path)} for n, path in enumerate(paths, 1)]
    return "\n".join(fill("document", values) for values in shown)
