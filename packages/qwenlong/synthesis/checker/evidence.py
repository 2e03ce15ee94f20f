"""Whether the evidence is what the answer is derived from.

Its documents alone must give the answer, each span must be needed (with it struck from the text, the answer is gone),
and there must be as many spans as the question has steps or members: together, all of it and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from qwenlong.core.records import Document, Evidence, Sample
from qwenlong.synthesis.checker import derive, dialogues, tabular
from qwenlong.synthesis.checker.numerical import member_counts
from qwenlong.synthesis.checker.rules import HOPS, LETTERS, READING, base_name, is_option
from qwenlong.synthesis.checker.view import plain, view

#: Templates whose answer is a place among messages: what is struck keeps its place and its speaker.
_PLACED = (*dialogues.FORMS, "reply", "choice_reply")
#: Templates whose answer is a name that the title or path of a document with evidence carries.
_TITLED = ("called_function", "earlier", "changed_number", "choice_country")
#: Templates whose question quotes what stands in the evidence.
_QUOTING = ("speaker", "choice_speaker", "reply", "choice_reply", "choice_country", "speaker_line")
#: Kinds of document whose evidence is whole lines, or a member of a list in one.
_LINED = ("factbook", "finance", "dialogue", "chat", "play")


def faults(sample: Sample, shown: Sequence[Document]) -> list[str]:
    """Return what is wrong with the evidence of a sample whose template is derivable."""
    inside = {span.document for span in sample.evidence}
    homes = [document for document in shown if document.id in inside]
    fault = _count(sample, homes) or _bounded(sample, homes) or _holds_answer(sample, homes)
    if fault:
        return [fault]
    gold, given = set(sample.answers), derive.answers(sample, homes) or set()
    if given != gold:
        return [f"the documents with evidence alone give {sorted(given) or 'none'}"]
    return [
        f"the answer does not need the evidence [{span.start}, {span.end}) of {span.document!r}"
        for span in sample.evidence
        if not _needed(sample, homes, span)
    ]


def _needed(sample: Sample, homes: Sequence[Document], span: Evidence) -> bool:
    """Tell whether the answer is lost with a span; of equal passages (two calls of one function) one will do."""
    gold = set(sample.answers)
    if derive.answers(sample, _struck(sample, homes, [span])) != gold:
        return True
    text = next(document.text for document in homes if document.id == span.document)[span.start : span.end]
    equal = [
        Evidence(document=document.id, start=match.start(), end=match.end())
        for document in homes
        for match in re.finditer(rf"(?<!\w){re.escape(text)}(?!\w)", document.text)
    ]
    others = [other for other in equal if not any(_overlap(other, kept) for kept in sample.evidence)]
    return (
        derive.answers(sample, _struck(sample, homes, others)) == gold
        and derive.answers(sample, _struck(sample, homes, [span, *others])) != gold
    )


def _overlap(one: Evidence, two: Evidence) -> bool:
    return one.document == two.document and one.start < two.end and two.start < one.end


def _struck(sample: Sample, homes: Sequence[Document], spans: Sequence[Evidence]) -> list[Document]:
    """Return the documents with the words of spans made unreadable."""
    result = []
    for document in homes:
        text = document.text
        for span in (span for span in spans if span.document == document.id):
            passage = text[span.start : span.end]
            if base_name(sample) in _PLACED:
                passage = "\n".join(
                    f"{name}{colon}{_masked(said)}"
                    for name, colon, said in (line.partition(": ") for line in passage.split("\n"))
                )
            else:
                passage = _masked(passage)
            text = text[: span.start] + passage + text[span.end :]
        result.append(document if text == document.text else document.model_copy(update={"text": text}))
    return result


def _masked(text: str) -> str:
    return re.sub(r"\w", "¤", text)


def _count(sample: Sample, homes: Sequence[Document]) -> str:
    name = base_name(sample)
    spans = sorted(sample.evidence, key=lambda span: (span.document, span.start))
    if name.startswith("numerical_"):
        wanted = member_counts(sample, view(homes)) or {0}
    elif name in tabular.NAMES:
        wanted = {tabular.members(sample, view(homes))}
    elif name in HOPS:
        wanted = {HOPS[name]}
    elif name in READING or name in dialogues.FORMS or sample.task == "multiple_choice":
        wanted = {1}
    else:
        return ""
    if len(spans) not in wanted:
        return f"{len(spans)} spans of evidence, the question needs {min(wanted) or 'others'}"
    for one, two in zip(spans, spans[1:], strict=False):
        # Two cells of a table stand in one row.
        if _overlap(one, two) and not (one == two and name.startswith("numerical_")):
            return f"evidence [{one.start}, {one.end}) and [{two.start}, {two.end}) of {one.document!r} overlap"
    return ""


def _bounded(sample: Sample, homes: Sequence[Document]) -> str:
    documents = {document.id: document for document in homes}
    # Questions over single cells show a cell; those of numerical_* the row that names it.
    borders = "\n" if base_name(sample).startswith("numerical_") else "\n|"
    for span in sample.evidence:
        document = documents[span.document]
        if document.metadata.get("kind") not in _LINED:
            continue
        before, after = document.text[: span.start].rstrip(" "), document.text[span.end :].lstrip(" ")
        if (before and before[-1] not in f"{borders}:;,") or (after and after[0] not in f"{borders};,"):
            return (
                f"evidence [{span.start}, {span.end}) of {span.document!r} is neither whole lines nor a list's member"
            )
    return ""


def _holds_answer(sample: Sample, homes: Sequence[Document]) -> str:
    name = base_name(sample)
    texts = {document.id: document.text for document in homes}
    spans = [texts[span.document][span.start : span.end] for span in sample.evidence]
    joined = plain(" ".join(spans))
    if name.startswith("numerical_"):
        missing = [span for span in spans if not any(character.isdigit() for character in span)]
        return f"an evidence span holds no number: {missing[0]!r}" if missing else ""
    if _EXACT.get(name, lambda *_: True)(sample, spans) is False:
        return f"the evidence {spans[-1][:80]!r} is not what the question asks about"
    if sample.task == "multiple_choice":
        golds = [sample.choices[LETTERS.index(letter)] for letter in sample.answers if is_option(letter, sample)]
    else:
        golds = [gold.removeprefix(sample.answer_prefix).strip() for gold in sample.answers]
    quoted = re.search(r'"([^"]+)"', sample.question)
    if name in _QUOTING and (quoted is None or plain(quoted[1]) not in joined):
        return f"the evidence does not hold the quoted {quoted[1] if quoted else ''!r}"
    if name in _TITLED:
        joined += plain(" ".join(f"{d.title} {d.metadata.get('path', '')}" for d in homes))
    elif name not in (*HOPS, *READING, *dialogues.FORMS) and sample.task != "multiple_choice":
        return ""  # computed in ways of its own
    lost = [gold for gold in golds if plain(gold) not in joined]
    return f"the evidence does not hold the answer {lost[0]!r}" if lost else ""


def _whole_message(sample: Sample, spans: Sequence[str]) -> bool:
    return f"{sample.answer_prefix} {spans[0].partition(': ')[2].strip()}" in sample.answers


def _parameter(sample: Sample, spans: Sequence[str]) -> bool:
    asked = re.search(r"parameter (\w+) of", sample.question)
    return bool(asked and re.match(rf"\s*{asked[1]} ?: ", spans[0]))


def _definition(_: Sample, spans: Sequence[str]) -> bool:
    return bool(re.match(r"(?:async )?def \w+\(", spans[-1]))


#: What the evidence of a template must look like.
_EXACT: dict[str, Callable[[Sample, Sequence[str]], bool]] = {
    **dict.fromkeys(dialogues.FORMS, _whole_message),
    **dict.fromkeys(("parameter", "choice_parameter"), _parameter),
    **dict.fromkeys(("called_function", "choice_definition"), _definition),
}
