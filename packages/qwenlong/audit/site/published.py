"""Every number that the paper prints, with what became of it here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from qwenlong.audit.results import Scores, read_scores
from qwenlong.audit.site.cells import SeededTable, Source, estimate_json, found
from qwenlong.audit.site.runs import Run
from qwenlong.audit.site.statistics import Estimate, estimate
from qwenlong.audit.tables import AGENT_COLUMN
from qwenlong.core.config import MODELS
from qwenlong.core.published import Published

FILE = Path(__file__).parent / "status.yaml"
#: Published names of figures whose numbers claims.yaml holds, by figure.
_FIGURES = {"figure3_input_length_histogram": "figure3", "figure11_entropy": "figure11", "figure8_10": "figure8"}


@dataclass(frozen=True)
class Entry:
    """A table or figure of the paper. `numbers` are its published ones: key and value."""

    id: str
    title: str
    status: str
    ours: str
    because: str
    numbers: tuple[tuple[str, str], ...]
    beside: Mapping[str, tuple[tuple[str, str, float, float | None, float | None], ...]]
    """Published key → (scale, key of our cell, value, low, high) that stand beside it."""
    measured: tuple[tuple[str, str, str, Estimate, tuple[Source, ...]], ...]
    """Scale, model, benchmark and number of the public benchmarks that were run."""

    def as_json(self) -> dict[str, Any]:
        """Return the entry for tables.json."""
        return {
            "key": self.id,
            "status": self.status,
            "because": self.because,
            "numbers": dict(self.numbers),
            "measured": [
                {"scale": scale, "model": model, "benchmark": benchmark}
                | estimate_json(value)
                | {"sources": [source.as_json() for source in sources]}
                for scale, model, benchmark, value, sources in self.measured
            ],
        }


@cache
def _statuses() -> tuple[dict[str, Any], ...]:
    import yaml

    return tuple(yaml.safe_load(FILE.read_text(encoding="utf-8")))


def entries(published: Published, runs: Sequence[Run], tables: Sequence[SeededTable]) -> list[Entry]:
    """Return what the paper prints, in its order; numbers of ours stand beside where they have the same meaning."""
    numbers = _numbers(published)
    made = []
    for known in _statuses():
        name = known["id"]
        measured = tuple(_measured(runs, known.get("benchmarks", ())))
        beside = _beside(published, name, tables)
        status = "run" if measured else "not testable here"
        if "needs" in known:
            # A shape that our own runs can fill, whatever they are run on.
            there = beside or any(_any(run, pattern) for run in runs for pattern in known["needs"])
            status = "ours beside it" if there else "not run yet"
        own = tuple((key, value) for key, value in numbers.items() if _group(key) == name)
        because = " ".join(known["because"].split())
        made.append(Entry(name, known["title"], status, known.get("ours", ""), because, own, beside, measured))
    return made


def _any(run: Run, pattern: str) -> bool:
    return next(run.folder.glob(pattern), None) is not None


def _group(key: str) -> str:
    first = key.partition(".")[0]
    return _FIGURES.get(first, first)


def _numbers(published: Published) -> dict[str, str]:
    """Return every published number by its key in claims.yaml."""
    found: dict[str, str] = {}
    for name, table in published.tables.items():
        for row, cells in table.rows.items():
            for column, value in zip(table.columns, cells, strict=True):
                if value is not None:
                    found[f"{name}.{row}.{column}"] = f"{value:g}"
    for name, figure in published.figures.items():
        found |= {key: value for key, value in _leaves(name, figure)}
    return found


def _leaves(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name not in ("note", "title"):
                yield from _leaves(f"{key}.{name}", inner)
    elif isinstance(value, (list, tuple)):
        for place, inner in enumerate(value):
            yield from _leaves(f"{key}.{place}", inner)
    elif value is not None:
        yield key, f"{value:g}" if isinstance(value, float) else str(value)


def _beside(
    published: Published, name: str, tables: Sequence[SeededTable]
) -> dict[str, tuple[tuple[str, str, float, float | None, float | None], ...]]:
    """Return our averages (and the agent's) by the published cell whose place they take at our scales."""
    columns = {"avg": "avg", "memory_agent": AGENT_COLUMN}
    rows: dict[str, list[tuple[str, str, float, float | None, float | None]]] = {}
    for table in (table for table in tables if table.name == name):
        for row, _, cells, _ in table.rows:
            for ours, theirs in columns.items():
                cell = cells.get(ours)
                known = published.tables[name].cell(row, theirs) if name in published.tables else None
                if cell is not None and cell.estimate is not None and known is not None:
                    one = cell.estimate
                    rows.setdefault(f"{name}.{row}.{theirs}", []).append(
                        (table.scale, cell.key, one.value, one.low, one.high)
                    )
    return {key: tuple(values) for key, values in rows.items()}


def _reader(name: str) -> Callable[[Run], Scores | None]:
    return lambda run: read_scores(run.folder / name)


def _measured(
    runs: Sequence[Run], benchmarks: Sequence[str]
) -> Iterator[tuple[str, str, str, Estimate, tuple[Source, ...]]]:
    for scale in dict.fromkeys(run.scale for run in runs):
        own = [run for run in runs if run.scale == scale]
        for benchmark in benchmarks:
            for model in MODELS:
                name = f"evaluation/{model}/{benchmark}/scores.json"
                having = found(own, _reader(name))
                try:
                    value = estimate([scores.attempted for _, scores in having]).scaled(100.0, (0.0, 100.0))
                except ValueError:
                    continue
                yield scale, model, benchmark, value, tuple(Source(run.name, run.seed, name) for run, _ in having)
