"""multiple_choice: four options, the distractors taken from the same field of other documents and never true."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from qwenlong.core.records import Document, Evidence
from qwenlong.synthesis import parse, reading
from qwenlong.synthesis.candidates import LETTER_INSTRUCTION, Candidate
from qwenlong.synthesis.pool import Pool, evidence, whole_line

OPTIONS = 4
LETTERS = "ABCD"
#: Longest option, in words.
MAX_WORDS = 8
#: Texts of which distractors are drawn, at most.
SAMPLED = 64


def _same(one: str, other: str) -> bool:
    """Tell whether two options could both be called true: one's words are part of the other's."""
    first, second = set(one.casefold().split()), set(other.casefold().split())
    return first <= second or second <= first


def _options(pool: Pool, right: str, others: Sequence[str], *names: object) -> tuple[tuple[str, ...], str] | None:
    """Return four options and the correct letter; None when too few distractors differ from it and each other."""
    chosen = [right]
    for option in pool.shuffled(sorted(set(others)), "choice", "others", *names):
        if len(chosen) < OPTIONS and not any(_same(option, taken) for taken in chosen):
            chosen.append(option)
    if len(chosen) < OPTIONS:
        return None
    # A hash of the question picks the place: uniform, and the same whatever was made before.
    place = pool.rng("choice", "letter", *names).randrange(OPTIONS)
    wrong = chosen[1:]
    return (*wrong[:place], right, *wrong[place:]), LETTERS[place]


def _candidate(
    template: str,
    question: str,
    options: tuple[tuple[str, ...], str] | None,
    spans: Sequence[Evidence],
    chain: Sequence[str],
    holds: Callable[[Sequence[Document]], bool],
) -> Candidate | None:
    if options is None:
        return None
    choices, letter = options
    return Candidate(
        task="multiple_choice",
        question_type="multiple choice",
        template=template,
        question=question,
        answers=(letter,),
        choices=choices,
        evidence=tuple(spans),
        reasoning_chain=(*chain, f"That is option {letter}."),
        instruction=LETTER_INSTRUCTION,
        holds=holds,
    )


def _of_reading(template: str, base: Candidate, options: tuple[tuple[str, ...], str] | None) -> Candidate | None:
    """Return a question of reading comprehension with options; None without enough of them."""
    return _candidate(template, base.question, options, base.evidence, base.reasoning_chain, base.holds)


def fact(pool: Pool) -> Iterator[Candidate]:
    """The value of a country's field among the values of other countries."""
    values: dict[tuple[str, int | None], list[parse.Field]] = defaultdict(list)
    for document in pool.documents:
        for field in parse.fields(document):
            if parse.answer_of(field.value, MAX_WORDS) is not None:
                values[field.label, field.year].append(field)
    fields = [field for group in values.values() for field in group if pool.fits([field.document])]
    for field in pool.shuffled(fields, "choice", "fact", pool.budget):
        group = values[field.label, field.year]
        if sum(other.entity == field.entity for other in group) != 1:
            continue
        others = [parse.plain_value(other.value) for other in group if other.entity != field.entity]
        question = f"What is the {field.label} of {field.entity}{f' in {field.year}' if field.year else ''}?"
        options = _options(pool, parse.plain_value(field.value), others, question)
        chain = (f"{field.entity}: {whole_line(pool.by_id[field.document], field.start, field.end)}",)
        holds = partial(reading._one_value, field)
        candidate = _candidate("choice_fact@1", question, options, [evidence(field)], chain, holds)
        if candidate is not None:
            yield candidate


def speaker(pool: Pool) -> Iterator[Candidate]:
    """Who says a line, among the speakers of the same play or of others."""
    speakers = sorted({s.speaker.title() for d in pool.documents if parse.kind(d) == "play" for s in parse.speeches(d)})
    for base in reading.speaker(pool):
        options = _options(pool, base.answers[0], speakers, base.question)
        candidate = _of_reading("choice_speaker@1", base, options)
        if candidate is not None:
            yield candidate


def term(pool: Pool) -> Iterator[Candidate]:
    """The term that fills a gap, among the terms of other guides."""
    found = list(reading.gap(pool))
    for base in pool.shuffled(found, "choice", "term", pool.budget):
        home = pool.by_id[base.evidence[0].document]
        others = [c.answers[0] for c in found if c.answers[0].casefold() not in home.text.casefold()]
        options = _options(pool, base.answers[0], others, base.question)
        candidate = _of_reading("choice_term@1", base, options)
        if candidate is not None:
            yield candidate


def definition(pool: Pool) -> Iterator[Candidate]:
    """Which function a source file defines, among functions that it neither defines nor names."""
    places: dict[str, set[str]] = defaultdict(set)
    by_file: dict[str, str] = defaultdict(str)
    found: list[tuple[Document, parse.Function]] = []
    for document in pool.documents:
        if parse.kind(document) == "code":
            by_file[parse.entity(document)] += f"\n{document.text}"
            for function in parse.functions(document):
                places[function.name].add(parse.entity(document))
                if pool.fits([document.id]):
                    found.append((document, function))
    for document, function in pool.shuffled(found, "choice", "definition", pool.budget):
        whole = by_file[parse.entity(document)]
        path = str(document.metadata.get("path", document.title))
        question = f"Which of these functions does {path} define?"
        others = [name for name in places if f"{name}" not in whole]
        options = _options(pool, function.name, others, question, function.name)
        candidate = _candidate(
            "choice_definition@1",
            question,
            options,
            [evidence(function)],
            (f"{path}: def {function.name}",),
            partial(_defined_once, path, options[0] if options else (), function.name),
        )
        if candidate is not None:
            yield candidate


def _defined_once(path: str, options: Sequence[str], right: str, documents: Sequence[Document]) -> bool:
    """Tell whether of the options the documents of a file define the right one only."""
    names = {
        function.name
        for document in documents
        if str(document.metadata.get("path", document.title)) == path
        for function in parse.functions(document)
    }
    return names & set(options) == {right}


def reply(pool: Pool) -> Iterator[Candidate]:
    """What is said right after a message, among short replies of other conversations."""
    found = list(reading.reply(pool))
    replies = sorted({c.answers[0] for c in found})
    for base in pool.shuffled(found, "choice", "reply", pool.budget):
        home = pool.by_id[base.evidence[0].document].text
        others = [text for text in _some(pool, replies, base.question) if text not in home]
        options = _options(pool, base.answers[0], others, base.question)
        candidate = _of_reading("choice_reply@1", base, options)
        if candidate is not None:
            yield candidate


def parameter(pool: Pool) -> Iterator[Candidate]:
    """The documented type of a parameter, among types of other parameters."""
    found = list(reading.parameter(pool))
    types = sorted({c.answers[0] for c in found})
    for base in pool.shuffled(found, "choice", "parameter", pool.budget):
        options = _options(pool, base.answers[0], _some(pool, types, base.question), base.question)
        candidate = _of_reading("choice_parameter@1", base, options)
        if candidate is not None:
            yield candidate


def country(pool: Pool) -> Iterator[Candidate]:
    """The country that has a value in a field, among countries that have another one there."""
    values: dict[tuple[str, int | None], list[parse.Field]] = defaultdict(list)
    for document in pool.documents:
        for field in parse.fields(document):
            if parse.answer_of(field.value, MAX_WORDS) is not None and field.entity not in field.value:
                values[field.label, field.year].append(field)
    fields = [field for group in values.values() for field in group if pool.fits([field.document])]
    for field in pool.shuffled(fields, "choice", "country", pool.budget):
        group = values[field.label, field.year]
        said = parse.plain_value(field.value)
        if [parse.plain_value(other.value) for other in group].count(said) != 1:
            continue
        question = f'Which country has the {field.label}{f" in {field.year}" if field.year else ""} "{said}"?'
        others = sorted({other.entity for other in group} - {field.entity})
        options = _options(pool, field.entity, others, question)
        chain = (f"{field.entity}: {whole_line(pool.by_id[field.document], field.start, field.end)}",)
        holds = partial(_one_country, field, said)
        candidate = _candidate("choice_country@1", question, options, [evidence(field)], chain, holds)
        if candidate is not None:
            yield candidate


def _one_country(field: parse.Field, said: str, documents: Sequence[Document]) -> bool:
    """Tell whether of the countries shown one alone has the value in the field."""
    found = {
        other.entity
        for document in documents
        for other in parse.fields(document)
        if (other.label, other.year) == (field.label, field.year) and parse.plain_value(other.value) == said
    }
    return found == {field.entity}


def _some(pool: Pool, texts: Sequence[str], *names: object) -> list[str]:
    """Return a few of many texts, so that a question's cost does not grow with the corpus."""
    return list(texts) if len(texts) <= SAMPLED else pool.rng("choice", "some", *names).sample(list(texts), SAMPLED)


TEMPLATES: dict[str, Callable[[Pool], Iterator[Candidate]]] = {
    "choice_fact": fact,
    "choice_speaker": speaker,
    "choice_term": term,
    "choice_definition": definition,
    "choice_reply": reply,
    "choice_parameter": parameter,
    "choice_country": country,
}
