"""Synthesis as one pure function: configuration, documents and tokenizer in, samples of all tasks out."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qwenlong.core.config import Config
from qwenlong.core.errors import ConfigError, DataError
from qwenlong.core.records import Document, Sample
from qwenlong.core.tokens import Tokenizer
from qwenlong.synthesis import (
    choice,
    dialogue,
    graph,
    intake,
    merged,
    multi_hop,
    numerical,
    parse,
    paths,
    prose,
    reading,
    walks,
)
from qwenlong.synthesis.candidates import Candidate
from qwenlong.synthesis.decontaminate import Seen
from qwenlong.synthesis.extra import Extra
from qwenlong.synthesis.fill import STEPS, Filler, Set, Template, measured
from qwenlong.synthesis.graph import Edge, KnowledgeGraph
from qwenlong.synthesis.lengths import histogram
from qwenlong.synthesis.pool import Pool
from qwenlong.synthesis.splits import split
from qwenlong.synthesis.tables import Table
from qwenlong.synthesis.tabular import templates as tabular

#: Question templates by task: the one registry.
TEMPLATES: dict[str, dict[str, Template]] = {
    "corpus_numerical": numerical.TEMPLATES | tabular.TEMPLATES,
    "dialogue_memory": dialogue.TEMPLATES,
    "doc_multi_hop": multi_hop.TEMPLATES | paths.TEMPLATES | walks.TEMPLATES,
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
    spread = histogram(synthesis.lengths) if synthesis.lengths else None
    targets = (spread.longest - 1,) if spread else synthesis.length_targets
    if synthesis.long_heldout_per_task and synthesis.long_length_target <= config.base.window:
        raise ConfigError(
            f"synthesis.long_length_target = {synthesis.long_length_target} is not above base.window = "
            f"{config.base.window}; raise it, or set long_heldout_per_task to 0"
        )
    return (
        Set("samples", "train", synthesis.samples_per_task, targets, histogram=spread),
        Set("memory", "train", synthesis.memory_samples_per_task, synthesis.memory_length_targets, of_context=True),
        Set("heldout", "heldout", synthesis.heldout_per_task, targets, histogram=spread),
        Set("heldout_long", "heldout", synthesis.long_heldout_per_task, (synthesis.long_length_target,), at_least=True),
    )


def counted(documents: Sequence[Document], tokenizer: Tokenizer) -> list[Document]:
    """Return documents with the tokens of their text."""
    ids = tokenizer.encode_batch([document.text for document in documents])
    return [d.model_copy(update={"n_tokens": len(i)}) for d, i in zip(documents, ids, strict=True)]


def synthesize(
    config: Config,
    documents: Sequence[Document],
    tokenizer: Tokenizer,
    *,
    edges: Sequence[Edge] = (),
    extra: Sequence[Candidate] = (),
    benchmark: Callable[[str], object] | None = None,
) -> Result:
    """Return samples of every task of `config.synthesis.tasks`, answers computed from the documents.

    `edges` are extracted triples (`extract.run.read`); those that the documents bear out join the graph of their side.
    `extra` are candidates that agents proposed and verified: they take turns with the templates for training samples.
    `benchmark` tells whether a question stands in a benchmark that is evaluated: such candidates are dropped.
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
    stated, taken = intake.accept(edges, documents, whole.edges)
    resolved: dict[str, Any] = {}
    made: dict[str, list[Sample]] = {}
    funnel: dict[str, Any] = {}
    seen = {"train": Seen(), "heldout": Seen()}
    reserved = {name for templates in TEMPLATES.values() for name in templates}
    given = Extra(
        extra, sides["train"], sides["heldout"], config.synthesis.tasks, reserved, config.synthesis.max_candidate_share
    )
    for side, shown in sides.items():
        shown = counted(shown, tokenizer)
        knowledge = graph.build(shown)
        names = {document.id for document in shown}
        own = [edge for edge in stated if edge.document in names]
        walked = merged.merge(knowledge.edges, own, shown, config.synthesis.graph) if own else None
        resolved[side] = {"edges": len(own), **(walked.resolution.counts if walked else {})}
        with Table(cell for document in shown for cell in parse.cells(document)) as table:
            # One pool a side, so that what is worked out about its documents serves all outputs.
            hops, vague = config.synthesis.max_hops, config.synthesis.obfuscation
            side_pool = Pool(shown, table, knowledge, 0, config.run.seed, hops, vague, merged=walked)
            for output in (output for output in plan if output.side == side):
                pool = replace(side_pool, budget=max(output.targets))
                filler = Filler(output, pool, tokenizer, seen, config.synthesis, benchmark)
                made[output.name] = []
                for task in sorted(config.synthesis.tasks):
                    templates = chosen(config.synthesis.templates)[task]
                    if output.name == "samples":
                        templates = templates | given.templates(task, output.per_task, seen["train"])
                    kept, counts = filler.fill(task, templates)
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
    report |= measured(plan, made)
    if extra:
        report["extra"] = given.report(Counter(sample.template for sample in made["samples"]))
    if edges:
        report["edges"] = {"intake": taken, "resolved": resolved}
        whole = KnowledgeGraph([*whole.edges, *stated])
    return Result(made["samples"], made["heldout"], made["heldout_long"], made["memory"], listed, report, whole)


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
