"""The checker: reads the files that synthesis wrote and proves each sample again, from the text alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, ClassVar, TypeVar

from qwenlong.core import templates
from qwenlong.core.errors import DataError
from qwenlong.core.records import Document, Sample
from qwenlong.core.tokens import Tokenizer
from qwenlong.synthesis.checker import derive, evidence
from qwenlong.synthesis.checker.folder import FILES, load
from qwenlong.synthesis.checker.rules import RULES
from qwenlong.synthesis.checker.view import entity

__all__ = ["FILES", "Report", "check", "load"]

T = TypeVar("T")
#: Prompts whose tokens are counted at once, on all cores.
BATCH = 32


@dataclass
class Report:
    """Faults with the set and id of their sample, and counts by (task, template); the columns are `columns`."""

    faults: list[str] = field(default_factory=list)
    counts: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    tokens_counted: int = 0
    columns: ClassVar[tuple[str, ...]] = ("samples", "derived", "not_derivable", "faults")

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    @property
    def checked(self) -> int:
        """Samples that were looked at."""
        return self.total("samples")

    @property
    def derived(self) -> int:
        """Samples whose answer was derived again, rightly or not."""
        return self.total("derived")

    @property
    def not_derivable(self) -> int:
        """Samples whose answer no derivation gives: a language model proposed them, or the template is unknown."""
        return self.total("not_derivable")

    @property
    def not_derivable_share(self) -> float:
        """Share of the samples that are not derivable."""
        return self.not_derivable / self.checked if self.checked else 0.0

    def total(self, column: str) -> int:
        """Return the sum of a column."""
        return sum(row[column] for row in self.counts.values())

    def rows(self) -> list[dict[str, str | int]]:
        """Return the counts as a table, a row a template."""
        return [
            {"task": task, "template": name} | {column: row[column] for column in self.columns}
            for (task, name), row in sorted(self.counts.items())
        ]

    def summary(self) -> dict[str, Any]:
        """Return totals, the table and the faults, as JSON has them."""
        return {
            "samples": self.checked,
            "derived": self.derived,
            "not_derivable": self.not_derivable,
            "not_derivable_share": round(self.not_derivable_share, 6),
            "tokens_counted": self.tokens_counted,
            "templates": self.rows(),
            "faults": self.faults,
        }

    def add(self, sample: Sample, name: str, fault: str) -> None:
        """Note a fault of a sample in the set `name`."""
        self.faults.append(f"{name}: {sample.id}: {fault}")
        self.row(sample)["faults"] += 1

    def row(self, sample: Sample) -> Counter[str]:
        """Return the counts of a sample's template."""
        return self.counts.setdefault((sample.task, sample.template), Counter())


def check(
    sets: Mapping[str, Sequence[Sample]], documents: Mapping[str, Document], tokenizer: Tokenizer | None
) -> Report:
    """Verify samples: answers, evidence, uniqueness, token counts (with a tokenizer), and that the splits are apart."""
    report = Report()
    seen: dict[str, str] = {}
    questions: dict[str, str] = {}
    whole: list[tuple[str, Sample]] = []
    for name, sample in ((name, sample) for name, samples in sets.items() for sample in samples):
        report.row(sample)["samples"] += 1
        if sample.id in seen:
            report.add(sample, name, f"the id stands in {seen[sample.id]} too")
        seen[sample.id] = name
        asked = " ".join(templates.full_question(sample).casefold().split())
        if asked in questions:
            report.add(sample, name, f"the question stands in {questions[asked]} too")
        questions[asked] = name
        try:
            shown = templates.select_documents(sample, documents)
        except DataError as error:
            report.add(sample, name, str(error))
            continue
        whole.append((name, sample))
        for fault in _sample_faults(sample, shown, report):
            report.add(sample, name, fault)
    _splits(sets, documents, report)
    if tokenizer is not None:
        _count_tokens(whole, documents, tokenizer, report)
    return report


def _sample_faults(sample: Sample, shown: Sequence[Document], report: Report) -> Iterator[str]:
    broken = [fault for rule in RULES if (fault := rule(sample, shown))]
    yield from broken
    derived = derive.answers(sample, shown)
    if derived is None:
        report.row(sample)["not_derivable"] += 1
        return
    report.row(sample)["derived"] += 1
    if derived != set(sample.answers) or len(derived) != len(sample.answers):
        verdict = "is ambiguous" if len(derived) > 1 else "is wrong"
        yield f"gold answer {list(sample.answers)} {verdict}, the documents give {sorted(derived) or 'none'}"
    elif not broken:
        yield from evidence.faults(sample, shown)
        if (counted := derive.needles(sample, shown)) != sample.n_needles:
            yield f"n_needles = {sample.n_needles}, the documents have {counted}"


def _batches(values: Sequence[T]) -> Iterator[Sequence[T]]:
    return (values[start : start + BATCH] for start in range(0, len(values), BATCH))


def _count_tokens(
    samples: Sequence[tuple[str, Sample]], documents: Mapping[str, Document], tokenizer: Tokenizer, report: Report
) -> None:
    """Count prompts and documents again."""
    used = {key: documents[key] for _, sample in samples for key in sample.documents}
    wrong = {}
    for keys in _batches(list(used)):
        for key, counted in zip(keys, tokenizer.count_batch([used[key].text for key in keys]), strict=True):
            if counted != used[key].n_tokens:
                wrong[key] = f"document {key!r} has n_tokens = {used[key].n_tokens}, counted {counted}"
    for batch in _batches(samples):
        prompts = [tokenizer.render_chat(templates.messages(sample, documents, tokenizer)) for _, sample in batch]
        for (name, sample), counted in zip(batch, tokenizer.count_batch(prompts), strict=True):
            report.tokens_counted += 1
            if (counted, tokenizer.digest) != (sample.n_tokens, sample.tokenizer):
                claimed = f"n_tokens = {sample.n_tokens} (tokenizer {sample.tokenizer})"
                report.add(sample, name, f"{claimed}, counted {counted} ({tokenizer.digest})")
            for key in sample.documents:
                if key in wrong:
                    report.add(sample, name, wrong[key])


def _splits(sets: Mapping[str, Sequence[Sample]], documents: Mapping[str, Document], report: Report) -> None:
    """Note documents, or sections of the same entity, on both sides."""
    sides: dict[str, dict[tuple[str, str], tuple[str, Sample]]] = {}
    for name, sample in ((name, sample) for name, samples in sets.items() for sample in samples):
        for document in (documents[key] for key in sample.documents if key in documents):
            sides.setdefault(FILES.get(name, name), {})[document.source, entity(document)] = (name, sample)
    for one, other in combinations(sorted(sides), 2):
        for place in sorted(sides[one].keys() & sides[other].keys()):
            (name, sample), (second, also) = sides[one][place], sides[other][place]
            report.add(sample, name, f"{place[1]!r} of {place[0]} is {one}'s and {other}'s ({second}: {also.id})")
