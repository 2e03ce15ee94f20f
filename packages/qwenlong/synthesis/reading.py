"""reading_comprehension: the answer is a span of one document's real text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial

from qwenlong.core.records import Document, Evidence
from qwenlong.synthesis import parse
from qwenlong.synthesis.candidates import Candidate
from qwenlong.synthesis.pool import Pool, evidence, whole_line

#: Longest answer, in words.
MAX_WORDS = 8
# Every literal is matched, so that pairs of marks stay pairs; which ones may be asked for is decided after.
_TERM = re.compile(
    r"``(?P<code>[^`]+)``|(?<![:`\w])`(?P<name>[^`]+)`(?!`)|(?<![*\w])\*(?P<emph>[A-Za-z][\w -]*)\*(?!\*)"
)
_PLAIN_TERM = re.compile(r"[A-Za-z-][^`<>\n]{2,40}")
_SENTENCE_END = re.compile(r"[.!?]$")


@lru_cache(maxsize=4096)
def _collapsed(text: str) -> str:
    return " ".join(text.split())


def _absent(phrases: Sequence[str], document: str, documents: Sequence[Document]) -> bool:
    """Tell whether no document but `document` holds all of the phrases: nothing else fits the question."""
    for other in documents:
        text = _collapsed(other.text)
        if other.id != document and all(phrase in text for phrase in phrases):
            return False
    return True


def fact(pool: Pool) -> Iterator[Candidate]:
    """The value of a field."""
    found = []
    for document in pool.of_kind("factbook"):
        fields = parse.fields(document)
        labels = [(field.label, field.year) for field in fields]
        found += [field for field in fields if labels.count((field.label, field.year)) == 1]
    for field in pool.shuffled(found, "reading", "fact", pool.budget):
        answer = parse.answer_of(field.value, MAX_WORDS)
        if answer is None or parse.entity(pool.by_id[field.document]) in answer:
            continue
        when = f" in {field.year}" if field.year else ""
        yield Candidate(
            task="reading_comprehension",
            question_type="reading comprehension",
            template="fact@1",
            question=f"What is the {field.label} of {field.entity}{when}?",
            answers=(answer,),
            evidence=(evidence(field),),
            reasoning_chain=(f"{field.entity}: {whole_line(pool.by_id[field.document], field.start, field.end)}",),
            holds=partial(_one_value, field),
        )


def _one_value(field: parse.Field, documents: Sequence[Document]) -> bool:
    values = {
        other.value
        for document in documents
        if parse.entity(document) == field.entity
        for other in parse.fields(document)
        if (other.label, other.year) == (field.label, field.year)
    }
    return values == {field.value}


def speaker(pool: Pool) -> Iterator[Candidate]:
    """Who says a line of a play."""
    found = [
        said
        for document in pool.of_kind("play")
        for said in parse.speeches(document)
        if 4 <= len(said.text.split()) <= 12 and document.text.count(said.text) == 1
    ]
    for said in pool.shuffled(found, "reading", "speaker", pool.budget):
        if said.speaker.casefold() in said.text.casefold():
            continue
        yield Candidate(
            task="reading_comprehension",
            question_type="reading comprehension",
            template="speaker@1",
            question=f'Who says "{said.text}"?',
            answers=(said.speaker.title(),),
            evidence=(_with_speaker(pool.by_id[said.document], said),),
            reasoning_chain=(f'{said.speaker.title()} says "{said.text}"',),
            holds=partial(_absent, (said.text,), said.document),
        )


def _with_speaker(document: Document, said: parse.Said) -> Evidence:
    """Return the span from the speaker's name to the end of the line: the answer is in it."""
    start = document.text.rfind(f"{said.speaker}.", 0, said.start)
    return Evidence(document=document.id, start=max(start, 0), end=said.end)


def reply(pool: Pool) -> Iterator[Candidate]:
    """What is said right after a message of a dialogue."""
    found = []
    for document in pool.of_kind("dialogue"):
        said = parse.messages(document)
        texts = [message.text for message in said]
        for first, second in zip(said, said[1:], strict=False):
            short = 2 <= len(second.text.split()) <= MAX_WORDS and 3 <= len(first.text.split()) <= 12
            one_line = "\n" not in first.text + second.text
            if short and one_line and first.speaker != second.speaker and texts.count(first.text) == 1:
                found.append((first, second))
    for first, second in pool.shuffled(found, "reading", "reply", pool.budget):
        yield Candidate(
            task="reading_comprehension",
            question_type="reading comprehension",
            template="reply@1",
            question=f'What does {second.speaker} answer to "{first.text}"?',
            answers=(second.text,),
            evidence=(Evidence(document=first.document, start=first.start, end=second.end),),
            reasoning_chain=(f"{first.speaker}: {first.text}", f"{second.speaker}: {second.text}"),
            holds=partial(_absent, (first.text,), first.document),
        )


def gap(pool: Pool) -> Iterator[Candidate]:
    """The marked term that is missing from a sentence of a guide."""
    found = []
    for document in pool.of_kind("guide"):
        for start, end in parse.sentences(document):
            for match in _TERM.finditer(document.text, start, end):
                found.append((document, start, end, match))
    for document, start, end, match in pool.shuffled(found, "reading", "gap", pool.budget):
        term = next(group for group in match.groups() if group)
        # A few words on both sides locate the place.
        before = _collapsed(document.text[start : match.start()]).split()[-10:]
        after = _collapsed(document.text[match.end() : end]).split()[:8]
        shown = f"{' '.join(before)} ____ {' '.join(after)}".strip()
        if (
            not _PLAIN_TERM.fullmatch(term)
            or len(before) + len(after) < 6
            or term.casefold() in shown.casefold()
            or len(term.split()) > MAX_WORDS
        ):
            continue
        phrases = (" ".join(before), " ".join(after))
        yield Candidate(
            task="reading_comprehension",
            question_type="cloze",
            template="gap@1",
            question=f'Which term fills the gap: "{shown}"?',
            answers=(term,),
            evidence=(Evidence(document=document.id, start=start, end=end),),
            reasoning_chain=(_collapsed(document.text[start:end]),),
            holds=partial(_absent, phrases, document.id),
        )


def _type_of(text: str) -> str:
    """Return a parameter's type without what is said of its default, and without a full stop: "int. (default: 2)"."""
    return _SENTENCE_END.sub("", re.split(r",? \(?optional|\(default|, default", text)[0].strip(" ,")).strip(" ,")


def parameter(pool: Pool) -> Iterator[Candidate]:
    """The documented type of a function's parameter."""
    found = [
        (function, said)
        for document in pool.of_kind("code")
        for function in parse.functions(document)
        for said in parse.parameters(document, function)
    ]
    for function, said in pool.shuffled(found, "reading", "parameter", pool.budget):
        answer = _type_of(said.text)
        if not 0 < len(answer.split()) <= MAX_WORDS:
            continue
        yield Candidate(
            task="reading_comprehension",
            question_type="reading comprehension",
            template="parameter@1",
            question=f"What type has the parameter {said.speaker} of {function.name}?",
            answers=(answer,),
            evidence=(evidence(said),),
            reasoning_chain=(f"{function.name}: {said.speaker} : {said.text}",),
            holds=partial(_absent, (f"def {function.name}(",), function.document),
        )


TEMPLATES: dict[str, Callable[[Pool], Iterator[Candidate]]] = {
    "fact": fact,
    "speaker": speaker,
    "reply": reply,
    "gap": gap,
    "parameter": parameter,
}
