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


def _text(draw: random.Random, length: int) -> str:
    """Return text of words: some letters are frequent, and others rare enough to begin blocks in long texts."""
    letters = "eeeeeeettttaaaooiinnsshhrrddlluccmwfgypb" * 6 + "vkjxqzVKJXQZ0123456789"
    words: list[str] = []
    while sum(map(len, words)) + len(words) < length:
        words.append("".join(draw.choices(letters, k=draw.randint(1, 9))))
    return " ".join(words)[:length]


def _edited(draw: random.Random, text: str, share: float) -> str:
    return "".join(draw.choice("xyz ,.") if draw.random() < share else char for char in text)


@pytest.mark.parametrize("seed", range(8))
def test_thousands_of_texts_above_and_below_the_border_of_autojunk(seed: int) -> None:
    """Argument order and the heuristic for popular characters are difflib's own: both change the value."""
    draw = random.Random(seed)
    orders = junk = 0
    for _ in range(250):
        gold = _text(draw, draw.choice((20, 150, 199, 200, 201, 400)))
        other = _text(draw, draw.randint(0, 300))
        said = draw.choice((other, _edited(draw, gold, draw.random() / 2), gold[len(gold) // 2 :] + other))
        expected = SequenceMatcher(None, said, gold).ratio()
        assert ratio(said, gold, small=-1) == ratio(said, gold) == expected
        orders += SequenceMatcher(None, gold, said).ratio() != expected
        junk += SequenceMatcher(None, said, gold, autojunk=False).ratio() != expected
    assert orders > 25 and junk > 25, "the texts tell no wrong order from the right one"


@pytest.mark.parametrize(("gold_length", "said_length"), [(3000, 10_000), (6000, 20_000), (12_000, 12_000)])
def test_texts_of_the_size_of_real_answers(gold_length: int, said_length: int) -> None:
    draw = random.Random(gold_length)
    gold = _text(draw, gold_length)
    copied = _edited(draw, gold * (said_length // gold_length), 0.05)
    for said in (_text(draw, said_length), copied, copied[::-1]):
        assert ratio(said, gold) == SequenceMatcher(None, said, gold).ratio()


@pytest.mark.parametrize("seed", range(3))
def test_long_runs_that_are_equal_are_found_too(seed: int) -> None:
    """All letters alike in number: none is popular, and cores are long."""
    draw = random.Random(seed)
    alphabet = [chr(0x4E00 + n) for n in range(400)]
    gold = "".join(draw.choices(alphabet, k=2500))
    parts = [gold[start : start + draw.choice((3, 17, 40, 200))] for start in draw.choices(range(2500), k=40)]
    said = "".join(parts)
    assert ratio(said, gold, small=-1) == SequenceMatcher(None, said, gold).ratio()


def _worst(gold: str) -> str:
    """Return the answer letter by letter with noise between: as many blocks as letters, each at the front."""
    return "".join(char + "\u2603\u2604" for char in gold) + "\u2605" * 200_000


@pytest.mark.parametrize("said", ["spaced", "junk", "own letters"])
def test_no_response_of_fifty_thousand_tokens_takes_long(said: str) -> None:
    draw = random.Random(5)
    gold = _text(draw, 5000)
    texts = {"spaced": _worst(gold), "junk": "".join(draw.choices("QJXZ#", k=250_000)), "own letters": gold[::-1] * 50}
    began = time.process_time()
    assert 0 <= ratio(texts[said], gold) < 0.2
    assert time.process_time() - began < 10
