"""Text that a trained model may come to write: odd tags, odd numbers, very long ones."""

from __future__ import annotations

import time

import pytest

from qwenlong.core.records import TASKS
from qwenlong.rewards.extract import final_answer, unwrap
from qwenlong.rewards.rules import choice_letter, score

SAY = "Therefore, the answer is "


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("<THINK>Rome</THINK>\nTherefore, the answer is Paris", "Paris"),
        ("< think >Rome</ think >Paris", "Paris"),
        ("<think>a<think>b</think>c</think>Paris", "Paris"),
        ("reason without a tag</think>\nParis", "Paris"),
        ("<think>a</think>Rome</think>Paris", "Paris"),
        ("<think></think>\n**Therefore, the answer is:** Paris", "Paris"),
        ("Therefore, the answer is `Paris`", "Paris"),
        ("Therefore, the answer is ***Paris***.", "Paris"),
        (r"\boxed{a \boxed{Paris}}", "Paris"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{Paris} and \boxed{unclosed", "Paris"),
        ("The answer is Rome. The answer is Oslo. The final answer is Paris", "Paris"),
        ("<think>the answer is Rome</think>\nParis", "Paris"),
        ("Therefore, the answer is 東京。", "東京"),
    ],
)
def test_the_answer_is_found(response: str, answer: str) -> None:
    assert final_answer(response) == answer


@pytest.mark.parametrize(
    "response",
    [
        "<THINK>Therefore, the answer is Paris",
        "<think>a</think>Therefore, the answer is Paris<Think>wait",
        "< think>Therefore, the answer is Paris",
        "<think>Paris</think><think>Paris</think>",
        "<think>x</think>\n<|im_end|>Paris",
        r"\boxed{}",
        "word " * 60,
    ],
)
def test_there_is_no_answer(response: str) -> None:
    assert final_answer(response) is None


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("1\u202f234\u202f567", "1234567"),
        ("1\u00a0234 km", "1234"),
        ("１２３４", "1234"),
        ("٤٢", "42"),
        (r"\boxed{42\%}", "42"),
        (r"\boxed{\$1,234}", "1234"),
        ("-0.5%", "-0.5"),
        ("$-3$", "-3"),
        ("**-1,234.50**", "-1234.5"),
    ],
)
def test_numbers_in_other_clothes(answer: str, gold: str) -> None:
    assert score("corpus_numerical", SAY + answer, [gold]) == 1.0


@pytest.mark.parametrize(("answer", "gold"), [("1 234", "1234"), ("1.234", "1234"), ("5%", "-5"), ("1e400", "1e400")])
def test_numbers_that_stay_doubtful_are_not_right_by_rule(answer: str, gold: str) -> None:
    assert score("corpus_numerical", SAY + answer, [gold]) == 0.0


SIZE = 2**18
HOSTILE = {
    "blanks": " " * SIZE,
    "stars": "*" * SIZE,
    "dashes": "-" * SIZE,
    "digits": "1" * SIZE + "_",
    "groups": "1,111" * (SIZE // 5) + "é",
    "dots": ".5" * (SIZE // 2),
    "boxes": r"\boxed{" * (SIZE // 7),
    "closed boxes": r"\boxed{" * (SIZE // 14) + "}" * (SIZE // 14),
    "openings": "<" * SIZE,
    "spaced tag": "<" + " " * SIZE + "think",
    "the": "the " * (SIZE // 4),
    "the, far off": "the" + " " * SIZE + "end",
    "therefore": "therefore, the answer is " * (SIZE // 25),
    "marks": "a" + "\u0300\u0316" * (SIZE // 2),
    "parentheses": "(" * (SIZE // 2) + ")" * (SIZE // 2),
    "lines": "a\n" * (SIZE // 2),
    "ends": "<|im_end|>" * (SIZE // 10),
    "scales": "1 million " * (SIZE // 10),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_long_text_is_read_in_seconds(name: str) -> None:
    began = time.process_time()
    for task in TASKS:
        for response in (HOSTILE[name], SAY + HOSTILE[name] + " 42"):
            assert 0.0 <= score(task, response, ["42", "B"], answer_prefix="") <= 1.0
    # Ten rewards; any pass that is quadratic takes minutes.
    assert time.process_time() - began < 30


def test_a_long_gold_answer_is_compared_in_time() -> None:
    began = time.process_time()
    assert score("corpus_numerical", SAY + "5", ["5 " + "a" * 5000 + "!"]) == 0.0
    assert score("doc_multi_hop", SAY + "a b " * 100_000, ["a b " * 20_000 + "c"]) == 0.0
    assert time.process_time() - began < 20


def test_wrappers_of_any_depth() -> None:
    for depth in (1, 2, 3, 50, 100_000):
        assert unwrap("*" * depth + "Paris" + "*" * depth) == "Paris"
    assert unwrap("**Paris*") == "*Paris"
    assert unwrap("***") == "*"


@pytest.mark.parametrize(
    ("text", "letter"), [("--- option: (C)", "C"), ("!!! answer D)", "D"), ("choice  e", "E"), ("?" * 100_000, None)]
)
def test_letters_behind_marks(text: str, letter: str | None) -> None:
    assert choice_letter(text) == letter
