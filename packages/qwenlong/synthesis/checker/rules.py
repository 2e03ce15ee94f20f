"""What must hold of a sample's record before anything is derived: id, template, options, hops, evidence's place."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import permutations

from qwenlong.core.files import digest_value
from qwenlong.core.records import Document, Sample
from qwenlong.synthesis.checker import derive, dialogues, proposed, walks

LETTERS = "ABCDEFGHIJ"
#: Templates of doc_multi_hop and the steps from the question to its answer; each step has its own evidence.
HOPS = {
    "country_field": 2,
    "border_field": 2,
    "country_border_field": 3,
    "common_neighbour": 2,
    "speaker_line": 2,
    "called_function": 2,
    "earlier": 2,
    "changed_number": 2,
}
#: Templates of paths whose steps are their spans, or all but the one that names the file or the country that is left.
SPANS = (
    *("causal_partner", "causal_partner_path", "hypothetical_field"),
    *("temporal_extreme", "temporal_order", "temporal_years", "temporal_years_path"),
)
ALL_BUT_ONE = ("causal_effect", "causal_source", "causal_through", "hypothetical_border", "hypothetical_call")
#: Templates of reading_comprehension.
READING = ("fact", "speaker", "reply", "gap", "parameter", "prose_number", "prose_name", "next_sentence")
#: Instructions: the answer's form, the same for every template of a task.
_LETTER = 'Write the final answer as "Therefore, the answer is (letter)".'


def hops(sample: Sample) -> int:
    """Return how many steps the question of a derivable sample takes."""
    name = base_name(sample)
    if sample.task != "doc_multi_hop":
        return 0
    if name in SPANS or name in ALL_BUT_ONE:
        return len(sample.evidence) - (name in ALL_BUT_ONE)
    if name.startswith("vague_"):
        # Each country that is described instead of named takes a step, and so does the field asked for.
        return 1 + sample.question.count(" the country ")
    return HOPS.get(name, 0)


def base_name(sample: Sample) -> str:
    """Return the template's name without its version."""
    return sample.template.partition("@")[0]


def _identity(sample: Sample, _: Sequence[Document]) -> str:
    content = [sample.question, sample.instruction, sample.choices, sample.answers, sample.documents]
    named = f"{sample.task}-{digest_value(content)[:12]}"
    return "" if sample.id == named else f"id = {sample.id!r} does not name the content, which gives {named!r}"


def _template(sample: Sample, _: Sequence[Document]) -> str:
    if derive.proposed(sample):
        return ""
    if not derive.derivable(sample):
        return f"template = {sample.template!r} is unknown: the checker has no derivation for it"
    name = base_name(sample)
    tasks = (
        ("multiple_choice", name.startswith("choice_")),
        ("corpus_numerical", name.startswith("numerical_")),
        ("dialogue_memory", name in dialogues.FORMS),
        ("doc_multi_hop", name in HOPS or name in SPANS or name in ALL_BUT_ONE or name.startswith("vague_")),
        ("reading_comprehension", name in READING),
    )
    task = next((task for task, known in tasks if known), sample.task)
    return "" if task == sample.task else f"template {sample.template!r} is one of {task}, not of {sample.task}"


def _shape(sample: Sample, shown: Sequence[Document]) -> str:
    places = len({span.document for span in sample.evidence})
    if len(set(sample.documents)) != len(sample.documents):
        return "shows a document twice"
    if not sample.reasoning_chain or not all(step.strip() for step in sample.reasoning_chain):
        return "no reasoning chain"
    if sample.task == "doc_multi_hop" and (sample.n_hops < 2 or places < 2):
        return f"n_hops = {sample.n_hops} over {places} documents"
    if derive.derivable(sample) and sample.n_hops != hops(sample):
        return f"n_hops = {sample.n_hops}, the question has {hops(sample)}"
    homes = {document.id: document for document in shown}
    home = homes.get(sample.evidence[0].document) if sample.evidence else None
    if home is not None and (home.category, home.source) != (sample.category, sample.source):
        return (
            f"category and source are {sample.category}, {sample.source}; the evidence's {home.category}, {home.source}"
        )
    return ""


def _options(sample: Sample, _: Sequence[Document]) -> str:
    if sample.task != "multiple_choice":
        return "choices belong to multiple_choice only" if sample.choices else ""
    words = [frozenset(choice.casefold().split()) for choice in sample.choices]
    if len(sample.choices) != 4 or not all(words):
        return f"choices = {list(sample.choices)} are not four options"
    for (one, first), (other, second) in permutations(zip(sample.choices, words, strict=True), 2):
        if first <= second if derive.derivable(sample) else first == second:
            return f"options {one!r} and {other!r} could both be called true"
    if derive.derivable(sample) and sample.instruction != _LETTER:
        return f"instruction = {sample.instruction!r} does not ask for a letter"
    return "" if len(sample.answers) == 1 and is_option(sample.answers[0], sample) else f"answers = {sample.answers}"


def is_option(letter: str, sample: Sample) -> bool:
    """Tell whether an answer is the letter of one of the options."""
    return len(letter) == 1 and letter in LETTERS[: len(sample.choices)]


def _prefix(sample: Sample, _: Sequence[Document]) -> str:
    if sample.task != "dialogue_memory":
        return (
            f"answer_prefix = {sample.answer_prefix!r} belongs to dialogue_memory only" if sample.answer_prefix else ""
        )
    if not all(gold.startswith(f"{sample.answer_prefix} ") for gold in sample.answers):
        return f"the answer does not start with its prefix {sample.answer_prefix!r}"
    return (
        "" if sample.answer_prefix in sample.instruction else f"the instruction lacks prefix {sample.answer_prefix!r}"
    )


def _evidence_bounds(sample: Sample, shown: Sequence[Document]) -> str:
    texts = {document.id: document.text for document in shown}
    if not sample.evidence:
        return "no evidence"
    for span in sample.evidence:
        if span.document not in texts:
            return f"evidence lies in {span.document!r}, which the sample does not show"
        text = texts[span.document]
        where = f"evidence [{span.start}, {span.end}) of {span.document!r}"
        if span.end > len(text) or not text[span.start : span.end].strip():
            return f"{where} is out of bounds or empty"
        if any(re.fullmatch(r"\w\w", text[max(edge - 1, 0) : edge + 1]) for edge in (span.start, span.end)):
            return f"{where} begins or ends inside a word"
    return ""


RULES: tuple[Callable[[Sample, Sequence[Document]], str], ...] = (
    _identity,
    _template,
    _shape,
    _options,
    _prefix,
    _evidence_bounds,
    walks.faults,
    proposed.grounded,
    proposed.needles,
)
