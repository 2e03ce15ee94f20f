"""The site's tables for machines and for pages of text: CSV and Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from qwenlong.audit.site.cells import SeededCell, SeededTable
from qwenlong.audit.site.claims import Verdict
from qwenlong.audit.site.efficiency import StageTime, TableTime
from qwenlong.audit.site.figures import csv_text
from qwenlong.audit.site.published import Entry
from qwenlong.audit.site.statistics import Estimate


def number(value: Estimate, signed: bool = False) -> str:
    """Return an estimate for reading: value, interval, items, seeds."""
    form = "{:+.1f}" if signed else "{:.1f}"
    text = form.format(value.value)
    if value.low is not None and value.high is not None:
        text += f" [{form.format(value.low)}, {form.format(value.high)}]"
    return text + f" n={value.n}, " + ("seen once" if value.seeds == 1 else f"{value.seeds} seeds")


def tables_csv(tables: Sequence[SeededTable]) -> str:
    """Return all cells, a line each."""
    rows = []
    for table in tables:
        for name, _, cells, paper in table.rows:
            for column in table.columns:
                rows.append((table.scale, table.name, name, column, *_cell(cells[column]), paper.get(column)))
    head = ("scale", "table", "row", "column", "value", "low", "high", "n", "seeds", "runs", "paper")
    return csv_text(head, rows)


def _cell(cell: SeededCell) -> tuple[object, ...]:
    one = cell.estimate
    if one is None:
        return (None, None, None, 0, 0, "")
    return (one.value, one.low, one.high, one.n, one.seeds, " ".join(source.run for source in cell.sources))


def tables_markdown(tables: Sequence[SeededTable]) -> str:
    """Return all tables: percent, 95% interval, items, seeds; the paper's number in parentheses where there is one."""
    lines = [
        "In percent, 95% interval over seeds and items, n items. One seed: over items alone, and seen once.",
        "The paper's numbers are of other models and benchmarks.",
        "",
    ]
    for table in tables:
        lines += [f"## {table.title} ({table.name}), {table.scale}", ""]
        lines += [f"| row | {' | '.join(table.columns)} |", "|---" * (len(table.columns) + 1) + "|"]
        for name, note, cells, paper in table.rows:
            shown = []
            for column in table.columns:
                one = cells[column].estimate
                text = "" if one is None else number(one)
                known = paper.get(column)
                shown.append(text if known is None else f"{text} (paper {known:.2f})".strip())
            lines.append(f"| {name}{f' ({note})' if note else ''} | {' | '.join(shown)} |")
        missing = sorted({command for cell in table.cells() for command in cell.commands})
        if missing:
            lines += ["", "Empty cells and further seeds are made by:", "", *(f"    {command}" for command in missing)]
        lines.append("")
    return "\n".join(lines)


def claims_csv(verdicts: Sequence[Verdict]) -> str:
    """Return all verdicts, a line each."""
    rows = []
    for v in verdicts:
        one = v.estimate or Estimate(float("nan"), None, None, None, 0, 0)
        value = None if v.estimate is None else one.value
        ours = " · ".join(v.ours)
        rows.append(
            (v.scale, v.id, v.direction, v.paper, ours, v.status, v.unit, value, one.low, one.high, one.p, v.p_holm)
            + (one.n, one.seeds, v.note)
        )
    head = ("scale", "claim", "direction", "paper", "ours", "status", "unit", "estimate", "low", "high", "p", "p_holm")
    return csv_text((*head, "n", "seeds", "note"), rows)


def claims_markdown(verdicts: Sequence[Verdict]) -> str:
    """Return all verdicts as a table of text."""
    lines = ["| scale | claim | paper | ours | estimate | verdict |", "|---|---|---|---|---|---|"]
    for v in verdicts:
        shown = "" if v.estimate is None else number(v.estimate, signed=v.unit == "points") + f" {v.unit}"
        note = f" ({v.note})" if v.note else ""
        lines.append(f"| {v.scale} | {v.id} | {v.paper} | {' · '.join(v.ours)} | {shown} | {v.status}{note} |")
    return "\n".join(lines) + "\n"


def published_csv(entries: Sequence[Entry]) -> str:
    """Return every published number with its status, and ours where one has its place."""
    rows = []
    for entry in entries:
        for key, value in entry.numbers:
            ours = entry.beside.get(key, ())
            said = "; ".join(f"{scale} {value:.1f}" for scale, _, value, _, _ in ours)
            rows.append((key, value, "ours beside it" if ours else entry.status, said, entry.because))
    return csv_text(("key", "published", "status", "ours", "because"), rows)


def efficiency_csv(stages: Sequence[StageTime], tables: Sequence[TableTime]) -> str:
    """Return the stages' times, then the tables' minutes."""
    head = ("kind", "scale", "name", "run", "steps", "minutes", "step_seconds", "rollout_tokens_per_second")
    rows: list[tuple[object, ...]] = [
        ("stage", s.scale, s.stage, s.run, s.steps, s.minutes, s.step, s.rollout_tokens, s.training_tokens, s.mfu)
        for s in stages
    ]
    rows += [("table", t.scale, t.table, f"{t.seeds} seeds", None, t.total, None, None, None, None) for t in tables]
    return csv_text((*head, "training_tokens_per_second", "mfu"), rows)
