"""When a success without documents is more than guessing."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenlong.core.records import Sample
from qwenlong.rewards import guessing


def sample(number: int, answer: str, choices: tuple[str, ...] = (), template: str = "t@1") -> Sample:
    return Sample(
        id=f"s{number}", task="multiple_choice" if choices else "reading_comprehension", question_type="q",
        question=f"q{number}", instruction="", documents=(), answers=(answer,), choices=choices, category="general",
        source="s", generator="g", template=template, n_tokens=1,
    )  # fmt: skip


# Libraries that other tests load may have switched subnormal numbers off in this process.
CHANCE = st.floats(0, 0.9, allow_subnormal=False)


@given(st.integers(1, 20), CHANCE)
def test_tail_is_a_probability_that_falls(tries: int, chance: float) -> None:
    tails = [guessing.tail(right, tries, chance) for right in range(tries + 2)]
    assert tails[0] == 1 and tails[-1] == 0 and tails == sorted(tails, reverse=True)


@given(st.integers(1, 30), CHANCE, st.floats(0.001, 0.2))
def test_the_bar_is_the_lowest_that_guessing_misses(tries: int, chance: float, alpha: float) -> None:
    bar = guessing.needed(tries, chance, alpha)
    if bar is None:
        assert guessing.tail(tries, tries, chance) > alpha
    else:
        assert guessing.tail(bar, tries, chance) <= alpha
        assert bar == 1 or guessing.tail(bar - 1, tries, chance) > alpha


def test_one_lucky_letter_is_no_proof_and_one_unguessable_answer_is() -> None:
    assert not guessing.answered_blind([1.0, 0.0], 0.25, 0.01)
    assert not guessing.answered_blind([1.0, 1.0], 0.25, 0.01)
    assert guessing.answered_blind([1.0] * 4, 0.25, 0.01)
    assert guessing.answered_blind([0.0, 1.0], 0.0, 0.01)
    assert not guessing.answered_blind([0.0, 0.5], 0.0, 0.01)
    assert not guessing.answered_blind([], 0.0, 0.01)


def test_guessing_costs_at_most_alpha_of_clean_samples() -> None:
    draw = random.Random(1)
    lost = sum(
        guessing.answered_blind([float(draw.random() < 0.25) for _ in range(8)], 0.25, 0.01) for _ in range(20_000)
    )
    assert lost / 20_000 <= 0.01


@pytest.mark.parametrize("gold", "ABCD")
def test_a_model_that_always_says_one_letter_gets_chance(gold: str) -> None:
    made = sample(0, gold, ("w", "x", "y", "z"))
    turned = [guessing.turned(made, number) for number in range(8)]
    assert sum(one.answers[0] == "A" for one in turned) == 2
    for one in turned:
        assert one.choices["ABCD".index(one.answers[0])] == made.choices["ABCD".index(gold)]
        assert sorted(one.choices) == sorted(made.choices)
    assert guessing.turned(sample(1, "words"), 3) == sample(1, "words")


def test_chances() -> None:
    counts = [sample(n, "2" if n < 50 else str(n)) for n in range(100)]
    made = guessing.chances([*counts, sample(200, "B", ("w", "x", "y", "z"))])
    assert made["s200"] == 0.25
    assert made["s0"] == pytest.approx(49 / 104) and made["s99"] == 0
    # Two samples that happen to agree are no rule.
    assert guessing.chances([sample(0, "a"), sample(1, "a")])["s0"] == pytest.approx(0.2)
