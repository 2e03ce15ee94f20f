"""Verification by the base model: samples it answers blind are dropped, robustness to more documents is measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qwenlong.core import templates
from qwenlong.core.config import SelectionConfig
from qwenlong.core.errors import DataError
from qwenlong.core.records import Document, Sample
from qwenlong.core.seeds import rng
from qwenlong.core.templates import render_documents
from qwenlong.core.tokens import Tokenizer
from qwenlong.rewards import guessing
from qwenlong.training.difficulty import rollouts
from qwenlong.training.prompting import blind_chat, prompt_ids
from qwenlong.training.served import Served

if TYPE_CHECKING:
    from qwenlong.inference.engine import Generator, Sampling


def extended(
    sample: Sample, corpus: Mapping[str, Document], tokenizer: Tokenizer, n_documents: int, max_tokens: int, seed: int
) -> Sample | None:
    """Return the sample with up to `n_documents` more documents at drawn places; None when none fits `max_tokens`.

    Added documents are of categories that none of the sample's documents has, so that they cannot change the answer.
    """
    taken = {corpus[name].category for name in sample.documents if name in corpus}
    candidates = sorted(name for name, document in corpus.items() if document.category not in taken)
    generator = rng(seed, "robust", sample.id)
    generator.shuffle(candidates)
    room = max_tokens - len(prompt_ids(sample, corpus, tokenizer))
    documents, added = list(sample.documents), 0
    for name in candidates[: 8 * n_documents]:
        # One token of slack: borders between documents can merge or split.
        cost = tokenizer.count(render_documents([corpus[name]])) + 1
        if cost < room:
            documents.insert(generator.randint(0, len(documents)), name)
            room -= cost
            added += 1
        if added == n_documents:
            break
    return sample.model_copy(update={"documents": tuple(documents)}) if added else None


def verify(
    samples: Sequence[Sample],
    corpus: Mapping[str, Document],
    generator: Generator | Served,
    tokenizer: Tokenizer,
    sampling: Sampling,
    selection: SelectionConfig,
    *,
    max_input_tokens: int,
    seed: int,
    model: str,
) -> tuple[list[Sample], dict[str, Any]]:
    """Return the samples kept, with what was measured in `checks`, and counts of what was dropped and why.

    Knowledge grounding: dropped (`drop_blind`) when so many of `blind_tries` tries without documents are right that
    guessing would reach it with a probability of at most `blind_alpha` (`rewards.guessing`): one where nothing can be
    guessed, 4 of 4 with four options. Options are turned from try to try, so that a model which always says one letter
    gets no more than chance. Contextual robustness: with `robust_documents` more irrelevant documents one of k
    rollouts must be right; dropped only under `require_robust`. A sample that has no room for one more document is not
    measured.
    Raises DataError when nothing is left.
    """
    blind = _blind(samples, generator, tokenizer, sampling, selection.blind_tries, seed)
    chance = guessing.chances(samples)
    wider = [
        extended(sample, corpus, tokenizer, selection.robust_documents, max_input_tokens, seed) for sample in samples
    ]
    measured = [sample for sample in wider if sample is not None]
    chats = [templates.messages(sample, corpus, tokenizer, max_input_tokens) for sample in measured]
    robust = dict(
        zip(
            (sample.id for sample in measured),
            rollouts(measured, chats, generator, tokenizer, sampling, selection.k, seed, "more documents"),
            strict=True,
        )
    )
    kept, dropped, unmeasured = [], Counter[str](), 0
    by_task: dict[str, Counter[str]] = {}
    for sample, tries, wide in zip(samples, blind, wider, strict=True):
        values = robust.get(sample.id)
        unmeasured += values is None
        pass_at_k = None if values is None else sum(values) / len(values)
        checks = {
            **sample.checks,
            # With too few tries guessing could do as well whatever the model says: nothing is dropped, and it is told.
            "blind_unprovable": sum(
                guessing.needed(selection.blind_tries, value, selection.blind_alpha) is None
                for value in chance.values()
            ),
            "blind_mean": sum(tries) / len(tries),
            "blind_tries": len(tries),
            "blind_chance": round(chance[sample.id], 6),
            "robust_pass_at_k": pass_at_k,
            "robust_documents": 0 if wide is None else len(wide.documents) - len(sample.documents),
            "verified_by": model,
        }
        reason = ""
        if selection.drop_blind and guessing.answered_blind(tries, chance[sample.id], selection.blind_alpha):
            reason = "answered_blind"
        elif selection.require_robust and values is not None and max(values) < guessing.SOLVED:
            reason = "not_robust"
        by_task.setdefault(sample.task, Counter())[reason or "kept"] += 1
        if reason:
            dropped[reason] += 1
        else:
            kept.append(sample.model_copy(update={"checks": checks}))
    if not kept:
        raise DataError(
            f"verification dropped all {len(samples)} samples ({dict(dropped)}); "
            "set selection.drop_blind or selection.require_robust to false, or take another base model"
        )
    report = {
        "model": model,
        "samples": len(samples),
        "kept": len(kept),
        "dropped": dict(sorted(dropped.items())),
        "tasks": {task: dict(sorted(counts.items())) for task, counts in sorted(by_task.items())},
        "robustness_unmeasured": unmeasured,
        "robust_zero": sum(max(values) < guessing.SOLVED for values in robust.values()),
        # With too few tries guessing could do as well whatever the model says: nothing is dropped, and it is told.
        "blind_unprovable": sum(
            guessing.needed(selection.blind_tries, value, selection.blind_alpha) is None for value in chance.values()
        ),
        "blind_mean": sum(map(sum, blind)) / max(1, sum(map(len, blind))),
        "robust_mean": sum(map(sum, robust.values())) / max(1, sum(map(len, robust.values()))),
    }
    return kept, report


def _blind(
    samples: Sequence[Sample],
    generator: Generator | Served,
    tokenizer: Tokenizer,
    sampling: Sampling,
    tries: int,
    seed: int,
) -> list[list[float]]:
    """Return the rewards of each sample's tries without documents, its options turned by one place a try."""
    # A try counts as a sample of its own, with an id and so a seed of its own.
    turned = [
        guessing.turned(sample, number).model_copy(update={"id": f"{sample.id}/{number}"})
        for sample in samples
        for number in range(tries)
    ]
    chats = [blind_chat(sample) for sample in turned]
    rewards = rollouts(turned, chats, generator, tokenizer, sampling, 1, seed, "blind tries")
    flat = [value for values in rewards for value in values]
    return [flat[start : start + tries] for start in range(0, len(flat), tries)]
