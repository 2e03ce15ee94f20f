"""Data sets of statistics packages: one CSV a set, inside a tar inside the package, rendered as one Markdown table.

The first column has no name in the source: it numbers the rows (left out) or names them ("row name").
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import PurePosixPath

from qwenlong.core.records import Document
from qwenlong.corpus.sources import Source

#: Larger sets are simulations and raw measurements by the thousand: they would fill the corpus with digits.
MAX_CHARACTERS = 200_000


def nested(member: str) -> bool:
    """Return whether the member is the archive that holds the data sets."""
    return member.endswith("/resources.tar.gz")


def wanted(member: str) -> bool:
    """Return whether the member of that archive is a data set; "._name" is what a desktop noted about a file."""
    path = PurePosixPath(member)
    return path.suffix == ".csv" and path.parent.parent.name == "csv" and not path.name.startswith("._")


def parse(source: Source, member: str, text: str) -> Iterator[Document]:
    """Yield the set's document; none for an empty or a very large set. Raises ValueError for rows of other lengths."""
    if len(text) > MAX_CHARACTERS:
        return
    rows = [row for row in csv.reader(text.splitlines(), strict=True) if row]
    if len(rows) < 2:
        return
    head, *body = rows
    for number, row in enumerate(body, 1):
        if len(row) != len(head):
            raise ValueError(f"row {number} has {len(row)} cells, the head {len(head)}")
    if not head[0]:
        numbered = [row[0] for row in body] in ([str(n) for n in range(s, s + len(body))] for s in (0, 1))
        head, body = (head[1:], [row[1:] for row in body]) if numbered else (["row name", *head[1:]], body)
    path = PurePosixPath(member)
    name = f"{path.parent.name}/{path.stem}"
    lines = [_row(head), _row(["---"] * len(head)), *map(_row, body)]
    yield Document(
        id=f"{source.name}/{name}",
        source=source.name,
        category=source.document_category,
        title=name,
        text="\n".join(["## Data", *lines]),
        n_tokens=0,
        metadata={"entity": name, "kind": "table"},
        licence=source.data_licence,
    )


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "/") for cell in cells) + " |"
