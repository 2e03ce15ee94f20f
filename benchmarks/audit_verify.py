"""How long a bundle takes to make and to verify: `python benchmarks/audit_verify.py --items 150 --out FOLDER`.

Eight models and two ablation rows on five tasks, full context and memory agent, three seeds, two scales, with made-up
responses; the table goes to benchmarks/audit_verify.md.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))


def timed(*words: str) -> tuple[float, float, str]:
    """Return seconds, CPU seconds and output of a command."""
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "qwenlong", "audit", *words], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return (
        time.monotonic() - begun,
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        done.stdout.splitlines()[-1],
    )


def main() -> None:
    """Make runs, bundle and verify them, write the table."""
    from made_up_runs import make

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=[20, 150], help="items of a task")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--words", type=int, default=60, help="words of a response")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and bundles")
    arguments = parser.parse_args()
    rows = []
    for items in arguments.items:
        root = (arguments.out / str(items)).resolve()
        made = [
            make(root, scale, 17 + seed, items=items, long_items=items, words=arguments.words, steps=45)
            for scale in ("nano", "smollm2")
            for seed in range(arguments.seeds)
        ]
        configs = [word for _, file in made for word in ("--config", str(file))]
        folder = str(root / "bundle")
        making = timed("bundle", *(str(results) for results, _ in made), *configs, "--out", folder)
        checking = timed("verify", folder)
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        scores = checking[2].split(", ")[2].split()[0]
        rows.append((items, len(made), scores, size / 1e6, *making[:2], *checking[:2]))
    lines = [
        "# Making and verifying a bundle",
        "",
        f"`python benchmarks/audit_verify.py`, {os.cpu_count()} cores; eight models and two ablation rows, five tasks,",
        f"full context and memory agent, {arguments.seeds} seeds at two scales, {arguments.words} words a response, 45",
        "steps a stage, made-up responses.",
        "",
        "| items a task | runs | score files | MB | bundle, s | CPU s | verify, s | CPU s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for items, runs, scores, size, *times in rows:
        lines.append(f"| {items} | {runs} | {scores} | {size:.1f} | {' | '.join(f'{t:.0f}' for t in times)} |")
    Path("benchmarks/audit_verify.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
