"""What planning and scheduling cost by the number of evaluation jobs, with the project's own workflow.

    python benchmarks/dag_overhead.py [--sizes 500 1000 2000] [--cores 8] [--out benchmarks/dag_overhead.md]

A configuration is generated: ablation rows, 20 benchmarks of each, so that rows x 20 is the number of evaluations (each
answered by one job and scored by another). Snakemake runs from a virtual environment of its own, whose `qwenlong` only
writes the files that a rule declares: the Snakefile puts the folder of its Python first on PATH. Everything else is
the real thing: rules, input functions, digests, resources, logs, benchmark files, Snakemake's metadata.

Measured, each with whole commands: the dry-run of everything with `--profile cluster`, and of a single cell; the run of
all evaluations on this machine, what they read having been made before; the same again when there is nothing to do.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
import venv
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = 20
#: The command in the place of `qwenlong`: the last words of each verb say what is written.
NOTHING = r"""#!/bin/bash
set -eu
verb="$1 $2"; out=""; source=""; shift 2; first=${1-}; second=${2-}
while [ $# -gt 0 ]; do
  case $1 in --out|--to) out=$2; shift ;; --source) source=$2; shift ;; esac
  shift
done
case $verb in
  "evaluate run") mkdir -p "$out"; : > "$out/predictions.jsonl"; : > "$out/run.json" ;;
  "evaluate score") : > "$out" ;;
  "evaluate fetch") mkdir -p "$out"; : > "$out/fetched.json" ;;
  "checkpoint convert") mkdir -p "$second" ;;
  "corpus fetch") mkdir -p "$out/$source" ;;
  "corpus build") mkdir -p "$out"; : > "$out/documents.parquet"; : > "$out/corpus.json" ;;
  "synthesize run") mkdir -p "$out"; : > "$out/funnel.json"
    for f in samples heldout heldout_long memory documents; do : > "$out/$f.parquet"; done ;;
  "train verify") : > "$out/samples.parquet"; : > "$out/verification.json" ;;
  "train difficulty") : > "$out/samples.parquet"; : > "$out/difficulty.json" ;;
  "train bins") : > "$out/samples.parquet"; : > "$out/bins.json" ;;
  *) mkdir -p "$out" ;;
esac
"""

ABOUT = """`python benchmarks/dag_overhead.py`: the project's Snakefile, Snakemake {version}, rows of ablations x {n}
benchmarks; an evaluation is a job that asks and one that scores, by a command that only writes files. {here} cores,
`--cores {cores}`; wall-clock seconds of whole commands, start included, and CPU seconds of all their processes. Load is
the machine's at the row's end, this benchmark's own processes included: above the number of cores other work had its
share of the wall time."""


@dataclass(frozen=True)
class Run:
    """A command: wall and CPU seconds, and what it printed."""

    wall: float
    cpu: float
    text: str

    def jobs(self) -> int:
        """Return the number of jobs that Snakemake counted."""
        found = re.findall(r"(?m)^total +(\d+)", self.text)
        return int(found[-1]) if found else 0


class Project:
    """A copy of code and workflow, a configuration of so many evaluations, and an environment with nothing to do."""

    def __init__(self, folder: Path, evaluations: int, cores: int) -> None:
        self.folder, self.cores = folder, cores
        for name in ("packages", "workflow", "configs", "cluster", "models", "data/sources.csv", "Snakefile"):
            source, target = ROOT / name, folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        venv.create(folder / "env", with_pip=False)
        self.bin = folder / "env" / "bin"
        command = self.bin / "qwenlong"
        command.write_text(NOTHING, encoding="utf-8")
        command.chmod(0o755)
        rows = [{"name": f"row_{i:03}", "tables": ["extra"]} for i in range(evaluations // BENCHMARKS)]
        values = yaml.safe_load((folder / "configs" / "tiny.yaml").read_text(encoding="utf-8"))
        values["tracking"] = {"enabled": False}
        values["run"] = {"name": "overhead", "results": "results/overhead"}
        values["corpus"] |= {"sources": ["world_factbook"], "cache": "results/cache"}
        values["evaluation"] |= {"benchmarks": self._names(), "agent_benchmarks": []}
        values["ablations"] = {"rows": rows, "stage": {"steps": 1}}
        values["resources"] = {kind: {"cpus": 1} for kind in ("light", "generate", "train", "merge")}
        (folder / "run.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        self.models = [f"results/overhead/ablations/{row['name']}/model" for row in rows]

    @staticmethod
    def _names() -> list[str]:
        from qwenlong.evaluation.registry import BENCHMARKS as KNOWN
        from qwenlong.evaluation.tables import layout

        names = sorted({*layout.BENCHMARKS, *KNOWN} - {"heldout", "heldout_long"})
        if len(names) < BENCHMARKS:
            raise SystemExit(f"{len(names)} benchmarks are known, {BENCHMARKS} are wanted")
        return names[:BENCHMARKS]

    def snakemake(self, *words: str, config: str = "run.yaml") -> Run:
        """Run Snakemake in the copy. Raises SystemExit with the end of its output when it fails."""
        site = [path for path in sys.path if path.endswith("site-packages")]
        env = os.environ | {"PYTHONPATH": os.pathsep.join([str(self.folder / "packages"), *site])}
        command = [str(self.bin / "python"), "-m", "snakemake", "--configfile", config, *words]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(
            command, cwd=self.folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} gave {done.returncode}\n{done.stdout[-4000:]}")
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Run(wall, cpu, done.stdout)


def measure(evaluations: int, cores: int) -> dict[str, float]:
    """Return what one size takes."""
    with tempfile.TemporaryDirectory(prefix="dag-overhead-") as folder:
        project = Project(Path(folder), evaluations, cores)
        local = ("--cores", str(cores))
        plan = project.snakemake("-n", "--profile", "cluster", "ablations")
        cell = "results/overhead/ablations/row_000/evaluation/docmath/scores.json"
        part = project.snakemake("-n", "--profile", "cluster", cell)
        fetched = [f"results/cache/benchmarks/{name}/fetched.json" for name in _published(project)]
        project.snakemake(*local, "--", *project.models, *fetched)
        run = project.snakemake(*local, "ablations")
        again = project.snakemake("-n", "ablations")
        made = len(list(Path(folder, "results/overhead/ablations").glob("*/evaluation/*/scores.json")))
        if made != evaluations or "Nothing to be done" not in again.text:
            raise SystemExit(f"{made} of {evaluations} evaluations were made")
        jobs = run.jobs()
        return {
            "evaluations": evaluations,
            "planned": plan.jobs(),
            "plan": plan.wall,
            "plan_cpu": plan.cpu,
            "part_jobs": part.jobs(),
            "part": part.wall,
            "jobs": jobs,
            "run": run.wall,
            "run_cpu": run.cpu,
            "rate": jobs / run.wall,
            "again": again.wall,
            "load": os.getloadavg()[0],
        }


def paper(cores: int) -> str:
    """Return a sentence on the plan of the paper's own run."""
    with tempfile.TemporaryDirectory(prefix="dag-overhead-") as folder:
        project = Project(Path(folder), BENCHMARKS, cores)
        whole = project.snakemake("-n", "--profile", "cluster", config="configs/paper.yaml")
        part = project.snakemake("-n", "--profile", "cluster", "rl_stage_4", config="configs/paper.yaml")
    return (
        f"`snakemake -n --profile cluster --configfile configs/paper.yaml`: {whole.jobs()} jobs in {whole.wall:.1f} s "
        f"({whole.cpu:.1f} CPU s); `rl_stage_4` alone: {part.jobs()} jobs in {part.wall:.1f} s."
    )


def _published(project: Project) -> list[str]:
    shown = project.snakemake("-n", "ablations").text
    return sorted(set(re.findall(r"results/cache/benchmarks/([a-z0-9_]+)/fetched\.json", shown)))


def table(rows: list[dict[str, float]], cores: int, beside: str = "") -> str:
    """Return the page."""
    import snakemake

    about = ABOUT.format(version=snakemake.__version__, n=BENCHMARKS, here=os.cpu_count(), cores=cores)
    lines = [
        "# What the workflow itself costs",
        "",
        textwrap.fill(" ".join(about.split()), 120),
        "",
        "| evaluations | jobs planned | plan, s | CPU s | CPU s per 1,000 jobs | one cell: jobs | plan, s "
        "| jobs run | run, s | CPU s | **jobs a second** | nothing to do, s | load |",
        "|---" * 13 + "|",
    ]
    for r in rows:
        lines.append(
            f"| {r['evaluations']:,} | {r['planned']:,} | {r['plan']:.1f} | {r['plan_cpu']:.1f} | "
            f"{1000 * r['plan_cpu'] / r['planned']:.1f} | {r['part_jobs']} | {r['part']:.1f} | "
            f"{r['jobs']:,} | {r['run']:.0f} | {r['run_cpu']:.0f} | **{r['rate']:.1f}** | {r['again']:.1f} | "
            f"{r['load']:.1f} |"
        )
    first, last = rows[0], rows[-1]
    if len(rows) > 1:
        times = last["planned"] / first["planned"]
        lines += [
            "",
            f"From {first['planned']:,.0f} to {last['planned']:,.0f} jobs ({times:.1f} times) the plan takes "
            f"{last['plan_cpu'] / first['plan_cpu']:.1f} times the CPU time, the run of "
            f"{last['jobs'] / first['jobs']:.1f} times the jobs {last['run_cpu'] / first['run_cpu']:.1f} times.",
        ]
    return "\n".join([*lines, *(["", beside] if beside else [])]) + "\n"


def main() -> None:
    """Measure all sizes and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 1000, 2000])
    parser.add_argument("--cores", type=int, default=8)
    parser.add_argument("--out", type=Path)
    words = parser.parse_args()
    if any(size < BENCHMARKS or size % BENCHMARKS for size in words.sizes):
        parser.error(f"sizes are multiples of {BENCHMARKS}")
    rows: list[dict[str, float]] = []
    beside = textwrap.fill(paper(words.cores), 120)
    for size in words.sizes:
        rows.append(measure(size, words.cores))
        print({key: round(value, 2) for key, value in rows[-1].items()}, file=sys.stderr, flush=True)
        text = table(sorted(rows, key=lambda row: row["evaluations"]), words.cores, beside)
        # After each size: a run that is cut short leaves what it has.
        if words.out is not None:
            words.out.write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
