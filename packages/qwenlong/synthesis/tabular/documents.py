"""The tables of a document, read once while it lives."""

from __future__ import annotations

from collections.abc import Sequence

from qwenlong.core.records import Document
from qwenlong.synthesis.parse import kind, once
from qwenlong.synthesis.tabular import detect
from qwenlong.synthesis.tabular.schema import Sheet
from qwenlong.synthesis.tabular.schema import sheets as read

#: Longer documents are not looked through for tables.
MAX_CHARACTERS = 4_000_000


@once
def sheets(document: Document) -> Sequence[Sheet]:
    """Return the tables of a document with typed columns."""
    if kind(document) in ("dialogue", "play", "poem", "factbook") or len(document.text) > MAX_CHARACTERS:
        return ()
    lines, grids = detect.grids(document.text, bare=kind(document) != "code")
    # The company statements write "0" where nothing was reported.
    missing = kind(document) == "finance"
    return tuple(one for grid in grids for one in read(grid, lines, zero_is_missing=missing))
