"""DocMath: which number an answer says, what counts as the reference, and that no text is ever run."""

from __future__ import annotations

import json
import math
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenlong.core.errors import DataError
from qwenlong.core.tokens import Tokenizer
from qwenlong.evaluation.benchmarks.docmath import BENCHMARKS, DocMathItem, spellings
from qwenlong.evaluation.rules.arithmetic import MAX_CHARACTERS, NoNumber, evaluate
from qwenlong.evaluation.rules.docmath import correct, stated

(DOCMATH,) = BENCHMARKS
SAY = "Therefore, the answer is {}."
FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)
#: What expressions, numbers and code are made of.
PIECES = st.sampled_from(
    ["9", "0", ".", ",", "(", ")", "[", "**", "-", "~", "/", "%", "$", "e", "=", "'", " or ", "True"]
)


def record(number: int = 0, gold: Any = 42.0, group: str = "complong", **fields: Any) -> dict[str, Any]:
    """A record of the published schema."""
    return {
        "question_id": f"{group}-testmini-{number}",
        "question": f"What is figure {number}?",
        "paragraphs": ["Revenue rose.", "| a | b |\n| 1 | 2 |"],
        "table_evidence": [1],
        "paragraph_evidence": [0],
        "python_solution": "def solution():\n    return 42.0",
        "ground_truth": gold,
    } | fields


def load(folder: Path, *records: dict[str, Any]) -> list[DocMathItem]:
    """Read records as a published file."""
    file = folder / "complong_testmini.json"
    file.write_text(json.dumps(records))
    return list(DOCMATH.load(file, None))


def official(item: DocMathItem, answer: str) -> float:
    """The authors' rule on a response with this answer."""
    return item.score(SAY.format(answer))["official"]


@given(gold=FLOATS)
@settings(max_examples=200)
def test_the_reference_itself_is_right(gold: float) -> None:
    """However it is written: as Python does, with separators, with a currency or a per cent sign, as a boolean."""
    item = DocMathItem(id="a", group="complong", question="?", golds=spellings(gold), gold=gold)
    for text in (repr(gold), f"${gold!r}", f"{gold!r}%"):
        assert official(item, text) == 1.0, text
    if abs(gold) >= 1000:
        assert official(item, f"{gold:,.4f}") == 1.0
    written = [item.score(SAY.format(text)) for text in item.golds]
    assert all(values["cover_em_strict"] == 1.0 for values in written)


@pytest.mark.parametrize(("gold", "text"), [(True, "True"), (True, "yes"), (False, "no"), (True, "1"), (False, "0")])
def test_booleans(tmp_path: Path, gold: bool, text: str) -> None:
    """A boolean is 1 or 0, and its own words."""
    (item,) = load(tmp_path, record(gold=gold))
    assert official(item, text) == 1.0
    assert official(item, "False" if gold else "True") == 0.0


@given(gold=st.floats(1e-3, 1e9), ratio=st.sampled_from([1.0, 100.0, 1000.0, 1e5]), share=st.floats(-0.003, 0.003))
@settings(max_examples=300)
def test_the_band_is_that_of_the_rule(gold: float, ratio: float, share: float) -> None:
    """0.15% of the larger number, at the scales that count; three decimals are a band of their own."""
    if abs(abs(share) - 0.0015) < 1e-5:
        return
    given = gold * (1 + share) * ratio
    wide = math.ceil(max(given, gold) * 1000) == math.ceil(min(given, gold) * 1000)
    assert correct(given, gold) == (abs(share) < 0.0015 or wide)


@given(gold=st.floats(10.0, 1e6), factor=st.sampled_from([2.0, 7.0, 10.5, 33.0, 1e4 + 77, 3e6]))
def test_other_factors_are_wrong(gold: float, factor: float) -> None:
    """A factor that is no power of ten and no slip is another number."""
    assert not correct(gold * factor, gold) and not correct(gold / factor, gold)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch ran')",
        "open('ran', 'w')",
        'exec(\'open("ran", "w")\')',
        "(lambda: open('ran', 'w'))()",
        "[open('ran', 'w') for _ in (1,)][0]",
        "(1).__class__.__bases__[0].__subclasses__()",
        "9**9**9**9",
        "9**9**9",
        "1 << 9999999999",
        "2**-9999999999999",
        "round(5, -999999999)",
        "10**400",
        "'9' * 999999999",
        "(" * 90 + "5" + ")" * 90,
        "-" * 199 + "5",
        "[" * 199,
        "1e999 * 0",
        'f\'{open("ran", "w")}\'',
        "x := 5",
        "\0",
        "\ud800",
        "",
    ],
)
def test_no_text_is_run(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code is no number, and neither is what would take hours; all of it is told apart at once."""
    monkeypatch.chdir(tmp_path)
    start = time.monotonic()
    (item,) = load(tmp_path, record(gold=7.0))
    assert official(item, text) == 0.0
    for form in (text, text[:MAX_CHARACTERS]):
        with suppress(NoNumber):
            evaluate(form)
    assert not (tmp_path / "ran").exists() and time.monotonic() - start < 20


def test_powers_stay_within_a_float() -> None:
    """Whole powers up to what a float can be compared with; beyond there is no number."""
    assert evaluate("2**10") == 1024 and evaluate("2 ** -2") == 0.25 and evaluate("(-8.0)**2") == 64.0
    for text in ("9**9**9", "10**400", "(2**600)**2", "1e300**2", "0**-1", "1/0"):
        with pytest.raises(NoNumber):
            evaluate(text)


@given(st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=30).map("".join)))
@settings(max_examples=400)
def test_any_text_has_a_number_or_none(text: str) -> None:
    """Nothing raises, and what is stated is a number."""
    value = stated(text)
    assert value is None or isinstance(value, int | float)
    assert correct(value, 7.0) in (True, False) if value is not None else True


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a rise of about 5.3% in 2018", 5.3),
        ("5.3  dollars", 5.3),
        ("in the year 2018", 2018.0),
        ("between 5 and 6 percent", None),
        ("no number", None),
        ("007", None),
        ("none of 5", None),
    ],
)
def test_one_number_in_a_sentence(text: str, value: float | None) -> None:
    """A sentence says its only number; several are none."""
    assert stated(text) == value


@pytest.mark.parametrize(
    "response",
    [
        "9" * 10_000_000,
        SAY.format("9," * 1_000_000),
        "Therefore, the answer is (" * 100_000,
        SAY.format("(" * 2_000_000),
        "\\boxed{" * 300_000,
        "<think>" * 300_000 + "</think> " + SAY.format("7"),
        "\n" * 5_000_000 + "=≈" * 500_000,
        SAY.format("9**" * 1_000_000 + "9"),
    ],
    ids=["digits", "separators", "markers", "brackets", "boxed", "tags", "lines", "powers"],
)
def test_megabytes_take_seconds(response: str) -> None:
    """Up to ten, of anything."""
    item = DocMathItem(id="a", group="complong", question="?", golds=("7.0", "7"), gold=7.0)
    start = time.process_time()
    values = item.score(response)
    item.asks(response)
    assert set(values) == set(DOCMATH.rules) and time.process_time() - start < 8.0


def test_records(tmp_path: Path) -> None:
    """Groups by the id, the number in any form the schema may have it, the average over items."""
    golds = dict(zip(DOCMATH.groups, (1, "-31.0", 2.5, True), strict=True))
    items = load(tmp_path, *(record(n, gold, group) for n, (group, gold) in enumerate(golds.items())))
    assert [item.group for item in items] == list(DOCMATH.groups) and DOCMATH.average == "items"
    assert [item.gold for item in items] == [1.0, -31.0, 2.5, 1.0]
    assert items[1].golds == ("-31.0", "-31") and spellings(1e-7) == ("1e-07", "0.0000001")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"question_id": "mini-3"}, "begins with none of complong"),
        ({"ground_truth": None}, "give the testmini files"),
        ({"ground_truth": [1.0, 2.0]}, "ground_truth"),
        ({"ground_truth": "many"}, "ground_truth"),
        ({"ground_truth": math.nan}, "ground_truth"),
        ({"paragraphs": "one text"}, "paragraphs"),
    ],
)
def test_bad_records_are_named(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    """With the file and what is wrong."""
    with pytest.raises(DataError, match=said) as error:
        load(tmp_path, record() | fields)
    assert "complong_testmini.json" in str(error.value)


def test_an_id_twice(tmp_path: Path) -> None:
    """Is refused."""
    with pytest.raises(DataError, match="stands twice"):
        load(tmp_path, record(1), record(1))


def test_the_judge_is_asked_where_cover_em_fails(tmp_path: Path) -> None:
    """By the template for numbers; the paper's rule is the larger of both."""
    (item,) = load(tmp_path, record(gold=56.61538461538461))
    response = SAY.format("56.62%")
    (ask,) = item.asks(response).values()
    assert (ask.criterion, ask.answer, ask.gold) == ("docmath", "56.62%", ("56.61538461538461",))
    values = item.score(response)
    assert values == {"official": 1.0, "cover_em_strict": 0.0, "cover_em_loose": 0.0}
    assert item.judged(values, {"judge": True})["paper"] == 1.0 and item.judged(values, {"judge": None})["paper"] == 0.0
    assert not item.asks(SAY.format("56.61538461538461")) and not item.asks("<think>\n" + response)


def test_a_prompt_keeps_the_question(tmp_path: Path, model: Path) -> None:
    """The document is cut in the middle, the question and the answer sentence stay."""
    (item,) = load(tmp_path, record(paragraphs=[f"Line {n} of the report." for n in range(400)]))
    (message,) = item.messages(Tokenizer(model), 300)
    assert "What is figure 0?" in message["content"] and "Therefore, the answer is" in message["content"]
    assert (
        "Line 0 " in message["content"] and "Line 399 " in message["content"] and "Line 200 " not in message["content"]
    )
    assert item.problem()[2].count("\n") == 399
