"""Answers derived anew from the question and the documents' text.

Nothing here imports the generators: a fault of theirs cannot hide itself. A sample is right when what is derived is its
gold answer and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qwenlong.core.records import Document, Sample
from qwenlong.synthesis.checker import calls, dialogues, numerical, paths, prose, tabular, texts
from qwenlong.synthesis.checker.view import View, view

#: Derivations by template name without version.
DERIVATIONS: dict[str, Callable[[Sample, View], set[str]]] = {
    "fact": texts.fact,
    "speaker": texts.speaker,
    "reply": texts.reply,
    "gap": texts.gap,
    "parameter": texts.parameter,
    "nth_message": dialogues.message,
    "last_message": dialogues.message,
    "neighbour_message": dialogues.message,
    "mentioning_message": dialogues.message,
    "numbered_message": dialogues.message,
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
    **{
        f"numerical_{axis}_{operation}": numerical.numerical
        for axis in ("entity", "year", "item")
        for operation in ("max", "min", "count", "sum", "mean", "difference")
    },
    **dict.fromkeys(tabular.NAMES, tabular.tabular),
}
#: Generators whose answers no program can compute again: what a language model proposed.
PROPOSED = ("mase", "walk", "nl2sql")


def derivable(sample: Sample) -> bool:
    """Tell whether a derivation knows the template; another version may have other words."""
    name, _, version = sample.template.partition("@")
    return name in DERIVATIONS and version == "1"


def proposed(sample: Sample) -> bool:
    """Tell whether a language model proposed the question, so that no derivation can be asked for."""
    return not derivable(sample) and sample.template.startswith(tuple(f"{name}_" for name in PROPOSED))


def answers(sample: Sample, documents: Sequence[Document]) -> set[str] | None:
    """Return every answer that the documents allow; None when no derivation knows the template.

    Of multiple choice these are letters, and beside them what the documents answer that is no option.
    """
    if not derivable(sample):
        return None
    found = DERIVATIONS[sample.template.partition("@")[0]](sample, view(documents))
    if sample.task != "multiple_choice":
        return found
    letters = {letter for letter, option in zip("ABCDEFGHIJ", sample.choices, strict=False) if option in found}
    return letters | (found - set(sample.choices))


def needles(sample: Sample, documents: Sequence[Document]) -> int:
    """Return the messages that answer the question's description; 0 for other tasks."""
    if sample.template.partition("@")[0] not in dialogues.FORMS:
        return 0
    return dialogues.needles(sample, view(documents))
