"""Accuracy of the nano policy by what is asked and by prompt length, with Wilson intervals. Greedy decoding.

Two sets: held-out samples of the synthesis stage, which are real documents, scored by the recipe's reward rules; and
exercises over held-out names and values put together anew, compared word for word.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qwenlong.core.records import Document, Sample
from qwenlong.core.tokens import Tokenizer
from qwenlong.nano.episodes import Example
from qwenlong.rewards import rules

_ANSWER = re.compile(r"Therefore, the answer is\s*(.*)", re.DOTALL)
_MEMORY = re.compile(r"<memory>(.*?)</memory>", re.DOTALL)
#: Upper bounds of the length buckets, in prompt tokens.
BUCKETS = (320, 448, 640)
#: Output limit when measured.
MAX_NEW_TOKENS = 160


def wilson(hits: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95% interval of a proportion (Wilson 1927); (0, 1) of nothing."""
    if n == 0:
        return 0.0, 1.0
    share = hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def bucket(length: int) -> str:
    """Return the name of the length bucket of a prompt."""
    bound = next((b for b in BUCKETS if length <= b), None)
    return f"up to {bound}" if bound else f"above {BUCKETS[-1]}"


class Tally:
    """Counts of right answers and whole formats by kind and length."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], list[tuple[float, bool]]] = defaultdict(list)

    def add(self, kind: str, length: int, right: float, whole: bool) -> None:
        """Count one answer under its kind, and under its kind and length."""
        for name in ("all", bucket(length)):
            self._rows[kind, name].append((right, whole))

    def table(self, baselines: Mapping[str, float]) -> list[dict[str, Any]]:
        """Return a row per kind and length: n, accuracy, its 95% interval, the baseline, the share of whole formats."""
        rows = []
        for (kind, length), values in sorted(self._rows.items()):
            n, hits = len(values), sum(right for right, _ in values)
            low, high = wilson(hits, n)
            rows.append(
                {
                    "kind": kind, "length": length, "n": n, "accuracy": round(hits / n, 4), "low": round(low, 4),
                    "high": round(high, 4), "baseline": round(baselines.get(kind, 0.0), 4),
                    "well_formed": round(sum(whole for _, whole in values) / n, 4),
                }
            )  # fmt: skip
        return rows


def real(
    generator: Any, tokenizer: Tokenizer, samples: Sequence[Sample], corpus: Mapping[str, Document], window: int
) -> list[dict[str, Any]]:
    """Return the table of held-out samples. Right: the rule's reward, 1 for a whole match (dialogue: a similarity)."""
    from qwenlong.inference.engine import Sampling
    from qwenlong.inference.responses import response_text
    from qwenlong.training.difficulty import reward
    from qwenlong.training.prompting import prompt_ids

    prompts = [prompt_ids(sample, corpus, tokenizer, window - MAX_NEW_TOKENS) for sample in samples]
    sampling = [Sampling(max_new_tokens=MAX_NEW_TOKENS, temperature=0.0)] * len(samples)
    results = generator.generate(prompts, sampling, list(range(len(samples))))
    tally = Tally()
    for sample, prompt, result in zip(samples, prompts, results, strict=True):
        text = response_text(tokenizer, result.token_ids, prompt)
        whole = result.finish_reason == "stop" and _ANSWER.search(text) is not None
        tally.add(sample.task, len(prompt), reward(sample, text), whole)
    return tally.table(trivial(samples, corpus))


def trivial(samples: Sequence[Sample], corpus: Mapping[str, Document]) -> dict[str, float]:
    """Return the best trivial baseline of each task, scored by the same rules.

    Majority answer of the set; first option; most frequent number of the documents; last name (the last run of capital
    words of the documents).
    """
    best: dict[str, float] = {}
    by_task: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_task[sample.task].append(sample)
    for task, members in by_task.items():
        common = Counter(sample.answers[0] for sample in members).most_common(1)[0][0]
        guesses: list[list[str]] = [[common] * len(members), ["A"] * len(members)]
        texts = [" ".join(corpus[name].text for name in sample.documents) for sample in members]
        guesses.append([_first(Counter(re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)).most_common(1)) for text in texts])
        guesses.append([(re.findall(r"[A-Z]\w+(?: [A-Z]\w+)*", text) or [""])[-1] for text in texts])
        best[task] = max(
            sum(
                rules.score(
                    task,
                    f"Therefore, the answer is {sample.answer_prefix} {guess}",
                    sample.answers,
                    answer_prefix=sample.answer_prefix,
                    choices=sample.choices,
                )
                for sample, guess in zip(members, column, strict=True)
            )
            / len(members)
            for column in guesses
        )
    return best


def _first(counted: list[tuple[str, int]]) -> str:
    return counted[0][0] if counted else ""


def essence(kind: str, text: str) -> str | None:
    """Return what is compared: the memory of an update, the answer otherwise; None where the format is broken."""
    match = (_MEMORY if kind.startswith("memory_update") else _ANSWER).search(text)
    return " ".join(match.group(1).split()) if match else None


def exercises(pools: Iterable[Sequence[Example]], tokenizer: Tokenizer, per_kind: int) -> list[Example]:
    """Return up to `per_kind` examples of each kind; updates are told apart by whether a memory was to be kept."""
    kept: dict[str, list[Example]] = defaultdict(list)
    for examples in pools:
        for example in examples:
            kind = example.kind
            if kind == "memory_update":
                prompt = tokenizer.decode(example.prompt)
                empty = "Memory:\n(empty)" in prompt or "Memory:\nnothing yet" in prompt
                kind = "memory_update_first" if empty else "memory_update_rewrite"
            if len(kept[kind]) < per_kind:
                kept[kind].append(Example(kind, example.prompt, example.response))
    return [example for kind in sorted(kept) for example in kept[kind]]


def composed(generator: Any, tokenizer: Tokenizer, examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Return the table of exercises. Right: the answer, or the memory, word for word; baseline: the commonest one."""
    from qwenlong.inference.engine import Sampling

    sampling = [Sampling(max_new_tokens=MAX_NEW_TOKENS, temperature=0.0)] * len(examples)
    results = generator.generate([e.prompt for e in examples], sampling, list(range(len(examples))))
    tally, answers = Tally(), defaultdict[str, Counter[str]](Counter)
    for example, result in zip(examples, results, strict=True):
        wanted = essence(example.kind, tokenizer.decode(example.response[:-1]))
        stopped = result.finish_reason == "stop"
        given = essence(example.kind, tokenizer.decode(result.token_ids[:-1])) if stopped else None
        tally.add(example.kind, len(example.prompt), float(given == wanted), given is not None)
        answers[example.kind][wanted or ""] += 1
    commonest = {kind: counts.most_common(1)[0][1] / counts.total() for kind, counts in answers.items()}
    return tally.table(commonest)
