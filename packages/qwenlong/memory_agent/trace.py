"""An HTML page of how memory and plan evolved over a run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from qwenlong.core.files import digest_value, write_text
from qwenlong.memory_agent.loop import Result


def file_name(item: str) -> str:
    """Return a name for an item's page: its id as far as it can name a file, and a digest where it cannot."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", item)[:80].strip(".") or "item"
    return f"{plain}.html" if plain == item else f"{plain}-{digest_value(item)[:8]}.html"


def write_trace(path: Path, question: str, result: Result, sections: Sequence[str], model: str) -> None:
    """Write the page of a run."""
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent / "pages")
    page = jinja2.Environment(loader=loader, autoescape=True).get_template("trace.html.j2")
    # Sections stand at the index of the turn that read them.
    unread = iter(sections)
    aligned = [next(unread) if step.kind == "update" else "" for step in result.steps]
    values = {"question": question, "result": result, "sections": aligned, "chunks": result.chunks(), "model": model}
    write_text(path, page.render(values))
