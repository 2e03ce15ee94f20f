"""Made documents in the form of the real ones: countries with facts and borders, source files with calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from qwenlong.core.records import Document


@dataclass(frozen=True)
class Nation:
    """A country: its name, borders by neighbour, and lines by section."""

    name: str
    borders: Mapping[str, int] = field(default_factory=dict)
    lines: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def documents(self) -> list[Document]:
        listed = "; ".join(f"{name} {km} km" for name, km in self.borders.items())
        sections = {name: list(lines) for name, lines in self.lines.items()}
        if listed:
            sections.setdefault("Geography", []).insert(0, f"Land boundaries - border countries: {listed}")
        return [country(self.name, section, *lines) for section, lines in sections.items()]


def country(name: str, section: str, *lines: str) -> Document:
    return Document(
        id=f"nations/{name.lower()}#{section.lower()}", source="nations", category="general",
        title=f"{name} – {section}", text="\n".join(lines), n_tokens=40, licence="MIT",
        metadata={"kind": "factbook", "entity": name},
    )  # fmt: skip


def code(path: str, text: str, heading: str = "module", piece: int = 1, number: int = 0) -> Document:
    part = f" ({piece})" if piece > 1 else ""
    return Document(
        id=f"code/{path}#{number:03}", source="code", category="code", title=f"{path} – {heading}{part}", text=text,
        n_tokens=40, licence="MIT",
        metadata={"kind": "code", "path": path, "parent": f"code/{path}", "heading": heading, "piece": piece},
    )  # fmt: skip


def nations() -> list[Document]:
    """Return a ring of six countries with one in the middle, every number and date of its own."""
    names = ["Dornland", "Esmaria", "Fiorre", "Gallenia", "Hestia", "Ismar"]
    partners = ["Esmaria", "Middle Reach"]
    ring: list[Nation] = []
    for number, name in enumerate(names):
        before, after = names[number - 1], names[(number + 1) % len(names)]
        lengths = {
            before: 110 * (number + 1),
            after: 110 * ((number + 1) % len(names) + 1),
            "Middle Reach": 1000 + 97 * number,
        }
        shares = ", ".join(f"{p} {12 + 5 * number + n}%" for n, p in enumerate(partners) if p != name)
        ring.append(
            Nation(
                name,
                lengths,
                {
                    "Geography": [f"Area - total: {4 ** (number + 5):,} sq km"],
                    "People": [f"Population - total: {3 * 10**number + 10_000_000 * number:,} (2024 est.)"],
                    "Government": [
                        f"Capital - name: {name[::-1].capitalize()}",
                        f"Independence: {number + 1} May {1803 + 37 * number} (from the Reach)",
                        f"Internet country code: .{name[:2].lower()}",
                    ],
                    "Economy": [f"Exports - partners: {shares} (2023)", f"Imports - partners: {shares} (2023)"],
                },
            )
        )
    lengths = {nation.name: nation.borders["Middle Reach"] for nation in ring}
    middle = Nation("Middle Reach", lengths, {"Government": ["Capital - name: Quill", "Internet country code: .mr"]})
    return [document for nation in [*ring, middle] for document in nation.documents()]


def calls() -> list[Document]:
    """Return four files whose functions call one another in a line, with a second way to the last of them."""
    return [
        code("deep/root.py", "def root_step(x):\n    return x + 1\n"),
        code("deep/middle.py", "def middle_step(x):\n    return root_step(x)\n"),
        code("deep/outer.py", "def outer_step(x):\n    return middle_step(x)\n"),
        code(
            "deep/pair.py",
            "def pair_one(x):\n    return outer_step(x)\n\ndef pair_two(x):\n    return middle_step(x)\n",
        ),
    ]
