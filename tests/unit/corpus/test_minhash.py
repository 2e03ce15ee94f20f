"""MinHash against the plain definitions."""

from __future__ import annotations

import hashlib
import os
import random
import re
import subprocess
import sys

import numpy as np
import planted
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenlong.corpus import dedup, minhash, words

PINNED = ["0x2f880faa57f7a75a", "0xd9721962e8f52270"]
CODE = """
import sys; sys.path.insert(0, {tests!r})
import hashlib, planted
from qwenlong.corpus import minhash
texts = [d.text for d in planted.corpus(1, 50, 5)]
print(hashlib.sha256(minhash.sign(texts, 5).tobytes()).hexdigest(), sorted(minhash.find_twins(texts, 0.8, 5).items()))
"""


@given(st.text(max_size=200))
@settings(max_examples=300, deadline=None)
def test_words_are_what_the_pattern_finds(text):
    assert [word.decode() for word in words.plain(text).split()] == re.findall(r"\w+", text.lower())


@pytest.mark.parametrize(
    "text", ["don’t", "naïve café", "Ünïcode—dash", "日本語 テキスト", "İstanbul", "a\x00b\x1fc_d", "\ud800x"]
)
def test_words_of_other_scripts(text):
    assert [word.decode() for word in words.plain(text).split()] == re.findall(r"\w+", text.lower())


@given(st.lists(st.text(alphabet="ab é\n", max_size=120), max_size=8), st.sampled_from([3, 16, 100]))
@settings(deadline=None)
def test_hashes_do_not_depend_on_how_text_is_cut(texts, piece):
    def one(word):
        return int(words.hashes(word)[0])

    expected = [[one(word) for word in words.plain(text).split()] for text in texts]
    short = {one(b"a" * 30)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "BLOCK", 40)
        found = [
            block[begin:end].tolist()
            for block, starts in words.blocks(texts, 2)
            for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
        ]
        assert [[*known, *[int(words._FILL)] * (2 - len(known))] for known in expected] == found
        # In small pieces words from `piece` bytes on have another hash; where they stand changes nothing.
        patch.setattr(words, "PIECE", piece)
        small = [[one(word) for word in words.plain(text).split()] for text in texts]
        assert small == [words.text_hashes(text).tolist() for text in texts]
        assert (one(b"a" * 30) in short) == (piece > 30)


def test_equal_words_have_equal_hashes_and_others_do_not():
    rng = random.Random(0)
    # Anagrams, prefixes and neighbours are what a weak polynomial confuses.
    made = {"".join(rng.choices("ab", k=rng.randint(1, 24))) for _ in range(40_000)}
    made |= {"x" * n for n in range(1, 3000, 7)}
    found = words.hashes(" ".join(sorted(made)).encode())
    assert len(np.unique(found)) == len(made)
    assert len(np.unique(found >> np.uint64(40))) > 0.99 * len(made)
    # The same on every machine and in every version: shards that were signed yesterday are compared with today's.
    assert [hex(value) for value in words.hashes(b"word other").tolist()] == PINNED


def test_one_endless_word():
    data = words.plain("x" * 200_000 + " y")
    assert len(words.hashes(data)) == 2
    assert words.hashes(b"a " + data)[1:].tolist() == words.hashes(data).tolist()


@given(st.lists(st.text(alphabet="ab c", max_size=80), min_size=1, max_size=5))
@settings(deadline=None)
def test_sets_have_the_similarity_of_the_strings(texts):
    for left in texts:
        for right in texts:
            found = minhash.jaccard(minhash.shingle_set(left), minhash.shingle_set(right))
            assert found == pytest.approx(planted.jaccard(left, right))


@given(st.integers(0, 2**63 - 1), st.integers(100, 400), st.floats(0, 1, allow_subnormal=False))
@settings(max_examples=60, deadline=None)
def test_estimates_are_near_the_truth(seed, count, share):
    rng = random.Random(seed)
    left = planted.prose(rng, count)
    right = left[: int(count * share)] + planted.prose(rng, count - int(count * share))
    left_text, right_text = " ".join(left), " ".join(right)
    one, other = minhash.sign([left_text, right_text], seed)
    true = planted.jaccard(left_text, right_text)
    # Six standard errors, and what two values in 128 are worth.
    assert abs(minhash.estimate(one, other) - true) <= 6 * (true * (1 - true) / 128) ** 0.5 + 2 / 128


def test_estimates_have_no_bias_and_the_spread_of_independent_permutations():
    rng = random.Random(7)
    errors, expected = [], []
    for seed in range(300):
        left = planted.prose(rng, 200)
        right = left[:150] + planted.prose(rng, 50)
        texts = " ".join(left), " ".join(right)
        true = planted.jaccard(*texts)
        errors.append(float(minhash.estimate(*minhash.sign(texts, seed))) - true)
        expected.append(true * (1 - true) / 128)
    spread = float(np.mean(expected)) ** 0.5
    assert abs(np.mean(errors)) < 4 * spread / 300**0.5
    assert 0.85 < np.std(errors) / spread < 1.15


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.7, 0.8, 0.9, 0.99, 1.0])
def test_banding_misses_one_in_ten_thousand_at_most(threshold):
    bands, rows = minhash.banding(threshold)
    assert bands * rows <= minhash.PERMUTATIONS
    assert (1 - threshold**rows) ** bands <= minhash.MISS or rows == 1
    if rows < minhash.PERMUTATIONS:
        assert (1 - threshold ** (rows + 1)) ** (minhash.PERMUTATIONS // (rows + 1)) > minhash.MISS


def test_fifty_near_duplicates_are_all_caught_and_no_clean_document():
    documents = planted.corpus()
    kept, dropped = dedup.near(documents, 0.8, seed=5)
    assert [(d.id, twin) for d, twin in dropped] == [(f"n{n:04d}", f"a{n:04d}") for n in range(50)]
    assert [d.id for d in kept] == [f"a{n:04d}" for n in range(1000)]


def test_what_is_kept_is_what_comparing_all_pairs_keeps():
    rng = random.Random(2)
    base = planted.prose(rng, 120)
    family = [" ".join(planted.near_copy(rng, base, rng.uniform(0.6, 0.95))) for _ in range(40)]
    documents = [planted.document(f"d{n:02d}", text) for n, text in enumerate(family)]
    kept: list = []
    twins = []
    for document in documents:
        twin = next((k for k in kept if planted.jaccard(k.text, document.text) >= 0.8), None)
        if twin is None:
            kept.append(document)
        else:
            twins.append((document.id, twin.id))
    found, dropped = dedup.near(documents, 0.8, seed=9)
    assert [d.id for d in found] == [d.id for d in kept]
    assert [(d.id, twin) for d, twin in dropped] == twins
    rng.shuffle(documents)
    assert dedup.near(documents, 0.8, seed=9) == (found, dropped)


def test_short_and_empty_texts():
    texts = ["", "a", "a b", "", "A, b!", "b a", "a b c d", "a b c d e", "...", "a b c d e"]
    documents = [planted.document(f"d{n}", text) for n, text in enumerate(texts)]
    assert [(d.id, twin) for d, twin in dedup.near(documents, 0.8, 1)[1]] == [
        ("d3", "d0"),
        ("d4", "d2"),
        ("d8", "d0"),
        ("d9", "d7"),
    ]
    assert dedup.near([], 0.8, 1) == ([], [])
    assert minhash.sign([], 1).shape == (0, minhash.PERMUTATIONS)


def test_a_crowded_bucket_takes_no_more(monkeypatch):
    monkeypatch.setattr(minhash, "BUCKET", 3)
    head = " ".join(f"w{n}" for n in range(60))
    texts = [head + "".join(f" y{n}_{m}" for m in range(60)) for n in range(30)]
    assert minhash.find_twins([*texts, texts[0]], 0.8, 1) == {30: 0}


def test_sets_are_remembered_up_to_a_limit():
    made = []

    def make(number: int) -> words.Hashes:
        made.append(number)
        return np.arange(number, number + 10, dtype=np.uint64)

    remembered = minhash.Remembered(make, limit=25)
    for number in (1, 2, 1, 3, 1, 2):
        assert remembered(number)[0] == number
    assert made == [1, 2, 3, 2]


@pytest.mark.parametrize("hash_seed", ["0", "17"])
def test_the_hash_seed_changes_nothing(root, hash_seed):
    code = CODE.format(tests=str(root / "tests" / "unit" / "corpus"))
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root / "packages")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    texts = [d.text for d in planted.corpus(1, 50, 5)]
    digest = hashlib.sha256(minhash.sign(texts, 5).tobytes()).hexdigest()
    assert done.stdout.split(" ", 1) == [digest, f"{sorted(minhash.find_twins(texts, 0.8, 5).items())}\n"]
    assert len(minhash.find_twins(texts, 0.8, 5)) == 5
