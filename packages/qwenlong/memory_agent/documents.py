"""Files as text for the agent: plain text, Markdown, HTML, JSON, PDF."""

from __future__ import annotations

import html.parser
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwenlong.core.errors import DataError, QwenlongError
from qwenlong.core.templates import fill

_BLOCKS = frozenset(
    ("address", "article", "aside", "blockquote", "br", "caption", "dd", "div", "dl", "dt", "figcaption", "footer")
    + ("form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p", "pre", "section")
    + ("table", "tbody", "tfoot", "thead", "title", "tr", "ul")
)
_UNSEEN = frozenset(("script", "style", "template", "noscript"))


class _Text(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden = 0
        self._verbatim = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in _UNSEEN
        self._verbatim += tag == "pre"
        self.parts.append("\n" if tag in _BLOCKS else " | " if tag in ("td", "th") else "")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = max(0, self._hidden - (tag in _UNSEEN))
        self._verbatim = max(0, self._verbatim - (tag == "pre"))
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if self._hidden:
            return
        if self._verbatim:
            self.parts.append(data)
            return
        # White space between words is one blank, as a browser shows it.
        lead, tail = (" " if data[:1].isspace() else ""), (" " if data[-1:].isspace() else "")
        self.parts.append(lead + " ".join(data.split()) + tail if data.strip() else lead)


def html_text(source: str) -> str:
    """Return the visible text of an HTML page, one line a block."""
    parser = _Text()
    parser.feed(source)
    parser.close()
    lines = "".join(parser.parts).split("\n")
    kept: list[str] = []
    for line in lines:
        line = line.rstrip()
        if line.strip() or (kept and kept[-1]):
            kept.append(line if line.startswith("  ") else line.strip())
    return "\n".join(kept).strip()


def json_text(value: Any) -> str:
    """Return JSON as text: strings, {"title", "text"} records and chats as what they say, all else as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and isinstance(value.get("text"), str):
        return f"{value.get('title', '')}\n{value['text']}".strip()
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        return f"{value.get('role', 'speaker')}: {value['content']}"
    if isinstance(value, list) and value and all(isinstance(part, (str, dict)) for part in value):
        return "\n".join(json_text(part) for part in value)
    return json.dumps(value, ensure_ascii=False, indent=1)


def _pdf_text(path: Path) -> str:
    try:
        import pypdf
    except ImportError as error:
        raise QwenlongError(f"{path}: reading PDF needs pypdf; install it, or convert the file to text") from error
    try:
        return "\n\n".join(page.extract_text() for page in pypdf.PdfReader(path).pages)
    except (pypdf.errors.PyPdfError, ValueError) as error:
        raise DataError(f"{path} cannot be read as PDF ({error}); convert it to text first") from error


def read_document(path: Path) -> str:
    """Return a file's text by its suffix: .html, .json, .jsonl, .pdf; anything else is plain text.

    Raises DataError naming the file when it is missing, not UTF-8, not what its suffix says, or has no text.
    """
    suffix = path.suffix.lower()
    if not path.is_file():
        raise DataError(f"no document {path}; give an existing file")
    if suffix == ".pdf":
        text = _pdf_text(path)
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
            return json_text(json.loads(text))
        if suffix == ".jsonl":
            return "\n".join(json_text(json.loads(line)) for line in text.splitlines() if line.strip())
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON (line {error.lineno}: {error.msg}); mend it") from error
    return text


def render(paths: Sequence[Path]) -> str:
    """Return files as the prompt shows documents: numbered from 1, each under its file name."""
    shown = [{"number": n, "title": path.name, "text": read_document(path)} for n, path in enumerate(paths, 1)]
    return "\n".join(fill("document", values) for values in shown)
