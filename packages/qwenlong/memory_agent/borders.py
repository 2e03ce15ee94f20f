"""Where a text may be cut: from blank lines over ends of sentences down to blanks between words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

#: What closes a quotation or a bracket after a sentence's last mark.
_CLOSING = "\"'”’»›)\\]」』）】》〉"
# A mark that needs a blank after it (Latin, Arabic, Urdu, Devanagari, Armenian, Burmese, Ethiopic, Khmer), or one that
# does not (Chinese, Japanese). The blanks go with the sentence that they follow.
# A run of marks is looked at from its beginning only: from each of its marks would be quadratic in a row of dots.
_MARK = re.compile(
    rf"(?:(?<![.!?…])[.!?…؟۔।॥։።။។]++[{_CLOSING}]*+(?=\s)|(?<![。！？｡．])[。！？｡．]++[…{_CLOSING}]*+)\s*"
)
_CLAUSE = re.compile(r"(?<=[;:,]\s)(?=\S)|(?<=[；：，、])")
_LINE = re.compile(r"(?<=\n)(?=[^\n])")
_WORD = re.compile(r"(?<=\s)(?=\S)")
_PARAGRAPH = re.compile(r"(?<=\n\n)(?=[^\n])")
_LAST_WORD = re.compile(r"[^\s(\[\"“‘]*\Z")
_DOTTED = re.compile(r"(?:\w\.)+\w|\w")
#: Words whose full stop rarely ends a sentence. One missing costs nothing but a cut behind it, and only where a
#: paragraph has to be cut.
_ABBREVIATION = re.compile(
    r"(?i:adm|al|approx|art|bros|capt|cf|ch|cit|col|cpl|dept|dr|ed|eds|eq|esp|est|etc|fig|figs|gen|gov|hon|inc|jr|lt|ltd"
    r"|maj|mr|mrs|ms|mt|mx|op|p|pp|pl|prof|pt|ref|rep|resp|rev|sec|sen|sgt|sr|st|tab|vol|vols|vs"
    r"|jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec|bzw|ca|evtl|ggf|nr|usw|vgl)"
)


def paragraphs(text: str) -> list[str]:
    """Cut behind blank lines. What the end of `text` leaves open (more blank lines may follow) is the last part."""
    return _PARAGRAPH.split(text)


def sentences(text: str) -> list[str]:
    """Cut behind sentences: not behind abbreviations, initials, numbers of a list, or before a small letter."""
    return _cut(text, (m.end() for m in _MARK.finditer(text) if _ends_sentence(text, m)))


def closed_lines(text: str) -> list[str]:
    """Cut at the line ends at which no sentence is running on."""
    return _cut(text, (m.end() for m in _MARK.finditer(text) if "\n" in m.group() and _ends_sentence(text, m)))


def marks(text: str) -> list[str]:
    """Cut behind every full stop, abbreviations too."""
    return _cut(text, (m.end() for m in _MARK.finditer(text)))


def lines(text: str) -> list[str]:
    """Cut at line ends, where sentences may be running on."""
    return _LINE.split(text)


def clauses(text: str) -> list[str]:
    """Cut behind commas, colons and semicolons."""
    return _CLAUSE.split(text)


def words(text: str) -> list[str]:
    """Cut between words."""
    return _WORD.split(text)


#: From coarse to fine. All of them give the text back when their parts are joined; the border goes with what it ends.
LEVELS: tuple[Callable[[str], list[str]], ...] = (paragraphs, closed_lines, sentences, marks, lines, clauses, words)


def last_end(text: str) -> int:
    """Return where the last whole sentence of `text` ends, else the last line, else the last word, else its length.

    `text` is the beginning of a longer one, so that its own end is no border.
    """
    for level in (sentences, lines, words):
        # The tail is enough nearly always, and reading all of a long line for its last sentence is not.
        for tail in (text[-4096:], text):
            last = len(level(tail)[-1])
            if last < len(tail):
                return len(text) - last
    return len(text)


def _cut(text: str, ends: Iterable[int]) -> list[str]:
    parts = []
    start = 0
    for end in ends:
        if end < len(text):
            parts.append(text[start:end])
            start = end
    return [*parts, text[start:]]


def _ends_sentence(text: str, mark: re.Match[str]) -> bool:
    end = mark.end()
    if end < len(text) and text[end].islower():
        return False
    if text[mark.start()] != "." or not text[mark.start() + 1].isspace():
        return True
    before = _LAST_WORD.search(text, max(0, mark.start() - 24), mark.start())
    word = before.group() if before else ""
    if _DOTTED.fullmatch(word) and not word.isdigit():
        return False
    if word.isdigit():
        # "12." at the beginning of a line numbers an item; at the end of a sentence it is a number.
        line = text.rfind("\n", max(0, mark.start() - 24), mark.start())
        return len(word) > 3 or text[line + 1 : mark.start()].strip() != word
    if word.lower() in ("no", "nos"):
        return not text[end : end + 1].isdigit()
    return _ABBREVIATION.fullmatch(word) is None


def closes(text: str) -> bool:
    """Tell whether a text ends with the end of a sentence, as a page may or may not."""
    tail = text[-64:].rstrip() + "\n"
    return any(mark.end() == len(tail) for mark in _MARK.finditer(tail))


def stretches(pieces: Iterable[str], limit: int) -> Iterator[tuple[str, bool]]:
    """Yield (paragraph, True) of a stream of text; one above `limit` characters in parts, each with False.

    How the stream is cut into pieces makes no difference. At most about two `limit` characters are held.
    """
    rest, whole = "", True
    for block in blocks(pieces, limit):
        *done, rest = paragraphs(rest + block)
        for part in done:
            yield from _bounded(part, limit, whole)
            whole = True
        while len(rest) > limit:
            # Sure to be above the limit, however it goes on.
            end = last_end(rest[:limit])
            yield rest[:end], False
            rest, whole = rest[end:], False
    if rest:
        yield rest, whole


def _bounded(part: str, limit: int, whole: bool) -> Iterator[tuple[str, bool]]:
    while len(part) > limit:
        end = last_end(part[:limit])
        yield part[:end], False
        part, whole = part[end:], False
    if part:
        yield part, whole


def blocks(pieces: Iterable[str], size: int) -> Iterator[str]:
    """Yield a stream in pieces of at least `size` characters but the last, so that small ones cost no more."""
    held: list[str] = []
    length = 0
    for piece in pieces:
        held.append(piece)
        length += len(piece)
        if length >= size:
            yield "".join(held)
            held, length = [], 0
    if held:
        yield "".join(held)
