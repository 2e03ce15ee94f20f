"""The data card's charts, drawn from its numbers alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qwenlong.core.records import TASKS
from qwenlong.datacard.figures import BLUE, GREY, RED, TASK_COLOURS, figure, svg

#: Charts as (key, title, SVG, note).
Chart = tuple[str, str, str, str]


def charts(card: Mapping[str, Any]) -> dict[str, Chart]:
    """Return the charts that the card has numbers for, by key."""
    makers = (_funnel, _lengths, _evidence, _map, _difficulty)
    return {chart[0]: chart for make in makers for chart in make(card)}


def _tasks(card: Mapping[str, Any]) -> list[str]:
    return [str(task) for task in TASKS if card["counts"]["task"].get(task)]


def _label(task: str) -> str:
    return task.replace("_", " ")


def _funnel(card: Mapping[str, Any]) -> Iterator[Chart]:
    stages = card["funnel"]["stages"]
    first = stages[0]["n"]
    if not first:
        return
    drawn, axis = figure(9.2, 0.9 + 0.52 * len(stages))
    tasks = [task for task in TASKS if any(stage["tasks"].get(task) for stage in stages)]
    for row, stage in enumerate(stages):
        # Bars are centred, so that what is lost narrows the funnel on both sides.
        left = -stage["n"] / 2
        for task in tasks:
            n = stage["tasks"].get(task, 0)
            axis.barh(row, n, left=left, height=0.72, color=TASK_COLOURS[task], linewidth=0)
            left += n
        # Figures stand in columns right of the widest bar.
        axis.text(first * 0.53, row, f"{stage['n']:,}", va="center", ha="left", fontsize=9, fontweight="bold")
        share = f"{100 * stage['n'] / first:.0f}%"
        axis.text(first * 0.73, row, share, va="center", ha="right", fontsize=8.5, color=GREY)
        lost = stages[row - 1]["n"] - stage["n"] if row else 0
        if lost:
            reason = stage["reason"]
            reason = reason if any(character.isdigit() for character in reason) else f"{reason} {lost:,}"
            text = "− " + reason.replace(", ", "\n− ")
            axis.text(first * 0.78, row, text, va="center", ha="left", fontsize=8.5, color=RED)
    axis.set_yticks(range(len(stages)), [stage["name"] for stage in stages])
    axis.set_xlim(-first * 0.52, first * 1.2)
    axis.set_ylim(len(stages) - 0.5, -0.5)
    axis.set_xticks([])
    axis.tick_params(length=0)
    for side in ("left", "bottom"):
        axis.spines[side].set_visible(False)
    _task_legend(drawn, tasks)
    yield (
        "funnel",
        "From candidates to training samples",
        svg(drawn),
        "Width is the number of samples; red says what each step dropped. Steps that dropped nothing are left out.",
    )


def _task_legend(drawn: Any, tasks: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=TASK_COLOURS[task], label=_label(task)) for task in tasks]
    drawn.legend(handles=handles, frameon=False, fontsize=8, ncols=len(tasks), loc="outside lower center")


def _lengths(card: Mapping[str, Any]) -> Iterator[Chart]:
    lengths = card["lengths"]
    total = sum(lengths["counts"])
    if not total:
        return
    width, counts, paper = lengths["bin_tokens"], lengths["counts"], lengths["paper"]["counts"]
    drawn, axis = figure(9.2, 3.1)
    edges = [n * width for n in range(len(counts) + 1)]
    shares = [100 * n / total for n in counts]
    axis.bar(edges[:-1], shares, width=0.9 * width, align="edge", color=BLUE, linewidth=0, label="this run")
    theirs = [100 * n / sum(paper) for n in paper]
    label = "the paper" if lengths["same_axis"] else "the paper's shape, its 0 to 120K on this axis"
    axis.stairs(theirs, edges[: len(theirs) + 1], color=RED, linewidth=1.4, label=label)
    axis.set_xlim(0, edges[-1])
    axis.set_xlabel("tokens of the prompt")
    axis.set_ylabel("% of samples")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.legend(frameon=False, fontsize=8)
    upper = lengths["upper"]
    yield (
        "lengths",
        "Length of the prompts (the paper's Figure 3)",
        svg(drawn),
        f"Bins of {width:,} tokens. Total variation between the two shapes: {lengths['distance']:.2f} (0: the same). "
        f"Above {upper['from_tokens']:,} tokens: {100 * upper['ours']:.0f}%; the paper, above 66K: "
        f"{100 * upper['paper']:.0f}%.",
    )


def _evidence(card: Mapping[str, Any]) -> Iterator[Chart]:
    rows = card["evidence"]
    total = sum(rows["all"])
    if not total:
        return
    drawn, axis = figure(9.2, 2.7)
    bottom = [0.0] * len(rows["all"])
    tasks = [task for task in TASKS if task in rows]
    for task in tasks:
        shares = [100 * n / total for n in rows[task]]
        axis.bar(range(len(shares)), shares, bottom=bottom, width=0.86, color=TASK_COLOURS[task], linewidth=0)
        bottom = [a + b for a, b in zip(bottom, shares, strict=True)]
    axis.axhline(100 / len(bottom), color=GREY, linestyle="--", linewidth=1)
    axis.set_xticks(range(len(bottom)), [f"{10 * n}–{10 * n + 10}%" for n in range(len(bottom))])
    axis.tick_params(axis="x", length=0)
    axis.set_ylabel("% of evidence")
    axis.set_xlabel("place in the context")
    _task_legend(drawn, tasks)
    yield (
        "evidence",
        "Where the evidence lies",
        svg(drawn),
        f"{total:,} spans of evidence by the tenth of the context that holds their middle. Dashed: spread evenly.",
    )


def _map(card: Mapping[str, Any]) -> Iterator[Chart]:
    made = card["map"]
    if not made["points"]:
        return
    drawn, axis = figure(9.2, 5.6)
    for task in TASKS:
        points = [tuple(map(float, pair.split(","))) for pair in made["points"].get(task, "").split()]
        if points:
            size = 4 if made["shown"] > 1000 else 12
            xs, ys = zip(*points, strict=True)
            axis.scatter(xs, ys, s=size, color=TASK_COLOURS[task], alpha=0.65, linewidths=0)
    axis.set_aspect("equal", adjustable="datalim")
    axis.set_xticks([])
    axis.set_yticks([])
    for side in ("left", "bottom"):
        axis.spines[side].set_color("#dfe3e8")
    _task_legend(drawn, _tasks(card))
    title = f"Map of the questions ({made['method']} of embeddings, the paper's Figure 7)"
    yield ("map", title, svg(drawn), f"One point a question, coloured by task. {made['note']}")


def _difficulty(card: Mapping[str, Any]) -> Iterator[Chart]:
    made = card["difficulty"]
    if made is None or not sum(made["tenths"]):
        return
    drawn, axis = figure(9.2, 2.4)
    axis.bar(range(10), made["tenths"], width=0.86, color=BLUE, linewidth=0)
    axis.set_xticks(range(10), [f"{n / 10:.1f}–{(n + 1) / 10:.1f}" for n in range(10)])
    axis.tick_params(axis="x", length=0)
    axis.set_xlabel(f"pass@{made['k']} of the base model")
    axis.set_ylabel("samples")
    yield (
        "difficulty",
        "Difficulty",
        svg(drawn),
        f"Mean reward over {made['k']} responses of the base model a sample.",
    )
