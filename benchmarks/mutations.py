"""What the checker refuses of samples that were made wrong, by kind and template, over a synthesis folder.

    python benchmarks/mutations.py DIR [--tokenizer DIR] [--each 100] [--out benchmarks/mutations.md]

The mutants are those of the tests (tests/unit/synthesis/mutants.py): seeded, templates in turn, ids and token counts
made right again, so that only what was changed can tell. The clean samples they are made from are checked first.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "unit" / "synthesis"))

import mutants

from qwenlong.core.files import write_text
from qwenlong.core.tokens import Tokenizer
from qwenlong.synthesis.checker.check import check, load


def table(head: list[str], rows: list[list[object]]) -> list[str]:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(map(str, line))} |" for line in lines]


def main() -> None:
    """Make the mutants, check each, write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--each", type=int, default=100)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/mutations.md"))
    arguments = parser.parse_args()
    sets, documents = load(arguments.folder)
    tokenizer = Tokenizer(arguments.tokenizer or arguments.folder / ".work" / "tokenizer")
    begin = time.monotonic()
    clean = check(sets, documents, tokenizer)
    seconds = time.monotonic() - begin
    known = mutants.mutable(sets["samples"])
    made: Counter[tuple[str, str]] = Counter()
    refused: Counter[tuple[str, str]] = Counter()
    templates: Counter[str] = Counter()
    caught: Counter[str] = Counter()
    ambiguous, accepted = 0, []
    for mutant in mutants.mutants(known, documents, tokenizer, arguments.each, arguments.seed):
        report = check(mutant.sets, mutant.documents, tokenizer)
        made[mutant.kind, mutant.how] += 1
        templates[mutant.template] += 1
        refused[mutant.kind, mutant.how] += not report.ok
        caught[mutant.template] += not report.ok
        ambiguous += mutant.kind == "second answer" and any("is ambiguous" in fault for fault in report.faults)
        if report.ok:
            accepted.append(mutant)
    kinds = [
        [kind, n := sum(v for (k, _), v in made.items() if k == kind),
         r := sum(v for (k, _), v in refused.items() if k == kind), f"{100 * r / n:.1f}%"]
        for kind in mutants.KINDS
    ]  # fmt: skip
    second = sum(n for (kind, _), n in made.items() if kind == "second answer")
    lines = [
        "# Samples made wrong", "",
        f"`python benchmarks/mutations.py` over {clean.checked} samples, {arguments.each} mutants of "
        "each kind, templates in turn. A mutant's id and token count are made right again.", "",
        f"Clean samples: {clean.checked} in {seconds:.0f} s, {clean.derived} derived, {clean.not_derivable} not "
        f"derivable, {len(clean.faults)} faults. Mutants: {made.total()}, refused {refused.total()} "
        f"({100 * refused.total() / made.total():.2f}%). Of {second} with a second answer, {ambiguous} are called "
        "ambiguous.", "",
        *table(["kind", "mutants", "refused", "share"], kinds), "", "## By what was changed", "",
        *table(["kind", "change", "mutants", "refused"],
               [[kind, how.replace("_", " "), n, refused[kind, how]] for (kind, how), n in sorted(made.items())]),
        "", "## By template", "",
        *table(["template", "mutants", "refused"], [[name, n, caught[name]] for name, n in sorted(templates.items())]),
        "",
    ]  # fmt: skip
    write_text(arguments.out, "\n".join(lines))
    print("\n".join(lines))
    for mutant in accepted:
        print("accepted:", mutant.kind, mutant.how, [*mutant.sets.values()][-1][-1].model_dump_json())


if __name__ == "__main__":
    main()
