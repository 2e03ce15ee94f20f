"""The data card's numbers, from samples, documents, the funnel and what later stages counted."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from qwenlong.core.config import Config
from qwenlong.core.files import digest_value
from qwenlong.core.records import Document, Sample
from qwenlong.core.seeds import rng
from qwenlong.core.templates import VERSION
from qwenlong.datacard import counts, questions
from qwenlong.datacard.baselines import baselines
from qwenlong.datacard.funnel import add_stage, funnel
from qwenlong.datacard.inputs import Inputs, Stage
from qwenlong.datacard.projection import questions_map

log = logging.getLogger(__name__)
#: Of a task's samples, how many BM25 reads at most: 500 give a standard error of 2 points or less.
BM25_SAMPLES = 500
#: Documents whose language is looked at.
LANGUAGE_SAMPLE = 2000
#: Licences that say nothing that allows to hand a text on.
UNSTATED = ("unstated", "unknown", "none", "")


def build(config: Config, inputs: Inputs) -> dict[str, Any]:
    """Return the card as JSON: the same inputs and configuration give the same value."""
    samples, seed = inputs.sets["samples"], config.run.seed
    shares = counts.by_fields(samples, inputs.documents)
    heldout = [sample for name in ("heldout", "heldout_long") for sample in inputs.sets.get(name, ())]
    top = next(iter(shares["template"].items()), None)
    log.info("card: %d training samples, %d documents", len(samples), len(inputs.documents))
    card: dict[str, Any] = {
        "schema": 1,
        "run": {
            "name": config.run.name,
            "seed": seed,
            "config": _settings_digest(config),
            "prompts": VERSION,
            "tokenizer": inputs.funnel.get("tokenizer", ""),
        },
        "sets": {name: _size(members) for name, members in inputs.sets.items()},
        "documents": {
            "n": len(inputs.documents),
            "characters": sum(len(document.text) for document in inputs.documents.values()),
            "tokens": sum(document.n_tokens for document in inputs.documents.values()),
        },
        "counts": shares,
        "types_by_task": counts.cross(samples, "task", "question_type"),
        "largest_template": None if top is None else {"name": top[0], "n": top[1], "share": _share(top[1], samples)},
        "sources": _sources(inputs),
        "languages": _languages(inputs.documents, seed),
        "funnel": _funnel(inputs),
        "lengths": counts.lengths(samples),
        "evidence": counts.evidence_positions(samples, inputs.documents),
        "answers": counts.answers(samples),
        "questions": questions.repetition(samples),
        "leakage": questions.leakage([*samples, *inputs.sets.get("memory", ())], heldout),
        "corpus": _corpus(inputs, config),
        "difficulty": _difficulty(inputs.stages.get("difficulty")),
        "bins": _bins(inputs.stages.get("bins")),
        "verification": _verification(inputs.stages.get("verification")),
        "check": None if inputs.check is None else _verdict(inputs.check),
    }
    log.info("card: baselines")
    card["baselines"] = baselines(samples, inputs.documents, seed, BM25_SAMPLES)
    log.info("card: map of the questions")
    card["map"] = questions_map(samples, seed)
    return card


def _settings_digest(config: Config) -> str:
    """Return a digest of the settings that decide the data; where they are made and how fast decides nothing."""
    corpus = config.corpus.model_dump(mode="json", exclude={"cache", "registry", "executor", "workers"})
    synthesis = config.synthesis.model_dump(mode="json")
    return digest_value({"corpus": corpus, "synthesis": synthesis, "seed": config.run.seed})[:12]


def _size(samples: Sequence[Sample]) -> dict[str, Any]:
    return {"n": len(samples), "tokens": counts.summary(sample.n_tokens for sample in samples)}


def _share(part: int, whole: Sequence[Any]) -> float:
    return round(part / len(whole), 4) if whole else 0.0


def _sources(inputs: Inputs) -> list[dict[str, Any]]:
    """Return each source of the documents shown: licences, package, documents, training samples."""
    documents = Counter(document.source for document in inputs.documents.values())
    samples = Counter(sample.source for sample in inputs.sets["samples"])
    first: dict[str, Document] = {}
    licences: dict[str, set[str]] = {}
    for document in inputs.documents.values():
        first.setdefault(document.source, document)
        licences.setdefault(document.source, set()).add(document.licence)
    known = (inputs.corpus or {}).get("sources", {})
    rows = []
    for name in sorted(documents):
        row = known.get(name, {})
        texts = ", ".join(sorted(licences[name]))
        rows.append(
            {
                "name": name,
                "category": first[name].category,
                "package": str(row.get("package", "")),
                "version": str(row.get("version", "")),
                "licence": str(row.get("licence", "")),
                "data_licence": texts,
                "unstated": any(licence.strip().lower() in UNSTATED for licence in licences[name]),
                "documents": documents[name],
                "samples": samples[name],
            }
        )
    return rows


def _languages(documents: Mapping[str, Document], seed: int) -> dict[str, Any]:
    """Return documents by language as far as it shows (`none`: tables, code, lists of names)."""
    from qwenlong.corpus.language import language

    names = sorted(documents)
    if len(names) > LANGUAGE_SAMPLE:
        names = sorted(rng(seed, "card", "language").sample(names, LANGUAGE_SAMPLE))
    found = Counter(language(documents[name].text) or "none" for name in names)
    return {"looked_at": len(names), "documents": dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))}


def _funnel(inputs: Inputs) -> dict[str, Any]:
    from qwenlong.synthesis.run import STEPS

    made = funnel(inputs.funnel.get("tasks", {}), STEPS)
    stages = made["stages"]
    verified, bins = inputs.stages.get("verification"), inputs.stages.get("bins")
    if verified is not None:
        tasks = Counter(str(sample.task) for sample in verified.samples)
        add_stage(stages, "verified", tasks, verified.summary.get("dropped", {}))
    if bins is not None:
        tasks = Counter(str(sample.task) for sample in bins.samples)
        add_stage(stages, "balanced bins", tasks, {"surplus of full bins": stages[-1]["n"] - tasks.total()})
    return made


def _corpus(inputs: Inputs, config: Config) -> dict[str, Any] | None:
    """Return what the corpus read, dropped and kept by source, with rates of duplicates and contamination."""
    if inputs.corpus is None:
        return None
    rows, totals = [], Counter[str]()
    for name, source in sorted(inputs.corpus.get("sources", {}).items()):
        dropped = Counter({why: int(n) for why, n in source.get("dropped_documents", {}).items()})
        dropped.update({why: int(n) for why, n in source.get("dropped", {}).items()})
        kept = int(source.get("documents", 0))
        twins = dropped["duplicate"] + dropped["near_duplicate"]
        # Of what reached deduplication: documents, or sections where documents were split.
        reached = kept + twins + dropped["contaminated"]
        totals.update({"reached": reached, "twins": twins, "contaminated": dropped["contaminated"], "kept": kept})
        rows.append(
            {
                "source": name,
                "read": int(source.get("read", 0)),
                "sections": source.get("sections"),
                "dropped": {why: n for why, n in sorted(dropped.items()) if n},
                "left_out": int(source.get("left_out", 0)),
                "kept": kept,
                "duplicate_rate": _rate(twins, reached),
            }
        )
    return {
        "sources": rows,
        "documents": int(inputs.corpus.get("documents", totals["kept"])),
        "duplicate_rate": _rate(totals["twins"], totals["reached"]),
        "contamination_rate": _rate(totals["contaminated"], totals["reached"]),
        "contaminated": dict(sorted(inputs.corpus.get("contaminated", {}).items())),
        "benchmarks": [benchmark.name for benchmark in config.corpus.decontaminate],
    }


def _rate(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0


def _difficulty(stage: Stage | None) -> dict[str, Any] | None:
    """Return the histogram of the base model's pass@k and its mean by task."""
    if stage is None:
        return None
    scored = {s.id: s.difficulty.pass_at_k for s in stage.samples if s.difficulty is not None}
    tenths = [0] * 10
    for value in scored.values():
        tenths[min(int(value * 10), 9)] += 1
    first = next((s.difficulty for s in stage.samples if s.difficulty is not None), None)
    return {
        "model": first.model if first else "",
        "k": first.k if first else 0,
        "tenths": tenths,
        "tasks": counts.by_task(stage.samples, scored),
    }


def _bins(stage: Stage | None) -> dict[str, Any] | None:
    if stage is None:
        return None
    sources = {
        name: {"per_bin": row["per_bin"], "available": list(row["available"]), "kept": list(row["kept"])}
        for name, row in sorted(stage.summary.items())
        if isinstance(row, Mapping) and {"per_bin", "available", "kept"} <= row.keys()
    }
    return {"n": len(stage.samples), "sources": sources}


def _verification(stage: Stage | None) -> dict[str, Any] | None:
    if stage is None:
        return None
    plain = {k: v for k, v in stage.summary.items() if isinstance(v, (int, float, str)) and not isinstance(v, bool)}
    return plain | {"dropped": dict(stage.summary.get("dropped", {}))}


def _verdict(check: Mapping[str, Any]) -> dict[str, Any]:
    faults = check["faults"]
    return {
        "samples": check["samples"],
        "derived": check["derived"],
        "not_derivable": check["not_derivable"],
        "faults": len(faults) if isinstance(faults, list) else int(faults),
        "tokens_counted": check.get("tokens_counted", 0),
    }
