"""Filling one output: candidates of a task, one length after another, until each has its share of samples."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from qwenlong.core.config.data import SynthesisConfig
from qwenlong.core.records import Sample
from qwenlong.core.templates import render_choices
from qwenlong.core.tokens import Tokenizer
from qwenlong.synthesis import blind, extend
from qwenlong.synthesis.candidates import Candidate
from qwenlong.synthesis.compose import Composer, Wanted
from qwenlong.synthesis.decontaminate import Seen, Similar
from qwenlong.synthesis.distractors import Distractors
from qwenlong.synthesis.lengths import Histogram
from qwenlong.synthesis.places import summary
from qwenlong.synthesis.pool import HEADING, Pool

Template = Callable[[Pool], Iterator[Candidate]]
#: Tokens of the shortest prompt around its documents, roughly: a bound for what is worth trying.
OVERHEAD = 48
#: Documents of evidence that a question has, at most, roughly: a longer budget than these gives no other candidates.
MAX_EVIDENCE = 6
#: Candidates in a row without one that is kept after which a length counts as exhausted.
PATIENCE = 400
#: Steps of the funnel in their order; "kept" is what is left.
STEPS = (
    *(
        "candidates",
        "template_full",
        "duplicate",
        "similar",
        "contaminated",
        "benchmark",
        "blind",
        "too_long",
        "not_extended",
    ),
    "kept",
)


@dataclass(frozen=True)
class Set:
    """One output: which side its documents are from, how many samples a task, and how long.

    With a `histogram` lengths follow it, and `targets` holds its longest alone.
    """

    name: str
    side: str
    per_task: int
    targets: tuple[int, ...]
    at_least: bool = False
    of_context: bool = False
    histogram: Histogram | None = None


@dataclass(frozen=True)
class Slot:
    """One length to fill: prompts of `low` to `high` tokens, as near to `target` as may be."""

    name: str
    low: int
    high: int
    spread: bool
    """Whether each sample draws its own target between the bounds."""


@dataclass
class _Progress:
    """What one task of one output has so far."""

    counts: dict[str, Any]
    similar: Similar
    balance: blind.Balance
    kept: list[Sample] = field(default_factory=list)
    by_template: Counter[str] = field(default_factory=Counter)


@dataclass
class Filler:
    """Fills one output from one pool. `seen` are the questions taken, by side."""

    output: Set
    pool: Pool
    tokenizer: Tokenizer
    seen: Mapping[str, Seen]
    synthesis: SynthesisConfig
    benchmark: Callable[[str], object] | None = None
    """Tells whether a question (with its options) stands in a benchmark that is evaluated."""

    @cached_property
    def composer(self) -> Composer | None:
        """What extends samples; None where the plain form of `extend` does."""
        settings = self.synthesis
        uniform, clusters = settings.evidence_positions == "uniform", settings.distractors.clusters
        if settings.lengths is None and not uniform and clusters is None:
            return None
        return Composer(self.pool, self.tokenizer, Distractors(self.pool, settings.distractors), uniform)

    def fill(self, task: str, templates: Mapping[str, Template]) -> tuple[list[Sample], dict[str, Any]]:
        """Return the samples of one task, with the count of each step."""
        output = self.output
        screen = self.synthesis.screen
        now = _Progress(
            dict.fromkeys(STEPS, 0),
            Similar(self.synthesis.question_similarity),
            blind.Balance(screen.max_guess_share),
        )
        slots = self._slots()
        # Where slots have the same budget the next goes on with the candidates that the last one left.
        candidates: dict[int, Iterator[Candidate]] = {}
        wanted = output.histogram.quotas(output.per_task) if output.histogram else None
        used: dict[str, int] = {}
        moved: list[int] = []
        for number, slot in enumerate(slots):
            before = len(now.kept)
            if wanted is None:
                # Lengths are spread evenly; what a short target cannot fill goes to the longer ones.
                quota = (output.per_task - before) // (len(slots) - number)
            else:
                quota = sum(wanted[: number + 1]) - before
            budget = self._budget(slot)
            if quota and (output.histogram is None or budget not in candidates):
                candidates = {budget: _round_robin(templates, replace(self.pool, budget=budget))}
            self._fill_slot(slot, quota, candidates.get(budget, iter(())), now)
            used[slot.name] = len(now.kept) - before
            moved.append(quota - used[slot.name])
        counts = now.counts
        counts["kept"] = len(now.kept)
        counts["wanted"] = output.per_task
        counts["templates"] = {
            t: sum(s.template == t for s in now.kept) for t in sorted({s.template for s in now.kept})
        }
        counts["length_targets"] = used
        if task == "doc_multi_hop":
            counts["hops"] = {str(n): m for n, m in sorted(Counter(sample.n_hops for sample in now.kept).items())}
        if wanted is not None:
            # What stayed open in a bin, its own and what came from shorter ones, went to the next.
            counts["length_bins"] = {"wanted": wanted, "kept": list(used.values()), "moved": moved}
        return now.kept, counts

    def _slots(self) -> list[Slot]:
        output = self.output
        if output.histogram is None:
            return [Slot(str(target), 0, target, False) for target in sorted(output.targets)]
        bounds = [output.histogram.bounds(number) for number in range(len(output.histogram.counts))]
        return [Slot(f"{low}-{high}", low, high, True) for low, high in bounds]

    def _budget(self, slot: Slot) -> int:
        """Return the tokens that evidence may take."""
        # What a prompt needs besides documents leaves the rest for them; long samples have room for any evidence.
        budget = slot.high - (0 if self.output.at_least else OVERHEAD)
        if self.output.histogram is None:
            return budget
        largest = self.pool.memo("largest", make=lambda: max((d.n_tokens for d in self.pool.documents), default=0))
        return min(budget, MAX_EVIDENCE * (largest + HEADING))

    def _fill_slot(self, slot: Slot, quota: int, candidates: Iterator[Candidate], now: _Progress) -> None:
        full = math.ceil(self.output.per_task * self.synthesis.max_template_share)
        before, misses = len(now.kept), 0
        for candidate in candidates if quota else ():
            if now.by_template[candidate.template] >= full:
                now.counts["candidates"] += 1
                now.counts["template_full"] += 1
                continue
            sample = self._take(candidate, slot, now)
            misses = 0 if sample is not None else misses + 1
            if sample is not None:
                now.kept.append(sample)
                now.by_template[sample.template] += 1
            if len(now.kept) - before == quota or misses >= PATIENCE:
                break

    def _take(self, candidate: Candidate, slot: Slot, now: _Progress) -> Sample | None:
        """Return the candidate's sample at its full length, None when a step drops it; the counts say which."""
        now.counts["candidates"] += 1
        asked = f"{candidate.question}\n{render_choices(candidate.choices)}".strip()
        side = self.output.side
        step = self._dropped(candidate, asked, now)
        made: Sample | str = step or self._extended(candidate, slot, asked)
        if isinstance(made, str):
            now.counts[made] += 1
            return None
        self.seen[side].add(asked)
        now.similar.add(asked)
        now.balance.add(candidate)
        return made

    def _dropped(self, candidate: Candidate, asked: str, now: _Progress) -> str:
        """Return the step that a question alone fails, "" when it fails none."""
        side = self.output.side
        if self.seen[side].repeats(asked):
            return "duplicate"
        if now.similar.to(asked):
            return "similar"
        if side == "heldout" and self.seen["train"].overlaps(asked, candidate.specifics):
            return "contaminated"
        if self.benchmark is not None and self.benchmark(asked):
            return "benchmark"
        if self.synthesis.screen.rules and (blind.by_itself(candidate) or now.balance.exceeded_by(candidate)):
            return "blind"
        return ""

    def _extended(self, candidate: Candidate, slot: Slot, asked: str) -> Sample | str:
        output, pool, target = self.output, self.pool, slot.high
        if self.composer is None:
            if not output.at_least and extend.length(candidate, pool, self.tokenizer, output.of_context) > target:
                return "too_long"
            randomness = pool.rng("extend", output.name, candidate.task, target, asked)
            made = extend.extend(
                candidate, pool, self.tokenizer, target, output.at_least, output.of_context, randomness
            )
            return "not_extended" if made is None else made
        randomness = pool.rng("compose", output.name, candidate.task, target, asked)
        if slot.spread:
            target = randomness.randint(slot.low, slot.high)
        limit = None if output.at_least else slot.high
        wanted = Wanted(target, limit, slot.low, output.at_least, output.of_context)
        return self.composer.compose(candidate, wanted, randomness)


def _round_robin(templates: Mapping[str, Template], pool: Pool) -> Iterator[Candidate]:
    """Yield candidates of a task, one of each template in turn until all are exhausted."""
    active = [make(pool) for _, make in sorted(templates.items())]
    while active:
        going = []
        for generator in active:
            candidate = next(generator, None)
            if candidate is not None:
                yield candidate
                going.append(generator)
        active = going


def measured(plan: Sequence[Set], made: Mapping[str, Sequence[Sample]]) -> dict[str, Any]:
    """Return how the lengths of each output compare with its histogram, and where its evidence stands.

    Only what the configuration asks for: nothing where lengths and places are not set.
    """
    report: dict[str, Any] = {}
    for output in plan:
        samples = made[output.name]
        if output.histogram is not None:
            lengths = [sample.n_tokens for sample in samples]
            report.setdefault("lengths", {})[output.name] = output.histogram.distance(lengths)
        if any("evidence_places" in sample.checks for sample in samples):
            found = [place for sample in samples for place in sample.checks["evidence_places"]]
            report.setdefault("evidence_places", {})[output.name] = summary(found)
    return report
