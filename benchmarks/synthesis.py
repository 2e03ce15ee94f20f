"""Synthesis at size, without a language model: counts, shares, the checker's verdict, and what needs no reading.

    python benchmarks/synthesis.py [--config benchmarks/synthesis.yaml] [--out benchmarks/synthesis.md]

Runs `corpus fetch`, then times `corpus build`, `synthesize run` and `synthesize check`. Baselines
(`qwenlong.datacard.baselines`) answer each training sample without a model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from qwenlong.core import config_files
from qwenlong.core.files import read_json, read_parquet, write_text
from qwenlong.core.records import Document, Sample
from qwenlong.datacard.baselines import baselines
from qwenlong.datacard.questions import repetition

LONG = 16_000


def call(*words: object, check: bool = True) -> tuple[float, str]:
    """Run a qwenlong verb; return its seconds and what it printed."""
    begin = time.monotonic()
    command = [str(Path(sys.executable).with_name("qwenlong")), *map(str, words)]
    done = subprocess.run(command, check=check, stdout=subprocess.PIPE, text=True)
    return time.monotonic() - begin, done.stdout


def table(samples: Sequence[Sample], documents: Mapping[str, Document], seed: int) -> list[str]:
    """Return the table of baselines, a row a task."""
    lines = ["| task | n | blind | commonest of the template | BM25 sentence |", "|---|---|---|---|---|"]
    for task, row in baselines(samples, documents, seed).items():
        lines.append(f"| {task} | {row['n']} | {row['blind']:.1f} | {row['template']:.1f} | {row['bm25']:.1f} |")
    return lines


def main() -> None:
    """Run everything and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("benchmarks/synthesis.yaml"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/synthesis.md"))
    arguments = parser.parse_args()
    settings = config_files.load(arguments.config)
    root = Path(settings.run.results)
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
    near = repetition(samples)["near"]
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
        "", "## Without reading", "", *table(samples, documents, settings.run.seed), "",
    ]  # fmt: skip
    write_text(arguments.out, "\n".join(lines))
    print("\n".join([*lines, *verdict["faults"][:20]]))


if __name__ == "__main__":
    main()
