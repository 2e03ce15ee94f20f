"""Letters and integers: the official patterns' results, in linear time, whatever the text."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenlong.evaluation.rules import choices, integers

# The official patterns: facts that define the scores.
IS = r"answer is \(?([A-J])\)?"
COLON = r".*[aA]nswer:\s*([A-J])"
LAST = r"\b[A-J]\b(?!.*\b[A-J]\b)"
GPQA = r"(?i)Answer[ \t]*:[ \t]*\$?([A-D])\$?"

PIECES = (
    *("answer is ", "answer is (", "Answer: ", "answer:", "Answer:\n", "nswer:", "Answer", ": "),
    *("The correct answer is ", "The correct answer is (", "the correct answer is (", "**", "*"),
    *("A", "B", "J", "K", "a", " A ", "(C)", "D.", "I think ", "_E", "É", "A\u0301", "F\u200b", "G7"),
    *(" ", "\n", "\r", "\t", "\u2028", "\x0b", "$", ".", ")", "word", "答案", "ſ", "\\boxed{", "}", "\ud800"),
)
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=24).map("".join)


def official_mmlu_pro(text: str) -> str | None:
    for pattern, flags in ((IS, 0), (COLON, 0)):
        if match := re.search(pattern, text, flags):
            return match[1]
    match = re.search(LAST, text, re.DOTALL)
    return match[0] if match else None


@given(TEXTS)
@settings(max_examples=1500)
def test_mmlu_pro_finds_what_the_official_patterns_find(text: str) -> None:
    assert choices.mmlu_pro(text) == official_mmlu_pro(text)


@pytest.mark.parametrize(
    "text",
    [
        "Answer: Answer: B",
        "answer: answer: A",
        "x\nAnswer: none\nAnswer: B Answer: C\nAnswer: D",
        "Answer:\n\n  B Answer: C",
        "Answer: \u2028 B\u2028Answer: C",
        "Answer: none\rAnswer: B",
        "answer: k, then A",
        "É A é",
        "A\u0301 and C_",
        "",
    ],
)
def test_mmlu_pro_on_what_trips(text: str) -> None:
    assert choices.mmlu_pro(text) == official_mmlu_pro(text)


@given(TEXTS)
@settings(max_examples=500)
def test_longbench_v2_and_gpqa_find_what_the_official_patterns_find(text: str) -> None:
    plain = text.replace("*", "")
    match = re.search(r"The correct answer is \(([A-D])\)", plain) or re.search(r"The correct answer is ([A-D])", plain)
    assert choices.longbench_v2(text) == (match[1] if match else None)
    match = re.search(GPQA, text)
    assert choices.gpqa(text) == (match[1] if match else None)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Therefore, the answer is B.", "B"),
        (r"\boxed{C}", "C"),
        (r"\boxed{\text{D}}", "D"),
        ("It follows.\n\n**(a)**", "A"),
        ("Therefore, the answer is E.", None),
        ("Therefore, the answer is (A) or (B).", None),
        ("", None),
    ],
)
def test_the_letter_of_a_final_answer(text: str, letter: str | None) -> None:
    assert choices.named(text, 4) == letter


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("25", 25),
        ("025", 25),
        ("000", 0),
        ("$25$", 25),
        ("**025**", 25),
        (r"\text{25}", 25),
        (r"25\text{ minutes}", 25),
        (r"25^\circ", 25),
        (r"25^{\circ}", 25),
        ("m + n = 25", 25),
        ("25.0", 25),
        ("25.", 25),
        ("999", 999),
        ("1000", None),
        ("25.5", None),
        ("-25", None),
        ("−25", None),
        ("1/2", None),
        (r"\frac{25}{1}", None),
        ("24 or 25", None),
        ("24, 25", None),
        ("x", None),
        ("", None),
        (".", None),
        ("9" * 5000, None),
        ("٢٥", None),
    ],
)
def test_the_integer_of_a_short_answer(text: str, value: int | None) -> None:
    assert integers.integer(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"so \boxed{024}, no, \boxed{025}", 25),
        (r"\boxed{25}. The answer is 24.", 25),
        (r"\boxed{\boxed{25}}", 25),
        ("The answer is 25.", 25),
        ("Therefore, the answer is **25**.", 25),
        ("The answer is 25, by step 12.", 25),
        ("The answer is 25 - the sum of both.", 25),
        ("The final answer is $025$ minutes.", 25),
        ("The answer is:\n\n25", 25),
        ("The answer is 24 or 25.", None),
        ("The answer is 24/25.", None),
        ("The answer is 25.5.", None),
        ("The answer is 25%.", None),
        ("The answer is $24 - 25$.", None),
        ("The answer is near 25.", None),
        ("We get 25", None),
        (r"\boxed{} The answer is 25.", None),
        ("", None),
    ],
)
def test_the_integer_that_a_response_answers(text: str, value: int | None) -> None:
    assert integers.answered(text) == value


def _official_box(text: str) -> str | None:
    boxes = re.findall(r"\\(?:boxed|fbox|framebox)\{([^}]*?)\}", text, re.DOTALL)
    if boxes:
        return boxes[-1].split(",")[-1].strip()
    numbers = re.findall(r"-?\d+(?:\.\d+)?", text)
    return numbers[-1] if numbers else None


def official_aime(text: str) -> int | None:
    found = _official_box(text)
    if found is None:
        return None
    try:
        match = re.match(r"^-?\d+", found.replace(",", "").strip())
        value = int(match[0]) if match else int(float(found))
    except (ValueError, OverflowError):
        return None
    return value if 0 <= value <= 999 else None


NUMBERS = (
    "\\boxed{",
    "\\fbox{",
    "}",
    "{",
    "25",
    "-",
    ".",
    ",",
    " ",
    "1e2",
    "inf",
    "nan",
    "0",
    "999",
    "٢",
    "\n",
    "x",
    ".5",
)


@given(st.lists(st.one_of(st.sampled_from(NUMBERS), st.text(max_size=3)), max_size=16).map("".join))
@settings(max_examples=800)
def test_the_public_reading_of_an_integer(text: str) -> None:
    assert integers.public(text) == official_aime(text)


@given(TEXTS)
@settings(max_examples=300)
def test_no_rule_raises(text: str) -> None:
    for value in (choices.named(text, 4), integers.answered(text), integers.integer(text)):
        assert value is None or value in tuple("ABCD") or 0 <= int(value) <= integers.LARGEST


#: Each is what makes some pattern, written without care, take the square of the length.
HOSTILE = {
    "letters": "A ",
    "words without a letter": "lorem ipsum ",
    "colons on one line": "answer: x ",
    "colons over lines": "answer:\n",
    "one answer then blanks": "Answer" + " " * 50,
    "boxes without an end": r"\boxed{",
    "braces": "{}}{",
    "digits": "1",
    "stars": "*",
    "markers": "therefore the answer is ",
    "thinking": "<think></think>",
    "marks": "a\u0301\u0316",
}


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_takes_linear_time(unit: str) -> None:
    text = unit * (2_000_000 // len(unit))
    start = time.process_time()
    choices.longbench_v2(text)
    choices.gpqa(text)
    choices.mmlu_pro(text)
    choices.named(text, 4)
    integers.answered(text)
    integers.public(text)
    # The square of these lengths takes hours.
    assert time.process_time() - start < 60
