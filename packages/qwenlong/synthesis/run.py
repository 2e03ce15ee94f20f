"""Synthesis as one pure function: configuration, documents and tokenizer in, samples of all tasks out."""

from __future__ import annotations

import fnmatch
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qwenlong.core.config import Config
from qwenlong.core.config.data import SynthesisConfig
from qwenlong.core.errors import ConfigError, DataError
from qwenlong.core.records import Document, Sample
from qwenlong.core.templates import render_choices
from qwenlong.core.tokens import Tokenizer
from qwenlong.synthesis import choice, dialogue, extend, graph, multi_hop, numerical, parse, paths, prose, reading
from qwenlong.synthesis.candidates import Candidate
from qwenlong.synthesis.decontaminate import Seen, Similar
from qwenlong.synthesis.graph import KnowledgeGraph
from qwenlong.synthesis.pool import Pool
from qwenlong.synthesis.splits import split
from qwenlong.synthesis.tables import Table

Template = Callable[[Pool], Iterator[Candidate]]
#: Question templates by task: the one registry.
TEMPLATES: dict[str, dict[str, Template]] = {
    "corpus_numerical": numerical.TEMPLATES,
    "dialogue_memory": dialogue.TEMPLATES,
    "doc_multi_hop": multi_hop.TEMPLATES | paths.TEMPLATES,
    "multiple_choice": choice.TEMPLATES | prose.CHOICE,
    "reading_comprehension": reading.TEMPLATES | prose.READING,
}


def chosen(patterns: Sequence[str] | None) -> dict[str, dict[str, Template]]:
    """Return the templates whose names match any of the patterns, by task; all of them for None.

    Raises ConfigError for a pattern that matches nothing.
    """
    if patterns is None:
        return TEMPLATES
    names = [name for templates in TEMPLATES.values() for name in templates]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ConfigError(f"synthesis.templates: {pattern!r} matches no template; there are {', '.join(names)}")
    return {
        task: {name: make for name, make in templates.items() if any(fnmatch.fnmatchcase(name, p) for p in patterns)}
        for task, templates in TEMPLATES.items()
    }


#: Tokens of the shortest prompt around its documents, roughly: a bound for what is worth trying.
OVERHEAD = 48
#: Candidates in a row without one that is kept after which a length counts as exhausted.
PATIENCE = 400
#: Steps of the funnel in their order; "kept" is what is left.
STEPS = ("candidates", "template_full", "duplicate", "similar", "contaminated", "too_long", "not_extended", "kept")


@dataclass(frozen=True)
class Set:
    """One output: which side its documents are from, how many samples a task, and how long."""

    name: str
    side: str
    per_task: int
    targets: tuple[int, ...]
    at_least: bool = False
    of_context: bool = False


@dataclass(frozen=True)
class Result:
    """What synthesis gives. `documents` are those that any sample shows, with their tokens counted."""

    samples: list[Sample]
    heldout: list[Sample]
    heldout_long: list[Sample]
    memory: list[Sample]
    documents: list[Document]
    funnel: dict[str, Any]
    graph: KnowledgeGraph


def sets(config: Config) -> tuple[Set, ...]:
    """Return the outputs in the order in which they take their questions.

    Raises ConfigError when the long held-out samples would fit the model's window.
    """
    synthesis = config.synthesis
    if synthesis.long_heldout_per_task and synthesis.long_length_target <= config.base.window:
        raise ConfigError(
            f"synthesis.long_length_target = {synthesis.long_length_target} is not above base.window = "
            f"{config.base.window}; raise it, or set long_heldout_per_task to 0"
        )
    return (
        Set("samples", "train", synthesis.samples_per_task, synthesis.length_targets),
        Set("memory", "train", synthesis.memory_samples_per_task, synthesis.memory_length_targets, of_context=True),
        Set("heldout", "heldout", synthesis.heldout_per_task, synthesis.length_targets),
        Set("heldout_long", "heldout", synthesis.long_heldout_per_task, (synthesis.long_length_target,), at_least=True),
    )


def counted(documents: Sequence[Document], tokenizer: Tokenizer) -> list[Document]:
    """Return documents with the tokens of their text."""
    ids = tokenizer.encode_batch([document.text for document in documents])
    return [d.model_copy(update={"n_tokens": len(i)}) for d, i in zip(documents, ids, strict=True)]


def synthesize(config: Config, documents: Sequence[Document], tokenizer: Tokenizer) -> Result:
    """Return samples of every task of `config.synthesis.tasks`, answers computed from the documents.

    The same inputs give the same result. Raises DataError for an empty corpus, and when a task yields no training or
    no held-out sample, with the step that lost them.
    """
    plan = sets(config)
    sides = dict(
        zip(
            ("train", "heldout"),
            split(documents, config.synthesis.heldout_share, config.synthesis.split_seed),
            strict=True,
        )
    )
    whole = graph.build(sorted(documents, key=lambda d: d.id))
    made: dict[str, list[Sample]] = {}
    funnel: dict[str, Any] = {}
    seen = {"train": Seen(), "heldout": Seen()}
    for side, shown in sides.items():
        shown = counted(shown, tokenizer)
        knowledge = graph.build(shown)
        with Table(cell for document in shown for cell in parse.cells(document)) as table:
            for output in (output for output in plan if output.side == side):
                hops, vague = config.synthesis.max_hops, config.synthesis.obfuscation
                pool = Pool(shown, table, knowledge, max(output.targets), config.run.seed, hops, vague)
                made[output.name] = []
                for task in sorted(config.synthesis.tasks):
                    kept, counts = _fill(output, task, pool, tokenizer, seen, config.synthesis)
                    made[output.name] += kept
                    funnel.setdefault(task, {})[output.name] = counts
    _refuse_empty(config, made, funnel)
    used = {name for samples in made.values() for sample in samples for name in sample.documents}
    listed = counted([d for d in sorted(documents, key=lambda d: d.id) if d.id in used], tokenizer)
    report = {
        "documents": {side: len(shown) for side, shown in sides.items()} | {"used": len(listed)},
        "entities": {side: len({(d.source, parse.entity(d)) for d in shown}) for side, shown in sides.items()},
        "tasks": funnel,
        "tokenizer": tokenizer.digest,
    }
    return Result(made["samples"], made["heldout"], made["heldout_long"], made["memory"], listed, report, whole)


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


def _fill(
    output: Set,
    task: str,
    pool: Pool,
    tokenizer: Tokenizer,
    seen: Mapping[str, Seen],
    synthesis: SynthesisConfig,
) -> tuple[list[Sample], dict[str, Any]]:
    """Return the samples of one task of one output, with the count of each step."""
    counts: dict[str, Any] = dict.fromkeys(STEPS, 0)
    used: dict[str, int] = {}
    kept: list[Sample] = []
    targets = sorted(output.targets)
    templates = chosen(synthesis.templates)[task]
    full = math.ceil(output.per_task * synthesis.max_template_share)
    by_template: Counter[str] = Counter()
    similar = Similar(synthesis.question_similarity)
    for number, target in enumerate(targets):
        # Lengths are spread evenly; what a short target cannot fill goes to the longer ones.
        quota = (output.per_task - len(kept)) // (len(targets) - number)
        # What a prompt needs besides documents leaves the rest for them; long samples have room for any evidence.
        narrowed = replace(pool, budget=target - (0 if output.at_least else OVERHEAD))
        before, misses = len(kept), 0
        for candidate in _round_robin(templates, narrowed) if quota else ():
            if by_template[candidate.template] >= full:
                counts["candidates"] += 1
                counts["template_full"] += 1
                continue
            sample = _take(candidate, output, target, narrowed, tokenizer, seen, similar, counts)
            misses = 0 if sample is not None else misses + 1
            if sample is not None:
                kept.append(sample)
                by_template[sample.template] += 1
            if len(kept) - before == quota or misses >= PATIENCE:
                break
        used[str(target)] = len(kept) - before
    counts["kept"] = len(kept)
    counts["wanted"] = output.per_task
    counts["templates"] = {t: sum(s.template == t for s in kept) for t in sorted({s.template for s in kept})}
    counts["length_targets"] = used
    return kept, counts


def _take(
    candidate: Candidate,
    output: Set,
    target: int,
    pool: Pool,
    tokenizer: Tokenizer,
    seen: Mapping[str, Seen],
    similar: Similar,
    counts: dict[str, Any],
) -> Sample | None:
    """Return the candidate's sample at its full length, None when a step drops it; `counts` says which."""
    counts["candidates"] += 1
    asked = f"{candidate.question}\n{render_choices(candidate.choices)}".strip()
    if seen[output.side].repeats(asked):
        counts["duplicate"] += 1
        return None
    if similar.to(asked):
        counts["similar"] += 1
        return None
    if output.side == "heldout" and seen["train"].overlaps(asked, candidate.specifics):
        counts["contaminated"] += 1
        return None
    if not output.at_least and extend.length(candidate, pool, tokenizer, output.of_context) > target:
        counts["too_long"] += 1
        return None
    randomness = pool.rng("extend", output.name, candidate.task, target, asked)
    sample = extend.extend(candidate, pool, tokenizer, target, output.at_least, output.of_context, randomness)
    if sample is None:
        counts["not_extended"] += 1
        return None
    seen[output.side].add(asked)
    similar.add(asked)
    return sample


def _refuse_empty(config: Config, made: Mapping[str, list[Sample]], funnel: Mapping[str, Any]) -> None:
    for name in ("samples", "heldout"):
        for task in sorted(config.synthesis.tasks):
            if not any(sample.task == task for sample in made[name]):
                lost = {step: funnel[task][name][step] for step in STEPS}
                raise DataError(
                    f"synthesis made no {task} sample for {name} ({lost}); give it more documents "
                    "(corpus.max_documents_per_source), shorter ones (corpus.section_characters) or larger "
                    "synthesis.length_targets, or take the task out of synthesis.tasks"
                )
