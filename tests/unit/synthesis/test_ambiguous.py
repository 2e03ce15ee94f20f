"""Documents that give two answers: the generator does not ask what has two, the checker refuses it made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from qwenlong.core.records import Document, Sample
from qwenlong.core.tokens import Tokenizer
from qwenlong.synthesis import extend, graph, parse
from qwenlong.synthesis.candidates import Candidate
from qwenlong.synthesis.checker.check import check
from qwenlong.synthesis.pool import Pool
from qwenlong.synthesis.run import TEMPLATES, counted
from qwenlong.synthesis.tables import Table


@dataclass(frozen=True)
class Case:
    """A template, its documents, the question they give one answer to, and what gives the second one.

    Documents of `twist` are added, or stand in the place of those with the same id.
    """

    template: str
    clean: Sequence[Document]
    asked: str
    answer: str
    twist: Sequence[Document]

    @property
    def twisted(self) -> list[Document]:
        return list({document.id: document for document in (*self.clean, *self.twist)}.values())


def made(kind: str, name: str, text: str, title: str = "", **metadata: object) -> Document:
    return Document(
        id=name, source="made", category="general", title=title or name, text=text, n_tokens=0, licence="MIT",
        metadata={"kind": kind, "parent": name, **metadata},
    )  # fmt: skip


def country(name: str, *lines: str, part: str = "1") -> Document:
    return made("factbook", f"{name}#{part}", "\n".join(lines), entity=name)


def talk(*lines: str, name: str = "talk", title: str = "Talk one") -> Document:
    return made("dialogue", name, "\n".join(lines), title)


def scene(number: int, *speeches: str, name: str = "", title: str = "") -> Document:
    title = title or f"Play, Act 1, Scene {number}"
    return made("play", name or f"scene-{number}", "\n\n".join(speeches), title, entity="Play")


def code(path: str, *functions: str) -> Document:
    return made("code", path.removesuffix(".py"), "\n\n\n".join(functions), path, path=path)


def documented(name: str, kind: str) -> str:
    section = f"Parameters\n    ----------\n    weight : {kind}\n        How much."
    return f'def {name}(weight):\n    """Do.\n\n    {section}\n    """'


TALK = ("A: Where were you born?", "B: In Norway I think.", "A: And your brother?", "B: He lives in Denmark now.")
LINE = "The night has been unruly where we lay,"
FOUR = [("Aland", "red"), ("Borduria", "blue"), ("Carpathia", "green"), ("Dalmia", "white")]
FLAGS = [country(name, f"Flag: {colour} cross") for name, colour in FOUR]
AREAS = [country("Aland", "Area - land: 500 sq km"), country("Borduria", "Area - land: 300 sq km")]
YEARS = country("Aland", "Exports - Exports 2022: $50 billion", "Exports - Exports 2023: $40 billion")
ITEMS = country("Aland", "Alcohol - beer: 5 liters", "Alcohol - wine: 3 liters")
CAPITALS = [country("Aland", "Capital - name: Northville"), country("Aland", "Climate: wet and mild", part="2")]
BORDERS = [
    country("Aland", "Land boundaries - border countries: Borduria 310 km; Carpathia 205 km"),
    country("Borduria", "Climate: dry and hot"),
]
THREE = [
    CAPITALS[0],
    country("Aland", "Land boundaries - border countries: Borduria 310 km; Carpathia 205 km", part="2"),
]
COMMON = [
    country("Aland", "Land boundaries - border countries: Borduria 310 km; Carpathia 205 km"),
    country("Dalmia", "Land boundaries - border countries: Borduria 90 km; Elbonia 45 km"),
]
DATES = [country("Aland", "Independence: 1 May 1911"), country("Borduria", "Independence: 3 June 1954")]
CALLER = code("a.py", "def outer(x):\n    return inner_part(x)")
GUIDE = "The estimator takes the parameter ``{}`` which sets how many trees are grown in all."
OTHERS = [talk(f"A: Question number {n} is here?", f"B: Reply {word} then.", name=f"t{n}", title=f"Talk {n}")
          for n, word in ((2, "alpha"), (3, "beta"), (4, "gamma"))]  # fmt: skip
SOURCES = [code(f"{name}.py", f"def {name}_part(x):\n    return x") for name in ("aa", "bb", "cc", "dd")]

CASES = [
    Case("fact", FLAGS, "What is the Flag of Aland?", "red cross", [country("Aland", "Flag: black star", part="2")]),
    Case("fact", [YEARS], "What is the Exports of Aland in 2022?", "$50 billion",
         [country("Aland", "Exports - Exports 2022: $60 billion", part="2")]),
    Case("choice_fact", FLAGS, "What is the Flag of Aland?", "red cross",
         [country("Aland", "Flag: black star", part="2")]),
    Case("choice_country", FLAGS, 'Which country has the Flag "red cross"?', "Aland",
         [country("Borduria", "Flag: red cross", part="2")]),
    Case("country_field", CAPITALS, "What is the Climate of the country whose Capital - name is Northville?",
         "wet and mild", [country("Borduria", "Capital - name: Northville", "Climate: dry and hot")]),
    Case("country_field", CAPITALS, "What is the Climate of the country whose Capital - name is Northville?",
         "wet and mild", [country("Aland", "Climate: dry and hot", part="3")]),
    Case("border_field", BORDERS, "What is the Climate of the country that has a 310 km border with Aland?",
         "dry and hot",
         [country("Aland", "Land boundaries - border countries: Elbonia 310 km; Carpathia 205 km", part="2"),
                         country("Elbonia", "Climate: wet and mild")]),
    Case("country_border_field", [*THREE, BORDERS[1]],
         "What is the Climate of the country that has a 310 km border with the country whose Capital - name is "
         "Northville?",
         "dry and hot", [country("Elbonia", "Capital - name: Northville", "Climate: wet and mild",
                                 "Land boundaries - border countries: Elbonia 310 km; Dalmia 205 km")]),
    Case("common_neighbour", COMMON, "Which country has a 310 km border with Aland and a 90 km border with Dalmia?",
         "Borduria", [country("Aland", "Land boundaries - border countries: Elbonia 310 km; Fredonia 7 km", part="2"),
                      country("Dalmia", "Land boundaries - border countries: Elbonia 90 km; Fredonia 8 km", part="2")]),
    Case("earlier", DATES, "Which has the earlier Independence: Aland or Borduria?", "Aland",
         [country("Borduria", "Independence: 3 June 1810", part="2")]),
    Case("changed_number", AREAS,
         "If the Area - land of Aland were half what it is, which would have the higher one: Aland or Borduria?",
         "Borduria", [country("Aland", "Area - land: 900 sq km", part="2")]),
    Case("numerical_entity_max", AREAS, "Which has the highest Area - land: Aland or Borduria?", "Aland",
         [country("Borduria", "Area - land: 500 sq km")]),
    Case("numerical_entity_sum", AREAS, "What is the Area - land of Borduria and Aland together, in sq km?", "800",
         [country("Borduria", "Area - land: 400 sq km", part="2")]),
    Case("numerical_year_max", [YEARS], "When was the Exports of Aland highest: 2022 or 2023?", "2022",
         [country("Aland", "Exports - Exports 2023: $70 billion", part="2")]),
    Case("numerical_item_difference", [ITEMS], "In Alcohol of Aland, by how much is beer above wine, in liters?", "2",
         [country("Aland", "Alcohol - wine: 1 liters", part="2")]),
    Case("numerical_item_count", [ITEMS], "In Alcohol of Aland, how many of beer and wine are above 4 liters?", "1",
         [country("Aland", "Alcohol - wine: 9 liters", part="2")]),
    Case("speaker", [scene(1, f"LENNOX.\n{LINE}")], f'Who says "{LINE}"?', "Lennox", [scene(2, f"ROSS.\n{LINE}")]),
    Case("choice_speaker",
         [scene(1, f"LENNOX.\n{LINE}"), scene(2, "ROSS.\nAh.", "BANQUO.\nOh.", "ANGUS.\nUh.")], f'Who says "{LINE}"?',
         "Lennox", [scene(3, f"ROSS.\n{LINE}")]),
    Case("speaker_line",
         [scene(1, f"LENNOX.\n{LINE}"), scene(2, "LENNOX.\nGood morrow, noble sir.", "ROSS.\nMy lord, good day.")],
         f'Whoever says "{LINE}": what is their first line in "Play, Act 1, Scene 2"?', "Good morrow, noble sir.",
         [scene(3, f"ROSS.\n{LINE}")]),
    Case("called_function", [CALLER, code("b.py", "def inner_part(x):\n    return x")],
         "Which file defines a function that outer calls?", "b.py", [code("c.py", "def inner_part(x):\n    return 2")]),
    Case("parameter", [code("a.py", documented("scale", "float"))], "What type has the parameter weight of scale?",
         "float",
         [code("b.py", documented("scale", "string"))]),
    Case("choice_definition", SOURCES, "Which of these functions does aa.py define?", "aa_part",
         [code("aa.py", *(f"def {name}_part(x):\n    return x" for name in ("aa", "bb", "cc", "dd")))]),
    Case("reply", [talk(*TALK)], 'What does B answer to "Where were you born?"?', "In Norway I think.",
         [talk("A: Where were you born?", "B: Down in Peru.", name="t2", title="Talk two")]),
    Case("choice_reply", [talk(*TALK), *OTHERS], 'What does B answer to "Where were you born?"?', "In Norway I think.",
         [talk("A: Where were you born?", "B: Down in Peru.", name="t9", title="Talk nine")]),
    Case("gap", [made("guide", "g1", GUIDE.format("n_estimators"))],
         'Which term fills the gap: "The estimator takes the parameter ____ which sets how many trees are grown in"?',
         "n_estimators", [made("guide", "g2", GUIDE.format("max_depth"))]),
    Case("nth_message", [talk(*TALK)], 'Reproduce the second message of B in "Talk one".', "He lives in Denmark now.",
         [talk("B: Hello over there.", "B: What a fine day.", name="t2")]),
    Case("neighbour_message", [talk(*TALK)],
         'Reproduce the message that comes right after "Where were you born?" in "Talk one".', "In Norway I think.",
         [talk(*TALK, "A: Where were you born?", "B: I told you that.")]),
    Case("numbered_message", [talk(*TALK)], 'Reproduce the message number 2 in "Talk one".', "In Norway I think.",
         [talk("B: Hello over there.", "B: What a fine day.", name="t2")]),
]  # fmt: skip


def asked(case: Case, documents: list[Document], tokenizer: Tokenizer) -> list[Candidate]:
    """Return the case's question as the generator asks it over documents, where it still holds over all of them."""
    documents = counted(documents, tokenizer)
    task = next(task for task, templates in TEMPLATES.items() if case.template in templates)
    with Table(cell for document in documents for cell in parse.cells(document)) as table:
        pool = Pool(documents, table, graph.build(documents), 2000, 17)
        found = []
        for number, candidate in enumerate(TEMPLATES[task][case.template](pool)):
            right = candidate.answers[0]
            if candidate.choices:
                right = candidate.choices["ABCD".index(right)]
            about = (
                candidate.question == case.asked and case.answer == right.removeprefix(candidate.answer_prefix).strip()
            )
            if about and candidate.holds(documents):
                found.append(candidate)
            if number > 300:
                break
        return found


def by_hand(
    candidate: Candidate, documents: list[Document], tokenizer: Tokenizer
) -> tuple[Sample, dict[str, Document]]:
    shown = counted(documents, tokenizer)
    return extend.sample(candidate, shown, tokenizer, 0), {document.id: document for document in shown}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.template}-{CASES.index(case)}")
def test_what_has_two_answers_is_neither_asked_nor_accepted(case: Case, tokenizer: Tokenizer) -> None:
    candidates = asked(case, list(case.clean), tokenizer)
    assert candidates, "the generator must ask it where one answer is there, or the test shows nothing"
    sample, documents = by_hand(candidates[0], list(case.clean), tokenizer)
    assert check({"samples": [sample]}, documents, tokenizer).faults == []
    assert asked(case, case.twisted, tokenizer) == []
    sample, documents = by_hand(candidates[0], case.twisted, tokenizer)
    faults = check({"samples": [sample]}, documents, tokenizer).faults
    assert any("is ambiguous" in fault for fault in faults), faults


def test_at_least_twenty_are_planted() -> None:
    assert len(CASES) >= 20 and len({case.template for case in CASES}) >= 20


def test_a_private_function_that_is_called_too_is_a_second_answer(tokenizer: Tokenizer) -> None:
    """The graph leaves out private names and names with capitals: they are functions all the same."""
    home = code("b.py", "def inner_part(x):\n    return x")
    for name in ("_hidden", "LCF_graph", "fit"):
        caller = code("a.py", f"def outer(x):\n    return inner_part({name}(x))")
        question, answer = "Which file defines a function that outer calls?", "b.py"
        case = Case(
            "called_function", [caller, home], question, answer, [code("c.py", f"def {name}(x):\n    return 2")]
        )
        test_what_has_two_answers_is_neither_asked_nor_accepted(case, tokenizer)


def test_two_calls_into_one_file_leave_no_evidence_that_is_needed(tokenizer: Tokenizer) -> None:
    question, answer = "Which file defines a function that outer calls?", "b.py"
    home = code("b.py", "def inner_part(x):\n    return x\n\n\ndef _inner(x):\n    return 2")
    caller = code("a.py", "def outer(x):\n    if x:\n        return inner_part(x)\n    return _inner(x)")
    assert asked(Case("called_function", [caller, home], question, answer, []), [caller, home], tokenizer) == []
    alone = code("b.py", "def inner_part(x):\n    return x")
    assert asked(Case("called_function", [caller, alone], question, answer, []), [caller, alone], tokenizer) != []


@pytest.mark.parametrize("written", ["int. (default: 100)", "int., optional", "int", "int .", "int (default: 3)"])
def test_a_type_has_no_full_stop(written: str, tokenizer: Tokenizer) -> None:
    documents = [code("a.py", documented("scale", written))]
    case = Case("parameter", documents, "What type has the parameter weight of scale?", "int", [])
    sample, known = by_hand(asked(case, documents, tokenizer)[0], documents, tokenizer)
    assert check({"samples": [sample]}, known, tokenizer).faults == []


def test_parameters_of_a_function_inside_are_not_its_own(tokenizer: Tokenizer) -> None:
    inner = documented("inner", "node").replace("\n", "\n    ")
    documents = [code("a.py", f"def outer(depth):\n    # no word on depth\n    {inner}\n    return inner(depth)")]
    case = Case("parameter", documents, "What type has the parameter weight of outer?", "node", [])
    assert asked(case, documents, tokenizer) == []
    sample, known = by_hand(
        asked(Case("parameter", [code("a.py", documented("outer", "node"))], case.asked, "node", []),
              [code("a.py", documented("outer", "node"))], tokenizer)[0], documents, tokenizer,
    )  # fmt: skip
    assert any("is wrong, the documents give none" in f for f in check({"samples": [sample]}, known, tokenizer).faults)


def test_an_example_in_a_docstring_defines_nothing(tokenizer: Tokenizer) -> None:
    text = documented("scale", "float").replace("Do.", "Do::\n\n        def scale(x):\n            return x")
    case = Case("parameter", [code("a.py", text)], "What type has the parameter weight of scale?", "float", [])
    sample, known = by_hand(asked(case, [*case.clean], tokenizer)[0], [*case.clean], tokenizer)
    assert check({"samples": [sample]}, known, tokenizer).faults == []


def test_one_of_two_calls_is_evidence_enough(tokenizer: Tokenizer) -> None:
    documents = [code("a.py", "def outer(x):\n    inner_part(x)\n    return inner_part(x)"), CASES[19].clean[1]]
    case = Case("called_function", documents, CASES[19].asked, "b.py", [])
    sample, known = by_hand(asked(case, documents, tokenizer)[0], documents, tokenizer)
    assert check({"samples": [sample]}, known, tokenizer).faults == []
    docstring = documents[0].model_copy(
        update={"text": documents[0].text.replace("    inner_part", "    # inner_part")}
    )
    moved = sample.evidence[0].model_copy(update={"start": 20, "end": 30})
    sample = sample.model_copy(update={"evidence": (moved, sample.evidence[1])})
    faults = check({"samples": [sample]}, known | {"a": docstring}, None).faults
    assert any("does not need the evidence" in fault for fault in faults)


def test_a_comment_calls_nothing(tokenizer: Tokenizer) -> None:
    documents = [code("a.py", "def outer(x):\n    return x  # not inner_part(x)"), CASES[19].clean[1]]
    assert asked(Case("called_function", documents, CASES[19].asked, "b.py", []), documents, tokenizer) == []


def test_two_cells_of_one_row_are_two_spans(tokenizer: Tokenizer) -> None:
    table = made("finance", "acme", "| Item | 2022 | 2023 |\n|---|---|---|\n| Sales | 50 | 40 |", entity="Acme")
    case = Case("numerical_year_max", [table], "When was the Sales of Acme highest: 2022 or 2023?", "2022", [])
    sample, known = by_hand(asked(case, [table], tokenizer)[0], [table], tokenizer)
    assert check({"samples": [sample]}, known, tokenizer).faults == []
    short = sample.model_copy(update={"evidence": sample.evidence[:1]})
    assert any("1 spans of evidence" in fault for fault in check({"samples": [short]}, known, None).faults)


def test_other_parameters_are_parameters(tokenizer: Tokenizer) -> None:
    other = "Other Parameters\n    ----------------\n    dtype : NumPy data-type, optional"
    text = documented("scale", "float").removesuffix('\n    """')
    documents = [code("a.py", f'{text}\n\n    {other}\n        What for.\n    """')]
    case = Case("parameter", documents, "What type has the parameter dtype of scale?", "NumPy data-type", [])
    sample, known = by_hand(asked(case, documents, tokenizer)[0], documents, tokenizer)
    assert check({"samples": [sample]}, known, tokenizer).faults == []
