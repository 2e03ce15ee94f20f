"""Tables in a format: one text, or the files of a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qwenlong.evaluation.tables import by_benchmark, delimited, latex, markdown, page
from qwenlong.evaluation.tables.build import Table
from qwenlong.evaluation.tables.formats import Format


@dataclass(frozen=True)
class Texts:
    """All tables as one text, and the same as files by name: a file a table where that is of use."""

    whole: str
    files: Mapping[str, str]


def render(tables: list[Table], others: by_benchmark.Found, form: Format) -> Texts:
    """Return the paper's tables, then a table for each other benchmark."""
    if form is Format.MD:
        files = {f"{table.name}.md": markdown.render([table]) for table in tables}
        files |= {"benchmarks.md": by_benchmark.markdown(others)} if others else {}
        blocks = [*([markdown.render(tables)] if tables else []), *([by_benchmark.markdown(others)] if others else [])]
        return Texts("\n".join(blocks), files)
    every = [*tables, *by_benchmark.tables(others)]
    if form is Format.LATEX:
        whole = latex.document(every)
        return Texts(whole, {f"{table.name}.tex": latex.render(table) for table in every} | {"tables.tex": whole})
    text = page.render(every) if form is Format.HTML else delimited.render(every)
    return Texts(text, {f"tables.{form.value}": text})
