"""Company statements: one JSON file a company, rendered as markdown tables with one column a reporting date.

The package holds yearly balance sheets and cash flows and quarterly income statements. Values stay as in the source,
which states neither currency nor scale; "0" may stand for a value that was not reported.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from qwenlong.core.records import Document
from qwenlong.corpus.sources import Source, slug

#: (key, heading, dates kept, latest first): the tables grow back to 1998, of which a reader needs a part.
STATEMENTS = (
    ("BalanceSheet", "Balance sheet (yearly)", 8),
    ("CashFlow", "Cash flow (yearly)", 8),
    ("IncomeStatement", "Income statement (quarterly)", 12),
)
#: Dates a table; wider tables would not fit a section of about 900 characters.
COLUMNS = 4


def wanted(member: str) -> bool:
    """Return whether the member is a company's file."""
    return "/stock_json/" in member and member.endswith(".json")


def parse(source: Source, member: str, text: str) -> Iterator[Document]:
    """Yield the company's document. Raises ValueError when it is not the JSON that the package publishes."""
    record = json.loads(text)
    if not isinstance(record, dict) or "symbol" not in record:
        raise ValueError("not a JSON object with a symbol")
    symbol = str(record["symbol"])
    # "ABB - ABB Ltd. - ELECTRICAL EQUIPMENT - INDIA": symbol, name, industry, country.
    label = [piece.strip() for piece in str(record.get("label", "")).split(" - ")]
    title = label[1] if len(label) == 4 and label[1] else symbol
    parts = []
    for key, heading, keep in STATEMENTS:
        rows = [row for row in record.get(key) or [] if isinstance(row, dict) and row.get("Date")][:keep]
        for start in range(0, len(rows), COLUMNS):
            group = rows[start : start + COLUMNS]
            parts.append(f"## {heading}, {group[-1]['Date']} to {group[0]['Date']}\n{_table(group)}")
    metadata = {"entity": title, "kind": "finance", "symbol": symbol}
    if len(label) == 4:
        metadata |= {"industry": label[2], "country": label[3]}
    yield Document(
        id=f"{source.name}/{slug(symbol)}",
        source=source.name,
        category=source.document_category,
        title=title,
        text="\n\n".join(parts),
        n_tokens=0,
        metadata=metadata,
        licence=source.data_licence,
    )


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows (one a date, latest first) as a markdown table, oldest column first, items in the source's order."""
    columns = list(reversed(rows))
    items = list(dict.fromkeys(item for row in rows for item in row if item != "Date"))
    lines = ["| Item | " + " | ".join(str(row["Date"]) for row in columns) + " |", "| --- |" + " --- |" * len(columns)]
    for item in items:
        values = [str(row.get(item, "")).strip() or "n/a" for row in columns]
        lines.append(f"| {item.strip().replace('|', '/')} | " + " | ".join(values) + " |")
    return "\n".join(lines)
