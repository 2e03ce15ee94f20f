"""dialogue_memory: reproduce one message of a conversation, in MRCR's form with a prefix the answer starts with.

The message is one of several that answer the same description (needles): told apart by its number, by what stands
beside it, or by its place among the messages that mention a word (2, 4 or 8 of them, as in MRCR).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from qwenlong.core.records import Document
from qwenlong.synthesis import parse
from qwenlong.synthesis.candidates import Candidate
from qwenlong.synthesis.pool import Pool, evidence

#: Bounds of a message's length in words; a small model cannot copy more.
MIN_WORDS, MAX_WORDS = 2, 12
#: Messages that mention a word, where one of them is asked for.
NEEDLES = (2, 4, 8)
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_FROM_THE_END = ("last", "second-to-last", "third-to-last")
_LETTERS = "abcdefghijkmnpqrstuvwxyz"
_WORD = re.compile(r"\b[a-z]{5,}\b")


def _ordinal(position: int) -> str:
    return _ORDINALS[position - 1] if position <= len(_ORDINALS) else f"{position}th"


def _short(said: parse.Said) -> bool:
    return MIN_WORDS <= len(said.text.split()) <= MAX_WORDS and "\n" not in said.text


def _candidate(
    pool: Pool, document: Document, said: parse.Said, template: str, description: str, needles: int
) -> Candidate:
    # The first template draws its prefix as it always did: its samples keep their bytes.
    names = () if template == "nth_message@1" else (template,)
    random = pool.rng("dialogue", "prefix", *names, document.id, said.start)
    prefix = "".join(random.choice(_LETTERS) for _ in range(4)) + ":"
    chain = description.removesuffix(f' in "{document.title}"')
    return Candidate(
        task="dialogue_memory",
        question_type="dialogue needle",
        template=template,
        question=f"Reproduce the {description}.",
        answers=(f"{prefix} {said.text}",),
        answer_prefix=prefix,
        n_needles=needles,
        evidence=(evidence(said),),
        reasoning_chain=(f"The {chain}: {said.text}",),
        instruction=f'Write the final answer as "Therefore, the answer is {prefix} (exact message)".',
        holds=partial(_one_conversation, document.id, document.title),
    )


def _one_conversation(name: str, title: str, documents: Sequence[Document]) -> bool:
    """Tell whether one document alone has the title, so that "the third message" is one message."""
    return [document.id for document in documents if document.title == title] == [name]


def nth_message(pool: Pool) -> Iterator[Candidate]:
    """Yield questions for single messages of a speaker by their number; the conversation is named by its title."""
    found = []
    for document in pool.of_kind("dialogue"):
        counts: dict[str, int] = {}
        for said in parse.messages(document):
            counts[said.speaker] = counts.get(said.speaker, 0) + 1
            if _short(said) and counts[said.speaker] <= len(_ORDINALS):
                found.append((document, said, counts[said.speaker]))
    for document, said, position in pool.shuffled(found, "dialogue", pool.budget):
        needles = sum(other.speaker == said.speaker for other in parse.messages(document))
        if needles >= 2:
            description = f'{_ordinal(position)} message of {said.speaker} in "{document.title}"'
            yield _candidate(pool, document, said, "nth_message@1", description, needles)


def last_message(pool: Pool) -> Iterator[Candidate]:
    """Yield questions for the last messages of a speaker, counted from the end."""
    found = []
    for document in pool.of_kind("dialogue"):
        by_speaker: dict[str, list[parse.Said]] = defaultdict(list)
        for said in parse.messages(document):
            by_speaker[said.speaker].append(said)
        for messages in by_speaker.values():
            for back, said in zip(_FROM_THE_END, reversed(messages), strict=False):
                if _short(said) and len(messages) > len(_FROM_THE_END):
                    found.append((document, said, back, len(messages)))
    for document, said, back, needles in pool.shuffled(found, "dialogue", "last", pool.budget):
        description = f'{back} message of {said.speaker} in "{document.title}"'
        yield _candidate(pool, document, said, "last_message@1", description, needles)


def neighbour_message(pool: Pool) -> Iterator[Candidate]:
    """Yield questions for the message right before or after another one, which is quoted and stands there once."""
    found = []
    for document in pool.of_kind("dialogue"):
        messages = parse.messages(document)
        texts = [said.text for said in messages]
        for one, two in zip(messages, messages[1:], strict=False):
            for side, other, said in (("after", one, two), ("before", two, one)):
                if (
                    _short(said)
                    and 3 <= len(other.text.split()) <= MAX_WORDS
                    and "\n" not in other.text
                    and texts.count(other.text) == 1
                ):
                    found.append((document, said, side, other.text, len(messages)))
    for document, said, side, quoted, needles in pool.shuffled(found, "dialogue", "neighbour", pool.budget):
        description = f'message that comes right {side} "{quoted}" in "{document.title}"'
        yield _candidate(pool, document, said, "neighbour_message@1", description, needles)


def mentioning_message(pool: Pool) -> Iterator[Candidate]:
    """Yield questions for one of 2, 4 or 8 messages that mention a word."""
    found = []
    for document in pool.of_kind("dialogue"):
        by_word: dict[str, list[parse.Said]] = defaultdict(list)
        for said in parse.messages(document):
            for word in sorted(set(_WORD.findall(said.text.lower()))):
                by_word[word].append(said)
        for word, messages in by_word.items():
            if len(messages) in NEEDLES:
                found += [
                    (document, said, place, word, len(messages))
                    for place, said in enumerate(messages, 1)
                    if _short(said)
                ]
    for document, said, place, word, needles in pool.shuffled(found, "dialogue", "mention", pool.budget):
        description = f'{_ordinal(place)} message in "{document.title}" that mentions the word "{word}"'
        yield _candidate(pool, document, said, "mentioning_message@1", description, needles)


def numbered_message(pool: Pool) -> Iterator[Candidate]:
    """Yield questions for messages by their number in the conversation, whoever speaks."""
    found = [
        (document, said, number, len(messages))
        for document in pool.of_kind("dialogue")
        for messages in (parse.messages(document),)
        for number, said in enumerate(messages, 1)
        if _short(said) and len(messages) > 1
    ]
    for document, said, number, needles in pool.shuffled(found, "dialogue", "number", pool.budget):
        description = f'message number {number} in "{document.title}"'
        yield _candidate(pool, document, said, "numbered_message@1", description, needles)


TEMPLATES: dict[str, Callable[[Pool], Iterator[Candidate]]] = {
    "nth_message": nth_message,
    "last_message": last_message,
    "neighbour_message": neighbour_message,
    "mentioning_message": mentioning_message,
    "numbered_message": numbered_message,
}
