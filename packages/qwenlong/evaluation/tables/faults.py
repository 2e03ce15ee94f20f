"""Where the paper's tables disagree with themselves: found by arithmetic, and as noted with the figures."""

from __future__ import annotations

import re

from qwenlong.core.published import Published, Table
from qwenlong.evaluation.tables.layout import ABLATION_TABLES, Layout
from qwenlong.evaluation.tables.titles import title
from qwenlong.evaluation.tables.values import is_multiple

#: Two decimals, rounded or cut off.
_ROUNDING = 0.0101


def doubtful(table: Table, layout: Layout) -> set[tuple[str, str]]:
    """Return (row, column) of cells that repeat another row's although the row's own average says otherwise."""
    found = set()
    for row, _ in _wrong_averages(table, layout):
        cells = [table.cell(row, column) for column in layout.averaged_over]
        for other in table.rows:
            if other != row and cells == [table.cell(other, column) for column in layout.averaged_over]:
                found |= {(row, column) for column in layout.averaged_over}
    return found


def _wrong_averages(table: Table, layout: Layout) -> list[tuple[str, float]]:
    """Return rows whose printed average is not the mean of their cells, with that mean."""
    if layout.averaged is None:
        return []
    found = []
    for row in table.rows:
        printed = table.cell(row, layout.averaged)
        cells = [table.cell(row, column) for column in layout.averaged_over]
        known = [cell for cell in cells if cell is not None]
        if printed is not None and len(known) == len(cells):
            mean = sum(known) / len(known)
            if abs(mean - printed) > _ROUNDING:
                found.append((row, mean))
    return found


def _uneven(table: Table, layout: Layout) -> list[str]:
    """Return, by column, the cells that no whole number of its items gives: the paper scored fewer of them."""
    notes = []
    for name, measure in layout.measures.items():
        if measure.items is None or not measure.counted:
            continue
        cells = [(row, table.cell(*((name, row) if layout.turned else (row, name)))) for row in _names(table, layout)]
        odd = [(row, v) for row, v in cells if v is not None and not is_multiple(v, measure.items)]
        if odd:
            shown = ", ".join(f"{v:.2f} ({title(row)})" for row, v in odd)
            notes.append(f"No whole number of {measure.items} items gives, under {title(name)}: {shown}.")
    return notes


def _names(table: Table, layout: Layout) -> tuple[str, ...]:
    return table.columns if layout.turned else tuple(table.rows)


def notes(published: Published, layout: Layout) -> list[str]:
    """Return what is to be said of a table's published numbers."""
    table = published.tables[layout.name]
    said = []
    if layout.name in ABLATION_TABLES:
        said.append(
            "The paper's rows start from Qwen3-4B-Thinking-2507: a run of its own, whose folder is given with "
            "--ablations. Table 2's rows are cumulative."
        )
    if table.note is not None:
        said.append(f"Published numbers: {table.note}.")
    else:
        said += [f"Published numbers: {text}." for text in published.inconsistencies if _mentions(text, layout.name)]
    for row, mean in _wrong_averages(table, layout):
        assert layout.averaged is not None
        said.append(
            f"{title(row)}: the printed average is {table.cell(row, layout.averaged):.2f}, the mean of its printed "
            f"cells {mean:.2f}."
        )
    if doubtful(table, layout):
        said.append("† repeats another row although the printed average says otherwise: no target, no difference.")
    said += _uneven(table, layout)
    sizes = [f"{title(name)} {measure.items}" for name, measure in layout.measures.items() if measure.items is not None]
    bounds = any(not measure.counted for measure in layout.measures.values() if measure.items is not None)
    said.append(
        "Intervals of published numbers are binomial (Wilson), for the items that their cells or the published files "
        f"suggest, since the paper gives none: {', '.join(sizes)}."
        + (" They are upper bounds where an item may count in part, or is asked several times." if bounds else "")
    )
    return said


def _mentions(text: str, table: str) -> bool:
    return re.search(rf"\b{table}\b", text) is not None


#: What holds for every table.
LEGEND = (
    "In percent. Ours: value, 95% interval (bootstrap over items), n items; what failed counts 0. "
    "An average is the plain mean of its columns and blank while one is missing; its interval adds the columns' "
    "variances, the benchmarks being independent (BFCL's three stores ask the same questions: there it is an upper "
    "bound). With several seeds the value is the mean over runs, and the interval adds the spread between them "
    "(Student's t). Difference: ours minus the paper's, interval from both; a model of another size or data may differ "
    "for that reason alone."
)
