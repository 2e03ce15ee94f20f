"""What a model is asked about: the rows of some tables of one schema as a table `data`, with names that SQL can use."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from qwenlong.core.config.generation import Nl2SqlConfig, SqlConfig
from qwenlong.core.records import Document, Evidence
from qwenlong.core.seeds import rng
from qwenlong.synthesis.tabular.sandbox import Sandbox
from qwenlong.synthesis.tabular.schema import PERIODS, Column, Record
from qwenlong.synthesis.tabular.store import Placed, Relation, relations, stored

#: Rows of a task, at most: each may become evidence.
MOST = 200
TABLE = "data"
#: Words that name something else in SQL or in the table itself.
_TAKEN = frozenset(
    ("row_id", "document", "content", "select", "from", "where", "group", "order", "by", "limit", "table")
)


@dataclass(frozen=True)
class Task:
    """Tables of different documents and one schema, and how many questions were asked before about them."""

    relation: Relation
    tables: tuple[Placed, ...]
    number: int

    @property
    def id(self) -> str:
        """Return the name that the journal knows the task by."""
        return "+".join(f"{one.document}@{one.sheet.first_line}" for one in self.tables) + f"/{self.number}"

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Return the columns' names in SQL, in the columns' order."""
        made: list[str] = []
        for column in self.columns:
            name = re.sub(r"[^a-z0-9]+", "_", column.name.casefold()).strip("_")[:40]
            name = f"c_{name}" if not name or name[0].isdigit() or name in _TAKEN else name
            while name in made or f"{name}_order" in made:
                name += "_2"
            made.append(name)
        return tuple(made)

    @property
    def columns(self) -> tuple[Column, ...]:
        """Return the columns as the first table states them."""
        return self.tables[0].sheet.columns

    @cached_property
    def rows(self) -> tuple[tuple[Placed, Record], ...]:
        """Return the rows of all tables; `row_id` is the place here."""
        return tuple((one, record) for one in self.tables for record in one.sheet.records)

    def evidence(self, row: int, place: int) -> tuple[Evidence, ...]:
        """Return the spans of a cell."""
        one, record = self.rows[row]
        return one.evidence(record, place)

    def open(self, limits: SqlConfig) -> Sandbox:
        """Return the table in a sandbox of its own: what SQL could read besides is not there."""
        import pyarrow as pa

        contents = [content for one in self.tables for content in one.sheet.contents]
        made: dict[str, Any] = {
            "row_id": pa.array(range(len(self.rows)), type=pa.int64()),
            "document": pa.array([one.title for one, _ in self.rows], type=pa.string()),
            "content": pa.array(contents, type=pa.string()),
        }
        for place, (name, column) in enumerate(zip(self.names, self.columns, strict=True)):
            values = [record[place] for _, record in self.rows]
            if column.kind == "year":
                made[name] = pa.array([value and int(value.text) for value in values], type=pa.int64())
                continue
            made[name] = stored(column, values)
            if column.kind in PERIODS:
                made[f"{name}_order"] = pa.array([value and value.order for value in values], type=pa.int64())
        return Sandbox({TABLE: pa.table(made)}, limits)

    def shown(self, sample_rows: int) -> tuple[str, str]:
        """Return columns and some rows as lines of JSON."""
        columns = [json.dumps({"name": "document", "heading": "title of the document", "type": "text"})]
        for name, column in zip(self.names, self.columns, strict=True):
            entry = {"name": name, "heading": column.name, "type": column.kind, "unit": column.unit or "not stated"}
            columns.append(json.dumps(entry, ensure_ascii=False))
            if column.kind in PERIODS and column.kind != "year":
                columns.append(json.dumps({"name": f"{name}_order", "type": "integer that grows with time"}))
        step = max(1, len(self.rows) // sample_rows)
        rows = []
        for one, record in self.rows[::step][:sample_rows]:
            values = {name: value and value.text for name, value in zip(self.names, record, strict=True)}
            rows.append(json.dumps({"document": one.title} | values, ensure_ascii=False))
        return "\n".join(columns), "\n".join(rows)


def tasks(documents: Sequence[Document], config: Nl2SqlConfig, seed: int) -> list[Task]:
    """Return `per_table` tasks for each of `tables` groups of tables, drawn with the seed.

    Tables without numbers, with fewer than three rows or with more than `MOST`, and documents whose title holds a
    quotation mark or is another's too, are not asked about.
    """
    titles = [document.title.casefold() for document in documents]
    once = {d.id for d in documents if '"' not in d.title and titles.count(d.title.casefold()) == 1}
    random = rng(seed, "synthesis", "nl2sql", "tables")
    usable = []
    for relation in relations(documents):
        tables = [one for one in relation.sheets if one.document in once and 3 <= len(one.sheet.records) <= MOST]
        if tables and any(one.kind == "number" for one in relation.columns):
            usable.append((relation, tables))
    random.shuffle(usable)
    found = []
    for relation, tables in usable[: config.tables]:
        random.shuffle(tables)
        chosen = [tables[0]]
        for one in tables[1:]:
            rows = sum(len(other.sheet.records) for other in [*chosen, one])
            different = one.document not in [other.document for other in chosen]
            alike = one.sheet.columns == chosen[0].sheet.columns
            if len(chosen) < config.documents_per_table and different and alike and rows <= MOST:
                chosen.append(one)
        ordered = tuple(sorted(chosen, key=lambda one: one.document))
        found += [Task(relation, ordered, number) for number in range(1, config.per_table + 1)]
    return found
