"""An HTML page of how memory and plan evolved over a run: one file, no scripts, small however many turns there were."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwenlong.core.files import digest_value, write_text
from qwenlong.memory_agent.answering import shortcoming
from qwenlong.memory_agent.batch_items import Item
from qwenlong.memory_agent.loop import Result, Step
from qwenlong.memory_agent.memory_diff import Piece, clipped, diff, shortened

#: Characters of document, memory and replies that all turns together may show; each gets its share.
TEXT = 1_200_000
#: Bounds of a turn's share.
LEAST, MOST = 900, 12_000
#: Turns of one fault that are listed; the rest is counted.
SHOWN = 60
_GOOD = ("ok",)
_NOTES = ("malformed", "repaired", "over_budget")


@dataclass(frozen=True)
class Row:
    """A turn as the page shows it. `level` is good, idle, note or bad; `seconds` "" where the time is not known."""

    index: int
    kind: str
    label: str
    status: str
    level: str
    finish_reason: str
    prompt_tokens: str
    completion_tokens: str
    seconds: str
    error: str
    pieces: Sequence[Piece]
    added: int
    removed: int
    size: int
    plan: str
    section: str
    reply: str
    open: bool

    @property
    def of_section(self) -> bool:
        """Whether the turn read a section."""
        return self.kind in ("update", "repair")


def file_name(item: str) -> str:
    """Return a name for an item's page: its id as far as it can name a file, and a digest where it cannot."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", item)[:80].strip(".") or "item"
    return f"{plain}.html" if plain == item else f"{plain}-{digest_value(item)[:8]}.html"


@dataclass(frozen=True)
class Folder:
    """A folder of pages, one for each item of a batch."""

    folder: Path
    model: str

    def missing(self, item: Item) -> bool:
        """Tell whether an item has no page yet."""
        return not (self.folder / file_name(item.id)).is_file()

    def write(self, item: Item, sections: Sequence[str], result: Result) -> None:
        """Write an item's page."""
        write_trace(self.folder / file_name(item.id), item.question, result, sections, self.model)


def write_trace(path: Path, question: str, result: Result, sections: Sequence[str], model: str) -> None:
    """Write the page of a run. Sections are read one by one."""
    write_text(path, render(question, result, sections, model))


def render(question: str, result: Result, sections: Sequence[str], model: str) -> str:
    """Return the page of a run. All text of documents and models is escaped."""
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent / "pages")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    rows = _rows(result, sections)
    values = {
        "question": clipped(question, MOST, 0),
        "answer": clipped(result.answer, MOST, 0),
        "memory": clipped(result.memory, 10 * MOST, 0),
        "plan": clipped(result.plan, MOST, 0),
        "model": model,
        "clean": result.clean,
        "lost": shortcoming(result),
        "tiles": _tiles(result),
        "rows": rows,
        "wrong": _faults(rows),
        "n_wrong": sum(row.level in ("bad", "note") for row in rows),
        "shown": SHOWN,
        "most": f"{max((len(step.memory) for step in result.steps), default=0):,}",
        "curve": _curve([len(step.memory) for step in result.steps]),
    }
    return environment.get_template("trace.html.j2").render(values)


def _rows(result: Result, sections: Sequence[str]) -> list[Row]:
    share = min(MOST, max(LEAST, TEXT // max(1, len(result.steps))))
    rows: list[Row] = []
    memory = ""
    for step in result.steps:
        pieces = [] if step.kind in ("split", "answer") else diff(memory, step.memory)
        changed = any(piece.change != "same" for piece in pieces)
        level = _level(step)
        section = "" if step.chunk is None else clipped(sections[step.chunk], share // 3, 0)
        whole = step.kind in ("split", "answer") or level in ("bad", "note")
        turn = step.turn
        rows.append(
            Row(
                index=step.index,
                kind=step.kind,
                label=step.kind if step.chunk is None else f"{step.kind} {step.chunk + 1}",
                status=step.status.replace("_", " "),
                level=level,
                finish_reason=turn.finish_reason,
                prompt_tokens=f"{turn.prompt_tokens:,}",
                completion_tokens=f"{turn.completion_tokens:,}",
                seconds=f"{turn.seconds:.1f} s" if turn.seconds else "",
                error=clipped(step.error, share // 3, 0),
                pieces=shortened(pieces, share // 2) if changed else [],
                added=sum(len(piece.text) for piece in pieces if piece.change == "new"),
                removed=sum(len(piece.text) for piece in pieces if piece.change == "gone"),
                size=len(step.memory),
                plan=clipped(step.plan, share // 6, 0),
                section=section,
                reply=clipped(turn.text, share // 2, share // 4) if whole else "",
                open=step.kind == "answer",
            )
        )
        memory = step.memory
    return rows


def _faults(rows: Sequence[Row]) -> list[list[Row]]:
    """Return what went wrong, turns of one fault together, the worst first, then the most frequent."""
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row.level in ("bad", "note"):
            found.setdefault((row.status, row.finish_reason, row.error), []).append(row)
    return sorted(found.values(), key=lambda group: (group[0].level, -len(group)))


def _level(step: Step) -> str:
    if step.status == "skipped":
        return "idle"
    if not step.used or step.status in ("failed", "empty", "unfinished"):
        return "bad"
    return "note" if step.status in _NOTES else "good"


def _tiles(result: Result) -> list[tuple[str, str]]:
    counts = result.chunks()
    turns = [step.turn for step in result.steps]
    seconds = sum(turn.seconds for turn in turns)
    found = [("sections", f"{counts.pop('total'):,}")]
    found += [(name, f"{value:,}") for name, value in counts.items() if value or name in ("read", "failed")]
    found += [
        ("turns", f"{len(turns):,}"),
        ("tokens read", f"{sum(turn.prompt_tokens for turn in turns):,}"),
        ("tokens written", f"{sum(turn.completion_tokens for turn in turns):,}"),
    ]
    found += [("waiting for the model", f"{seconds:,.1f} s")] if seconds else []
    ended = Counter(turn.finish_reason for turn in turns)
    return found + [(f"ended by {reason}", f"{count:,}") for reason, count in ended.most_common(4)]


def _curve(sizes: Sequence[int]) -> dict[str, Any] | None:
    """Return the paths of a curve 100 high, none where there is nothing to draw."""
    most = max(sizes, default=0)
    if len(sizes) < 2 or not most:
        return None
    points = " ".join(f"{x},{100 - 98 * size / most:.1f}" for x, size in enumerate(sizes))
    return {"line": f"M{points}", "area": f"M0,100 {points} {len(sizes) - 1},100Z", "width": len(sizes) - 1}
