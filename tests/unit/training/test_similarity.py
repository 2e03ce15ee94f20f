"""ROUGE-L of right against wrong rollouts, against the plain recursion and hand-computed pairs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenlong.training import similarity
from qwenlong.training.rollout_log import Record


def longest(one: list[str], other: list[str]) -> int:
    """The longest common subsequence by the textbook's table."""
    row = [0] * (len(other) + 1)
    for a in one:
        left = 0
        for n, b in enumerate(other):
            row[n + 1], left = (left + 1 if a == b else max(row[n + 1], row[n])), row[n + 1]
    return row[-1]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from("abcd"), max_size=80), st.lists(st.sampled_from("abcde"), max_size=80))
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(one: list[str], other: list[str]) -> None:
    value = similarity.rouge_l(one, other)
    if not one or not other:
        assert value == 0.0
        return
    common = longest(one, other)
    precision, recall = common / len(other), common / len(one)
    assert value == pytest.approx(2 * precision * recall / (precision + recall) if common else 0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("one", "other", "value"),
    [
        ("The cat sat on the mat.", "the cat_was on mat", 2 * 4 / (6 + 5)),
        ("Therefore, the answer is 42.", "Therefore, I think the answer is 43, not 42.", 2 * 5 / (5 + 9)),
        ("A1 b2, c3! d4", "d4 c3 b2 a1", 2 * 1 / 8),
        ("...", "the", 0.0),
    ],
)
def test_words_are_those_of_the_published_measure(one: str, other: str, value: float) -> None:
    """The values of rouge-score 0.1.2, which agrees to 1e-15 on 361 pairs like these."""
    assert similarity.rouge_l(similarity.words(one), similarity.words(other)) == pytest.approx(value)


def rollout(uid: str, number: int, reward: float, text: str | None, turn: int = 0, **values) -> Record:
    made = Record(
        step=1, uid=uid, sample=uid, task="doc_multi_hop", rollout=number, turn=turn, n_prompt_tokens=100,
        n_response_tokens=9, truncated=False, reward=reward, dropped=False, judged=False, advantage=0.0, entropy=0.1,
        masked=False, masked_tokens=0, sha256="", text=text,
    )  # fmt: skip
    return replace(made, **values)


def test_pairs_are_right_and_wrong_rollouts_of_one_prompt() -> None:
    rows = [
        rollout("a", 0, 1.0, "one two three four"),
        rollout("a", 1, 0.0, "one two five six"),  # with 0: 2·2/8
        rollout("a", 2, 0.4, "seven"),  # with 0: 0
        rollout("a", 3, 1.0, "never", dropped=True),
        rollout("b", 0, 0.0, "one two three four"),  # nobody is right
        rollout("c", 0, 0.5, "x y", task="dialogue_memory", n_prompt_tokens=300),
        rollout("c", 1, 0.0, "x", turn=0, task="dialogue_memory", n_prompt_tokens=10),
        rollout("c", 1, 0.0, "y", turn=1, task="dialogue_memory", n_prompt_tokens=20),  # both turns: x y, with 0: 1
        rollout("d", 0, 1.0, None),
        rollout("d", 1, 0.0, "one"),
    ]
    found = similarity.measure(lambda: iter(rows), seed=1)
    assert found["tasks"] == {
        "dialogue_memory": {"rouge_l": 1.0, "pairs": 1, "pairs_there": 1, "prompts": 1, "prompt_tokens": 300.0},
        "doc_multi_hop": {"rouge_l": 0.25, "pairs": 2, "pairs_there": 2, "prompts": 1, "prompt_tokens": 100.0},
    }
    assert found["all"] == {
        "rouge_l": 0.5, "pairs": 3, "pairs_there": 3, "prompts": 2, "prompt_tokens": pytest.approx(500 / 3)
    }  # fmt: skip
    assert similarity.metrics(found)["rouge_l/doc_multi_hop/mean"] == 0.25
    assert similarity.metrics(found)["rouge_l/all/pairs"] == 3


def test_without_pairs_there_is_nothing() -> None:
    found = similarity.measure(lambda: iter([rollout("a", 0, 1.0, "x"), rollout("b", 0, 0.0, "x")]), seed=1)
    assert found == {"tasks": {}, "all": None} == similarity.measure(lambda: iter([]), seed=1)
    assert similarity.metrics(found) == {}


def test_the_seed_chooses_among_many_pairs() -> None:
    rows = [
        rollout(f"p{n:02}", r, float(r % 2), " ".join("abcdefg"[(n * r) % 7 :])) for n in range(10) for r in range(6)
    ]
    found = [similarity.measure(lambda: iter(rows), seed, max_pairs=12)["tasks"]["doc_multi_hop"] for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]
    assert all(entry["pairs"] == 12 and entry["pairs_there"] == 90 for entry in found)
    whole = similarity.measure(lambda: iter(rows), 1)["tasks"]["doc_multi_hop"]
    assert whole["pairs"] == 90 and whole["prompts"] == 10
