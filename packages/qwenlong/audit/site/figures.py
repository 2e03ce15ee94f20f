"""Figures over seeds as SVG, each with the numbers behind it as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwenlong.audit import curves
from qwenlong.audit.checks import entropy_norm_rho
from qwenlong.audit.site import entropy
from qwenlong.audit.site.cells import SeededTable
from qwenlong.audit.site.runs import Run
from qwenlong.core.config import RL_STAGES
from qwenlong.datacard.figures import BLUE, figure, panels, svg

#: Ablation rows that have a place in the paper's Figures 8 and 10, by table.
STRATEGIES = {"table5": "Figure 8", "table4": "Figure 10", "table2": "Figure 8", "extra": "rows of ours"}


@dataclass(frozen=True)
class Figure:
    """A figure: file name without ending, title, note, the drawing, its numbers as CSV, the files they are from."""

    name: str
    title: str
    note: str
    drawing: str
    numbers: str
    sources: tuple[tuple[str, str], ...]


def csv_text(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as CSV; floats with six digits."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(head)
    for row in rows:
        writer.writerow(["" if v is None else f"{v:.6g}" if isinstance(v, float) else v for v in row])
    return stream.getvalue()


def all_figures(runs: Sequence[Run], scale: str, tables: Sequence[SeededTable]) -> list[Figure]:
    """Return the figures of a scale that have numbers."""
    made = [_stages(scale, tables), *_strategies(runs, scale), _entropy_norm(runs, scale)]
    made += [_recipe(run) for run in runs]
    return [one for one in made if one is not None]


def _stages(scale: str, tables: Sequence[SeededTable]) -> Figure | None:
    table = next(table for table in tables if table.name == "table10")
    shown = {
        column: [(row, cells[column].estimate) for row, _, cells, _ in table.rows if cells[column].estimate is not None]
        for column in ("avg", "memory_agent")
    }
    if not any(shown.values()):
        return None
    drawn, axes = figure(9.2, 3.0, ncols=2)
    titles = {"avg": "full context, average of five tasks", "memory_agent": "memory agent beyond the window"}
    rows = []
    names = [row for row, _, _, _ in table.rows]
    for axis, (column, points) in zip(axes, shown.items(), strict=True):
        for row, value in points:
            assert value is not None
            place = names.index(row)
            axis.plot([value.value], [place], "o", color=BLUE, markersize=4)
            if value.low is not None and value.high is not None:
                axis.plot([value.low, value.high], [place, place], color=BLUE, linewidth=1.4)
            rows.append((row, column, value.value, value.low, value.high, value.n, value.seeds))
        axis.set_yticks(range(len(names)), [name.replace("full_context_", "").replace("_", " ") for name in names])
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.set_title(titles[column], fontsize=9, loc="left")
        axis.set_xlabel("percent")
    files = {(s.run, s.file) for cell in table.cells() for s in cell.sources}
    head = ("row", "column", "value", "low", "high", "n", "seeds")
    note = "Mean over seeds and 95% interval over seeds and items; one seed: over items alone."
    title = f"Stages of the recipe, {scale} (the shape of Table 10)"
    return Figure(f"stages-{scale}", title, note, svg(drawn), csv_text(head, rows), tuple(sorted(files)))


def _strategies(runs: Sequence[Run], scale: str) -> list[Figure]:
    members: dict[str, list[str]] = {}
    for run in runs:
        for row in run.rows:
            for name in row.tables:
                if row.name not in members.setdefault(name, []):
                    members[name].append(row.name)
    made = []
    for table, names in sorted(members.items()):
        have = {name: {run.name: m for run in runs if (m := run.metrics(name, True))} for name in names}
        have = {name: metrics for name, metrics in have.items() if metrics}
        if have and table in STRATEGIES:
            made.append(_strategy(table, scale, have, runs))
    return made


def _strategy(
    table: str, scale: str, have: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]], runs: Sequence[Run]
) -> Figure:
    drawn, axes = figure(9.2, 3.6, ncols=len(curves.STRATEGY_PANELS))
    rows = []
    for (key, label), axis in zip(curves.STRATEGY_PANELS, axes, strict=True):
        for name, by_run in have.items():
            steps: dict[int, list[float]] = {}
            for run, metrics in by_run.items():
                for row in metrics:
                    if key in row:
                        steps.setdefault(int(row["step"]), []).append(row[key])
                        rows.append((name, run, key, int(row["step"]), row[key]))
            places = sorted(steps)
            (line,) = axis.plot(places, [float(np.mean(steps[p])) for p in places], label=name, linewidth=1.2)
            if len(by_run) > 1:
                low, high = ([end(steps[p]) for p in places] for end in (min, max))
                axis.fill_between(places, low, high, color=line.get_color(), alpha=0.18, linewidth=0)
        axis.set_ylabel(label)
        axis.set_xlabel("step")
        axis.xaxis.get_major_locator().set_params(integer=True)
    drawn.legend(*axes[0].get_legend_handles_labels(), frameon=False, fontsize=8, ncols=3, loc="outside lower center")
    trained = [(run, name) for name, by_run in have.items() for run in runs if run.name in by_run]
    files = sorted((run.name, run.metrics_file(name, True)) for run, name in trained)
    seeds = max(map(len, have.values()))
    note = f"Line: mean over seeds (at most {seeds}); band: lowest to highest seed. Each row trained from the base."
    note += _cut((name, run.cut(name, True)) for run, name in trained)
    title = f"Strategies of {table}, {scale} (the shape of {STRATEGIES[table]})"
    head = ("row", "run", "metric", "step", "value")
    return Figure(f"strategies-{table}-{scale}", title, note, svg(drawn), csv_text(head, rows), tuple(files))


def _entropy_norm(runs: Sequence[Run], scale: str) -> Figure | None:
    trained = [(run, *one, points) for run in runs for one, points in entropy.plain(run).items()]
    if not trained:
        return None
    drawn, axes = panels(len(trained), 0.8, 2.3)
    for (run, name, _, points), axis in zip(trained, axes, strict=True):
        axis.scatter(*zip(*points, strict=True), s=16, facecolors="none", edgecolors=BLUE, linewidths=0.9)
        rho = entropy_norm_rho(points)
        title = f"{run.name} {name}: n = {len(points)}" + ("" if math.isnan(rho) else f", ρ = {rho:.2f}")
        axis.set_title(title, fontsize=8)
    drawn.supxlabel("entropy (nats)", fontsize=9)
    drawn.supylabel("gradient norm", fontsize=9)
    rows = [(run.name, name, *point) for run, name, _, points in trained for point in points]
    return Figure(
        f"entropy_norm-{scale}",
        f"Entropy against gradient norm, {scale} (the shape of Figure 9)",
        "A point a step of GRPO without AEPO, a panel a training; ρ is Spearman's, the paper has 0.96."
        + _cut((f"{run.name} {name}", run.cut(name, ablation)) for run, name, ablation, _ in trained),
        svg(drawn),
        csv_text(("run", "training", "entropy", "gradient_norm"), rows),
        tuple((run.name, run.metrics_file(name, ablation)) for run, name, ablation, _ in trained),
    )


def _recipe(run: Run) -> Figure | None:
    stages = {name: run.metrics(name) for name in RL_STAGES}
    drawing = curves.training(stages, run.config)
    if drawing is None:
        return None
    keys = [key for key, _ in curves.PANELS]
    rows = [
        (name, int(row["step"]), *(row.get(key) for key in (*keys, "aepo/masked")))
        for name, metrics in stages.items()
        for row in metrics
    ]
    return Figure(
        f"recipe-{run.name}",
        f"Training along the recipe, {run.name} (entropy and mask: the shape of Figure 11)",
        "Green: the AEPO band of the stage. Red: steps whose negative gradients were masked. Dashed: naive GRPO."
        + _cut((name, run.cut(name)) for name, metrics in stages.items() if metrics),
        drawing,
        csv_text(("stage", "step", *keys, "aepo/masked"), rows),
        tuple((run.name, run.metrics_file(name)) for name, metrics in stages.items() if metrics),
    )


def _cut(trained: Iterable[tuple[str, str]]) -> str:
    """Return a sentence on the trainings that did not end, given names and `Run.cut`; empty without any."""
    stopped: dict[str, set[str]] = {}
    for name, where in trained:
        if where:
            stopped.setdefault(name, set()).add(where)
    said = [f"{name} ({', '.join(sorted(places))})" for name, places in stopped.items()]
    return f" Not finished: {'; '.join(said)}." if said else ""
