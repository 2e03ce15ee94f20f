"""Counts and distributions of samples: plain numbers, no charts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qwenlong.core.records import Document, Sample

#: Fields of a sample that are counted as they stand.
COUNTED = ("category", "generator", "question_type", "source", "task", "template")
#: The paper's Figure 3, its histogram of input lengths: tokens a bin and samples, read off the figure.
PAPER_WIDTH = 6000
PAPER_COUNTS = (2300, 1200, 1660, 2400, 690, 1150, 460, 530, 570, 290, 220, 720, 300, 300, 250, 210, 180, 190, 450, 75)
#: Longest prompt from which our lengths are counted in the paper's bins; shorter ones in as many bins of their own.
COMPARABLE = 60_000
DECILES = 10
#: Different numbers that are counted one by one.
CLASSES = 10


def by_fields(samples: Sequence[Sample], documents: Mapping[str, Document]) -> dict[str, dict[str, int]]:
    """Return how many samples have each value of each field; `licence` counts samples that show such a document."""
    found = {name: _ordered(Counter(str(getattr(sample, name)) for sample in samples)) for name in COUNTED}
    shown = Counter(
        licence
        for sample in samples
        for licence in sorted({documents[name].licence for name in sample.documents if name in documents})
    )
    return found | {"licence": _ordered(shown)}


def cross(samples: Sequence[Sample], row: str, column: str) -> dict[str, dict[str, int]]:
    """Return {row value: {column value: samples}}."""
    found: dict[str, Counter[str]] = {}
    for sample in samples:
        found.setdefault(str(getattr(sample, row)), Counter())[str(getattr(sample, column))] += 1
    return {name: _ordered(found[name]) for name in sorted(found)}


def _ordered(counter: Counter[str]) -> dict[str, int]:
    return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))


def summary(values: Iterable[float]) -> dict[str, float]:
    """Return n, mean, min, quartiles and max of numbers; n alone when there are none."""
    ordered = sorted(values)
    if not ordered:
        return {"n": 0}
    return {
        "n": len(ordered),
        "mean": round(sum(ordered) / len(ordered), 2),
        "min": ordered[0],
        "p25": _quantile(ordered, 0.25),
        "median": _quantile(ordered, 0.5),
        "p75": _quantile(ordered, 0.75),
        "max": ordered[-1],
    }


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return round(ordered[low] + (place - low) * (ordered[high] - ordered[low]), 2)


def by_task(samples: Sequence[Sample], values: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return the summary of a value by task, and of `all`; `values` by sample id, those without one left out."""
    rows = {
        task: summary(values[s.id] for s in samples if s.task == task and s.id in values)
        for task in sorted({sample.task for sample in samples})
    }
    return {"all": summary(values.values())} | rows


def lengths(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return the histogram of prompt lengths beside the paper's, in bins that make the two shapes comparable.

    With long prompts the bins are the paper's. With shorter ones as many equal bins reach up to the longest, and the
    paper's shape is laid over them: `same_axis` says which. `distance` is the total variation between the two, from
    0 (the same shape) to 1; `upper` the share in the bins that lie above 66K in the paper, beside the paper's own.
    """
    bins = len(PAPER_COUNTS)
    longest = max((sample.n_tokens for sample in samples), default=0)
    same = longest >= COMPARABLE
    width = PAPER_WIDTH if same else max(1, -(-longest // bins))
    counts = [0] * max(bins, -(-longest // width))
    for sample in samples:
        # A bin holds what is above its lower edge up to its upper one, so that a target's length ends its bin.
        counts[max(0, -(-sample.n_tokens // width) - 1)] += 1
    total, paper = len(samples), sum(PAPER_COUNTS)
    ours = [n / total if total else 0.0 for n in counts]
    theirs = [n / paper for n in PAPER_COUNTS] + [0.0] * (len(counts) - bins)
    return {
        "bin_tokens": width,
        "counts": counts,
        "same_axis": same,
        "paper": {"bin_tokens": PAPER_WIDTH, "counts": list(PAPER_COUNTS)},
        "distance": round(sum(abs(a - b) for a, b in zip(ours, theirs, strict=True)) / 2, 4) if total else None,
        "upper": {"from_tokens": 11 * width, "ours": round(sum(ours[11:]), 4), "paper": round(sum(theirs[11:]), 4)},
        "tokens": by_task(samples, {sample.id: sample.n_tokens for sample in samples}),
    }


def evidence_positions(samples: Sequence[Sample], documents: Mapping[str, Document]) -> dict[str, Any]:
    """Return how many spans of evidence lie in each tenth of the context, in all and by task.

    The context is the documents in the order in which they are shown, by characters; a span lies where its middle is.
    """
    rows: dict[str, list[int]] = {}
    for sample in samples:
        for share in positions(sample, documents):
            row = rows.setdefault(sample.task, [0] * DECILES)
            row[min(int(share * DECILES), DECILES - 1)] += 1
    return {"all": [sum(column) for column in zip(*rows.values(), strict=True)] or [0] * DECILES} | dict(
        sorted(rows.items())
    )


def positions(sample: Sample, documents: Mapping[str, Document]) -> list[float]:
    """Return where the middle of each span of evidence lies in the context, from 0 to 1."""
    begins: dict[str, int] = {}
    total = 0
    for name in sample.documents:
        begins[name] = total
        total += len(documents[name].text)
    return [
        (begins[span.document] + (span.start + span.end) / 2) / max(1, total)
        for span in sample.evidence
        if span.document in begins
    ]


def answers(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return the lengths of answers in words by task (of a choice: the option's), hops, needles and documents shown."""
    return {
        "words": by_task(samples, {sample.id: len(_answer_text(sample).split()) for sample in samples}),
        "hops": _numbers(sample.n_hops for sample in samples if sample.n_hops),
        "needles": _numbers(sample.n_needles for sample in samples if sample.n_needles),
        "evidence_documents": _numbers(len({span.document for span in sample.evidence}) for sample in samples),
        "documents": by_task(samples, {sample.id: len(sample.documents) for sample in samples}),
    }


def _answer_text(sample: Sample) -> str:
    if sample.choices:
        place = "ABCDEFGHIJ".find(sample.answers[0])
        return sample.choices[place] if 0 <= place < len(sample.choices) else sample.answers[0]
    return sample.answers[0].removeprefix(sample.answer_prefix)


def _numbers(values: Iterable[int]) -> dict[str, int]:
    """Return how often each number stands there; many different ones in classes that double: 1, 2, 3–4, 5–8, …"""
    found = Counter(values)
    if len(found) <= CLASSES:
        return {str(value): n for value, n in sorted(found.items())}
    classes: Counter[int] = Counter()
    for value, n in found.items():
        classes[max(0, value - 1).bit_length()] += n
    return {_class_name(power): n for power, n in sorted(classes.items())}


def _class_name(power: int) -> str:
    low, high = (1 << power) // 2 + 1, 1 << power
    return str(high) if low >= high else f"{low}–{high}"
