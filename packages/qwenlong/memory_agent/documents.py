"""Documents for the agent: files, source trees and standard input as one stream of text, and its chunks on disk."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qwenlong.core.errors import DataError
from qwenlong.core.logs import get
from qwenlong.core.reading import Refused
from qwenlong.core.templates import around
from qwenlong.core.tokens import Tokenizer
from qwenlong.memory_agent.borders import blocks
from qwenlong.memory_agent.chunks import Chunks
from qwenlong.memory_agent.formats import STRUCTURED, Notes, read

_LOG = get(__name__)
#: The name of standard input.
STDIN = Path("-")
#: Folders of version control that are not hidden.
_VCS = frozenset(("CVS", "_darcs", "SCCS"))
#: Blanks that are held back to see whether a document ends with them.
_HELD_BLANKS = 1 << 20
#: Characters looked at together when text is made safe, and those of a line that is no longer held whole.
_BLOCK, _LONG_LINE = 1 << 16, 1 << 20
#: Longest tag, in characters.
_TAG = 128
#: Warnings about single files; the report has them all.
MAX_TOLD = 20


@dataclass
class Report:
    """What was read and what was left out of source trees, with the reason."""

    documents: list[Notes] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return what a user should know, a line a file."""
        said = []
        for notes in self.documents:
            if notes.replaced:
                said.append(f"{notes.title}: {notes.replaced} bytes are no character and are shown as \ufffd")
            if notes.blank_pages:
                said.append(f"{notes.title}: {notes.blank_pages} of {notes.pages} pages hold no text (scans need OCR)")
            if notes.problem:
                said.append(f"{notes.title}: read in part; it {notes.problem}")
        return said + [f"{name}: left out; it {reason}" for name, reason in self.left_out]


def chunks(
    paths: Sequence[Path], tokenizer: Tokenizer, chunk_tokens: int, safe: Callable[[str], str] | None = None
) -> tuple[Chunks, Report]:
    """Return the chunks of documents as prompts show them, and what was read; warnings say what was not.

    Documents are read once, as a stream; their text lies in an unnamed temporary file (TMPDIR says where) until the
    chunks are closed. `safe` makes text harmless before it is cut, some lines at a time. Raises DataError as `pieces`
    does.
    """
    report = Report()
    text = pieces(paths, report)
    made = Chunks.cut(text if safe is None else made_safe(text, safe), tokenizer, chunk_tokens)
    lines = report.lines()
    for line in lines[:MAX_TOLD]:
        _LOG.warning("%s", line)
    if len(lines) > MAX_TOLD:
        _LOG.warning("%d more files were left out or read in part", len(lines) - MAX_TOLD)
    return made, report


def made_safe(pieces: Iterable[str], safe: Callable[[str], str]) -> Iterator[str]:
    """Yield a stream of text with `safe` applied to whole lines; to parts of a line of more than a million characters.

    A tag is no longer than _TAG characters, and such a line is not cut inside one.
    """
    rest = ""
    for block in blocks(pieces, _BLOCK):
        rest += block
        end = rest.rfind("\n") + 1
        if not end and len(rest) > _LONG_LINE:
            # A tag may have begun in the last characters.
            opened = max(rest.rfind("<", len(rest) - _TAG), rest.rfind("[", len(rest) - _TAG))
            end = opened if opened > 0 else len(rest)
        if end:
            yield safe(rest[:end])
            rest = rest[end:]
    if rest:
        yield safe(rest)


def check(paths: Sequence[Path]) -> None:
    """Raise DataError for a document that is not there: told before any work."""
    for path in paths:
        if path != STDIN and not path.exists():
            raise DataError(f"no document {path}; give an existing file or folder, or - for standard input")
    if sum(path == STDIN for path in paths) > 1:
        raise DataError("standard input (-) is given twice as a document; it can be read once")


def read_document(path: Path) -> str:
    """Return one file as text (see formats.read), whole. Raises DataError naming the file."""
    check([path])
    try:
        return "".join(_file(path, path.suffix.lower(), Notes(path.name)))
    except (Refused, OSError) as error:
        raise DataError(f"{path} {_reason(error)}") from error


def render(paths: Sequence[Path]) -> str:
    """Return documents as the prompt shows them, in one string; raises as `pieces` does."""
    return "".join(pieces(paths, Report()))


def pieces(paths: Sequence[Path], report: Report) -> Iterator[str]:
    """Yield documents as the prompt shows them: in order, numbered from 1, each under its name; `report` is filled.

    A folder gives its files, sorted, each under its path in the folder; what is hidden, a link, or no text is left
    out and reported. `-` is standard input. Raises DataError naming a file that is missing, is not what its suffix
    says, or has no text, and a folder that holds no text at all.
    """
    check(paths)
    number = 1
    for path in paths:
        if path == STDIN or not path.is_dir():
            yield from _document(number, "stdin" if path == STDIN else path.name, path, report, inside=False)
            number += 1
            continue
        first = number
        for name, file in _tree(path, report):
            number += yield from _document(number, name, file, report, inside=True)
        if number == first:
            raise DataError(f"{path} holds no file with text; give a folder of text files")


def _document(number: int, title: str, path: Path, report: Report, *, inside: bool) -> Generator[str, None, bool]:
    """Yield a document with its heading; return whether it had text. `inside` a folder, what is wrong is reported."""
    title = " ".join(title.encode("utf-8", "replace").decode().split())
    head, tail = around("document", {"number": number, "title": title}, "text")
    suffix = path.suffix.lower()
    # In a source tree, JSON with comments and the like is text.
    for kind in (suffix, "") if inside and suffix in STRUCTURED else (suffix,):
        notes, held, shown = Notes(title), "", False
        try:
            for piece in _file(path, kind, notes):
                text = held + piece
                # Blanks at the end are not shown; a million of them may be.
                body = text.rstrip() or (text if len(text) > _HELD_BLANKS else "")
                held = text[len(body) :]
                if body:
                    yield body if shown else ("\n" if number > 1 else "") + head + body
                    shown = True
        except (Refused, OSError) as error:
            notes.problem = _reason(error)
            if not inside:
                raise DataError(f"{path} {notes.problem}") from error
        if shown:
            yield tail
            report.documents.append(notes)
            return True
    report.left_out.append((title, notes.problem))
    return False


def _reason(error: Exception) -> str:
    return f"cannot be read ({error.strerror})" if isinstance(error, OSError) else str(error)


def _file(path: Path, suffix: str, notes: Notes) -> Iterator[str]:
    if path == STDIN:
        yield from read(sys.stdin.buffer, "", notes)
        return
    with path.open("rb") as stream:
        yield from read(stream, suffix, notes)


def _tree(root: Path, report: Report) -> Iterator[tuple[str, Path]]:
    """Yield (path in the folder, file) of what may be text, sorted; report what is not looked into."""
    waiting = [root]
    while waiting:
        path = waiting.pop()
        name = path.relative_to(root).as_posix()
        if path != root and (path.name.startswith(".") or path.name in _VCS):
            report.left_out.append((name, "is hidden, or of version control"))
        elif path != root and path.is_symlink():
            report.left_out.append((name, "is a link"))
        elif path.is_dir():
            try:
                waiting += sorted(path.iterdir(), reverse=True)
            except OSError as error:
                report.left_out.append((name, _reason(error)))
        elif path.is_file():
            yield name, path
        else:
            report.left_out.append((name, "is no regular file"))
