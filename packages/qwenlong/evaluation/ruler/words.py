"""Words for keys and lists, numbers and codes, all from a seeded generator."""

from __future__ import annotations

import uuid
from functools import cache
from pathlib import Path
from random import Random

_FOLDER = Path(__file__).parent


@cache
def _list(name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((_FOLDER / f"{name}.txt").read_text(encoding="utf-8").split()))


def key(random: Random) -> str:
    """Return an adjective and a noun, as "quiet-harbour": more than a hundred thousand different ones."""
    return f"{random.choice(_list('adjectives'))}-{random.choice(_list('nouns'))}"


def number(random: Random) -> str:
    """Return a number of seven digits."""
    return str(random.randint(1_000_000, 9_999_999))


def code(random: Random) -> str:
    """Return a UUID."""
    return str(uuid.UUID(int=random.getrandbits(128), version=4))


#: Kinds of keys and values by name.
KINDS = {"words": key, "numbers": number, "uuids": code}


def fresh(kind: str, random: Random, used: set[str]) -> str:
    """Return a word, number or code that is not in `used`, and put it there."""
    while True:
        drawn = KINDS[kind](random)
        if drawn not in used:
            used.add(drawn)
            return drawn


def distinct(random: Random, count: int) -> list[str]:
    """Return so many different words: single ones first, then pairs, then threes, in seeded order."""
    single = sorted({*_list("adjectives"), *_list("nouns")})
    found = random.sample(single, min(count, len(single)))
    used, parts = set(found), 2
    while len(found) < count:
        # Half of all pairs at most are used, so that drawing stays quick.
        if len(found) > len(single) ** parts // 2:
            parts += 1
        word = "-".join(random.choices(single, k=parts))
        if word not in used:
            used.add(word)
            found.append(word)
    return found
