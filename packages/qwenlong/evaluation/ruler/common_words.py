"""Common words: a numbered list in which ten words stand more often than the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from qwenlong.core import templates
from qwenlong.evaluation.ruler import words
from qwenlong.evaluation.ruler.draft import PROMPTS, Build, Draft
from qwenlong.evaluation.ruler.sources import Sources


@dataclass(frozen=True)
class CommonWords:
    """How often a common and any other word stands there."""

    common: int = 30
    other: int = 3
    n_common: int = 10
    #: Tokens below which the list would hold common words only: repeats are 6 and 1 then, as in RULER.
    short: int = 4096

    def builder(self, rng: Callable[[str], Random], sources: Sources, length: int) -> Build:
        """Return what builds the item, with a short worked example of other words before it."""
        known: list[str] = []
        often, seldom = (self.common, self.other) if length >= self.short else (6, 1)

        def vocabulary(count: int) -> list[str]:
            # Drawn anew when too short: the first words of a longer draw are the same.
            if len(known) < count:
                known[:] = words.distinct(rng("words"), 2 * count)
            return known[:count]

        taken = vocabulary(2 * self.n_common + 10)
        answer, spare = taken[: self.n_common], taken[self.n_common :]
        example = spare[: self.n_common], spare[self.n_common :]
        shown, _ = _listed(*example, 6, 1, rng("example"))
        worked = templates.fill(
            "ruler_cwe_example",
            {"context": shown, "question": _question(self.n_common), "answer": ", ".join(example[0])},
            PROMPTS,
        )

        def build(size: int, padding: int) -> Draft:
            rest = vocabulary(len(taken) + size)[len(taken) :]
            context, places = _listed(answer, rest, often, seldom, rng("order"))
            instruction = templates.fill("ruler_list", {}, PROMPTS)
            return Draft(worked, context, _question(self.n_common), instruction, tuple(answer), places)

        return build


def _question(count: int) -> str:
    return templates.fill("ruler_cwe_question", {"count": count}, PROMPTS)


def _listed(
    common: list[str], others: list[str], often: int, seldom: int, random: Random
) -> tuple[str, tuple[int, ...]]:
    """Return the shuffled list, numbered from 1, and where each common word stands first."""
    drawn = common * often + others * seldom
    random.shuffle(drawn)
    parts = [f"{number}. {word}" for number, word in enumerate(drawn, 1)]
    first: dict[str, int] = {}
    at = 0
    for word, part in zip(drawn, parts, strict=True):
        first.setdefault(word, at)
        at += len(part) + 1
    return " ".join(parts), tuple(sorted(first[word] for word in common))
