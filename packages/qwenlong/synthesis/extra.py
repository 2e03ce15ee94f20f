"""Candidates from files (of agents, of NL2SQL): let in where the documents still bear them out, then like any other."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from qwenlong.core.records import Document
from qwenlong.core.templates import render_choices
from qwenlong.synthesis import choice
from qwenlong.synthesis.agents import plain
from qwenlong.synthesis.candidates import Candidate
from qwenlong.synthesis.decontaminate import Seen
from qwenlong.synthesis.pool import Pool

#: Why a candidate of a file is refused, in the order in which it is looked at.
REASONS = (
    "task_off",
    "malformed",
    "no_document",
    "heldout_document",
    "no_quotes",
    "ungrounded",
    "repeated",
)
#: Templates whose answer follows from the quotes without standing in one.
FREE = ("mase_viewpoint", "mase_in_context_learning")
_TEMPLATE = re.compile(r"[a-z][a-z0-9_]*@\d+")


class Extra:
    """Candidates of one run by task, as templates that take turns with those of the rules.

    Refused and counted by reason: a task that is off, a form that no sample of its task has (options, prefix, a
    template name of the rules), evidence that is not in the corpus or on its held-out side, quotes that do not stand
    at their spans, a question that stands there twice. The others are offered to the training samples; at most
    `share` of a task's samples are theirs.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        train: Sequence[Document],
        heldout: Sequence[Document],
        tasks: Collection[str],
        reserved: Collection[str],
        share: float,
    ) -> None:
        shown, hidden = {d.id: d for d in train}, {d.id for d in heldout}
        self._share = share
        self._given, self.refused = len(candidates), Counter[str]()
        self._by_task: dict[str, dict[str, list[Candidate]]] = {}
        self._admitted: Counter[str] = Counter()
        self._kept: Counter[str] = Counter()
        self._decided: set[tuple[str, str]] = set()
        self._pending: list[tuple[str, str]] = []
        asked: set[tuple[str, str]] = set()
        # In an order of their own: which file a candidate stood in decides nothing.
        for one in sorted(candidates, key=lambda c: (c.task, c.template, c.question, c.answers, repr(c.evidence))):
            why = _fault(one, tasks, reserved, shown, hidden)
            if why is None and (one.task, _asked(one)) in asked:
                why = "repeated"
            if why is not None:
                self.refused[why] += 1
                continue
            asked.add((one.task, _asked(one)))
            self._admitted[one.template] += 1
            self._by_task.setdefault(one.task, {}).setdefault(one.template, []).append(one)

    def templates(self, task: str, wanted: int, seen: Seen) -> dict[str, Callable[[Pool], Iterator[Candidate]]]:
        """Return the task's candidates as templates; `seen` knows the training questions that were kept so far.

        Candidates whose evidence does not fit a pool's budget wait for one that is larger.
        """
        most = math.floor(wanted * self._share)
        return {
            name: partial(self._offer, candidates, most, seen)
            for name, candidates in self._by_task.get(task, {}).items()
        }

    def _offer(self, candidates: Sequence[Candidate], most: int, seen: Seen, pool: Pool) -> Iterator[Candidate]:
        for one in pool.shuffled(candidates, "extra", candidates[0].template):
            asked = _asked(one)
            self._settle(one.task, seen)
            if self._kept[one.task] >= most:
                return
            # Kept at a shorter length already, or too long for this one.
            if (one.task, asked) in self._decided or not pool.fits(one.documents):
                continue
            if not seen.repeats(asked):
                self._pending.append((one.task, asked))
            yield one

    def _settle(self, task: str, seen: Seen) -> None:
        """Count what was kept of all that was offered: before the next offer each of them has been decided."""
        for of_task, asked in self._pending:
            if of_task == task and seen.repeats(asked):
                self._kept[task] += 1
                self._decided.add((task, asked))
        self._pending.clear()

    def report(self, kept: Mapping[str, int]) -> dict[str, Any]:
        """Return how many were given, refused by reason, let in and kept, by template; given = refused + let in."""
        return {
            "given": self._given,
            "refused": {reason: self.refused[reason] for reason in REASONS if self.refused[reason]},
            "admitted": {name: self._admitted[name] for name in sorted(self._admitted)},
            "kept": {name: kept.get(name, 0) for name in sorted(self._admitted)},
        }


def _asked(one: Candidate) -> str:
    return f"{one.question}\n{render_choices(one.choices)}".strip()


def _fault(
    one: Candidate,
    tasks: Collection[str],
    reserved: Collection[str],
    shown: Mapping[str, Document],
    hidden: Collection[str],
) -> str | None:
    if one.task not in tasks:
        return "task_off"
    name = one.template.partition("@")[0]
    # Under a template of the rules it would pass for computed, and be counted as theirs.
    if not _TEMPLATE.fullmatch(one.template) or name in reserved or not _well_formed(one):
        return "malformed"
    for span in one.evidence:
        if span.document not in shown:
            return "heldout_document" if span.document in hidden else "no_document"
    if len(one.quotes) != len(one.evidence):
        return "no_quotes"
    for span, quote in zip(one.evidence, one.quotes, strict=True):
        if not quote.strip() or shown[span.document].text[span.start : span.end] != quote:
            return "ungrounded"
    return None if _answer_stands(one) else "ungrounded"


def _answer_stands(one: Candidate) -> bool:
    if one.task == "corpus_numerical" or one.template.partition("@")[0] in FREE:
        return True
    joined = plain(" ".join(one.quotes))
    golds = [
        one.choices[choice.LETTERS.index(a)] if one.choices else a.removeprefix(one.answer_prefix) for a in one.answers
    ]
    return all(plain(gold) in joined for gold in golds)


def _well_formed(one: Candidate) -> bool:
    texts = [one.question, one.instruction, *one.answers, *one.choices, *one.reasoning_chain]
    if not one.evidence or not one.answers or not one.reasoning_chain or not all(text.strip() for text in texts):
        return False
    if (one.task == "multiple_choice") != bool(one.choices):
        return False
    if one.choices:
        letters = choice.LETTERS[: len(one.choices)]
        different = len({option.casefold() for option in one.choices}) == len(choice.LETTERS) == len(one.choices)
        return different and len(one.answers) == 1 and one.answers[0] in tuple(letters)
    if one.task == "dialogue_memory":
        prefix = one.answer_prefix
        return bool(prefix) and prefix in one.instruction and all(answer.startswith(prefix) for answer in one.answers)
    return not one.answer_prefix
