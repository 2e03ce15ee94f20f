"""Questions over tables: every template is derived anew; what is ambiguous gives no question and no distractor."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from table_documents import UNIT, doc, table_documents

from qwenlong.core.records import Document, Sample
from qwenlong.synthesis.candidates import Candidate
from qwenlong.synthesis.checker import derive
from qwenlong.synthesis.graph import KnowledgeGraph
from qwenlong.synthesis.pool import Pool
from qwenlong.synthesis.tables import Table
from qwenlong.synthesis.tabular.queries import Condition, Query, rounded
from qwenlong.synthesis.tabular.scope import Scope
from qwenlong.synthesis.tabular.store import Store
from qwenlong.synthesis.tabular.templates import OPERATIONS, TEMPLATES

DOCUMENTS = table_documents()


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Table([]) as table:
        yield Pool(sorted(DOCUMENTS, key=lambda d: d.id), table, KnowledgeGraph([]), 4000, 17)


def sample(candidate: Candidate, documents: Sequence[Document]) -> Sample:
    return Sample(
        id="x",
        task=candidate.task,
        question_type=candidate.question_type,
        question=candidate.question,
        instruction="",
        documents=tuple(document.id for document in documents),
        evidence=candidate.evidence,
        answers=candidate.answers,
        category="professional",
        source="made",
        generator=candidate.generator,
        template=candidate.template,
        n_tokens=0,
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_each_template_is_derived_anew(pool: Pool, name: str) -> None:
    made = list(itertools.islice(TEMPLATES[name](pool), 25))
    assert len(made) >= 8, f"{name} made {len(made)}"
    random = pool.rng("test", name)
    for candidate in made:
        shown = [pool.by_id[one] for one in candidate.documents]
        assert candidate.holds(shown)
        for extra in random.sample(list(pool.documents), 6):
            if extra not in shown and candidate.holds([*shown, extra]):
                shown.append(extra)
        assert derive.answers(sample(candidate, shown), shown) == set(candidate.answers), candidate.question
        for span in candidate.evidence:
            assert re.search(r"\d", pool.by_id[span.document].text[span.start : span.end])
        number = re.fullmatch(r"-?[\d.]+", candidate.answers[0])
        if number and "percent" not in candidate.question and "%" not in candidate.question:
            stated = (f"(in {UNIT})", "(in tons)", "(in thousands of euros)", "(no unit is stated)", "how many")
            named = re.search(r'which "', candidate.question)
            assert named or any(unit in candidate.question for unit in stated), candidate.question
    types = {"series": "temporal", "periods": "temporal"}
    family, _, operation = name.partition("_")
    other = "calculation" if operation in ("difference", "ratio", "share") else "statistical aggregation"
    assert {one.question_type for one in made} == {types.get(family, other)}


def test_the_same_pool_gives_the_same_questions(pool: Pool) -> None:
    def first() -> list[str]:
        with Table([]) as table:
            again = Pool(pool.documents, table, KnowledgeGraph([]), 4000, 17)
            return [one.question for one in itertools.islice(TEMPLATES["tables_mean"](again), 10)]

    assert first() == first() != []


def test_tables_of_one_schema_are_one_and_every_cell_keeps_its_source(pool: Pool) -> None:
    store = pool.table.beside(Store, lambda: Store(pool.documents))
    assert sorted(len(one.sheets) for one in store.relations) == [8, 8, 8]
    for relation in store.relations:
        rows = store.sandbox.query(f"SELECT count(*), count(DISTINCT row_id) FROM {relation.name}")[0]
        assert rows[0] == rows[1] == sum(len(one.sheet.records) for one in relation.sheets)
    cells = store.sandbox.query("SELECT document, text, start, stop FROM sources ORDER BY ALL LIMIT 500")
    assert len(cells) == 500
    for document, text, start, stop in cells:
        assert pool.by_id[document].text[start:stop] == text


# --- planted ambiguity -------------------------------------------------------------------------------------------

HEAD = "| Town | Area | Shops |\n|---|---|---|\n"
PLAIN = "| Arlow | north | 3 |\n| Bexley | north | 5 |\n| Corven | south | 9 |\n"


def ask(query: dict[str, Any], *texts: str, title: str = "T") -> str | None:
    """Answer a query over documents; the scope is the first one's table, or all with `title` empty."""
    documents = [doc(str(n), text, "T" if n == 0 else f"T{n}") for n, text in enumerate(texts)]
    store = Store(documents)
    try:
        wanted = Query(relation=store.by_document["made/0"][0].relation, **query)
        scope = Scope(wanted.relation, ("Town", "Shops"), title)
        tables = scope.among(store, documents)
        return None if tables is None else wanted.answer(store, [one.number for one in tables])
    finally:
        store.close()


SUM = {"operation": "sum", "value": 2}
HIGHEST = {"operation": "highest", "value": 2, "label": 0}
NORTH = {"operation": "sum", "value": 2, "where": (Condition(1, "is", "north"),)}
PAIR = {"operation": "difference", "value": 2, "label": 0, "members": ("Corven", "Arlow")}


def test_plain_tables_have_answers() -> None:
    assert ask(SUM, HEAD + PLAIN) == "17" and ask(HIGHEST, HEAD + PLAIN) == "Corven"
    assert ask(NORTH, HEAD + PLAIN) == "8" and ask(PAIR, HEAD + PLAIN) == "6"
    other = HEAD + PLAIN.replace("Arlow", "Ost").replace("Bexley", "West").replace("Corven", "Nord")
    assert ask(SUM, HEAD + PLAIN, other, title="") == "34"
    # A table of other columns, and prose, change nothing.
    assert ask(SUM, HEAD + PLAIN, "| Town | Rain |\n|---|---|\n| Ost | 3 |\n| West | 4 |", title="") == "17"


@pytest.mark.parametrize(
    ("query", "texts"),
    [
        (HIGHEST, [HEAD + PLAIN + "| Egdon | south | 9 |\n"]),  # a tie
        (SUM, [HEAD + PLAIN + "| Egdon | south | n/a |\n"]),  # a missing value
        (NORTH, [HEAD + PLAIN + "| Egdon |  | 4 |\n"]),  # north, or not?
        (NORTH, [HEAD + PLAIN + "| Egdon | North | 4 |\n"]),  # the same area in another spelling?
        (SUM, [HEAD + PLAIN + "| Arlow | north | 3 |\n"]),  # a row that stands there twice
        (PAIR, [HEAD + PLAIN + "| Arlow | south | 4 |\n"]),  # two rows of one name
        (PAIR, [HEAD + PLAIN + "| arlow | south | 4 |\n"]),
        (PAIR, [HEAD + PLAIN.replace("Arlow", "Egdon")]),  # a member that is not there
        ({"operation": "group_sum", "value": 2, "group": 1}, [HEAD + PLAIN + "| Egdon | north | 1 |\n"]),  # 9 and 9
        ({"operation": "rank", "value": 2, "label": 0, "number": "2"}, [HEAD + PLAIN + "| Egdon | south | 5 |\n"]),
        ({"operation": "share", "value": 2, "label": 0, "members": ("Arlow",)}, [HEAD + PLAIN + "| E | s | -4 |\n"]),
        (SUM, [HEAD + PLAIN, HEAD + PLAIN]),  # the same rows in two documents
        # another unit, a table that is not understood, two tables in one document
        (SUM, [HEAD + PLAIN, HEAD.replace("Shops", "Shops") + "| Ost | north | 3% |\n| West | north | 5% |\n"]),
        (SUM, [HEAD + PLAIN, HEAD + "| Ost | north | 3 | 4 |\n| West | north | 5 |\n"]),
        (
            SUM,
            [
                HEAD + PLAIN,
                f"{HEAD}| Ost | west | 1 |\n| Nord | west | 2 |\n\n{HEAD}| Sud | west | 4 |\n| Au | o | 2 |",
            ],
        ),
    ],
)
def test_planted_ambiguity_has_no_answer(query: dict[str, Any], texts: list[str]) -> None:
    assert ask(query, *texts, title="T" if len(texts) == 1 else "") is None


def test_two_documents_of_one_title_leave_open_which_is_meant() -> None:
    documents = [doc("a", HEAD + PLAIN, "T"), doc("b", "Prose.", "t")]
    store = Store(documents)
    scope = Scope(store.by_document["made/a"][0].relation, ("Town", "Shops"), "T")
    assert scope.among(store, documents[:1]) and scope.among(store, documents) is None
    store.close()


@pytest.mark.parametrize(("value", "shown"), [("0.125", None), ("0.1251", "0.13"), ("0.004", None), ("-2.5", "-2.5")])
def test_quotients_are_rounded_only_where_that_is_one_number(value: str, shown: str | None) -> None:
    from decimal import Decimal

    assert rounded(Decimal(value)) == shown


def test_a_distractor_with_such_a_table_is_never_shown(pool: Pool) -> None:
    candidate = next(iter(TEMPLATES["tables_sum"](pool)))
    shown = [pool.by_id[one] for one in candidate.documents]
    assert candidate.holds(shown) and not candidate.holds(shown[:-1])
    kind = candidate.documents[0].rstrip("0123456789")
    others = [d for d in pool.documents if d.id.startswith(kind) and d not in shown]
    assert others and not any(candidate.holds([*shown, other]) for other in others)
    assert all(candidate.holds([*shown, d]) for d in pool.documents if not d.id.startswith(kind))


def test_the_checker_sees_a_changed_answer_row_unit_and_second_table(pool: Pool) -> None:
    refuted = 0
    for family in OPERATIONS:
        for candidate in itertools.islice(TEMPLATES[f"{family}_{OPERATIONS[family][0]}"](pool), 5):
            shown = [pool.by_id[one] for one in candidate.documents]
            one = sample(candidate, shown)
            last = candidate.evidence[-1]
            text = pool.by_id[last.document].text
            changed = text[: last.start] + "99999" + text[last.end :]
            mutated = [d.model_copy(update={"text": changed}) if d.id == last.document else d for d in shown]
            assert derive.answers(one, mutated) != set(candidate.answers) or candidate.template.startswith("across_h")
            missing = text[: last.start] + "n/a" + text[last.end :]
            mutated = [d.model_copy(update={"text": missing}) if d.id == last.document else d for d in shown]
            assert derive.answers(one, mutated) == set()
            twin = shown[0].model_copy(update={"id": "twin"})
            assert derive.answers(one, [*shown, twin]) == set()
            bare = one.model_copy(update={"question": re.sub(r" \((in|no)[^)]*\)", "", one.question)})
            if bare.question != one.question and "whose" not in one.question:
                assert derive.answers(bare, shown) == set()
            refuted += 1
    assert refuted == 25
