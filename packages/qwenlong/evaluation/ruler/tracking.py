"""Variable tracking: a chain of assignments among filler; all variables that end up with a value are asked for."""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from qwenlong.core import templates
from qwenlong.evaluation.ruler import filler
from qwenlong.evaluation.ruler.draft import PROMPTS, Build, Draft
from qwenlong.evaluation.ruler.sources import Sources

#: Sentences of filler in the worked example.
_EXAMPLE = 15


@dataclass(frozen=True)
class Tracking:
    """Chains of `hops` assignments of one variable to the next; the first chain is asked for."""

    chains: int = 1
    hops: int = 4

    def builder(self, rng: Callable[[str], Random], sources: Sources, length: int) -> Build:
        """Return what builds the item, with a worked example of three-letter variables before it."""
        used: set[str] = set()
        names, value, lines = self._chains(rng("chains"), 5, self.chains, self.hops, used)
        places = rng("places")
        depths = sorted(places.random() for _ in lines)
        example_names, example_value, example = self._chains(rng("example"), 3, 1, self.hops, used)
        where = sorted(rng("example places").random() for _ in example)
        shown, _ = _mixed(example, where, _EXAMPLE)
        worked = templates.fill(
            "ruler_vt_example",
            {"context": shown, "question": _question(example_value), "answer": ", ".join(example_names)},
            PROMPTS,
        )

        def build(size: int, padding: int) -> Draft:
            context, starts = _mixed(lines, depths, size)
            found = tuple(start for start, line in zip(starts, lines, strict=True) if line.split()[1] in names)
            return Draft(
                worked, context, _question(value), templates.fill("ruler_list", {}, PROMPTS), tuple(names), found
            )

        return build

    def _chains(
        self, random: Random, letters: int, chains: int, hops: int, used: set[str]
    ) -> tuple[list[str], str, list[str]]:
        """Return the variables and value of the first chain, and the lines of all, each chain's in order."""
        first, value, queues = [], "", []
        values = random.sample(range(10_000, 100_000), chains)
        for number in range(chains):
            names: list[str] = []
            while len(names) <= hops:
                name = "".join(random.choices(string.ascii_uppercase, k=letters))
                if name not in used:
                    used.add(name)
                    names.append(name)
            if number == 0:
                first, value = names, str(values[0])
            lines = [f"LET {names[0]} = {values[number]}"]
            queues.append(lines + [f"LET {two} = {one}" for one, two in zip(names, names[1:], strict=False)])
        order = [number for number, queue in enumerate(queues) for _ in queue]
        random.shuffle(order)
        iterators = [iter(queue) for queue in queues]
        return first, value, [next(iterators[number]) for number in order]


def _question(value: str) -> str:
    return templates.fill("ruler_vt_question", {"value": value}, PROMPTS)


def _mixed(lines: list[str], depths: list[float], size: int) -> tuple[str, tuple[int, ...]]:
    """Return filler with the lines at their depths, in order, and where each line starts."""
    parts = filler.noise(size)
    for back, (depth, line) in enumerate(zip(depths, lines, strict=True)):
        parts.insert(round(depth * (len(parts) - back)) + back, line)
    wanted, starts, at = set(lines), [], 0
    for part in parts:
        if part in wanted:
            starts.append(at)
        at += len(part) + 1
    return "\n".join(parts), tuple(starts)
