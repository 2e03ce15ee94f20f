"""What several stages read the same way: JSON of unknown origin, records of JSON as text, PDF."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from qwenlong.core.errors import QwenlongError

#: Pages of a PDF between two times that what was read for them is dropped.
_PAGES_KEPT = 32


class Refused(ValueError):
    """Input that is not read: `reason` is a short name to count it by, the message says what is wrong and what to do.

    The message does not name the file; who catches it knows its name.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def load_json(text: str | bytes, max_depth: int) -> Any:
    """Return a JSON value. Raises Refused (`unreadable`, `too_deep`) for what is no JSON, or nested too deeply.

    NaN and infinities, which JSON does not have, are refused too.
    """
    try:
        value = json.loads(text, parse_constant=no_constant)
    except json.JSONDecodeError as error:
        raise Refused("unreadable", f"is not JSON (line {error.lineno}: {error.msg}); mend it") from error
    except RecursionError as error:
        raise Refused("too_deep", too_deep(max_depth)) from error
    except ValueError as error:
        # Numbers of thousands of digits, and bytes that are no Unicode.
        raise Refused("unreadable", f"is not JSON that can be used ({error}); mend it") from error
    check_depth(value, max_depth)
    return value


def check_depth(value: Any, max_depth: int) -> None:
    """Raise Refused (`too_deep`) for a JSON value that is nested more than `max_depth` levels deep."""
    level, depth = list(_children([value])), 1
    while level:
        if depth > max_depth:
            raise Refused("too_deep", too_deep(max_depth))
        level, depth = [child for node in level for child in _children(node)], depth + 1


def too_deep(max_depth: int) -> str:
    """Return what is wrong with a JSON value that is nested too deeply, and what to do."""
    return f"is nested more than {max_depth} levels deep; flatten it, or raise the bound (max_json_depth)"


def no_constant(name: str) -> Any:
    """Refuse NaN and the infinities, as `parse_constant` of a decoder."""
    raise ValueError(f"{name} is no JSON number")


def _children(value: Any) -> Iterator[Any]:
    # Scalars have no depth of their own.
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (child for child in children if isinstance(child, (dict, list)))


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


def pdf_pages(source: Path | bytes, max_pages: int | None = None) -> list[str]:
    """Return the text of each page of a PDF, given by its path or its bytes; raises as iter_pdf_pages."""
    return list(iter_pdf_pages(source, max_pages))


def iter_pdf_pages(source: Path | bytes | BinaryIO, max_pages: int | None = None) -> Iterator[str]:
    """Yield the text of each page of a PDF: a path, bytes, or a file that can seek, of which parts are in memory.

    Raises Refused: `encrypted` when it asks for a password, `too_big` for more than `max_pages` pages, `unreadable` for
    what pypdf cannot read; QwenlongError when pypdf is not installed.
    """
    try:
        import pypdf
    except ImportError as error:
        raise QwenlongError("reading PDF needs pypdf; install it, or convert the file to text") from error
    try:
        reader = pypdf.PdfReader(io.BytesIO(source) if isinstance(source, bytes) else source)
        # Many PDFs are encrypted with an empty password, to forbid printing; those open.
        if reader.is_encrypted and not reader.decrypt(""):
            raise Refused("encrypted", "asks for a password; decrypt it first")
        count = len(reader.pages)
        if max_pages is not None and count > max_pages:
            raise Refused(
                "too_big", f"has {count} pages, above {max_pages}; split it, or raise the bound (max_pdf_pages)"
            )
        for number in range(count):
            text = reader.pages[number].extract_text()
            # pypdf keeps every object that it has read: fonts are read again, and memory stays flat.
            if number % _PAGES_KEPT == _PAGES_KEPT - 1:
                reader.resolved_objects.clear()
            yield text
    except Refused:
        raise
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:
        # A broken PDF makes pypdf stumble in any way: its own errors, ValueError, KeyError, TypeError, RecursionError.
        what = f"{type(error).__name__}: {error}"[:200]
        raise Refused("unreadable", f"cannot be read as PDF ({what}); convert it to text first") from error
