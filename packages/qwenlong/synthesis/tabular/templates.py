"""corpus_numerical over any document's tables: aggregation, calculation, time; over one document or several."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from qwenlong.core.records import Document
from qwenlong.synthesis.candidates import Candidate
from qwenlong.synthesis.pool import Pool
from qwenlong.synthesis.tabular.draw import Drawn, draw, draw_across, draw_wide
from qwenlong.synthesis.tabular.store import Placed, Relation, Store
from qwenlong.synthesis.tabular.wording import question

#: Draws in a row without a question after which a template counts as exhausted.
PATIENCE = 400
#: Documents that one question is over, at most.
DOCUMENTS = 4
_AGGREGATES = ("sum", "mean", "median", "maximum", "minimum", "count", "highest", "lowest", "rank", "top")
OPERATIONS = {
    # one table; the same over the tables of several documents; a column of periods; columns that are periods
    "table": (*_AGGREGATES, "group_sum", "group_mean", "difference", "ratio", "share"),
    "tables": ("sum", "mean", "median", "maximum", "minimum", "count", "top", "group_sum", "group_mean", "highest"),
    "series": ("change", "first", "between_sum", "between_mean"),
    "periods": ("change", "first", "between_sum", "between_mean"),
    "across": ("highest", "lowest", "sum", "mean"),
}
_CALCULATIONS = frozenset(("difference", "ratio", "share"))
#: Lines of a reasoning chain.
SHOWN = 12


@dataclass
class _Asked:
    """The question's answer among documents shown, computed once per set of tables."""

    drawn: Drawn
    store: Store
    known: dict[tuple[int, ...], str | None] = field(default_factory=dict)

    def answer(self, documents: Sequence[Document]) -> str | None:
        tables = self.drawn.scope.among(self.store, documents)
        if tables is None or {one.number for one in tables} != {one.number for one in self.drawn.tables}:
            return None
        key = tuple(sorted(one.number for one in tables))
        if key not in self.known:
            self.known[key] = self.drawn.query.answer(self.store, key)
        return self.known[key]

    def holds(self, answer: str, documents: Sequence[Document]) -> bool:
        return self.answer(documents) == answer


def generate(pool: Pool, family: str, operation: str) -> Iterator[Candidate]:
    """Yield questions of one family and operation in random order."""
    store = pool.table.beside(Store, lambda: Store(pool.documents))
    dice = pool.rng("tabular", family, operation, pool.budget)
    places = pool.memo("tabular", family, pool.budget, make=lambda: _places(pool, store, family))
    tried: set[object] = set()
    misses = 0
    while places and misses < PATIENCE:
        misses += 1
        drawn = _draw(pool, family, operation, places, dice)
        if drawn is None or (drawn.query, drawn.scope, tuple(one.number for one in drawn.tables)) in tried:
            continue
        tried.add((drawn.query, drawn.scope, tuple(one.number for one in drawn.tables)))
        made = _candidate(pool, store, family, drawn)
        if made is not None:
            misses = 0
            yield made


Place = tuple[Relation, tuple[Placed, ...]]


def _places(pool: Pool, store: Store, family: str) -> list[Place]:
    """Return each relation that a family can ask about, with its tables in documents that fit the budget."""
    found = []
    for relation in store.relations:
        if relation.wide != (family in ("periods", "across")):
            continue
        fitting = tuple(one for one in relation.sheets if pool.fits([one.document]))
        if len({one.document for one in fitting}) >= (2 if family in ("tables", "across") else 1):
            found.append((relation, fitting))
    return found


def _draw(pool: Pool, family: str, operation: str, places: Sequence[Place], dice: random.Random) -> Drawn | None:
    relation, fitting = places[dice.randrange(len(places))]
    one = fitting[dice.randrange(len(fitting))]
    if family in ("table", "series"):
        return draw(operation, relation, [one], dice)
    if family == "periods":
        return draw_wide(operation, relation, one, dice)
    if family == "tables":
        others = _sample([other for other in fitting if other.document != one.document], dice)
        tables = _within(pool, one, others)
        return draw(operation, relation, tables, dice) if len(tables) >= 2 else None
    record = one.sheet.records[dice.randrange(len(one.sheet.records))]
    name, period = record[0], record[1]
    if name is None or period is None or record[2] is None:
        return None
    index = pool.memo("tabular", "rows", relation.name, pool.budget, make=lambda: _index(fitting))
    others = _sample([other for other in index[name.text, period.text] if other.document != one.document], dice)
    tables = _within(pool, one, others)
    return draw_across(operation, relation, tables, name.text, period.text) if len(tables) >= 2 else None


def _index(tables: Sequence[Placed]) -> dict[tuple[str, str], list[Placed]]:
    """Return the tables that have a value in a row and period."""
    found: dict[tuple[str, str], list[Placed]] = {}
    for one in tables:
        for name, period, value in one.sheet.records:
            if name is not None and period is not None and value is not None:
                found.setdefault((name.text, period.text), []).append(one)
    return found


def _sample(tables: list[Placed], dice: random.Random) -> list[Placed]:
    return dice.sample(tables, min(len(tables), dice.randint(1, DOCUMENTS - 1)))


def _within(pool: Pool, first: Placed, others: Sequence[Placed]) -> list[Placed]:
    """Return tables of different documents that fit the budget together, in the order of their numbers."""
    taken = [first]
    for one in others:
        documents = [other.document for other in taken]
        if one.document not in documents and pool.fits([*documents, one.document]):
            taken.append(one)
    return sorted(taken, key=lambda one: one.number)


def _candidate(pool: Pool, store: Store, family: str, drawn: Drawn) -> Candidate | None:
    asked = _Asked(drawn, store)
    documents = [pool.by_id[name] for name in dict.fromkeys(one.document for one in drawn.tables)]
    answer = asked.answer(documents)
    if answer is None or any('"' in document.title for document in documents):
        return None
    query, columns = drawn.query, drawn.tables[0].sheet.columns
    spans = [span for one, record in drawn.rows for span in one.evidence(record, query.value)]
    if not spans or {span.document for span in spans} != {document.id for document in documents}:
        return None
    temporal = family in ("series", "periods")
    kind = "calculation" if query.operation in _CALCULATIONS else "statistical aggregation"
    return Candidate(
        task="corpus_numerical",
        question_type="temporal" if temporal else kind,
        template=f"{family}_{query.operation}@1",
        question=question(query, drawn.scope, columns),
        answers=(answer,),
        evidence=tuple(spans),
        reasoning_chain=_chain(drawn),
        holds=partial(asked.holds, answer),
        generator="duckdb@2",
        specifics=tuple(
            dict.fromkeys(
                name
                for name in (drawn.scope.title, drawn.scope.row, *(d.title for d in documents), *drawn.scope.columns)
                if name
            )
        ),
    )


def _chain(drawn: Drawn) -> tuple[str, ...]:
    """Return each row as its words and the value, the first ones of many."""
    value = drawn.query.value
    lines = []
    for one, record in drawn.rows[:SHOWN]:
        names = [part.text for place, part in enumerate(record) if part is not None and place in one.sheet.key]
        found = record[value]
        lines.append(f"{', '.join(names) or one.title}: {found.text if found else ''}")
    more = len(drawn.rows) - SHOWN
    return (*lines, f"and {more} rows more") if more > 0 else tuple(lines)


#: Templates by name.
TEMPLATES: dict[str, Callable[[Pool], Iterator[Candidate]]] = {
    f"{family}_{operation}": partial(generate, family=family, operation=operation)
    for family, operations in OPERATIONS.items()
    for operation in operations
}
