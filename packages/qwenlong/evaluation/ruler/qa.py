"""Questions: the paragraphs that answer one, among paragraphs of other questions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

from qwenlong.core import templates
from qwenlong.evaluation.ruler import filler
from qwenlong.evaluation.ruler.draft import PROMPTS, Build, Draft
from qwenlong.evaluation.ruler.sources import Sources


@dataclass(frozen=True)
class Questions:
    """Questions of a data set; each item is one of them, in seeded order."""

    data: Literal["squad", "hotpotqa"]

    def builder(self, rng: Callable[[str], Random], sources: Sources, length: int) -> Build:
        """Return what builds the item; a unit is one more paragraph. Raises DataError without the data set's file."""
        given = sources.need_questions(self.data)
        asked = rng("question").choice(given.questions)
        others = [number for number in range(len(given.paragraphs)) if number not in asked.evidence]
        rng("distractors").shuffle(others)
        # Each paragraph has a place of its own, so that one more does not move the others.
        places = rng("places")
        order = {number: places.random() for number in [*asked.evidence, *others]}
        lead = templates.fill("ruler_qa_lead", {}, PROMPTS)
        instruction = templates.fill("ruler_qa_instruction", {}, PROMPTS)

        def build(size: int, padding: int) -> Draft:
            chosen = sorted([*asked.evidence, *others[:size]], key=order.__getitem__)
            starts, parts, at = [], [], 0
            for number, place in enumerate(chosen, 1):
                parts.append(
                    templates.fill("ruler_qa_paragraph", {"number": number, "text": given.paragraphs[place]}, PROMPTS)
                )
                if place in asked.evidence:
                    starts.append(at)
                at += len(parts[-1]) + 2
            if padding:
                parts.append(" ".join(filler.noise(padding)))
            return Draft(lead, "\n\n".join(parts), asked.text, instruction, asked.answers, tuple(starts))

        return build
