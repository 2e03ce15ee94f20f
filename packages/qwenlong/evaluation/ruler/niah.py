"""Needles in a haystack: sentences that give a key a value, among filler or among other such sentences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

from qwenlong.core import templates
from qwenlong.evaluation.ruler import filler, words
from qwenlong.evaluation.ruler.draft import PROMPTS, Build, Draft
from qwenlong.evaluation.ruler.sources import Sources

#: Depths at which needles may lie, shares of the haystack.
DEPTHS = tuple(step / 39 for step in range(40))


@dataclass(frozen=True)
class Niah:
    """Kinds of haystack, keys and values, and how many of them, as RULER's suite sets them."""

    haystack: Literal["noise", "essay", "needle"]
    keys: str = "words"
    values: str = "numbers"
    n_keys: int = 1
    n_values: int = 1
    n_queries: int = 1

    def builder(self, rng: Callable[[str], Random], sources: Sources, length: int) -> Build:
        """Return what builds the item; `rng` gives the same generator for the same name. Raises DataError."""
        prose = sources.need_prose() if self.haystack == "essay" else None
        random, used = rng("needles"), set[str]()
        keys = [words.fresh(self.keys, random, used) for _ in range(max(self.n_keys, self.n_queries))]
        values = [[words.fresh(self.values, random, used) for _ in range(self.n_values)] for _ in keys]
        needles = [self._needle(key, value) for key, group in zip(keys, values, strict=True) for value in group]
        random.shuffle(needles)
        depths = sorted(random.sample(DEPTHS, len(needles)))
        asked = random.sample(range(len(keys)), self.n_queries)
        outputs = tuple(value for number in asked for value in values[number])
        chosen = {self._needle(keys[number], value) for number in asked for value in values[number]}
        start = rng("start").randrange(prose.n_sentences) if prose is not None else 0
        others, distractors = rng("distractors"), list[str]()

        def hay(size: int) -> list[str]:
            if self.haystack == "noise":
                return filler.noise(size)
            if prose is not None:
                return prose.take(start, size)
            while len(distractors) < size:
                drawn = (words.fresh(kind, others, used) for kind in (self.keys, self.values))
                distractors.append(self._needle(*drawn))
            return distractors[:size]

        lead, question = self._asking([keys[number] for number in asked])

        def build(size: int, padding: int) -> Draft:
            parts = hay(size)
            join = "\n" if self.haystack == "needle" else " "
            places = []
            for back, depth in enumerate(depths):
                places.append(round(depth * (len(parts) - back)) + back)
                parts.insert(places[-1], needles[back])
            starts = [0]
            for part in parts:
                starts.append(starts[-1] + len(part) + len(join))
            found = tuple(starts[place] for place, needle in zip(places, needles, strict=True) if needle in chosen)
            context = join.join(parts + ([" ".join(filler.noise(padding))] if padding else []))
            return Draft(lead, context, question, templates.fill("ruler_list", {}, PROMPTS), outputs, found)

        return build

    def _needle(self, key: str, value: str) -> str:
        kind = self.values.removesuffix("s")
        return templates.fill("ruler_needle", {"kind": kind, "key": key, "value": value}, PROMPTS)

    def _asking(self, keys: list[str]) -> tuple[str, str]:
        several = self.n_queries * self.n_values > 1
        kind = self.values if several else self.values.removesuffix("s")
        named = keys[0] if len(keys) == 1 else f"{', '.join(keys[:-1])} and {keys[-1]}"
        wording = "several" if several else "one"
        return (
            templates.fill(f"ruler_niah_lead_{wording}", {"kind": kind}, PROMPTS),
            templates.fill(f"ruler_niah_question_{wording}", {"kind": kind, "keys": named}, PROMPTS),
        )


#: The tasks of the standard suite.
TASKS = {
    "niah_single_1": Niah("noise"),
    "niah_single_2": Niah("essay"),
    "niah_single_3": Niah("essay", values="uuids"),
    "niah_multikey_1": Niah("essay", n_keys=4),
    "niah_multikey_2": Niah("needle"),
    "niah_multikey_3": Niah("needle", keys="uuids", values="uuids"),
    "niah_multivalue": Niah("essay", n_values=4),
    "niah_multiquery": Niah("essay", n_queries=4),
}
