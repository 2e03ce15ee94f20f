"""Figures as SVG in the project's style, the same bytes for the same numbers."""

from __future__ import annotations

import base64
import io
from typing import Any

from qwenlong.core.records import TASKS

BLUE, GREY, BAND, RED = "#1f5fa8", "#8a94a3", "#d9ecd6", "#b23b1e"
#: One colour a task, the same in all figures.
TASK_COLOURS: dict[str, str] = dict(zip(TASKS, ("#1f5fa8", "#b4540a", "#2f7d4f", "#8c3b8c", "#6b6f16"), strict=True))


def figure(width: float, height: float, **grid: Any) -> tuple[Any, Any]:
    """Return a matplotlib figure of a size in inches, and its axes."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": False}):
        made = Figure(figsize=(width, height), layout="constrained")
        return made, made.subplots(**grid)


def panels(count: int, edge: float, each: float, **grid: Any) -> tuple[Any, list[Any]]:
    """Return a figure of `count` panels, three in a line at most, and their axes in order.

    `edge` are the inches for what stands around all lines, `each` the height of a line.
    """
    columns = min(3, count)
    lines = -(-count // columns)
    made, axes = figure(9.2, edge + each * lines, nrows=lines, ncols=columns, squeeze=False, **grid)
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    return made, list(axes.flat[:count])


def svg(made: Any) -> str:
    """Return a figure as SVG."""
    from matplotlib import rc_context

    stream = io.StringIO()
    # Fixed salt and no date: identical numbers give an identical file.
    with rc_context({"svg.hashsalt": "qwenlong", "svg.fonttype": "path"}):
        # Cut to what is drawn: the layout leaves too little room for labels beside wide tick labels.
        clean = {"Date": None, "Creator": None}
        made.savefig(stream, format="svg", metadata=clean, bbox_inches="tight", pad_inches=0.05)
    return stream.getvalue()


def embedded(text: str) -> str:
    """Return an SVG as the address of an image: its ids and styles stay its own."""
    return "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode()
