"""Training curves as SVG, drawn from the stages' metrics.jsonl, the same bytes for the same numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from qwenlong.audit.checks import entropy_norm_rho, gradient_steps
from qwenlong.core.config import Config
from qwenlong.core.records import TASKS
from qwenlong.datacard.figures import BAND, BLUE, GREY, TASK_COLOURS, figure, panels, svg

Rows = Sequence[Mapping[str, float]]
#: The recipe's own path; naive GRPO is drawn beside it.
PATH = ("rl_1", "rl_2", "rl_3", "memory_rl", "rl_4")
PANELS = (
    ("reward/mean", "mean reward"),
    ("aepo/entropy", "entropy (nats)"),
    ("response_length/mean", "response (tokens)"),
    ("actor/grad_norm", "gradient norm"),
    ("aepo/masked_share", "share masked"),
)
#: What strategies are compared by (Figures 8 and 10).
STRATEGY_PANELS = PANELS[:3]
_MASK = "#f3c9b5"


def _series(rows: Rows, key: str, shift: float = 0.0) -> tuple[list[float], list[float]]:
    points = [(row["step"] + shift, row[key]) for row in rows if key in row]
    return [x for x, _ in points], [y for _, y in points]


def training(stages: Mapping[str, Rows], config: Config) -> str | None:
    """Return reward, entropy, response length, gradient norm and share masked along the recipe; none without metrics.

    Stages follow each other on one axis of steps. The entropy panel shows each stage's AEPO band (green) and the
    steps at which negative gradients were masked (red).
    """
    if not any(stages.get(name) for name in (*PATH, "naive_grpo")):
        return None
    drawn, axes = figure(9.2, 9.6, nrows=len(PANELS), sharex=True)
    shift = 0.0
    for name in PATH:
        rows = stages.get(name, ())
        if not rows:
            continue
        last = rows[-1]["step"]
        for (key, _), axis in zip(PANELS, axes, strict=True):
            axis.axvline(shift + 0.5, color="#dfe3e8", linewidth=0.8, zorder=0)
            axis.plot(*_series(rows, key, shift), color=BLUE, marker="o", markersize=2.5, linewidth=1.2)
        axes[0].text(shift + 0.6, 1.01, name, transform=axes[0].get_xaxis_transform(), fontsize=8, va="bottom")
        band = config.stage(name).aepo
        if band is not None:
            ends = [shift + 0.5, shift + last + 0.5]
            axes[1].fill_between(ends, band.low, band.high, color=BAND, zorder=0, linewidth=0)
        for row in rows:
            if row.get("aepo/masked"):
                middle = shift + row["step"]
                axes[1].axvspan(middle - 0.5, middle + 0.5, color=_MASK, alpha=0.5, linewidth=0)
        shift += last
    naive = stages.get("naive_grpo", ())
    for (key, label), axis in zip(PANELS, axes, strict=True):
        if naive:
            axis.plot(*_series(naive, key), color=GREY, linestyle="--", linewidth=1.1, label="naive_grpo")
        axis.set_ylabel(label)
    if naive:
        axes[0].legend(frameon=False, fontsize=8, loc="lower right")
    axes[0].set_ylim(bottom=0)
    axes[-1].set_ylim(0, 1)
    axes[-1].set_xlabel("step, stages one after another")
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    return svg(drawn)


def by_task(stages: Mapping[str, Rows], key: str) -> str | None:
    """Return a metric of each stage by task, a panel a stage; none without any. `key` has {} for the task."""
    shown = [n for n in (*PATH, "naive_grpo") if any(key.format(t) in r for r in stages.get(n, ()) for t in TASKS)]
    if not shown:
        return None
    drawn, axes = panels(len(shown), 0.5, 2.1, sharey=True)
    for name, axis in zip(shown, axes, strict=True):
        for task, colour in TASK_COLOURS.items():
            points = _series(stages[name], key.format(task))
            axis.plot(*points, color=colour, label=task, linewidth=1.1, marker="o", markersize=2)
        axis.set_title(name, fontsize=9, loc="left")
        axis.xaxis.get_major_locator().set_params(integer=True)
    handles, labels = axes[0].get_legend_handles_labels()
    drawn.legend(handles, labels, frameon=False, fontsize=8, ncols=len(TASKS), loc="outside lower center")
    return svg(drawn)


def ablation_curves(rows: Mapping[str, Rows]) -> str | None:
    """Return reward, entropy and response length of the ablation rows; none without any."""
    shown = {name: metrics for name, metrics in rows.items() if metrics}
    if not shown:
        return None
    drawn, axes = figure(9.2, 3.6, ncols=len(STRATEGY_PANELS))
    for (key, label), axis in zip(STRATEGY_PANELS, axes, strict=True):
        for name, metrics in shown.items():
            axis.plot(*_series(metrics, key), label=name, linewidth=1.1)
        axis.set_ylabel(label)
        axis.set_xlabel("step")
        axis.xaxis.get_major_locator().set_params(integer=True)
    drawn.legend(*axes[0].get_legend_handles_labels(), frameon=False, fontsize=8, ncols=3, loc="outside lower center")
    return svg(drawn)


def entropy_against_norm(stages: Mapping[str, Rows]) -> str | None:
    """Return entropy against gradient norm (Figure 9), a point a step and a panel a run; none without any.

    Steps whose negative gradients were masked are drawn hollow: their gradient is that of fewer rows. Panels name
    Spearman's rho over the points; steps that were skipped have no gradient and no point.
    """
    points = {name: [row for row in rows if gradient_steps([row])] for name, rows in stages.items()}
    shown = {name: rows for name, rows in points.items() if rows}
    if not shown:
        return None
    drawn, axes = panels(len(shown), 0.6, 2.4)
    for (name, rows), axis in zip(shown.items(), axes, strict=True):
        pairs = gradient_steps(rows)
        colours = ["none" if row.get("aepo/masked") else BLUE for row in rows]
        axis.scatter(*zip(*pairs, strict=True), s=16, facecolors=colours, edgecolors=BLUE, linewidths=0.9)
        rho = entropy_norm_rho(pairs)
        said = "" if math.isnan(rho) else f", ρ = {rho:.2f}"
        axis.set_title(f"{name}: n = {len(pairs)}{said}", fontsize=9, loc="left")
    drawn.supxlabel("entropy (nats)", fontsize=9)
    drawn.supylabel("gradient norm", fontsize=9)
    return svg(drawn)
