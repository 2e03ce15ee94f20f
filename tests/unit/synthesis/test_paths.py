"""Vague, causal, temporal and hypothetical paths: right, and never ambiguous, on made worlds full of coincidences."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice

import networkx as nx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_documents import Nation, calls, code, country, nations

from qwenlong.core.records import Document, Sample
from qwenlong.synthesis import facts, graph, obfuscate, paths, vague
from qwenlong.synthesis.candidates import Candidate
from qwenlong.synthesis.checker import derive
from qwenlong.synthesis.pool import Pool
from qwenlong.synthesis.tables import Table

COUNTRIES = [name for name in paths.TEMPLATES if name.startswith(("vague", "temporal", "causal_partner", "hypo"))]
COUNTRIES.remove("hypothetical_call")
CALLS = sorted(paths.TEMPLATES.keys() - set(COUNTRIES))


def pool(documents: Iterable[Document], max_hops: int = 4, obfuscation: int = 2, budget: int = 900) -> Pool:
    made = sorted(documents, key=lambda d: d.id)
    with Table([]) as table:
        return Pool(made, table, graph.build(made), budget, 5, max_hops, obfuscation)


def sample(candidate: Candidate, documents: Sequence[Document]) -> Sample:
    return Sample(
        id="x", task=candidate.task, question_type=candidate.question_type, question=candidate.question,
        instruction="", documents=tuple(d.id for d in documents), evidence=candidate.evidence,
        answers=candidate.answers, category="general", source="s", generator="g", template=candidate.template,
        n_tokens=0,
    )  # fmt: skip


def derived(candidate: Candidate, documents: Sequence[Document]) -> set[str] | None:
    return derive.answers(sample(candidate, documents), documents)


def asked(name: str, documents: Iterable[Document], limit: int = 200, **settings: int) -> list[Candidate]:
    return list(islice(paths.TEMPLATES[name](pool(documents, **settings)), limit))


# Few values, so that ranges, decades, initials and lengths collide all the time.
NAMES = ("Abel", "Bora", "Cato", "Dune", "Echo")
LENGTHS = (90, 100, 150, 250, 310, 400, 1000)
PEOPLE = ("1,000,000", "1.2 million", "1,900,000", "5,500,000", "about 1,500,000 to 7,000,000", "230,000", "90 million")
YEARS = ("1800", "1803", "1 May 1899", "1900", "1811 or 1815", "no date", "843", "1954")
CAPITALS = ("Quill", "Élan", "Elm", "quay (old town)", "Rook", "Quartz of the seven long hills")
PARTNERS = ("Abel 40%, Bora 30%", "Bora 30%, Cato 20%", "Abel 30%", "Cato 5%; Abel 40%", "Dune 7%, Bora 12%")


def world(seed: int) -> list[Document]:
    """Return countries whose facts coincide at random. A seed and not hypothesis draws them, or most would be empty."""
    generator = random.Random(seed)
    made: list[Document] = []
    for name in NAMES[: generator.randint(3, 5)]:
        others = generator.sample([other for other in NAMES if other != name], generator.randint(0, 4))
        listed = {other: generator.choice(LENGTHS) for other in others}
        lines = {
            "People": [f"Population - total: {generator.choice(PEOPLE)} (2024 est.)"],
            "Government": [
                f"Capital - name: {generator.choice(CAPITALS)}",
                f"Independence: {generator.choice(YEARS)}",
                f"Internet country code: {generator.choice(('.aa', '.bb', '.cc', '.dd', '.ee'))}",
            ],
            "Economy": [f"Exports - partners: {generator.choice(PARTNERS)} (2023)"],
            "Seas": [f"Climate: {name[::-1]} and wet"],
        }
        if generator.random() < 0.2:
            lines["People"].append(f"Capital - name: {generator.choice(('Quill', 'Other'))}")
        made += Nation(name, listed, lines).documents()
    return made


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32), st.sampled_from((1, 2)))
def test_no_question_over_countries_is_ambiguous_on_its_side_or_over_its_evidence(seed: int, level: int) -> None:
    documents = world(seed)
    shared = pool(documents, obfuscation=level)
    for name in COUNTRIES:
        for candidate in islice(paths.TEMPLATES[name](shared), 8):
            evidence = [shared.by_id[key] for key in candidate.documents]
            gold = set(candidate.answers)
            assert derived(candidate, evidence) == gold, candidate.question
            assert derived(candidate, documents) == gold, candidate.question
            assert candidate.holds(evidence) and candidate.holds(documents)
            assert len(evidence) > 1 and len(candidate.reasoning_chain) >= len(candidate.evidence) > 1


FUNCTIONS = tuple(f"{'_' * (number == 4)}step_{number:02}" for number in range(12))


def program(seed: int) -> tuple[list[Document], nx.DiGraph, dict[str, str]]:
    """Return source files, who calls whom in them, and where each function stands."""
    generator = random.Random(seed)
    truth: nx.DiGraph = nx.DiGraph()
    homes: dict[str, str] = {}
    sections: dict[str, list[Document]] = {}
    for number, function in enumerate(FUNCTIONS):
        path = generator.choice(("one.py", "two.py", "three.py", "four.py", "five.py"))
        homes[function] = path
        truth.add_node(function)
        # Calls go mostly one way, so that there are chains.
        below = FUNCTIONS[number + 1 :] if generator.random() < 0.9 else FUNCTIONS
        called = generator.sample(below, min(len(below), generator.choice((0, 1, 1, 2))))
        later = generator.sample(below, min(len(below), 1)) if generator.random() < 0.2 else []
        truth.add_edges_from((function, other) for other in [*called, *later] if other != function)
        lines = [f"def {function}(x):", f'    """Not a call: {generator.choice(FUNCTIONS)}(x)."""']
        lines += [f"    x = {other}(x)" for other in called] + ["    return x"]
        own = sections.setdefault(path, [])
        own.append(code(path, "\n".join(lines), function, 1, len(own)))
        if later:
            own.append(code(path, "\n".join(f"    x = {other}(x)" for other in later), function, 2, len(own)))
    return [document for own in sections.values() for document in own], truth, homes


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32))
def test_no_question_over_calls_is_ambiguous(seed: int) -> None:
    documents, truth, homes = program(seed)
    shared = pool(documents)
    for name in CALLS:
        for candidate in islice(paths.TEMPLATES[name](shared), 10):
            question, (answer,) = candidate.question, candidate.answers
            cut = re.match(r"Suppose (\w+) no longer called (\w+)\.", question)
            network = truth.copy()
            network.remove_edges_from([cut.groups()] if cut else [])
            path = re.search(r"defined in (\S+) c", question)
            failing = re.match(r"(\w+) fails because", question)
            through = re.search(r"through (\w+)\?", question)
            cause = re.search(r"If (\w+) ", question)
            if failing:
                reached = nx.descendants(network, failing[1]) | {failing[1]}
            elif through:
                assert cause and cause[1] in nx.descendants(network, through[1])
                reached = nx.ancestors(network, through[1])
            else:
                assert cause
                reached = nx.ancestors(network, cause[1]) | {cause[1]}
            assert path and {one for one in reached if homes[one] == path[1]} == {answer}, question
            assert derived(candidate, [shared.by_id[key] for key in candidate.documents]) == {answer}
            assert derived(candidate, documents) == {answer}
            assert len(candidate.documents) > 1


def two(first: str, second: str, label: str = "Population - total") -> list[Document]:
    """Return two countries whose only describable field is `label`."""
    return [
        country(name, section, line)
        for name, value in (("Abel", first), ("Bora", second))
        for section, line in (("People", f"{label}: {value}"), ("Seas", f"Climate: {name.lower()[::-1]} and wet"))
    ]


@pytest.mark.parametrize(
    ("label", "first", "second", "words"),
    [
        ("Population - total", "1,200,000", "55,000,000", "lies between 1 million and"),
        ("Population - total", "1,200,000", "1.9 million", None),
        ("Population - total", "1,200,000", "10,000,000", "lies between 1 million and 2 million"),
        ("Population - total", "1,200,000", "2,000,000", None),
        ("Population - total", "1,200,000", "some 1,500,000 to 7,000,000, it is said in town", None),
        ("Independence", "1 May 1811", "1954", r"falls in the (19th century|1810s)"),
        ("Independence", "1 May 1811", "3 June 1819", None),
        ("Independence", "1 May 1811", "1800", "falls in the 1810s"),
        ("Independence", "1811", "1700, 1815 and 1899, after three long wars", None),
        ("Capital - name", "Quill", "Rook", 'begins with "Q"'),
        ("Capital - name", "Elm", "Élan", None),
        ("Capital - name", "Quill", '"Quartz of the seven long hills"', None),
    ],
)  # fmt: skip
def test_a_description_fits_one_country_alone(label: str, first: str, second: str, words: str | None) -> None:
    documents = two(first, second, label)
    about_abel = [c.question for c in asked("vague_country_field", documents) if c.answers == ("leba and wet",)]
    if words is None:
        assert about_abel == []
    else:
        assert about_abel and all(re.search(words, question) for question in about_abel)


def test_two_clues_describe_what_neither_does_alone() -> None:
    values = {"Abel": ("1,200,000", "Quill"), "Bora": ("1,300,000", "Rook"), "Cato": ("7,000,000", "Quay")}
    documents = [
        document
        for name, (people, capital) in values.items()
        for document in (
            country(name, "People", f"Population - total: {people}", f"Capital - name: {capital}"),
            country(name, "Seas", f"Climate: {name.lower()[::-1]} and wet"),
        )
    ]
    found = {c.question for c in asked("vague_country_field", documents) if c.answers == ("leba and wet",)}
    assert found and all(" and whose " in question for question in found)
    assert all('Capital - name begins with "Q"' in question for question in found)


def test_a_range_of_borders_holds_one_border_seen_from_both_sides() -> None:
    def of(*borders: tuple[str, dict[str, int]]) -> set[str]:
        documents = [d for name, own in borders for d in Nation(name, own).documents()]
        documents += [country(name, "Seas", f"Climate: {name.lower()[::-1]} and wet") for name in NAMES]
        return {c.question for c in asked("vague_border_field", documents) if " with Abel?" in c.question}

    assert of(("Abel", {"Bora": 310, "Cato": 520}))
    assert of(("Abel", {"Bora": 310, "Cato": 390})) == set()
    # 400 km is an end of the range; Dune's own document says what Abel's leaves out.
    assert not any("between 300 and 400" in q for q in of(("Abel", {"Bora": 310, "Cato": 400})))
    assert not any(
        "between 300 and 400" in q for q in of(("Abel", {"Bora": 310, "Cato": 520}), ("Dune", {"Abel": 350}))
    )


@pytest.mark.parametrize(("level", "hops", "vague_nodes"), [(1, 3, {1}), (1, 4, {1}), (2, 3, {2}), (2, 4, {2, 3})])
def test_the_level_says_how_many_nodes_are_vague(level: int, hops: int, vague_nodes: set[int]) -> None:
    found = asked("vague_path", nations(), max_hops=hops, obfuscation=level)
    assert {dict(c.checks)["vague_nodes"] for c in found} == vague_nodes
    assert {dict(c.checks)["obfuscation"] for c in found} == {level}
    assert {c.n_hops for c in found} == set(range(3, hops + 1))
    for candidate in found:
        question = candidate.question
        clues = bool(re.search(r"lies between|falls in|begins with", question))
        vague_words = question.count("border of between") + clues
        assert vague_words == dict(candidate.checks)["vague_nodes"]
        assert level == 1 or question.count("the country ") == vague_words


def test_no_obfuscation_asks_no_vague_question_and_few_hops_no_long_path() -> None:
    for name in vague.TEMPLATES:
        assert asked(name, nations(), obfuscation=0) == []
    assert asked("vague_path", nations(), max_hops=2) == []
    assert asked("causal_partner_path", nations(), max_hops=2) == []
    assert asked("temporal_years_path", nations(), max_hops=2) == []
    assert {c.n_hops for c in asked("causal_effect", calls(), max_hops=2)} == {2}


def effects(*documents: Document) -> dict[str, str]:
    return {c.question: c.answers[0] for c in asked("causal_effect", documents)}


def test_a_second_function_that_fails_leaves_no_question() -> None:
    root = code("root.py", "def root_step(x):\n    return x\n")
    middle = code("middle.py", "def middle_step(x):\n    return root_step(x)\n")
    outer = "def outer_step(x):\n    return middle_step(x)\n"
    question = (
        "If root_step always raised an error when called, which function defined in outer.py could fail because of it?"
    )
    assert effects(root, middle, code("outer.py", outer)) == {question: "outer_step"}
    for other in (
        "def another_one(x):\n    return middle_step(x)\n",
        "def _hidden(x):\n    return root_step(x)\n",
        "def go(x):\n    return _way(x)\n\ndef _way(x):\n    return root_step(x)\n",
        "def Loud(x):\n    return middle_step(x)\n",
    ):
        assert effects(root, middle, code("outer.py", f"{outer}\n{other}")) == {}
        # The rival stands in another section of the file.
        assert effects(root, middle, code("outer.py", outer), code("outer.py", other, "rest", 1, 1)) == {}
    begun = code("outer.py", "def begun(x):\n    y = x\n", "begun", 1, 1)
    goes_on = code("outer.py", "    return root_step(y)\n", "begun", 2, 2)
    assert effects(root, middle, code("outer.py", outer), begun) == {question: "outer_step"}
    assert effects(root, middle, code("outer.py", outer), begun, goes_on) == {}
    # Two definitions of one name: which one is called is anybody's guess.
    assert effects(root, middle, code("outer.py", outer), code("twin.py", "def middle_step(x):\n    return x\n")) == {}


def test_a_call_that_is_gone_leaves_one_of_two() -> None:
    found = {(c.question, *c.answers) for c in asked("hypothetical_call", calls())}
    # That pair_one fails without the call is not asked: outer.py, through which it fails, need not be shown for that.
    assert found == {
        (
            f"Suppose pair_two no longer called middle_step. If {cause} then always raised an error when called, which "
            "function defined in deep/pair.py could still fail because of it?",
            "pair_one",
        )
        for cause in ("root_step", "middle_step")
    }


def dated(**years: str) -> list[Document]:
    return [country(name.capitalize(), "Government", f"Independence: {year}") for name, year in years.items()]


def test_dates_are_compared_only_where_each_is_one_year_and_none_tie() -> None:
    clear = dated(abel="1 May 1811", bora="1954", cato="3 June 1700")
    assert {c.answers[0] for c in asked("temporal_extreme", clear)} == {"Cato", "Bora"}
    assert {c.answers[0] for c in asked("temporal_order", clear)} == {"Cato, Abel, Bora"}
    assert {(c.question, *c.answers) for c in asked("temporal_years", clear)} == {
        ("By how many calendar years is the Independence of Abel earlier than that of Bora?", "143"),
        ("By how many calendar years is the Independence of Cato earlier than that of Abel?", "111"),
        ("By how many calendar years is the Independence of Cato earlier than that of Bora?", "254"),
    }
    for blurred in ("1811", "1700 or 1800", "843; united 1910", "soon"):
        for name in ("temporal_extreme", "temporal_order"):
            assert asked(name, dated(abel="1 May 1811", bora="1954", cato=blurred)) == []
    twice = [*clear, country("Cato", "History", "Independence: 1701")]
    assert asked("temporal_order", twice) == []


def test_the_longest_border_that_is_left_is_one() -> None:
    def of(**borders: int) -> set[tuple[str, str]]:
        documents = Nation("Abel", {name.capitalize(): km for name, km in borders.items()}).documents()
        documents += [country(name, "Seas", f"Climate: {name.lower()[::-1]} and wet") for name in NAMES]
        return {
            (re.split(r"Abel and | no longer", c.question)[1], c.answers[0])
            for c in asked("hypothetical_border", documents)
        }

    # Half of the questions take the longest one away, the others leave it.
    assert of(bora=900, cato=500, dune=70) == {
        ("Bora", "otac and wet"), ("Cato", "arob and wet"), ("Dune", "arob and wet"),
    }  # fmt: skip
    assert of(bora=900, cato=500, dune=500) == set() or all(
        lost != "Bora" for lost, _ in of(bora=900, cato=500, dune=500)
    )
    assert of(bora=900, cato=500) == set()


def test_a_field_that_is_supposed_to_be_anothers_is_followed_half_of_the_time() -> None:
    found = asked("hypothetical_field", nations(), limit=40)
    changed = 0
    for candidate in found:
        match = re.fullmatch(r"Suppose the (.+) of (.+) were that of (.+)\. What .+", candidate.question)
        assert match
        everything = facts.read(nations())
        theirs = everything.values(match[3], match[1], None)
        changed += set(candidate.answers) == theirs
        assert everything.values(match[2], match[1], None).isdisjoint(theirs)
    assert len(found) == 40 and changed == 20


def test_shares_that_tie_or_are_missing_lose_nobody() -> None:
    def of(**lists: str) -> set[str]:
        made = [country(name.capitalize(), "Economy", f"Exports - partners: {line}") for name, line in lists.items()]
        return {answer for c in asked("causal_partner", made) for answer in c.answers}

    assert of(abel="Ruritania 40%, Zenda 3% (2023)", bora="Ruritania 41% (2019)") == {"Bora"}
    assert of(abel="Ruritania 40%", bora="Ruritania 40.0%") == set()
    assert of(abel="Ruritania 40%", bora="Zenda 41%") == set()
    assert of(abel="Ruritania 40%", bora="Ruritania 50%, Ruritania 30%") == set()


@pytest.mark.parametrize("name", sorted(paths.TEMPLATES))
def test_the_checker_rejects_what_was_changed(name: str) -> None:
    documents = [*nations(), *calls()]
    known = {document.id: document for document in documents}
    for candidate in asked(name, documents, 12):
        shown = [known[key] for key in candidate.documents]
        gold = set(candidate.answers)
        assert derived(candidate, shown) == gold
        # A border stands in both countries' documents, and a change may name what does not matter.
        needed = candidate.evidence[-1:] if name.startswith(("vague", "hypothetical")) else candidate.evidence
        for span in needed:
            others = [document for document in shown if document.id != span.document]
            assert derived(candidate, others) != gold, candidate.question
        answer = candidate.answers[0]
        wrong = str(int(answer) + 1) if answer.isdigit() else f"{answer} x"
        assert derived(replace(candidate, answers=(wrong,)), shown) != {wrong}
        twins = [twin for document in documents for twin in _twins(document, name)]
        assert derived(candidate, [*documents, *twins]) != gold, candidate.question


def _twins(document: Document, name: str) -> list[Document]:
    """Return documents that make a second answer: the facts of a country for another, calls from and to twins."""
    text, metadata = document.text, dict(document.metadata)
    if document.metadata["kind"] == "code":
        function = r"\b(\w+_(?:step|one|two))\b"
        texts = [
            re.sub(rf"def {function}", r"def \1_twin", text),
            re.sub(rf"return {function}", r"return \1_twin", text),
        ]
    elif name.startswith(("vague", "hypothetical")):
        texts, metadata["entity"] = [text], f"Second {metadata['entity']}"
    else:
        # Another value in the same country: years, shares.
        texts = [re.sub(r"\b1(?=[89]\d\d\b)", "2", re.sub(r"(\d+)%", lambda m: f"{60 - int(m[1])}%", text))]
    return [
        document.model_copy(update={"id": f"{document.id}-twin-{number}", "text": text, "metadata": metadata})
        for number, text in enumerate(texts)
    ]


def test_the_same_documents_give_the_same_questions_in_any_order() -> None:
    documents = [*nations(), *calls()]
    for name in paths.TEMPLATES:
        one = [(c.question, c.answers) for c in asked(name, documents, 30)]
        assert one and one == [(c.question, c.answers) for c in asked(name, documents[::-1], 30)]


def test_numbers_are_spoken_and_read_the_same_way() -> None:
    for text, number in (("1.2 million", 1_200_000), ("$3 trillion", 3 * 10**12), ("0.4%", 0.4), ("12,345 km", 12_345)):
        assert [float(n) for n in obfuscate.numbers(text)] == [number]
    ends = [obfuscate.span(*ends, "km") for ends in obfuscate.ranges(obfuscate.numbers("1,234,567")[0])]
    assert ends == ["1 million and 10 million km", "1 million and 2 million km"]
    assert obfuscate.ranges(obfuscate.numbers("300")[0]) == [(100, 1000)]
