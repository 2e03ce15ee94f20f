"""Prose in the form that a folder of somebody's own texts has."""

from __future__ import annotations

from qwenlong.core.records import Document


def essay(name: str, text: str, kind: str = "text") -> Document:
    return Document(
        id=f"essays/{name}", source="essays", category="general", title=name, text=text, n_tokens=0,
        licence="MIT", metadata={"kind": kind, "entity": name},
    )  # fmt: skip


def essays() -> list[Document]:
    """Return six essays, each with a name, a number and a short sentence after another."""
    people = ("Ada Falk", "Bruno Serra", "Clara Weiss", "David Okoro", "Elin Strand", "Farid Nassar")
    trades = ("bridges", "clocks", "harps", "lenses", "sails", "kilns")
    return [
        essay(
            f"{trade}.txt",
            f"On the making of {trade} much has been said by people who never made any of them.\n\n"
            f"In the old town the craft of {trade} was taught by {person} until the school was closed for good. "
            f"Nobody has taken up the work since then. "
            f"The workshop held {412 + 31 * number} finished {trade} when it was counted in the last year of war.\n",
        )
        for number, (person, trade) in enumerate(zip(people, trades, strict=True))
    ]
