"""Dialogues, prose and a real tokenizer for the needle benchmarks."""

from __future__ import annotations

import random
from pathlib import Path

from qwenlong.core.records import Document
from qwenlong.core.tokens import Tokenizer

#: The tokenizer that comes with a clone.
NANO = Path(__file__).resolve().parents[3] / "models" / "nano"
_WORDS = ("river", "stone", "garden", "music", "winter", "letter", "window", "bread", "island", "doctor", "candle")


def tokenizer() -> Tokenizer:
    """Return the nano model's tokenizer, chat template included."""
    return Tokenizer(NANO)


def sentence(draw: random.Random) -> str:
    """Return a short sentence."""
    return " ".join(draw.choices(_WORDS, k=draw.randint(4, 12))).capitalize() + "."


def dialogues(count: int = 60, seed: int = 0) -> list[Document]:
    """Return dialogues on twelve subjects in the form of the chat corpus."""
    draw = random.Random(seed)
    found = []
    for number in range(count):
        lines = [f"{'AB'[turn % 2]}: {sentence(draw)}" for turn in range(draw.randint(6, 30))]
        found.append(
            Document(
                id=f"chat/{number:03d}",
                source="chat",
                category="dialogue",
                title=f"Conversation {number}",
                text="\n".join(lines),
                n_tokens=0,
                metadata={"kind": "dialogue", "prompt": f"Subject {number % 12}?"},
                licence="MIT",
            )
        )
    return found


def prose(count: int = 400, seed: int = 0) -> str:
    """Return a text of so many sentences."""
    draw = random.Random(seed)
    return " ".join(sentence(draw) for _ in range(count))
