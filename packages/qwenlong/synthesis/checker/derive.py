"""Answers derived anew from the question and the documents' text.

Nothing here imports the generators: a fault of theirs cannot hide itself. A sample is right when what is derived is its
gold answer and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qwenlong.core.records import Document, Sample
from qwenlong.synthesis.checker import calls, dialogues, numerical, paths, prose, texts
from qwenlong.synthesis.checker.view import View, view

#: Derivations by template name without version.
DERIVATIONS: dict[str, Callable[[Sample, View], set[str]]] = {
    "fact": texts.fact,
    "speaker": texts.speaker,
    "reply": texts.reply,
    "gap": texts.gap,
    "parameter": texts.parameter,
    "nth_message": dialogues.nth_message,
    "last_message": dialogues.last_message,
    "neighbour_message": dialogues.neighbour_message,
    "mentioning_message": dialogues.mentioning_message,
    "numbered_message": dialogues.numbered_message,
    "country_field": texts.country_field,
    "border_field": texts.border_field,
    "country_border_field": texts.country_border_field,
    "speaker_line": texts.speaker_line,
    "called_function": texts.called_function,
    "earlier": texts.earlier,
    "choice_fact": texts.fact,
    "choice_speaker": texts.speaker,
    "choice_term": texts.gap,
    "choice_definition": texts.definition,
    "choice_reply": texts.reply,
    "choice_parameter": texts.parameter,
    "choice_country": texts.country,
    "common_neighbour": texts.common_neighbour,
    "changed_number": numerical.changed_number,
    "prose_number": prose.gap,
    "prose_name": prose.gap,
    "choice_name": prose.gap,
    "next_sentence": prose.next_sentence,
    "vague_country_field": paths.vague,
    "vague_border_field": paths.vague,
    "vague_path": paths.vague,
    "temporal_extreme": paths.temporal_extreme,
    "temporal_order": paths.temporal_order,
    "temporal_years": paths.temporal_years,
    "temporal_years_path": paths.temporal_years,
    "hypothetical_border": paths.hypothetical_border,
    "hypothetical_field": paths.hypothetical_field,
    "causal_partner": paths.causal_partner,
    "causal_partner_path": paths.causal_partner,
    "causal_through": calls.causal,
    "causal_effect": calls.causal,
    "causal_source": calls.causal,
    "hypothetical_call": calls.causal,
}


def answers(sample: Sample, documents: Sequence[Document]) -> set[str] | None:
    """Return every answer that the documents allow; None when no derivation knows the template."""
    name = sample.template.partition("@")[0]
    shown = view(documents)
    if name.startswith("numerical_"):
        return numerical.numerical(sample, shown)
    if name not in DERIVATIONS:
        return None
    found = DERIVATIONS[name](sample, shown)
    if sample.task != "multiple_choice":
        return found
    return {letter for letter, option in zip("ABCDEFGHIJ", sample.choices, strict=False) if option in found}
