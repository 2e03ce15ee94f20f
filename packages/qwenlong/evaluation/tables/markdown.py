"""Tables as Markdown."""

from __future__ import annotations

from qwenlong.evaluation.tables import text
from qwenlong.evaluation.tables.build import Table
from qwenlong.evaluation.tables.faults import LEGEND


def render(tables: list[Table]) -> str:
    """Return a page of tables, each with its notes and the commands of what was not run."""
    return "\n".join([LEGEND, "", *(_table(table) for table in tables)])


def _table(table: Table) -> str:
    lines = [f"## {_plain(text.heading(table))}", ""]
    lines.append(f"| | {' | '.join(map(_plain, table.column_titles))} |")
    lines.append("|---" * (len(table.columns) + 1) + "|")
    for row in table.rows:
        for label, cells, kind in text.lines(row):
            mark = {"ours": "**", "difference": "*"}.get(kind, "")
            shown = f"{mark}{_plain(label)}{mark}"
            lines.append(f"| {shown} | {' | '.join(map(_plain, cells))} |")
    if table.notes:
        lines += ["", *(f"- {_plain(note)}" for note in table.notes)]
    if table.missing:
        lines += ["", "Blank cells of ours were not run. They are made by:", ""]
        for label, command in table.missing:
            lines += [f"    # {label}", f"    {command}"]
    return "\n".join(lines) + "\n"


def _plain(value: str) -> str:
    """Return text that cannot end a cell, nor be read as Markdown."""
    return "".join(f"\\{c}" if c in "\\`*_|<>#" else c for c in " ".join(value.split()))
