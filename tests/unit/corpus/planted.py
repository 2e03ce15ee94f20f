"""Texts with known similarity, and the plain reference that the fast code is held against."""

from __future__ import annotations

import random
import re

from qwenlong.core.records import Document


def document(name: str, text: str, **values: object) -> Document:
    """Return a document of this text."""
    return Document.model_validate(
        {"id": name, "source": "s", "category": "general", "title": "X", "text": text, "n_tokens": 0, "licence": "MIT"}
        | values
    )


def prose(rng: random.Random, count: int) -> list[str]:
    """Return words, drawn from a vocabulary of 3,000 with the frequencies of a language."""
    return [f"w{min(2999, int(rng.paretovariate(0.6)))}" for _ in range(count)]


def shingles(text: str) -> set[str]:
    """Return the 5-word shingles as strings."""
    words = re.findall(r"\w+", text.lower())
    return {" ".join(words[n : n + 5]) for n in range(max(1, len(words) - 4))}


def jaccard(left: str, right: str) -> float:
    """Return the true similarity."""
    one, other = shingles(left), shingles(right)
    return len(one & other) / len(one | other)


def near_copy(rng: random.Random, words: list[str], least: float) -> list[str]:
    """Return a copy with some words replaced, as many as keep a similarity of `least`."""
    copy = list(words)
    while True:
        changed = list(copy)
        changed[rng.randrange(len(changed))] = f"x{rng.randrange(10**6)}"
        if jaccard(" ".join(words), " ".join(changed)) < least:
            return copy
        copy = changed


def corpus(seed: int = 0, clean: int = 1000, copies: int = 50) -> list[Document]:
    """Return clean documents `a…` and near duplicates `n…` (similarity of 0.8 or little more) of the first ones."""
    rng = random.Random(seed)
    texts = [prose(rng, rng.randint(150, 400)) for _ in range(clean)]
    made = [document(f"a{n:04d}", " ".join(text)) for n, text in enumerate(texts)]
    twins = [" ".join(near_copy(rng, text, 0.8)) for text in texts[:copies]]
    assert all(0.8 <= jaccard(made[n].text, twin) < 0.85 for n, twin in enumerate(twins))
    return [*made, *(document(f"n{n:04d}", twin.title()) for n, twin in enumerate(twins))]
