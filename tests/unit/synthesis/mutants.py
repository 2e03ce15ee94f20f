"""Samples made wrong on purpose: seeded, by kind, spread over the templates, each wrong by construction.

A mutant looks as a run would write it: its id names the new content and its tokens are counted again, so that nothing
but what was changed can give it away. `benchmarks/mutations.py` counts over a synthesis folder which ones the checker
refuses.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mutant_answers import neighbours, off_by_one, second_answer

from qwenlong.core import templates
from qwenlong.core.files import digest_value
from qwenlong.core.records import Document, Evidence, Sample
from qwenlong.core.tokens import Tokenizer
from qwenlong.synthesis.checker import derive

LETTERS = "ABCD"
Documents = dict[str, Document]
#: A changed sample with the documents that were changed or added; None where the change does not apply.
Changed = tuple[Sample, list[Document]] | None


@dataclass(frozen=True)
class Mutant:
    """One wrong sample in the files it would stand in, and what was done to it."""

    kind: str
    how: str
    template: str
    sets: Mapping[str, Sequence[Sample]]
    documents: Mapping[str, Document]


def _with(sample: Sample, **changes: object) -> Sample:
    return sample.model_copy(update=changes)


def _gold(sample: Sample) -> str:
    """Return the answer without its prefix; of multiple choice the option's text."""
    if sample.task == "multiple_choice":
        return sample.choices[LETTERS.index(sample.answers[0])]
    return sample.answers[0].removeprefix(sample.answer_prefix).strip()


def _answered(sample: Sample, text: str) -> Sample:
    """Return the sample with another answer in the same form."""
    if sample.task == "multiple_choice":
        place = LETTERS.index(sample.answers[0])
        return _with(sample, choices=(*sample.choices[:place], text, *sample.choices[place + 1 :]))
    return _with(sample, answers=(f"{sample.answer_prefix} {text}".strip(),))


# Off by a unit: another number in the last place, a thousandfold, another unit in the question; of words one letter.


def unit_answer(sample: Sample, documents: Documents, chance: random.Random) -> Changed:
    return _answered(sample, off_by_one(_gold(sample), chance)), []


def unit_scale(sample: Sample, documents: Documents, chance: random.Random) -> Changed:
    number = re.fullmatch(r"(-?\d[\d,]*)(\.\d+)?", _gold(sample))
    return None if number is None or number[1] == "0" else (_answered(sample, f"{number[1]}000{number[2] or ''}"), [])


def unit_asked(sample: Sample, documents: Documents, chance: random.Random) -> Changed:
    if not sample.template.startswith("numerical_") or sample.template.endswith(("max@1", "min@1")):
        return None
    tail = re.search(r"(?:, in ([^?]+))?\?( Round to two decimals\.)?$", sample.question)
    if tail is None or sample.template.endswith("count@1"):
        return _with(sample, question=sample.question.replace("?", " thousand?")), []
    unit = chance.choice([f"thousand {tail[1]}", f"{tail[1]} per year"]) if tail[1] else "million"
    return _with(sample, question=f"{sample.question[: tail.start()]}, in {unit}?{tail[2] or ''}"), []


# Off by a row: what stands beside the right value.


def row_answer(sample: Sample, documents: Documents, chance: random.Random) -> Changed:
    if sample.task == "multiple_choice":
        return _with(sample, answers=(chance.choice(sorted({*LETTERS} - {*sample.answers})),)), []
    gold = _gold(sample)
    others = sorted({text for text in neighbours(sample, documents) if text.casefold() != gold.casefold()})
    return (_answered(sample, chance.choice(others)), []) if others else None


# Evidence removed: its document, its spans, its words; or spans that point elsewhere.


def evidence_document(sample: Sample, documents: Documents, chance: random.Random) -> Changed:
    gone = chance.choice(sample.evidence).document
    return _with(sample, documents=tuple(name for name in sample.documents if name != gone)), []


def evidence_document_and_spans(sample: Sample, documents: Documents, chance: random.Random) -> Changed:
    gone = chance.choice(sample.evidence).document
    shown = tuple(name for name in sample.documents if name != gone)
    if not shown:
        return None
    left = tuple(span for span in sample.evidence if span.document != gone)
    other = Evidence(document=shown[0], start=0, end=len(documents[shown[0]].text))
    return _with(sample, documents=shown, evidence=left or (other,)), []


def evidence_span(sample: Sample, documents: Documents, chance: random.Random) -> Changed:
    gone = chance.randrange(len(sample.evidence))
    return _with(sample, evidence=tuple(s for n, s in enumerate(sample.evidence) if n != gone)), []


def evidence_moved(sample: Sample, documents: Documents, chance: random.Random) -> Changed:
    """Point a span at other lines, of its document or of another."""
    place = chance.randrange(len(sample.evidence))
    span = sample.evidence[place]
    home = documents[chance.choice([span.document, *sample.documents])]
    lines = [
        Evidence(document=home.id, start=match.start(), end=match.end())
        for match in re.finditer(r"[^\n]*\w[^\n]*", home.text)
        if home.id != span.document or match.end() <= span.start or match.start() >= span.end
    ]
    if not lines:
        return None
    moved = (*sample.evidence[:place], chance.choice(lines), *sample.evidence[place + 1 :])
    return _with(sample, evidence=moved), []


def evidence_shifted(sample: Sample, documents: Documents, chance: random.Random) -> Changed:
    span = sample.evidence[0]
    by = max(3, (span.end - span.start) // 2)
    if span.end + by > len(documents[span.document].text):
        return None
    moved = span.model_copy(update={"start": span.start + by, "end": span.end + by})
    return _with(sample, evidence=(moved, *sample.evidence[1:])), []


def evidence_words(sample: Sample, documents: Documents, chance: random.Random) -> Changed:
    """Make the words of a span unreadable in the document itself."""
    span = chance.choice(sample.evidence)
    text = documents[span.document].text
    struck = re.sub(r"\w", "x", text[span.start : span.end])
    changed = documents[span.document].model_copy(update={"text": text[: span.start] + struck + text[span.end :]})
    return sample, [changed]


# Another document in the place of the evidence's.


def _sibling(sample: Sample, documents: Documents, chance: random.Random) -> tuple[Evidence, Document] | None:
    span = chance.choice(sample.evidence)
    home = documents[span.document]
    said = home.text[span.start : span.end]
    keys = ("kind", "heading")
    near = [
        other
        for name, other in sorted(documents.items())
        if name not in sample.documents
        and all(other.metadata.get(key) == home.metadata.get(key) for key in keys[:1])
        and other.metadata.get("parent") != home.metadata.get("parent")
        and other.metadata.get("entity") != (None if home.metadata["kind"] == "code" else home.metadata.get("entity"))
        and said not in other.text
    ]
    same = [other for other in near if other.metadata.get("heading") == home.metadata.get("heading")]
    return (span, chance.choice(same or near)) if near else None


def _anchored(span: Evidence, home: Document, other: Document) -> Evidence:
    """Return the span of the sibling's line with the same label, or of its first words."""
    label = home.text[span.start : span.end].partition(": ")[0]
    found = re.search(rf"^{re.escape(label)}: [^\n]+", other.text, re.MULTILINE) or re.search(r"[^\n]+", other.text)
    assert found is not None
    return Evidence(document=other.id, start=found.start(), end=found.end())


def wrong_text(sample: Sample, documents: Documents, chance: random.Random) -> Changed:
    """Put a sibling's title, text and metadata under the id of the evidence's document."""
    found = _sibling(sample, documents, chance)
    if found is None:
        return None
    span, other = found
    home, under = documents[span.document], other.model_copy(update={"id": span.document})
    spans = tuple(_anchored(s, home, under) if s.document == span.document else s for s in sample.evidence)
    return _with(sample, evidence=spans), [under]


def wrong_document(sample: Sample, documents: Documents, chance: random.Random) -> Changed:
    """Show a sibling in the place of the evidence's document."""
    found = _sibling(sample, documents, chance)
    if found is None:
        return None
    span, other = found
    home = documents[span.document]
    spans = tuple(_anchored(s, home, other) if s.document == span.document else s for s in sample.evidence)
    shown = tuple(other.id if name == span.document else name for name in sample.documents)
    return _with(sample, documents=shown, evidence=spans), []


# Options and prefixes.


def option_letter(sample: Sample, documents: Documents, chance: random.Random) -> Changed:
    return row_answer(sample, documents, chance) if sample.choices else None


def _option(sample: Sample, chance: random.Random, text: Callable[[str], str]) -> Changed:
    if not sample.choices:
        return None
    place = chance.choice([n for n, letter in enumerate(LETTERS) if letter not in sample.answers])
    return _with(sample, choices=(*sample.choices[:place], text(_gold(sample)), *sample.choices[place + 1 :])), []


def option_equal(sample: Sample, documents: Documents, chance: random.Random) -> Changed:
    return _option(sample, chance, chance.choice([str, str.upper, str.lower]))


def option_true(sample: Sample, documents: Documents, chance: random.Random) -> Changed:
    return _option(sample, chance, lambda gold: f"{gold} (approximately)")


def prefix(sample: Sample, documents: Documents, chance: random.Random) -> Changed:
    if not sample.answer_prefix:
        return None
    other = f"z{sample.answer_prefix}"
    return chance.choice(
        [
            _with(sample, answer_prefix=other),
            _with(sample, answer_prefix=sample.answer_prefix[1:]),
            _with(sample, answers=(f"{other} {_gold(sample)}",)),
            _with(sample, answers=(_gold(sample),)),
            _with(sample, instruction=sample.instruction.replace(sample.answer_prefix, other)),
        ]
    ), []


# The record.


def record_tokens(sample: Sample, documents: Documents, chance: random.Random) -> Changed:
    return _with(sample, n_tokens=sample.n_tokens + chance.choice([-1, 1, 100])), []


def record_hops(sample: Sample, documents: Documents, chance: random.Random) -> Changed:
    return _with(sample, n_hops=sample.n_hops + (1 if sample.n_hops < 1 else chance.choice([-1, 1]))), []


def record_needles(sample: Sample, documents: Documents, chance: random.Random) -> Changed:
    return _with(sample, n_needles=sample.n_needles + (1 if sample.n_needles < 1 else chance.choice([-1, 1]))), []


def record_id(sample: Sample, documents: Documents, chance: random.Random) -> Changed:
    return _with(sample, id=sample.id[:-1] + ("0" if sample.id[-1] != "0" else "1")), []


def record_template(sample: Sample, documents: Documents, chance: random.Random) -> Changed:
    names = ["fact@1", "gap@1", "choice_fact@1", "earlier@1", "nth_message@1", "last_message@1", "numerical_year_sum@1"]
    names += [sample.template.replace("@1", "@2"), f"x{sample.template}", "numerical_entity_median@1"]
    return _with(sample, template=chance.choice([name for name in names if name != sample.template])), []


def record_question(sample: Sample, documents: Documents, chance: random.Random) -> Changed:
    """Change a letter of one of the question's words."""
    place = chance.choice([m.start() for m in re.finditer(r"(?<=\w)[a-zA-Z](?=\w)", sample.question)])
    letter = sample.question[place]
    other = chance.choice([c for c in "aeioubdgkt" if c != letter.lower()])
    return _with(sample, question=sample.question[:place] + other + sample.question[place + 1 :]), []


def record_twice(sample: Sample, documents: Documents, chance: random.Random) -> Changed:
    return _with(sample, documents=(*sample.documents, sample.evidence[0].document)), []


Change = Callable[[Sample, Documents, random.Random], Changed]
#: Ways by kind.
KINDS: dict[str, tuple[Change, ...]] = {
    "off by a unit": (unit_answer, unit_scale, unit_asked),
    "off by a row": (row_answer,),
    "evidence removed": (
        evidence_document, evidence_document_and_spans, evidence_span, evidence_moved, evidence_shifted, evidence_words,
    ),
    "second answer": (second_answer,),
    "wrong document": (wrong_text, wrong_document),
    "options and prefixes": (option_letter, option_equal, option_true, prefix),
    "record": (
        record_tokens, record_hops, record_needles, record_id, record_template, record_question, record_twice,
    ),
    "split leak": (),
}  # fmt: skip
#: Ways whose fault is the id or the count itself: neither is made right again.
_UNSEALED = {record_id: "id", record_tokens: "n_tokens"}


def mutants(
    samples: Sequence[Sample], documents: Documents, tokenizer: Tokenizer, each: int, seed: int
) -> Iterator[Mutant]:
    """Yield `each` mutants of every kind, templates in turn."""
    by_template: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_template[sample.template].append(sample)
    for kind, ways in KINDS.items():
        chance = random.Random(f"{seed} {kind}")
        made = draws = 0
        names = sorted(by_template)
        while made < each and draws < 100 * each:
            sample = chance.choice(by_template[names[draws % len(names)]])
            draws += 1
            mutant = _mutant(kind, ways, sample, samples, documents, tokenizer, chance)
            if mutant is not None:
                made += 1
                yield mutant


def mutable(samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples whose answer the checker derives: a proposed one cannot be told from a wrong one."""
    return [sample for sample in samples if derive.derivable(sample)]


def _mutant(
    kind: str,
    ways: Sequence[Change],
    sample: Sample,
    samples: Sequence[Sample],
    documents: Documents,
    tokenizer: Tokenizer,
    chance: random.Random,
) -> Mutant | None:
    if not ways:
        return _leak(sample, samples, documents)
    way = chance.choice(ways)
    changed = way(sample, documents, chance)
    if changed is None:
        return None
    mutant, texts = changed
    known = documents | {d.id: d.model_copy(update={"n_tokens": tokenizer.count(d.text)}) for d in texts}
    mutant = _sealed(mutant, known, tokenizer, _UNSEALED.get(way, ""))
    return Mutant(kind, way.__name__, sample.template, {"samples": [mutant]}, known)


def _sealed(sample: Sample, documents: Documents, tokenizer: Tokenizer, but: str) -> Sample:
    content = [sample.question, sample.instruction, sample.choices, sample.answers, sample.documents]
    if but != "id":
        sample = _with(sample, id=f"{sample.task}-{digest_value(content)[:12]}")
    if but != "n_tokens":
        sample = _with(sample, n_tokens=tokenizer.count_chat(templates.messages(sample, documents, tokenizer)))
    return sample


def _leak(sample: Sample, samples: Sequence[Sample], documents: Documents) -> Mutant | None:
    """Hold out a training sample some of whose documents another training sample shows."""
    other = next((o for o in samples if o.id != sample.id and {*o.documents} & {*sample.documents}), None)
    if other is None:
        return None
    return Mutant("split leak", "leak", sample.template, {"samples": [other], "heldout": [sample]}, documents)
