"""The checker: reads the files that synthesis wrote and proves each sample again, from the text alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from qwenlong.core import templates
from qwenlong.core.errors import DataError
from qwenlong.core.files import read_parquet
from qwenlong.core.records import Document, Sample
from qwenlong.core.tokens import Tokenizer
from qwenlong.synthesis.checker import derive, proposed
from qwenlong.synthesis.checker.view import entity

#: Files of a synthesis folder that hold samples, and the side of the split each is from.
FILES = {"samples": "train", "memory": "train", "heldout": "heldout", "heldout_long": "heldout"}


@dataclass
class Report:
    """Faults by sample, and how many samples were derived, could not be, and had their tokens counted."""

    faults: list[str] = field(default_factory=list)
    checked: int = 0
    derived: int = 0
    not_derivable: int = 0
    tokens_counted: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults


def load(folder: Path) -> tuple[dict[str, list[Sample]], dict[str, Document]]:
    """Read a synthesis folder. Raises DataError naming a missing or broken file."""
    sets = {name: read_parquet(folder / f"{name}.parquet", Sample) for name in FILES}
    documents = read_parquet(folder / "documents.parquet", Document)
    return sets, {document.id: document for document in documents}


def check(
    sets: Mapping[str, Sequence[Sample]], documents: Mapping[str, Document], tokenizer: Tokenizer | None
) -> Report:
    """Verify samples: answers, evidence, uniqueness, token counts (with a tokenizer), and that the splits are apart."""
    report = Report()
    seen: dict[str, str] = {}
    for name, samples in sets.items():
        for sample in samples:
            where = f"{name}: {sample.id}"
            report.checked += 1
            if sample.id in seen:
                report.faults.append(f"{where}: the id stands in {seen[sample.id]} too")
            seen[sample.id] = name
            for fault in _sample_faults(sample, documents, tokenizer, report):
                report.faults.append(f"{where}: {fault}")
    report.faults += _question_faults(sets)
    report.faults += _split_faults(sets, documents)
    return report


def _sample_faults(
    sample: Sample, documents: Mapping[str, Document], tokenizer: Tokenizer | None, report: Report
) -> list[str]:
    try:
        shown = templates.select_documents(sample, documents)
    except DataError as error:
        return [str(error)]
    faults = [fault for rule in _RULES if (fault := rule(sample, shown))]
    derived = derive.answers(sample, shown)
    if derived is None:
        report.not_derivable += 1
    else:
        report.derived += 1
        if derived != set(sample.answers):
            faults.append(f"gold answer {list(sample.answers)}, the documents give {sorted(derived) or 'none'}")
    if tokenizer is not None:
        report.tokens_counted += 1
        counted = tokenizer.count_chat(templates.messages(sample, documents, tokenizer))
        if counted != sample.n_tokens or sample.tokenizer != tokenizer.digest:
            faults.append(
                f"n_tokens = {sample.n_tokens} (tokenizer {sample.tokenizer}), counted {counted} ({tokenizer.digest})"
            )
    return faults


def _evidence_bounds(sample: Sample, shown: Sequence[Document]) -> str:
    texts = {document.id: document.text for document in shown}
    if not sample.evidence:
        return "no evidence"
    for span in sample.evidence:
        if span.document not in texts:
            return f"evidence lies in {span.document!r}, which the sample does not show"
        if span.end > len(texts[span.document]) or not texts[span.document][span.start : span.end].strip():
            return f"evidence [{span.start}, {span.end}) of {span.document!r} is out of bounds or empty"
    return ""


def _evidence_holds_answer(sample: Sample, shown: Sequence[Document]) -> str:
    texts = {document.id: document.text for document in shown}
    spans = [texts.get(span.document, "")[span.start : span.end] for span in sample.evidence]
    joined = " ".join(" ".join(spans).split()).casefold()
    if sample.template.startswith(proposed.FREE):
        return ""
    if sample.task == "corpus_numerical":
        missing = [span for span in spans if not any(character.isdigit() for character in span)]
        return f"an evidence span holds no number: {missing[0]!r}" if missing else ""
    if sample.task == "multiple_choice":
        golds = [sample.choices["ABCDEFGHIJ".index(letter)] for letter in sample.answers if _is_option(letter, sample)]
    else:
        golds = [gold.removeprefix(sample.answer_prefix).strip() for gold in sample.answers]
    if sample.template.startswith(("called_function", "earlier", "changed_number", "choice_country")):
        # The answer is a name that the title or path of a document with evidence carries.
        homes = [d for d in shown if any(span.document == d.id for span in sample.evidence)]
        named = " ".join(f"{d.title} {d.metadata.get('path', '')}" for d in homes).casefold()
        quoted = re.search(r'"(.+)"\?$', sample.question)
        if sample.template.startswith("choice_country") and quoted and quoted[1].casefold() not in joined:
            return f"the evidence does not hold the value {quoted[1]!r}"
        joined += named
    lost = [gold for gold in golds if " ".join(gold.split()).casefold() not in joined]
    return f"the evidence does not hold the answer {lost[0]!r}" if lost else ""


def _is_option(letter: str, sample: Sample) -> bool:
    return len(letter) == 1 and letter in "ABCDEFGHIJ"[: len(sample.choices)]


def _options(sample: Sample, _: Sequence[Document]) -> str:
    if sample.task != "multiple_choice":
        return "choices belong to multiple_choice only" if sample.choices else ""
    if len(sample.choices) != 4 or len({c.casefold() for c in sample.choices}) != 4:
        return f"choices = {list(sample.choices)} are not four different options"
    return "" if len(sample.answers) == 1 and _is_option(sample.answers[0], sample) else f"answers = {sample.answers}"


def _shape(sample: Sample, _: Sequence[Document]) -> str:
    if len(set(sample.documents)) != len(sample.documents):
        return "shows a document twice"
    places = len({span.document for span in sample.evidence})
    if sample.task == "doc_multi_hop" and (sample.n_hops < 2 or places < 2):
        return f"n_hops = {sample.n_hops} over {places} documents"
    if sample.task == "dialogue_memory" and not all(gold.startswith(sample.answer_prefix) for gold in sample.answers):
        return f"the answer does not start with its prefix {sample.answer_prefix!r}"
    return "" if sample.reasoning_chain else "no reasoning chain"


_RULES: tuple[Callable[[Sample, Sequence[Document]], str], ...] = (
    _evidence_bounds,
    _evidence_holds_answer,
    _options,
    _shape,
    proposed.needles,
)


def _question_faults(sets: Mapping[str, Sequence[Sample]]) -> list[str]:
    """Questions that stand there twice, on either side."""
    faults = []
    seen: dict[str, str] = {}
    for name, samples in sets.items():
        for sample in samples:
            key = " ".join(templates.full_question(sample).casefold().split())
            if key in seen:
                faults.append(f"{name}: {sample.id}: the question stands in {seen[key]} too")
            seen[key] = name
    return faults


def _split_faults(sets: Mapping[str, Sequence[Sample]], documents: Mapping[str, Document]) -> list[str]:
    """Documents, or sections of the same entity, on both sides."""
    sides: dict[str, dict[tuple[str, str], str]] = {}
    for name, samples in sets.items():
        for sample in samples:
            for document in (documents[key] for key in sample.documents if key in documents):
                place = (document.source, entity(document))
                sides.setdefault(FILES.get(name, name), {})[place] = f"{name}: {sample.id}"
    return [
        f"{sides[one][place]}: {place[1]!r} of {place[0]} is {one}'s and {other}'s ({sides[other][place]})"
        for one, other in combinations(sorted(sides), 2)
        for place in sorted(sides[one].keys() & sides[other].keys())
    ]
