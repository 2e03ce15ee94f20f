"""Which tables a question is about, among the documents shown; None where that could be read in more than one way."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from qwenlong.core.records import Document
from qwenlong.synthesis.tabular.store import Placed, Store

_CELLS = re.compile(r"\||\t|,|;| {2,}")


@dataclass(frozen=True)
class Scope:
    """The words by which a question names tables: columns, and the one document's title (none: all documents shown).

    `row` and `periods`: a row and columns of tables with one column a period.
    """

    relation: str
    columns: tuple[str, ...]
    title: str = ""
    row: str = ""
    periods: tuple[str, ...] = ()

    def among(self, store: Store, documents: Sequence[Document]) -> tuple[Placed, ...] | None:
        """Return the tables meant, a document each; None when one is not understood or of another schema."""
        meant: list[Placed] = []
        titled = [d for d in documents if not self.title or d.title.casefold() == self.title.casefold()]
        if self.title and len(titled) != 1:
            return None
        for document in titled:
            found = [one for one in store.by_document.get(document.id, ()) if self._fits(one)]
            # A table that nothing could be made of may still be one for who reads the question.
            if len(found) > 1 or self._heads(document) > len(found):
                return None
            meant += found
        if not meant or any(one.relation != self.relation for one in meant):
            return None
        return tuple(meant)

    def _fits(self, one: Placed) -> bool:
        if not self.row:
            names = {column.name.casefold() for column in one.sheet.columns}
            return not one.sheet.wide and {name.casefold() for name in self.columns} <= names
        if not one.sheet.wide:
            return False
        rows = {record[0].text.casefold() for record in one.sheet.records if record[0] is not None}
        heads = {record[1].text.casefold() for record in one.sheet.records if record[1] is not None}
        return self.row.casefold() in rows and {period.casefold() for period in self.periods} <= heads

    def _heads(self, document: Document) -> int:
        """Return how many lines of a document hold all names of columns (or periods) in cells of their own."""
        names = {name.casefold() for name in (self.periods if self.row else self.columns)}
        text = document.text.casefold()
        if any(name not in text for name in names) or (self.row and self.row.casefold() not in text):
            return 0
        lines = (line for line in text.split("\n") if all(name in line for name in names))
        return sum(names <= {cell.strip(' "') for cell in _CELLS.split(line)} for line in lines)
