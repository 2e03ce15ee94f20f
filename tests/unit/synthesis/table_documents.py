"""Documents with tables in the forms that reports have; every number is made."""

from __future__ import annotations

from qwenlong.core.records import Document

TOWNS = ("Arlow", "Bexley", "Corven", "Dunmere", "Egdon", "Fenwick", "Garth", "Holm")
AREAS = ("north", "south")
UNIT = "USD millions"


def doc(name: str, text: str, title: str = "") -> Document:
    return Document(
        id=f"made/{name}",
        source="made",
        category="professional",
        title=title or f"Report of {name}",
        text=text,
        n_tokens=len(text) // 3,
        licence="CC0",
        metadata={"entity": name, "kind": "table"},
    )


def towns(number: int) -> Document:
    """A table of towns, different in every document, in different formats."""
    rows = []
    for n, town in enumerate(TOWNS):
        k = 17 * number + 5 * n
        rows.append([f"{town} {number}", AREAS[(n + number) % 2], str(k * k % 97 + n), f"{(k * 7 % 89) + n / 4:.2f}"])
    head = ["Town", "Area", "Shops", f"Revenue ({UNIT})"]
    if number % 2:
        lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
        body = "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])
    else:
        body = "\n".join(",".join(row) for row in (head, *rows))
    return doc(f"towns{number}", f"What the towns had.\n\n{body}\n\nThat is all.")


def years(number: int) -> Document:
    rows = [f"| {y} | {(y * (number + 3)) % 83 + 5} | {((y * 7 + number) % 61) + 2}.5 |" for y in range(1990, 2000)]
    text = "\n".join(["| Year | Ships | Cargo (tons) |", "|---|---|---|", *rows])
    return doc(f"years{number}", text)


def periods(number: int) -> Document:
    def row(name: str, k: int) -> str:
        return f"| {name} | " + " | ".join(str((k * (p + 2) * (number + 5)) % 71 + p + 3) for p in range(5)) + " |"

    head = "| Item | Mar-18 | Mar-19 | Mar-20 | Mar-21 | Mar-22 |\n|---|---|---|---|---|---|"
    names = ("Sales", "Costs", "Tax paid", "Dividends")
    text = "\n".join([head, *(row(name, k) for k, name in enumerate(names, 3))])
    return doc(f"periods{number}", f"Amounts in thousands of euros\n{text}")


def table_documents() -> list[Document]:
    """Return eight documents of each kind: towns, years, and columns that are periods."""
    return [make(n) for make in (towns, years, periods) for n in range(8)]
