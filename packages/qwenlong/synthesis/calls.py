"""Who calls whom in source files, read generously: what a question about calls is held against.

The graph's edges are what a path is made of. Beside them stands every call that a reader could see: in functions whose
name begins with an underscore, and in a function's body that goes on in the file's next section.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from qwenlong.core.records import Document
from qwenlong.synthesis import parse
from qwenlong.synthesis.multi_hop import label
from qwenlong.synthesis.pool import Pool

_CALL = re.compile(r"(?<![\w.])(?:nx\.)?([A-Za-z_]\w*)\(")
_DEFINITION = re.compile(r"^(?:async )?def (\w+)\(", re.MULTILINE)
_DOCSTRING = re.compile(r'r?"""(?:.|\n)*?(?:"""|\Z)')


@dataclass(frozen=True)
class Section:
    """What one document shows: definitions (function, file) and calls (caller, called)."""

    homes: frozenset[tuple[str, str]]
    calls: frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Calls:
    """Calls and definitions by function, over some sections."""

    into: Mapping[str, set[str]]
    out: Mapping[str, set[str]]
    homes: Mapping[str, set[str]]

    def reaching(self, function: str) -> set[str]:
        """Return the functions that call a function, directly or through others."""
        return _closure(function, self.into)

    def reached(self, function: str) -> set[str]:
        """Return the functions that a function calls, directly or through others."""
        return _closure(function, self.out)

    def within(self, functions: Collection[str], path: str) -> set[str]:
        """Return those of the functions that a file defines."""
        return {function for function in functions if path in self.homes.get(function, ())}


def _closure(start: str, steps: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for function in steps.get(waiting.pop(), ()):
            if function not in found and function != start:
                found.add(function)
                waiting.append(function)
    return found


def _bodies(document: Document) -> Iterator[tuple[str, str]]:
    """Yield (function, body without docstring); first what goes on from the section before."""
    text = document.text
    matches = list(_DEFINITION.finditer(text))
    heading = str(document.metadata.get("heading", ""))
    yield heading, _indented(text[: matches[0].start() if matches else len(text)])
    for number, match in enumerate(matches):
        stop = matches[number + 1].start() if number + 1 < len(matches) else len(text)
        yield match[1], _DOCSTRING.sub(" ", _indented(text[match.end() : stop]))


def _indented(text: str) -> str:
    """Return what stands before the first line that is neither indented nor empty nor the end of a signature."""
    first, newline, rest = text.partition("\n")
    if first[:1].strip() and not newline:
        return first
    after = re.search(r"^[^\s)]", rest, re.MULTILINE)
    return first + newline + (rest[: after.start()] if after else rest)


def section(document: Document) -> Section:
    """Return what a source file's section shows."""
    path = str(document.metadata.get("path", document.title))
    homes = frozenset((match[1], path) for match in _DEFINITION.finditer(document.text))
    found = {(name, call) for name, body in _bodies(document) for call in _CALL.findall(body) if call != name}
    return Section(homes, frozenset(found))


@dataclass
class Sections:
    """The source files of a side, by document."""

    by_document: Mapping[str, Section]

    @cached_property
    def whole(self) -> Calls:
        """The calls over all of them."""
        return self.over(self.by_document)

    def over(self, shown: Collection[str] | None, cut: Collection[tuple[str, str]] = ()) -> Calls:
        """Return the calls over the documents shown, all for None; `cut` are calls (caller, called) taken away."""
        if shown is None and not cut:
            return self.whole
        into: dict[str, set[str]] = defaultdict(set)
        out: dict[str, set[str]] = defaultdict(set)
        homes: dict[str, set[str]] = defaultdict(set)
        for name in self.by_document if shown is None else shown:
            if name not in self.by_document:
                continue
            for function, path in self.by_document[name].homes:
                homes[function].add(path)
            for caller, called in self.by_document[name].calls:
                if (caller, called) not in cut:
                    into[called].add(caller)
                    out[caller].add(called)
        return Calls(into, out, homes)


def sections(pool: Pool) -> Sections:
    """Return the sections of a pool's source files with the graph's own edges, read once."""

    def make() -> Sections:
        own: dict[str, dict[str, set[tuple[str, str]]]] = defaultdict(lambda: defaultdict(set))
        for edge in pool.graph.edges:
            if edge.relation in ("calls", "defined in"):
                own[edge.document][edge.relation].add((label(edge.source), label(edge.target)))
        made = {}
        for document in pool.documents:
            if parse.kind(document) == "code":
                seen, edges = section(document), own[document.id]
                made[document.id] = Section(seen.homes | edges["defined in"], seen.calls | edges["calls"])
        return Sections(made)

    return pool.memo("sections", make=make)
