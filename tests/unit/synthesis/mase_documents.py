"""Made-up towns and talks that the agents of the tests read."""

from __future__ import annotations

from qwenlong.core.records import Document

TOWNS = ("Arlow", "Bexham", "Corvay", "Dunmere", "Elstead", "Farrow", "Glenby", "Hexton", "Ilford", "Jarrow")


def town(name: str, number: int) -> Document:
    text = (
        f"{name} lies on the river Vell{number}. Its bridge was built in {1801 + number} by the mason Orr{number}.\n"
        f"The market of {name} sells amber{number} and salt. The mayor thinks that the bridge of {name} is too\n"
        f"narrow for carts. The school of {name} has {30 + number} pupils."
    )
    return Document(
        id=f"towns/{name}",
        source="towns",
        category="general",
        title=name,
        text=text,
        n_tokens=0,
        licence="CC0",
        metadata={"kind": "guide", "entity": name},
    )


def talk(number: int) -> Document:
    lines = [f"{'AB'[n % 2]}: I saw bird number {n} in garden {number} today" for n in range(8)]
    return Document(
        id=f"talks/{number}",
        source="talks",
        category="dialogue",
        title=f"Talk {number}",
        text="\n".join(lines),
        n_tokens=0,
        licence="CC0",
        metadata={"kind": "dialogue", "entity": str(number)},
    )


DOCUMENTS = [town(name, n) for n, name in enumerate(TOWNS)] + [talk(n) for n in range(4)]
