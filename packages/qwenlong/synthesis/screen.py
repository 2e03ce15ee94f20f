"""Verification over an endpoint: without documents the model must fail, among more of them it must not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwenlong.core import templates
from qwenlong.core.config import Config, ScreenConfig
from qwenlong.core.llm import Client, Request, gather
from qwenlong.core.records import Difficulty, Document, Sample
from qwenlong.core.seeds import derive, rng
from qwenlong.rewards import guessing, rules
from qwenlong.synthesis import blind
from qwenlong.synthesis.parse import entity

#: Questions that the model is put, in order; each has a journal of its own.
PARTS = ("blind", "robust", "difficulty")
#: What becomes of a sample; the counts of a set add up to its samples.
STEPS = ("blind_rule", "answered_blind", "not_robust", "open", "kept")
#: Tokens that a document's heading may cost in the prompt.
HEADING = 16
#: Documents looked at for each one that is added.
_LOOKED_AT = 32


@dataclass
class Screened:
    """One set: what stays, what an outage left undecided, and the counts."""

    kept: list[Sample]
    open: list[Sample]
    funnel: dict[str, Any]


@dataclass(frozen=True)
class _Try:
    """One question to the model about one sample."""

    key: str
    number: int
    sample: Sample
    seed: int


@dataclass
class _Measured:
    """Rewards of the tries of one sample that the server took, and how many an outage left without one."""

    given: list[float] = field(default_factory=list)
    outages: int = 0

    @property
    def solved(self) -> int:
        """How many tries are right."""
        return sum(reward >= guessing.SOLVED for reward in self.given)

    @property
    def mean(self) -> float | None:
        """Mean reward; none without a measured try."""
        return sum(self.given) / len(self.given) if self.given else None


def journals(folder: Path) -> dict[str, Path]:
    """Return the journal of each part under an output folder."""
    return {part: folder / "journal" / f"{part}.jsonl" for part in PARTS}


def widened(sample: Sample, corpus: Mapping[str, Document], n: int, max_tokens: int, seed: int) -> Sample | None:
    """Return the sample with up to `n` more documents at drawn places; None when none fits.

    Added documents are of other entities than those shown, hold neither the answer nor a title that is shown, and are
    of other categories where there are any. Tokens are those counted when the documents were written.
    """
    shown = [corpus[name] for name in sample.documents]
    entities = {(document.source, entity(document)) for document in shown}
    titles = {document.title.casefold() for document in shown}
    categories = {document.category for document in shown}
    answer = blind.right(sample).casefold()
    draw = rng(seed, "screen", "robust", sample.id)
    names = sorted(corpus)
    others = [corpus[name] for name in draw.sample(names, min(len(names), _LOOKED_AT * n))]
    others.sort(key=lambda document: document.category in categories)
    room, documents, added = max_tokens - sample.n_tokens, list(sample.documents), 0
    for document in others:
        cost = document.n_tokens + HEADING
        apart = (document.source, entity(document)) not in entities and document.title.casefold() not in titles
        if cost > room or not apart or answer in document.text.casefold():
            continue
        documents.insert(draw.randint(0, len(documents)), document.id)
        room -= cost
        added += 1
        if added == n:
            break
    return sample.model_copy(update={"documents": tuple(documents)}) if added else None


def by_rules(samples: Sequence[Sample], screen: ScreenConfig) -> tuple[list[Sample], dict[str, str]]:
    """Return the samples that no rule answers without reading, and the rule of each of the others by id."""
    found = blind.by_rule(samples, screen.max_guess_share)
    dropped = {samples[place].id: rule for place, rule in found.items()}
    return [sample for sample in samples if sample.id not in dropped], dropped


async def screen(
    config: Config, name: str, samples: Sequence[Sample], corpus: Mapping[str, Document], folder: Path, client: Client
) -> Screened:
    """Return what stays of one set (`name`); what was answered before stands in the journals under `folder`.

    First the rules of `blind`, then the model: without documents (`answered_blind` when it does better than guessing,
    options turned from try to try), with more documents (`not_robust` when no try is right), and under
    measure_difficulty with the sample's own. A sample with an open question is neither kept nor dropped. What the
    server refuses to read is not measured, which drops nothing and is counted.
    """
    settings = config.synthesis.screen
    left, ruled = by_rules(samples, settings)
    work = _Screening(settings, config.run.seed, name, corpus, journals(folder), client)
    work.reasons |= dict.fromkeys(ruled, "blind_rule")
    chance = guessing.chances(left)
    await work.blind(left, chance)
    left = work.undecided(left)
    await work.robust(left)
    if settings.measure_difficulty:
        left = await work.difficulty(left)
    kept = [
        sample.model_copy(update={"checks": sample.checks | work.checks[sample.id]}) for sample in work.undecided(left)
    ]
    waiting = [sample for sample in samples if work.reasons.get(sample.id) == "open"]
    funnel = counted(samples, work.reasons, ruled)
    bars = [guessing.needed(settings.blind_tries, value, settings.alpha) for value in chance.values()]
    funnel["blind_bar"] = {str(n): bars.count(n) for n in sorted({bar for bar in bars if bar is not None})}
    funnel["blind_unprovable"] = bars.count(None)
    funnel["unmeasured"] = {part: work.unmeasured[part] for part in PARTS}
    return Screened(kept, waiting, funnel)


@dataclass
class _Screening:
    """The steps over one set: what each sample was dropped or left open for, and what was measured."""

    settings: ScreenConfig
    seed: int
    name: str
    corpus: Mapping[str, Document]
    journals: Mapping[str, Path]
    client: Client
    reasons: dict[str, str] = field(default_factory=dict)
    checks: dict[str, dict[str, Any]] = field(default_factory=dict)
    unmeasured: Counter[str] = field(default_factory=Counter)

    def undecided(self, samples: Sequence[Sample]) -> list[Sample]:
        """Return the samples that no step has dropped or left open."""
        return [sample for sample in samples if sample.id not in self.reasons]

    async def blind(self, samples: Sequence[Sample], chance: Mapping[str, float]) -> None:
        """Ask without documents."""
        tries = range(self.settings.blind_tries)
        found = await self._ask("blind", {s.id: [guessing.turned(s, i) for i in tries] for s in samples})
        for sample in samples:
            seen = found[sample.id]
            self.checks[sample.id] = {
                "verified_by": self.client.endpoint.model,
                "blind_mean": seen.mean,
                "blind_tries": len(seen.given),
                "blind_solved": seen.solved,
                "blind_chance": round(chance[sample.id], 6),
            }
            if self._measured("blind", sample.id, seen) and guessing.answered_blind(
                seen.given, chance[sample.id], self.settings.alpha
            ):
                self.reasons[sample.id] = "answered_blind"

    async def robust(self, samples: Sequence[Sample]) -> None:
        """Ask with more documents."""
        settings = self.settings
        wider = {
            s.id: widened(s, self.corpus, settings.robust_documents, settings.max_input_tokens, self.seed)
            for s in samples
        }
        found = await self._ask("robust", {key: [s] * settings.k for key, s in wider.items() if s is not None})
        for sample in samples:
            wide, seen = wider[sample.id], found.get(sample.id, _Measured())
            self.checks[sample.id] |= {
                "robust_pass_at_k": seen.mean,
                "robust_documents": 0 if wide is None else len(wide.documents) - len(sample.documents),
            }
            if self._measured("robust", sample.id, seen) and settings.require_robust and not seen.solved:
                self.reasons[sample.id] = "not_robust"

    async def difficulty(self, samples: Sequence[Sample]) -> list[Sample]:
        """Ask with a sample's own documents; return the samples with pass@k."""
        asked = self.undecided(samples)
        found = await self._ask("difficulty", {s.id: [s] * self.settings.k for s in asked})
        scored = []
        for sample in asked:
            seen = found[sample.id]
            if self._measured("difficulty", sample.id, seen) and seen.mean is not None:
                value = Difficulty(pass_at_k=seen.mean, k=len(seen.given), model=self.client.endpoint.model)
                sample = sample.model_copy(update={"difficulty": value})
            scored.append(sample)
        return scored

    def _measured(self, part: str, key: str, seen: _Measured) -> bool:
        """Tell whether all tries of a sample were answered; an outage leaves it open, a refused request is counted."""
        if seen.outages:
            self.reasons[key] = "open"
        elif not seen.given:
            self.unmeasured[part] += 1
        return not seen.outages and bool(seen.given)

    async def _ask(self, part: str, asked: Mapping[str, Sequence[Sample]]) -> dict[str, _Measured]:
        """Return the rewards by sample. A reply that is cut off or declines has no answer and earns nothing."""
        tries = [
            _Try(key, i, one, derive(self.seed, "screen", part, key, i))
            for key, several in asked.items()
            for i, one in enumerate(several)
        ]
        outcomes = await gather(
            self.client, tries, lambda one: self._request(part, one), _reward, self.journals[part],
            key=lambda one: f"{self.name}/{one.key}/{one.number}", description=f"{self.name}: {part}",
        )  # fmt: skip
        found = {key: _Measured() for key in asked}
        for one, outcome in zip(tries, outcomes, strict=True):
            if outcome.outage:
                found[one.key].outages += 1
            elif outcome.error != "rejected":
                found[one.key].given.append(outcome.value if outcome.value is not None else 0.0)
        return found

    def _request(self, part: str, one: _Try) -> Request:
        shown = [] if part == "blind" else templates.select_documents(one.sample, self.corpus)
        text = templates.user_prompt(one.sample, templates.render_documents(shown))
        settings = self.settings
        return Request(
            [{"role": "user", "content": text}],
            settings.max_tokens, one.seed, settings.temperature, settings.top_p, tries=1,
        )  # fmt: skip


def counted(samples: Sequence[Sample], reasons: Mapping[str, str], ruled: Mapping[str, str]) -> dict[str, Any]:
    """Return how many samples each step took, in all and by task, and how many each rule."""
    by_task: dict[str, Counter[str]] = {}
    for sample in samples:
        by_task.setdefault(sample.task, Counter())[reasons.get(sample.id, "kept")] += 1
    whole = sum(by_task.values(), Counter())
    return {
        "samples": len(samples),
        **{step: whole[step] for step in STEPS},
        "rules": dict(sorted(Counter(ruled.values()).items())),
        "tasks": {task: {step: counts[step] for step in STEPS} for task, counts in sorted(by_task.items())},
    }


def _reward(one: _Try, text: str) -> float:
    sample = one.sample
    return rules.score(sample.task, text, sample.answers, answer_prefix=sample.answer_prefix, choices=sample.choices)
