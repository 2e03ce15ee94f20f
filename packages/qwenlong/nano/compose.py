"""Documents put together anew from real pieces: names, labels and values are real, which belongs to which is drawn.

A policy that has seen each fact once knows nothing by heart: only reading helps. Formats are those of the corpus's
own sections, so what is learned holds for them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from qwenlong.core.records import Category, Document
from qwenlong.nano.material import Material
from qwenlong.synthesis.graph import BORDERS, NAMING_FIELDS

_HEX = "0123456789abcdef"
_UPPER = "ABCDEFGHIJKLMNOPRSTUVWXYZ"


def pool(material: Material, rng: random.Random, lines: int) -> list[Document]:
    """Return documents for one pool of questions; each has at most `lines` lines of content."""
    made: list[Document] = []
    made += _countries(material, rng, lines)
    made += _many(_statement, material, rng, lines, 5) if material.tables else []
    made += _many(_dialogue, material, rng, lines, 8)
    made += _many(_scene, material, rng, lines, 6)
    if material.documents:
        fitting = [
            d for d in rng.sample(material.documents, min(24, len(material.documents))) if len(d.text) < 90 * lines
        ]
        made += fitting[:6]
    return [document.model_copy(update={"id": f"{n:03d}/{document.id}"}) for n, document in enumerate(made)]


def _many(
    make: Callable[[Material, random.Random, int, int], Document],
    material: Material,
    rng: random.Random,
    lines: int,
    count: int,
) -> list[Document]:
    return [make(material, rng, rng.randint(1, lines), n) for n in range(count)]


def _document(number: int, source: str, category: Category, title: str, text: str, **metadata: object) -> Document:
    return Document(
        id=f"{source}/{number}",
        source=source,
        category=category,
        title=title,
        text=text,
        n_tokens=0,
        metadata=metadata,
        licence="made from parts",
    )


def _countries(material: Material, rng: random.Random, lines: int) -> list[Document]:
    names = rng.sample(material.names, min(10, len(material.names)))
    headings = list(material.sections)
    # A few headings for all, so that the same label stands under several names.
    shared = rng.sample(headings, min(3, len(headings)))
    naming = [label for label in NAMING_FIELDS if label in material.fields]
    made: list[Document] = []
    for name in names:
        for heading in rng.sample(shared, min(2, len(shared))):
            labels = rng.sample(material.sections[heading], min(rng.randint(1, lines), len(material.sections[heading])))
            facts = {label: rng.choice(material.fields[label]) for label in labels}
            kind = rng.random()
            if kind < 0.35 and naming:
                label = rng.choice(naming)
                facts[label] = rng.choice(material.fields[label])
            elif kind < 0.55 and len(names) > 2:
                facts[BORDERS] = _borders(rng, [other for other in names if other != name])
            entries = list(facts.items())
            rng.shuffle(entries)
            text = "\n".join([f"## {heading}", *(f"{label}: {value}" for label, value in entries)])
            made.append(
                _document(
                    len(made), "world_factbook", "general", f"{name} – {heading}", text,
                    kind="factbook", entity=name, heading=heading,
                )
            )  # fmt: skip
    return made


def _borders(rng: random.Random, names: Sequence[str]) -> str:
    chosen = rng.sample(names, rng.randint(2, min(3, len(names))))
    return "; ".join(f"{name} {rng.randint(11, 4999):,} km" for name in chosen)


def _statement(material: Material, rng: random.Random, lines: int, number: int) -> Document:
    heading, columns, _ = rng.choice(material.tables)
    items = rng.sample(sorted({i for t in rng.sample(material.tables, min(8, len(material.tables))) for i in t[2]}), 1)
    items += [item for item in rng.choice(material.tables)[2] if item not in items][: lines - 1]
    symbol = rng.choice(material.symbols) if rng.random() < 0.5 else "".join(rng.choices(_UPPER, k=rng.randint(4, 9)))
    width = min(len(columns), rng.randint(2, 4))
    begin = rng.randint(0, len(columns) - width)
    columns = columns[begin : begin + width]
    rows = [f"| {item} | {' | '.join(_number(rng) for _ in columns)} |" for item in items]
    table = [f"| Item | {' | '.join(columns)} |", f"| {' | '.join(['---'] * (width + 1))} |", *rows]
    return _document(
        number, "company_statements", "professional", f"{symbol} – {heading}", "\n".join([f"## {heading}", *table]),
        kind="finance", entity=symbol, heading=heading, symbol=symbol,
    )  # fmt: skip


def _number(rng: random.Random) -> str:
    value = rng.choice((9.99, 99.99, 999.99, 9999.99)) * rng.random()
    sign = "-" if rng.random() < 0.15 else ""
    return f"{sign}{value:.2f}" if rng.random() < 0.8 else f"{sign}{int(value) + 1}"


def _dialogue(material: Material, rng: random.Random, lines: int, number: int) -> Document:
    name = "".join(rng.choices(_HEX, k=8))
    said = rng.sample(material.messages, min(lines + 1, len(material.messages)))
    text = "\n".join(f"{rng.choice('AB')}: {message}" for message in said)
    title = f"Conversation {name} – part {rng.randint(1, 9)}"
    return _document(
        number, "chitchat", "dialogue", title, text, kind="dialogue", entity=f"{name}-{number}", heading=""
    )


def _scene(material: Material, rng: random.Random, lines: int, number: int) -> Document:
    verses = iter(rng.sample(material.verses, min(3 * lines, len(material.verses))))
    speakers = rng.sample(material.speakers, min(rng.randint(2, 4), len(material.speakers)))
    speeches = []
    for _ in range(rng.randint(1, lines)):
        spoken = [verse for verse, _ in zip(verses, range(rng.randint(1, 2)), strict=False)]
        if spoken:
            speeches.append("\n".join([f"{rng.choice(speakers)}.", *spoken]))
    scene = rng.choice(material.scenes)
    play = scene.split(",")[0]
    text = "\n\n".join(speeches)
    return _document(number, "shakespeare", "general", scene, text, kind="play", entity=play, heading="")
