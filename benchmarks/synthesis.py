"""Synthesis at size, without a language model: counts, shares, the checker's verdict, and what needs no reading.

    python benchmarks/synthesis.py [--config benchmarks/synthesis.yaml] [--out benchmarks/synthesis.md]

Runs `corpus fetch`, then times `corpus build`, `synthesize run` and `synthesize check`. Baselines answer each training
sample without a model: blind (the commonest answer of the task; the first option), the commonest gold answer of its
template, and the line of its documents that BM25 ranks first for the question (Robertson and Zaragoza 2009, k1 = 1.5,
b = 0.75), scored by the recipe's own reward rules. A whole line holds the answer more often than a model says it: the
last is an upper bound of what matching words can do.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from qwenlong.core import config_files, templates
from qwenlong.core.files import read_json, read_parquet, write_text
from qwenlong.core.records import Document, Sample
from qwenlong.rewards import rules

#: Words that two questions share, as a share of all of theirs, from which they count as near duplicates.
NEAR = 0.8
LONG = 16_000


def call(*words: object, check: bool = True) -> tuple[float, str]:
    """Run a qwenlong verb; return its seconds and what it printed."""
    begin = time.monotonic()
    command = [str(Path(sys.executable).with_name("qwenlong")), *map(str, words)]
    done = subprocess.run(command, check=check, stdout=subprocess.PIPE, text=True)
    return time.monotonic() - begin, done.stdout


def words_of(text: str) -> list[str]:
    """Return a text's words, lower-case."""
    return re.findall(r"\w+", text.casefold())


def bm25_sentence(question: str, documents: Sequence[Document]) -> str:
    """Return the line of the documents that BM25 ranks first."""
    lines = [line.strip() for document in documents for line in document.text.splitlines() if line.strip()]
    counted = [Counter(words_of(line)) for line in lines]
    asked = set(words_of(question))
    frequency = Counter(word for counts in counted for word in counts.keys() & asked)
    mean = sum(sum(counts.values()) for counts in counted) / max(1, len(counted))
    best, top = "", -1.0
    for line, counts in zip(lines, counted, strict=True):
        size = sum(counts.values())
        score = 0.0
        for word in counts.keys() & asked:
            rarity = math.log(1 + (len(lines) - frequency[word] + 0.5) / (frequency[word] + 0.5))
            score += rarity * counts[word] * 2.5 / (counts[word] + 1.5 * (0.25 + 0.75 * size / mean))
        if score > top:
            best, top = line, score
    return best


def scored(sample: Sample, answer: str) -> float:
    """Return the reward of an answer."""
    return rules.score(
        sample.task, f"Therefore, the answer is {sample.answer_prefix} {answer}", sample.answers,
        answer_prefix=sample.answer_prefix, choices=sample.choices,
    )  # fmt: skip


def baselines(samples: Sequence[Sample], documents: Mapping[str, Document]) -> list[str]:
    """Return the table of baselines, a row a task."""
    lines = ["| task | n | blind | commonest of the template | BM25 sentence |", "|---|---|---|---|---|"]
    for task in sorted({sample.task for sample in samples}):
        own = [sample for sample in samples if sample.task == task]
        common = Counter(sample.answers[0] for sample in own).most_common(1)[0][0]
        by_template: dict[str, Counter[str]] = defaultdict(Counter)
        for sample in own:
            by_template[sample.template][sample.answers[0]] += 1
        blind = [scored(s, "A" if task == "multiple_choice" else common) for s in own]
        typical = [scored(s, by_template[s.template].most_common(1)[0][0]) for s in own]
        found = []
        for sample in own:
            line = bm25_sentence(templates.full_question(sample), [documents[name] for name in sample.documents])
            if task == "multiple_choice":
                shared = [len(set(words_of(line)) & set(words_of(option))) for option in sample.choices]
                line = "ABCDEFGHIJ"[shared.index(max(shared))]
            elif sample.answer_prefix:
                line = line.partition(": ")[2]
            found.append(scored(sample, line))
        cells = " | ".join(f"{100 * sum(values) / len(own):.1f}" for values in (blind, typical, found))
        lines.append(f"| {task} | {len(own)} | {cells} |")
    return lines


def near_duplicates(samples: Sequence[Sample]) -> int:
    """Return how many questions (with options) share at least NEAR of their words with an earlier one of the task."""
    count = 0
    for task in {sample.task for sample in samples}:
        taken: list[frozenset[str]] = []
        for sample in (s for s in samples if s.task == task):
            words = frozenset(words_of(templates.full_question(sample)))
            count += any(len(words & other) >= NEAR * len(words | other) for other in taken)
            taken.append(words)
    return count


def main() -> None:
    """Run everything and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("benchmarks/synthesis.yaml"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/synthesis.md"))
    arguments = parser.parse_args()
    root = Path(config_files.load(arguments.config).run.results)
    corpus, made = root / "corpus", root / "synthesis"
    call("corpus", "fetch", "--config", arguments.config)
    built, _ = call("corpus", "build", "--config", arguments.config, "--sources", "data/cache", "--out", corpus)
    ran, _ = call("synthesize", "run", "--config", arguments.config, "--corpus", corpus, "--out", made)
    checked, said = call("synthesize", "check", made, "--json", check=False)
    verdict = json.loads(said)
    samples = read_parquet(made / "samples.parquet", Sample)
    documents = {document.id: document for document in read_parquet(made / "documents.parquet", Document)}
    share, (template, top) = len(samples), Counter(s.template for s in samples).most_common(1)[0]
    long = sum(sample.n_tokens > LONG for sample in samples)
    types = Counter(sample.question_type for sample in samples)
    near = near_duplicates(samples)
    funnel = read_json(made / "funnel.json")["tasks"]
    steps = [step for step, count in next(iter(funnel.values()))["samples"].items() if isinstance(count, int)]
    lines = [
        "# Synthesis at size", "",
        f"`python benchmarks/synthesis.py` with `{arguments.config}`, packages only, no language model.", "",
        "| | |", "|---|---|",
        f"| training samples | {len(samples)} over {len({s.task for s in samples})} tasks |",
        f"| above {LONG:,} tokens | {long} |",
        f"| question types | {', '.join(f'{name} {n}' for name, n in types.most_common())} |",
        f"| largest share of one template | {100 * top / share:.1f}% ({template}) |",
        f"| near-duplicate questions | {near} ({100 * near / share:.2f}%) |",
        f"| checked (all sets) | {verdict['samples']}: derived {verdict['derived']}, not derivable "
        f"{verdict['not_derivable']}, faults {len(verdict['faults'])} |",
        f"| seconds | corpus {built:.0f}, synthesis {ran:.0f}, check {checked:.0f} |",
        "", "## From candidates to samples", "",
        f"| task | {' | '.join(step.replace('_', ' ') for step in steps)} |", "|---" * (len(steps) + 1) + "|",
        *(f"| {task} | {' | '.join(str(row['samples'][step]) for step in steps)} |" for task, row in funnel.items()),
        "", "## Without reading", "", *baselines(samples, documents), "",
    ]  # fmt: skip
    write_text(arguments.out, "\n".join(lines))
    print("\n".join([*lines, *verdict["faults"][:20]]))


if __name__ == "__main__":
    main()
