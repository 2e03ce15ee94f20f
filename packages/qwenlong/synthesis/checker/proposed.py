"""What can be proved of a question that agents proposed: its answer cannot be computed, its form and needles can."""

from __future__ import annotations

import re
from collections.abc import Sequence

from qwenlong.core.records import Document, Sample
from qwenlong.synthesis.checker.texts import ORDINALS
from qwenlong.synthesis.checker.view import plain

#: Templates whose answer follows from the evidence without standing in it.
FREE = ("mase_viewpoint", "mase_in_context_learning")
NEEDLES = (2, 4, 8)
_QUESTION = re.compile(r'Reproduce the (?P<place>\w+) message of (?P<name>.+?) in "(?P<title>.+?)" that (?P<what>.+)\.')
_LINE = re.compile(r"^(?P<name>[A-Z][A-Za-z0-9 ]{0,19}): (?P<text>.*)$", re.MULTILINE)


def grounded(sample: Sample, shown: Sequence[Document]) -> str:
    """Return what answer of an agents' question does not stand in its evidence, where it must; else ""."""
    if not sample.template.startswith("mase_") or sample.template.startswith(FREE):
        return ""
    texts = {document.id: document.text for document in shown}
    joined = plain(" ".join(texts.get(span.document, "")[span.start : span.end] for span in sample.evidence))
    golds = [gold.removeprefix(sample.answer_prefix) for gold in sample.answers]
    if sample.task == "multiple_choice":
        golds = [sample.choices["ABCD".index(gold)] for gold in golds if gold in "ABCD"[: len(sample.choices)]]
    lost = [gold for gold in golds if plain(gold) not in joined]
    return f"the evidence does not hold the answer {lost[0]!r}" if lost else ""


def needles(sample: Sample, shown: Sequence[Document]) -> str:
    """Return what is wrong with a proposed dialogue needle, "" when nothing is.

    Each span of evidence is a whole message of the speaker in the one conversation of the title, there are 2, 4 or 8 of
    them, and the answer is the one at the place that the question names, in the order of the conversation.
    """
    if not sample.template.startswith("mase_dialogue_memory"):
        return ""
    asked = _QUESTION.fullmatch(sample.question)
    if asked is None or asked["place"] not in ORDINALS:
        return f"the question {sample.question[:60]!r} names no place, speaker and conversation"
    titled = [document for document in shown if document.title == asked["title"]]
    if len(titled) != 1:
        return f"{len(titled)} documents have the title {asked['title']!r}"
    spans = sorted({(span.document, span.start, span.end) for span in sample.evidence})
    if len(spans) not in NEEDLES or len(spans) != len(sample.evidence) or sample.n_needles != len(spans):
        return f"n_needles = {sample.n_needles}, {len(sample.evidence)} spans; MRCR's form has 2, 4 or 8"
    said = {
        (m.start(), m.end()): m["text"].strip() for m in _LINE.finditer(titled[0].text) if m["name"] == asked["name"]
    }
    for document, start, end in spans:
        if document != titled[0].id or (start, end) not in said:
            return f"[{start}, {end}) of {document!r} is no whole message of {asked['name']!r} in {asked['title']!r}"
    place = ORDINALS[asked["place"]]
    if place > len(spans):
        return f"the {asked['place']} of {len(spans)} messages is asked for"
    if "".join(sample.answers) != f"{sample.answer_prefix} {said[spans[place - 1][1:]]}":
        return f"gold answer {list(sample.answers)}, the {asked['place']} needle is {said[spans[place - 1][1:]]!r}"
    return "" if sample.answer_prefix in sample.instruction else "the instruction does not name the prefix"
