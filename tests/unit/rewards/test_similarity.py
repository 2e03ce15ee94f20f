"""The needle score is difflib's own, however long the response."""

from __future__ import annotations

import random
import time
from difflib import SequenceMatcher

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenlong.rewards.rules import score
from qwenlong.rewards.similarity import ratio

ALPHABETS = ("ab", "abcde", "the quick Brown fox, 12")


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from(ALPHABETS))
def test_blocks_are_those_of_difflib(data: st.DataObject, alphabet: str) -> None:
    gold = data.draw(st.text(alphabet, max_size=60))
    given_ = data.draw(st.one_of(st.text(alphabet, max_size=60), st.just(gold[::2] + gold[:9])))
    if given_ or gold:
        assert ratio(given_, gold, small=-1) == SequenceMatcher(None, given_, gold).ratio()


@pytest.mark.parametrize("alphabet", ALPHABETS)
@pytest.mark.parametrize("seed", range(30))
def test_and_where_difflib_leaves_out_popular_characters(alphabet: str, seed: int) -> None:
    draw = random.Random(seed)
    gold = "".join(draw.choice(alphabet + "QXZ"[: seed % 4]) for _ in range(draw.randint(190, 400)))
    edited = "".join(draw.choice(alphabet) if draw.random() < 0.1 else char for char in gold)
    for given_ in (edited, gold[50:] + edited[:80], "".join(draw.choice(alphabet) for _ in range(500))):
        assert ratio(given_, gold, small=-1) == SequenceMatcher(None, given_, gold).ratio()


@pytest.mark.parametrize("loop", ["ha ", "Hello there, friend. ", "e"])
def test_a_response_of_fifty_thousand_tokens_that_repeats_itself(loop: str) -> None:
    message = "Hello there, friend. The heat has reached the harbour at last; are you here?" * 2
    said = "ab12: " + loop * (200_000 // len(loop))
    began = time.process_time()
    found = score("dialogue_memory", said, [f"ab12: {message}"], answer_prefix="ab12:")
    assert time.process_time() - began < 10
    assert 0 < found <= 2 * len(message) / (len(message) + len(said) - 6)
