"""Retrospective sampling: solved samples go, hard earlier ones stay more often, no task disappears."""

from __future__ import annotations

import random

import pytest

from qwenlong.core.errors import DataError
from qwenlong.core.records import Difficulty, Sample
from qwenlong.training.curriculum import select, weight


def sample(name: str, pass_at_k: float | None, task: str = "reading_comprehension", k: int = 4) -> Sample:
    return Sample(
        id=name,
        task=task,
        question_type="fact",
        question="q",
        instruction="",
        documents=("d",),
        answers=("x",),
        category="general",
        source="s",
        generator="g",
        template="t@1",
        n_tokens=1,
        difficulty=None if pass_at_k is None else Difficulty(pass_at_k=pass_at_k, k=k, model="base"),
    )


def test_solved_leave_and_new_ones_stay() -> None:
    samples = [sample("a", 1.0), sample("b", 0.5), sample("c", 0.0)]
    chosen = select(samples, (), solved_above=0.99, carry_share=0.5, seed=1)
    assert [s.id for s in chosen.samples] == ["b", "c"]
    assert (chosen.solved, chosen.carried, chosen.left_behind) == (["a"], [], [])


def test_share_of_earlier_samples_is_carried() -> None:
    samples = [sample(f"x{n}", 0.5) for n in range(11)]
    chosen = select(samples, {f"x{n}" for n in range(5)}, solved_above=0.99, carry_share=0.5, seed=1)
    assert (len(chosen.carried), len(chosen.left_behind), len(chosen.samples)) == (3, 2, 9)
    everything = select(samples, {s.id for s in samples}, solved_above=0.99, carry_share=1.0, seed=1)
    assert len(everything.samples) == 11


def test_weights_are_the_inverse_mean_reward() -> None:
    assert weight(sample("a", 0.25)) == 4.0
    assert weight(sample("a", 0.0, k=4)) == 8.0
    # Probability to be carried follows the weight: one of two, four times as heavy.
    heavy = 0
    for seed in range(400):
        pair = [sample("easy", 0.8), sample("hard", 0.2)]
        heavy += select(pair, {"easy", "hard"}, solved_above=0.99, carry_share=0.5, seed=seed).carried == ["hard"]
    assert heavy / 400 == pytest.approx(0.8, abs=0.06)


def test_every_task_keeps_its_hardest() -> None:
    samples = [
        sample("a", 1.0, "multiple_choice"),
        sample("b", 0.995, "multiple_choice"),
        sample("c", 0.5, "doc_multi_hop"),
        sample("d", 0.1, "corpus_numerical"),
    ]
    chosen = select(samples, {"c", "d"}, solved_above=0.99, carry_share=0.0, seed=1)
    assert [s.id for s in chosen.samples] == ["b", "c", "d"]
    assert chosen.kept_although_solved == ["b"]
    assert (chosen.carried, chosen.left_behind) == (["c", "d"], [])


def test_order_does_not_matter_and_seed_does() -> None:
    samples = [sample(f"x{n}", n % 4 / 4) for n in range(60)]
    shuffled = samples[:]
    random.Random(0).shuffle(shuffled)
    names = {s.id for s in samples}

    def ids(items: list[Sample], seed: int) -> set[str]:
        return {s.id for s in select(items, names, solved_above=0.99, carry_share=0.5, seed=seed).samples}

    assert ids(samples, 1) == ids(shuffled, 1) != ids(samples, 2)


def test_sample_without_difficulty_is_named() -> None:
    with pytest.raises(DataError, match="sample z has no difficulty"):
        select([sample("z", None)], (), solved_above=0.99, carry_share=0.5, seed=1)
