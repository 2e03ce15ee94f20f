"""The tables of many documents as one database: tables of the same schema become one, every cell keeps its source."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any

from qwenlong.core.config.generation import SqlConfig
from qwenlong.core.records import Document, Evidence
from qwenlong.synthesis.tabular.documents import sheets
from qwenlong.synthesis.tabular.sandbox import Sandbox
from qwenlong.synthesis.tabular.schema import PERIODS, Column, Record, Sheet, Value

#: Digits of the numbers' type, and of those after the point.
PRECISION, SCALE = 38, 8


@dataclass(frozen=True)
class Placed:
    """A sheet with its place: its number in the store, its document, and the relation that its rows are in."""

    number: int
    document: str
    title: str
    sheet: Sheet
    relation: str

    def evidence(self, record: Record, place: int) -> tuple[Evidence, ...]:
        """Return the spans of one cell."""
        value = record[place]
        return tuple(Evidence(document=self.document, start=a, end=b) for a, b in value.spans) if value else ()


@dataclass(frozen=True)
class Relation:
    """Sheets of one schema: a table of the database with columns c0, c1, … (and c0_at, the order of a period)."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[int, ...]
    wide: bool
    sheets: tuple[Placed, ...]


def relations(documents: Iterable[Document]) -> list[Relation]:
    """Return the sheets of documents, those of one schema together, in the order of schemas and documents."""
    groups: dict[tuple[object, ...], list[tuple[Document, Sheet]]] = defaultdict(list)
    for document in sorted(documents, key=lambda document: document.id):
        for sheet in sheets(document):
            groups[sheet.schema].append((document, sheet))
    found: list[Relation] = []
    number = 0
    for schema in sorted(groups, key=repr):
        name = f"r{len(found)}"
        placed = []
        for document, sheet in groups[schema]:
            placed.append(Placed(number, document.id, document.title, sheet, name))
            number += 1
        first = placed[0].sheet
        found.append(Relation(name, first.columns, first.key, first.wide, tuple(placed)))
    return found


class Store:
    """All sheets of documents, by relation and by document, behind a sandbox.

    Table `sources` holds a row a cell: relation, row, column, document, sheet, spans. A relation's rows have `row_id`,
    `sheet`, `title` and `content` (the whole row as text) beside their columns.
    """

    def __init__(self, documents: Iterable[Document], limits: SqlConfig | None = None) -> None:
        self.relations = relations(documents)
        placed: dict[str, list[Placed]] = defaultdict(list)
        for relation in self.relations:
            for one in relation.sheets:
                placed[one.document].append(one)
        self.by_document = {name: tuple(found) for name, found in placed.items()}
        self.by_name = {relation.name: relation for relation in self.relations}
        tables, sources = {}, _Sources()
        for relation in self.relations:
            tables[relation.name] = table(relation, sources)
        tables["sources"] = sources.table()
        self.sandbox = Sandbox(tables, limits)

    def close(self) -> None:
        """Close the database."""
        self.sandbox.close()


class _Sources:
    """Rows of the table of sources."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Any]] = {
            name: [] for name in ("relation", "row_id", "column", "document", "sheet", "text", "start", "stop")
        }

    def add(self, relation: str, row: int, place: int, one: Placed, record: Record) -> None:
        value = record[place]
        if value is None or not value.spans:
            return
        values = (relation, row, place, one.document, one.number, value.text, value.spans[0][0], value.spans[-1][1])
        for column, item in zip(self.columns.values(), values, strict=True):
            column.append(item)

    def table(self) -> Any:
        import pyarrow as pa

        texts = ("relation", "document", "text")
        return pa.table(
            {n: pa.array(v, type=pa.string() if n in texts else pa.int64()) for n, v in self.columns.items()}
        )


def table(relation: Relation, sources: _Sources | None = None) -> Any:
    """Return the rows of a relation as an Arrow table."""
    import pyarrow as pa

    rows = [
        (one, record, content)
        for one in relation.sheets
        for record, content in zip(one.sheet.records, one.sheet.contents, strict=True)
    ]
    made: dict[str, Any] = {
        "row_id": pa.array(range(len(rows)), type=pa.int64()),
        "sheet": pa.array([one.number for one, _, _ in rows], type=pa.int64()),
        "title": pa.array([one.title for one, _, _ in rows], type=pa.string()),
        "content": pa.array([content for _, _, content in rows], type=pa.string()),
    }
    for place, column in enumerate(relation.columns):
        values = [record[place] for _, record, _ in rows]
        made[f"c{place}"] = stored(column, values)
        if column.kind in PERIODS:
            made[f"c{place}_at"] = pa.array([value and value.order for value in values], type=pa.int64())
    if sources is not None:
        for row, (one, record, _) in enumerate(rows):
            for place in range(len(relation.columns)):
                sources.add(relation.name, row, place, one, record)
    return pa.table(made)


#: More digits than arithmetic has by default: what a cell states is stored exactly.
_EXACT = Context(prec=PRECISION)
_STEP = Decimal(1).scaleb(-SCALE)


def stored(column: Column, values: Sequence[Value | None]) -> Any:
    """Return the values of a column as the database holds them: exact decimals, or texts."""
    import pyarrow as pa

    if column.kind != "number":
        return pa.array([value and value.text for value in values], type=pa.string())
    numbers = [
        None if value is None or value.number is None else _EXACT.quantize(value.number, _STEP) for value in values
    ]
    return pa.array(numbers, type=pa.decimal128(PRECISION, SCALE))
