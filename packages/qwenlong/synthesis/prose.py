"""Questions about prose of any source: a number or a name that is missing from a sentence, the sentence that follows.

They need no markup and no known format, so a folder of somebody's own texts gives samples without a language model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from qwenlong.core.records import Document, Evidence
from qwenlong.synthesis import choice, parse
from qwenlong.synthesis.candidates import Candidate
from qwenlong.synthesis.multi_hop import parse_words
from qwenlong.synthesis.pool import Pool
from qwenlong.synthesis.reading import _collapsed

#: Kinds whose text is not prose: what they state is asked for by other templates.
STRUCTURED = frozenset({"factbook", "finance", "dialogue", "chat", "play", "poem", "code", "table", "record"})
#: Words of a sentence; a shorter one may stand anywhere, a longer one is seldom one sentence.
MIN_WORDS, MAX_WORDS = 8, 40
#: Words of the sentence that are shown on both sides of a gap.
BEFORE, AFTER = 12, 10
#: Longest text between both sides of a gap that would be another answer, in characters.
_LONGEST = 90
#: Longest sentence that is an answer, in words.
MAX_ANSWER = 12
_PARAGRAPH = re.compile(r"(?:^[^\n]*\S[^\n]*\n?)+", re.MULTILINE)
#: Lines that are headings, lists, tables, quoted code or directives of markup, and so no prose.
_MARKUP = re.compile(r"^\s*(?:[#|>*+\-=~`:]|\.\.|\d+[.)]\s|\s{4})")
_END = re.compile(r"[.!?][\"')\]]?(?=\s+[\"'(\[]?[A-Z]|\s*\Z)")
#: A full stop after one of these ends no sentence.
_ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Z]|Mr|Mrs|Ms|Dr|St|No|vs|cf|etc|e\.g|i\.e|al|Fig|Eq|Sec|approx|Inc|Ltd|Co))\.\Z"
)
_NUMBER = re.compile(r"(?<= )(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)(?=[ ,;)] ?)")
_NAME = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]+(?: (?:of |the |de |van )?[A-Z][a-z]+){1,3}(?!\w| [A-Z])")


@dataclass(frozen=True)
class Sentence:
    """A sentence and where it stands; `text` has single spaces."""

    document: str
    text: str
    start: int
    end: int


def is_prose(document: Document) -> bool:
    """Tell whether a document's text is read as prose."""
    return parse.kind(document) not in STRUCTURED and document.category != "code"


@parse.once
def sentences(document: Document) -> Sequence[Sentence]:
    """Return the sentences of a document's paragraphs; none of structured documents."""
    if not is_prose(document):
        return ()
    found = []
    for paragraph in _PARAGRAPH.finditer(document.text):
        if any(_MARKUP.match(line) for line in paragraph.group().splitlines()):
            continue
        start, text = paragraph.start(), paragraph.group()
        begin = 0
        for match in _END.finditer(text):
            if match.group().startswith(".") and _ABBREVIATION.search(text[: match.start() + 1]):
                continue
            piece = text[begin : match.end()]
            first = len(piece) - len(piece.lstrip())
            collapsed = " ".join(piece.split())
            if MIN_WORDS <= len(collapsed.split()) <= MAX_WORDS and collapsed[0].isupper() and "`" not in collapsed:
                found.append(Sentence(document.id, collapsed, start + begin + first, start + match.end()))
            begin = match.end()
    return tuple(found)


def _all(pool: Pool) -> list[Sentence]:
    def make() -> list[Sentence]:
        return [one for d in pool.documents if d.n_tokens <= pool.budget for one in sentences(d)]

    return pool.memo("prose", pool.budget, make=make)


def _gap(pool: Pool, template: str, pattern: re.Pattern[str], what: str, question_type: str) -> Iterator[Candidate]:
    for one in pool.shuffled(_all(pool), "prose", template, pool.budget):
        matches = list(pattern.finditer(one.text))
        if not matches:
            continue
        match = matches[pool.rng("prose", template, "which", one.document, one.start).randrange(len(matches))]
        before, after = one.text[: match.start()].split()[-BEFORE:], one.text[match.end() :].split()[:AFTER]
        shown = f"{' '.join(before)} ____{_glue(one.text, match.end())}{' '.join(after)}".strip()
        answer = match.group()
        # Words on both sides locate the gap, and none of them is the answer.
        lettered = [any(map(str.isalpha, " ".join(words))) for words in (before, after)]
        repeated = re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", shown)
        if len(before) + len(after) < MIN_WORDS - 2 or not all(lettered) or repeated:
            continue
        yield Candidate(
            task="reading_comprehension",
            question_type=question_type,
            template=f"{template}@1",
            question=f'Which {what} fills the gap: "{shown}"?',
            answers=(answer,),
            evidence=(Evidence(document=one.document, start=one.start, end=one.end),),
            reasoning_chain=(one.text,),
            holds=partial(_one_filling, " ".join(before), " ".join(after), answer),
        )


def _one_filling(before: str, after: str, answer: str, documents: Sequence[Document]) -> bool:
    """Tell whether the words on both sides of the gap stand around the answer once, and around nothing else."""
    fillings = []
    for document in documents:
        text = _collapsed(document.text)
        place = text.find(before)
        while place >= 0:
            begin = place + len(before)
            stop = text.find(after, begin, begin + _LONGEST + len(after))
            if stop >= 0:
                fillings.append(text[begin:stop].strip())
            place = text.find(before, begin)
    return fillings == [answer]


def _stands_once(quoted: str, documents: Sequence[Document]) -> bool:
    return sum(_collapsed(document.text).count(quoted) for document in documents) == 1


def _glue(text: str, end: int) -> str:
    """Return the blank after a gap, none where a sign follows it."""
    return " " if text[end : end + 1] == " " else ""


def prose_number(pool: Pool) -> Iterator[Candidate]:
    """The number that is missing from a sentence."""
    return _gap(pool, "prose_number", _NUMBER, "number", "cloze")


def prose_name(pool: Pool) -> Iterator[Candidate]:
    """The name of two words or more that is missing from a sentence."""
    return _gap(pool, "prose_name", _NAME, "name", "cloze")


def next_sentence(pool: Pool) -> Iterator[Candidate]:
    """The short sentence right after a quoted one of the same paragraph."""
    found = []
    for document in pool.documents:
        if document.n_tokens <= pool.budget:
            own = sentences(document)
            texts = [one.text for one in own]
            for one, two in zip(own, own[1:], strict=False):
                near = (
                    not document.text[one.end : two.start].strip() and "\n\n" not in document.text[one.end : two.start]
                )
                if (
                    near
                    and len(two.text.split()) <= MAX_ANSWER
                    and len(one.text.split()) <= 24
                    and texts.count(one.text) == 1
                ):
                    found.append((one, two))
    for one, two in pool.shuffled(found, "prose", "next_sentence", pool.budget):
        # A stop inside the answer may be its end to another reader.
        if '"' in one.text or re.search(r"[.!?]", two.text[:-1]) or parse_words(two.text) <= parse_words(one.text):
            continue
        yield Candidate(
            task="reading_comprehension",
            question_type="reading comprehension",
            template="next_sentence@1",
            question=f'Which sentence comes right after "{one.text}"?',
            answers=(two.text,),
            evidence=(Evidence(document=one.document, start=one.start, end=two.end),),
            reasoning_chain=(one.text, two.text),
            holds=partial(_stands_once, one.text),
        )


def choice_name(pool: Pool) -> Iterator[Candidate]:
    """The missing name among names of other documents, which the evidence's document does not hold."""
    names = pool.memo("prose", "names", pool.budget, make=lambda: _names(pool))
    for base in prose_name(pool):
        home = _collapsed(pool.by_id[base.evidence[0].document].text).casefold()
        others = [n for n in choice._some(pool, names, base.question) if n.casefold() not in home]
        made = choice._of_reading("choice_name@1", base, choice._options(pool, base.answers[0], others, base.question))
        if made is not None:
            yield made


def _names(pool: Pool) -> list[str]:
    return sorted({match.group() for one in _all(pool) for match in _NAME.finditer(one.text)})


READING: dict[str, Callable[[Pool], Iterator[Candidate]]] = {
    "prose_number": prose_number,
    "prose_name": prose_name,
    "next_sentence": next_sentence,
}
CHOICE: dict[str, Callable[[Pool], Iterator[Candidate]]] = {"choice_name": choice_name}
