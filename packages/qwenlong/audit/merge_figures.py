"""Figures of a merge by layer and module as SVG, the same bytes for the same numbers."""

from __future__ import annotations

from qwenlong.audit.merges import SHARES, Group, MergeReport
from qwenlong.datacard.figures import TASK_COLOURS, figure, svg

_COLOURS = tuple(TASK_COLOURS.values())
_COLUMNS = 3


def coefficients(report: MergeReport) -> str | None:
    """Return the coefficients by layer, a panel a module and a line an expert; none without layers.

    Lines are medians over the matrices of a layer (all experts of a mixture), bands reach from the lowest to the
    highest.
    """
    modules = _modules(report)
    if not modules:
        return None
    lines = -(-len(modules) // _COLUMNS)
    drawn, axes = figure(9.2, 0.7 + 1.75 * lines, nrows=lines, ncols=_COLUMNS, sharex=True, sharey=True, squeeze=False)
    for axis in axes.flat[len(modules) :]:
        axis.set_visible(False)
    # Above a panel that is not there the layers are named, too.
    for axis in axes.flat[max(0, len(modules) - _COLUMNS) : len(modules)]:
        axis.xaxis.set_tick_params(labelbottom=True)
    for (module, groups), axis in zip(modules.items(), axes.flat, strict=False):
        layers = [group.layer for group in groups]
        for number, name in enumerate(report.experts):
            low, middle, high = zip(*(group.coefficients[number] for group in groups), strict=True)
            colour = _COLOURS[number % len(_COLOURS)]
            style = ("-", "--", ":")[number // len(_COLOURS) % 3]
            size = 3 if len(layers) <= 12 else 0
            axis.plot(
                layers, middle, color=colour, linestyle=style, linewidth=1.2, marker="o", markersize=size, label=name
            )
            if max(group.parts for group in groups) > 1:
                # One layer has no width to fill: its range is drawn as a bar.
                if len(layers) == 1:
                    axis.vlines(layers, low, high, color=colour, alpha=0.35, linewidth=6)
                axis.fill_between(layers, low, high, color=colour, alpha=0.18, linewidth=0)
        parts = {group.parts for group in groups}
        each = f", {parts.pop()} a layer" if len(parts) == 1 and groups[0].parts > 1 else ""
        axis.set_title(f"{module}{each}", fontsize=9, loc="left")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.axhline(0, color="#dfe3e8", linewidth=0.8, zorder=0)
    drawn.supxlabel("layer", fontsize=9)
    drawn.supylabel("coefficient", fontsize=9)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    drawn.legend(handles, labels, frameon=False, fontsize=8, ncols=min(6, len(labels)), loc="outside upper center")
    return svg(drawn)


def shares(report: MergeReport) -> str | None:
    """Return what was selected, erased and reverted as maps of layers and modules; none without layers.

    A share that is the same everywhere (all selected) has no map. Colours of each map reach from 0 to its largest.
    """
    modules = _modules(report)
    shown = [s for s in SHARES if len({g.shares[s] for groups in modules.values() for g in groups}) > 1]
    if not shown:
        return None
    layers = sorted({group.layer for groups in modules.values() for group in groups if group.layer is not None})
    drawn, axes = figure(9.2, len(shown) * (0.75 + 0.2 * len(modules)), nrows=len(shown), sharex=True, squeeze=False)
    for share, axis in zip(shown, axes.flat, strict=True):
        cells = [[float("nan")] * len(layers) for _ in modules]
        for row, groups in enumerate(modules.values()):
            for group in groups:
                if group.layer is not None:
                    cells[row][layers.index(group.layer)] = 100 * group.shares[share]
        top = max(value for row in cells for value in row if value == value)
        mesh = axis.pcolormesh(cells, cmap="Blues", vmin=0, vmax=top or 1, edgecolors="white", linewidth=0.4)
        axis.set_yticks([row + 0.5 for row in range(len(modules))], list(modules), fontsize=8)
        axis.invert_yaxis()
        axis.tick_params(length=0)
        step = max(1, -(-len(layers) // 16))
        axis.set_xticks([place + 0.5 for place in range(0, len(layers), step)], layers[::step])
        axis.set_title(share, fontsize=9, loc="left")
        for spine in axis.spines.values():
            spine.set_visible(False)
        drawn.colorbar(mesh, ax=axis, fraction=0.03, pad=0.01, label="%").outline.set_visible(False)
    axes.flat[-1].set_xlabel("layer")
    return svg(drawn)


def _modules(report: MergeReport) -> dict[str, list[Group]]:
    found: dict[str, list[Group]] = {}
    for group in report.by_layer():
        found.setdefault(group.module, []).append(group)
    return found
