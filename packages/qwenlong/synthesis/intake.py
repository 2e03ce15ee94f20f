"""Extracted triples on their way into the graph: what the documents do not bear out is refused and counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from qwenlong.core.records import Document
from qwenlong.synthesis.agents import plain
from qwenlong.synthesis.graph import Edge
from qwenlong.synthesis.names import TITLES, fold

#: Reasons of a refusal, in the order in which they are looked for.
REASONS = (
    "by_rules",
    "repeated",
    "no_document",
    "not_a_node",
    "out_of_bounds",
    "not_in_quote",
    "cut_name",
    "not_asserted",
)
#: Characters of the longest quote: what is longer says too much to be about two names.
MAX_QUOTE = 1000
#: What takes an assertion back, or only supposes it.
_DOUBT = re.compile(
    r"n't\b|\b(?:not|never|no longer|neither|nor|without|falsely|denie[sd]|would|might|allegedly|supposedly|reportedly|"
    r"rumou?red|legend|myth)\b"
)


def node_name(node: str) -> str:
    """Return a node's name without its kind, with single spaces."""
    return " ".join(node.partition(":")[2].split())


def places(name: str, quote: str) -> list[tuple[int, int]]:
    """Return the spans in a plain quote where a name stands as whole words."""
    wanted, text = plain(name), plain(quote)
    found = []
    start = text.find(wanted) if wanted else -1
    # By hand: a regular expression for each of many names would be compiled for one look.
    while start >= 0:
        stop = start + len(wanted)
        if not (_in_word(text[start - 1 : start]) or _in_word(text[stop : stop + 1])):
            found.append((start, stop))
        start = text.find(wanted, start + 1)
    return found


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def accept(
    edges: Iterable[Edge], documents: Sequence[Document], by_rules: Iterable[Edge]
) -> tuple[list[Edge], dict[str, int]]:
    """Return the edges that stand in the documents, sorted, and how many were read, refused (by reason) and kept.

    An edge stands when its document is there, its span lies in the text, and the text of the span names both ends as
    whole words, not as part of a longer name, and denies nothing. Edges that the rules find anyway count as by_rules.
    """
    texts = {document.id: document.text for document in documents}
    known = set(by_rules)
    counts: Counter[str] = Counter()
    kept: set[Edge] = set()
    for edge in edges:
        counts["read"] += 1
        reason = "by_rules" if edge in known else "repeated" if edge in kept else _fault(edge, texts)
        if reason:
            counts[reason] += 1
        else:
            kept.add(edge)
    ordered = sorted(kept, key=lambda e: (e.document, e.start, e.end, e.source, e.relation, e.target, e.qualifier))
    return ordered, {"read": counts["read"], **{r: counts[r] for r in REASONS}, "kept": len(ordered)}


def _fault(edge: Edge, texts: dict[str, str]) -> str:
    text = texts.get(edge.document)
    if text is None:
        return "no_document"
    kinds = edge.source.partition(":")[0], edge.target.partition(":")[0]
    ends = node_name(edge.source), node_name(edge.target)
    usable = all(re.search(r"\w", end) for end in ends) and re.search(r"\w", edge.relation)
    if kinds[0] != "entity" or kinds[1] not in ("entity", "value") or not usable or plain(ends[0]) == plain(ends[1]):
        return "not_a_node"
    if not 0 <= edge.start < edge.end <= len(text) or edge.end - edge.start > MAX_QUOTE:
        return "out_of_bounds"
    quote = text[edge.start : edge.end]
    if not all(places(end, quote) for end in ends):
        return "not_in_quote"
    around = text[max(0, edge.start - 40) : edge.end + 40]
    if any(_cut(end, around) for end in ends):
        return "cut_name"
    return "not_asserted" if _DOUBT.search(quote.casefold().replace("’", "'")) else ""


def _cut(name: str, text: str) -> bool:
    """Tell whether a name stands in a text only as part of a longer one: "New York" of "New York City"."""
    if not name[0].isupper() or not name[-1].isalnum():
        return False
    flat = " ".join(text.split())
    found = []
    start = flat.find(name)
    while start >= 0:
        found.append((flat[:start], flat[start + len(name) :]))
        start = flat.find(name, start + 1)
    whole = [(left, right) for left, right in found if not (_in_word(left[-1:]) or _in_word(right[:1]))]
    return bool(whole) and all(_longer(left, right) for left, right in whole)


def _longer(before: str, after: str) -> bool:
    """Tell whether capitals go on before or after a name; a sentence's first word and a title do not count."""
    if re.match(r"[ -][A-Z][a-z]", after) and not re.match(r" (?:The|A|An|In|On|At|He|She|It|They)\b", after):
        return True
    last = re.search(r"[a-z,;]\s+([A-Z][a-z]+)[ -]$", before)
    return last is not None and fold(last[1]) not in TITLES
