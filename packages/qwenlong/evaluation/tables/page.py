"""Tables as one HTML page: no script, no outside address, readable on a phone."""

from __future__ import annotations

from pathlib import Path

import jinja2

from qwenlong.evaluation.tables import text
from qwenlong.evaluation.tables.build import Table
from qwenlong.evaluation.tables.faults import LEGEND


def render(tables: list[Table]) -> str:
    """Return the page; everything in it is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    template = environment.get_template("page.html.j2")
    return template.render(tables=tables, legend=LEGEND, heading=text.heading, text=text) + "\n"
