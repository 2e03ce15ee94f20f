"""Verification over an endpoint: without documents the model must fail, among more of them it must not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwenlong.core import templates
from qwenlong.core.config import Config, ScreenConfig
from qwenlong.core.llm import Client, Outcome, Request, gather
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
    sample: Sample
    documents: tuple[str, ...]
    seed: int


@dataclass
class _Measured:
    """Rewards of the tries of one sample; None for a try that the server does not take."""

    rewards: list[float | None] = field(default_factory=list)
    outages: int = 0

    @property
    def given(self) -> list[float]:
        """Rewards of the tries that have one."""
        return [reward for reward in self.rewards if reward is not None]

    @property
    def mean(self) -> float | None:
        """Mean reward, none without a measured try."""
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
    settings, seed = config.synthesis.screen, config.run.seed
    left, ruled = by_rules(samples, settings)
    chance = guessing.chances(left)
    reasons: dict[str, str] = dict.fromkeys(ruled, "blind_rule")
    checks: dict[str, dict[str, Any]] = {sample.id: {"verified_by": client.endpoint.model} for sample in left}
    unmeasured: Counter[str] = Counter()

    async def ask(part: str, asked: Mapping[str, Sequence[Sample]]) -> dict[str, _Measured]:
        tries = [
            _Try(f"{name}/{key}/{i}", one, one.documents, derive(seed, "screen", part, key, i))
            for key, several in asked.items()
            for i, one in enumerate(several)
        ]
        outcomes = await gather(
            client, tries, _request(part, corpus, settings), _reward, journals(folder)[part],
            key=lambda one: one.key, description=f"{name}: {part}",
        )  # fmt: skip
        return _collected(asked, tries, outcomes)

    turns = range(settings.blind_tries)
    without = await ask("blind", {s.id: [guessing.turned(s, i) for i in turns] for s in left})
    for sample in left:
        found = without[sample.id]
        solved = sum(reward >= guessing.SOLVED for reward in found.given)
        checks[sample.id] |= {
            "blind_mean": found.mean,
            "blind_tries": len(found.given),
            "blind_solved": solved,
            "blind_chance": round(chance[sample.id], 6),
        }
        if found.outages:
            reasons[sample.id] = "open"
        elif not found.given:
            unmeasured["blind"] += 1
        elif guessing.answered_blind(found.given, chance[sample.id], settings.alpha):
            reasons[sample.id] = "answered_blind"
    left = [sample for sample in left if sample.id not in reasons]
    wider = {s.id: widened(s, corpus, settings.robust_documents, settings.max_input_tokens, seed) for s in left}
    among = await ask("robust", {key: [s] * settings.k for key, s in wider.items() if s is not None})
    for sample in left:
        wide, seen = wider[sample.id], among.get(sample.id, _Measured())
        checks[sample.id] |= {
            "robust_pass_at_k": seen.mean,
            "robust_documents": 0 if wide is None else len(wide.documents) - len(sample.documents),
        }
        if seen.outages:
            reasons[sample.id] = "open"
        elif not seen.given:
            unmeasured["robust"] += 1
        elif settings.require_robust and not any(reward >= guessing.SOLVED for reward in seen.given):
            reasons[sample.id] = "not_robust"
    left = [sample for sample in left if sample.id not in reasons]
    measured: dict[str, Difficulty] = {}
    if settings.measure_difficulty:
        for key, own in (await ask("difficulty", {s.id: [s] * settings.k for s in left})).items():
            if own.outages:
                reasons[key] = "open"
            elif own.mean is None:
                unmeasured["difficulty"] += 1
            else:
                measured[key] = Difficulty(pass_at_k=own.mean, k=len(own.given), model=client.endpoint.model)
    kept = [
        sample.model_copy(
            update={
                "checks": sample.checks | checks[sample.id],
                "difficulty": measured.get(sample.id, sample.difficulty),
            }
        )
        for sample in left
        if sample.id not in reasons
    ]
    undecided = [sample for sample in samples if reasons.get(sample.id) == "open"]
    funnel = counted(samples, reasons, ruled)
    proofs = [guessing.needed(settings.blind_tries, value, settings.alpha) for value in chance.values()]
    funnel["blind_bar"] = {str(n): proofs.count(n) for n in sorted({p for p in proofs if p is not None})}
    funnel["blind_unprovable"] = proofs.count(None)
    funnel["unmeasured"] = {part: unmeasured[part] for part in PARTS}
    return Screened(kept, undecided, funnel)


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


def _request(part: str, corpus: Mapping[str, Document], settings: ScreenConfig) -> Callable[[_Try], Request]:
    def make(one: _Try) -> Request:
        shown = [] if part == "blind" else templates.select_documents(one.sample, corpus)
        text = templates.user_prompt(one.sample, templates.render_documents(shown))
        return Request(
            [{"role": "user", "content": text}],
            settings.max_tokens, one.seed, settings.temperature, settings.top_p, tries=1,
        )  # fmt: skip

    return make


def _reward(one: _Try, text: str) -> float:
    sample = one.sample
    return rules.score(
        sample.task, text, sample.answers, answer_prefix=sample.answer_prefix, choices=sample.choices
    )  # fmt: skip


def _collected(
    asked: Mapping[str, Sequence[Sample]], tries: Sequence[_Try], outcomes: Sequence[Outcome[float]]
) -> dict[str, _Measured]:
    """Return the rewards by sample. A reply that is cut off or declines has no answer and earns nothing."""
    found = {key: _Measured() for key in asked}
    keys = [key for key, several in asked.items() for _ in several]
    for key, _, outcome in zip(keys, tries, outcomes, strict=True):
        if outcome.outage:
            found[key].outages += 1
        elif outcome.error == "rejected":
            found[key].rewards.append(None)
        else:
            found[key].rewards.append(outcome.value if outcome.value is not None else 0.0)
    return found
