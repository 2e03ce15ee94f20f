"""What answers without reading earn: three baselines, scored by the recipe's own reward rules.

Blind gives the commonest answer of the task (the first option); "commonest of the template" the commonest gold answer
of the sample's template; "BM25 sentence" the line of its documents that BM25 ranks first for the question (Robertson
and Zaragoza 2009, k1 = 1.5, b = 0.75). A whole line holds the answer more often than a model says it: the last is an
upper bound of what matching words can do.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from qwenlong.core.records import Document, Sample
from qwenlong.core.seeds import rng
from qwenlong.core.templates import full_question
from qwenlong.rewards import rules

K1, B = 1.5, 0.75
_WORD = re.compile(r"\w+")
#: A document's lines, each with its words counted and their number.
Lines = Sequence[tuple[str, Counter[str], int]]


def words_of(text: str) -> list[str]:
    """Return a text's words, lower-case."""
    return _WORD.findall(text.casefold())


def lines_of(document: Document) -> Lines:
    """Return a document's lines that are not empty, counted."""
    found = []
    for line in document.text.splitlines():
        if line.strip():
            counts = Counter(words_of(line))
            found.append((line.strip(), counts, counts.total()))
    return found


def bm25_sentence(question: str, documents: Sequence[Lines]) -> str:
    """Return the line that BM25 ranks first, the first one of equals; "" where there is none."""
    lines = [line for document in documents for line in document]
    asked = sorted(set(words_of(question)))
    frequency = {word: sum(word in counts for _, counts, _ in lines) for word in asked}
    rarity = {word: math.log(1 + (len(lines) - n + 0.5) / (n + 0.5)) for word, n in frequency.items()}
    mean = sum(size for _, _, size in lines) / max(1, len(lines))
    best, top = "", -1.0
    for line, counts, size in lines:
        score = 0.0
        for word in asked:
            if n := counts.get(word):
                score += rarity[word] * n * (K1 + 1) / (n + K1 * (1 - B + B * size / mean))
        if score > top:
            best, top = line, score
    return best


def reward(sample: Sample, answer: str) -> float:
    """Return the reward of an answer."""
    return rules.score(
        sample.task,
        f"Therefore, the answer is {sample.answer_prefix} {answer}",
        sample.answers,
        answer_prefix=sample.answer_prefix,
        choices=sample.choices,
    )


def _from_line(sample: Sample, line: str) -> str:
    """Return the answer that a line gives: the option that shares most words with it, a message without its speaker."""
    if sample.choices:
        words = set(words_of(line))
        shared = [len(words & set(words_of(option))) for option in sample.choices]
        return "ABCDEFGHIJ"[shared.index(max(shared))]
    return line.partition(": ")[2] if sample.answer_prefix else line


def baselines(
    samples: Sequence[Sample], documents: Mapping[str, Document], seed: int, at_most: int | None = None
) -> dict[str, dict[str, Any]]:
    """Return the mean rewards by task, in percent: `n`, `blind`, `template`, `bm25` and the `bm25_n` it was taken over.

    BM25 reads all documents; of more than `at_most` samples of a task it takes so many, drawn by seed.
    """
    counted: dict[str, Lines] = {}
    rows: dict[str, dict[str, Any]] = {}
    for task in sorted({sample.task for sample in samples}):
        own = sorted((sample for sample in samples if sample.task == task), key=lambda sample: sample.id)
        common = Counter(sample.answers[0] for sample in own).most_common(1)[0][0]
        by_template: dict[str, Counter[str]] = defaultdict(Counter)
        for sample in own:
            by_template[sample.template][sample.answers[0]] += 1
        typical = {template: answers.most_common(1)[0][0] for template, answers in by_template.items()}
        read = own if at_most is None or len(own) <= at_most else rng(seed, "card", "bm25", task).sample(own, at_most)
        found = []
        for sample in read:
            for name in sample.documents:
                if name not in counted:
                    counted[name] = lines_of(documents[name])
            line = bm25_sentence(full_question(sample), [counted[name] for name in sample.documents])
            found.append(reward(sample, _from_line(sample, line)))
        rows[task] = {
            "n": len(own),
            "blind": _percent([reward(s, "A" if task == "multiple_choice" else common) for s in own]),
            "template": _percent([reward(s, typical[s.template]) for s in own]),
            "bm25": _percent(found),
            "bm25_n": len(read),
        }
    return rows


def _percent(values: Sequence[float]) -> float:
    return round(100 * sum(values) / len(values), 2)
