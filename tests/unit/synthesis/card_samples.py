"""Samples and documents made by hand, for numbers that can be worked out on paper."""

from __future__ import annotations

from typing import Any

from qwenlong.core.records import Document, Evidence, Sample


def document(name: str, text: str, **changes: Any) -> Document:
    """A document; its licence says nothing unless told."""
    values = {"source": "notes", "category": "general", "title": f"Title of {name}", "n_tokens": 10, "licence": "MIT"}
    return Document.model_validate({"id": name, "text": text} | values | changes)


def sample(number: int, question: str, documents: tuple[str, ...] = ("a",), **changes: Any) -> Sample:
    """A question on documents; the evidence is the first ten characters of the first."""
    values = {
        "id": f"sample-{number:04d}",
        "task": "reading_comprehension",
        "question_type": "fact",
        "question": question,
        "instruction": "Answer.",
        "documents": documents,
        "evidence": (Evidence(document=documents[0], start=0, end=10),),
        "answers": ("blue",),
        "category": "general",
        "source": "notes",
        "generator": "rules@1",
        "template": "fact@1",
        "n_tokens": 100,
    }
    return Sample.model_validate(values | changes)
