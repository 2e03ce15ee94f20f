"""One sample for a reader: documents with the evidence marked, question, chain, answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from qwenlong.core.records import Document, Evidence, Sample
from qwenlong.core.templates import full_question, select_documents

if TYPE_CHECKING:
    from rich.text import Text


def marked(document: Document, evidence: Sequence[Evidence]) -> Text:
    """Return a document's text with its evidence highlighted."""
    from rich.text import Text

    text = Text(document.text)
    for span in evidence:
        if span.document == document.id:
            text.stylize("bold reverse", span.start, span.end)
    return text


def lines(sample: Sample, documents: Mapping[str, Document]) -> list[Text]:
    """Return what `synthesize show` prints."""
    from rich.text import Text

    head = f"{sample.id}  {sample.task} / {sample.question_type}  {sample.template}  {sample.n_tokens} tokens"
    result = [Text(head, style="bold")]
    for number, document in enumerate(select_documents(sample, documents), 1):
        result += [
            Text(f"\n[{number}] {document.title}  ({document.id})", style="cyan"),
            marked(document, sample.evidence),
        ]
    result += [Text(f"\nQuestion: {full_question(sample)}", style="bold"), Text(f"Format: {sample.instruction}")]
    result += [Text(f"  {number}. {step}") for number, step in enumerate(sample.reasoning_chain, 1)]
    result.append(Text(f"Answer: {' | '.join(sample.answers)}", style="bold green"))
    return result
