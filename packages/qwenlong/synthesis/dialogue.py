"""dialogue_memory: reproduce the N-th message of a speaker, in MRCR's form with a prefix the answer starts with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from qwenlong.core.records import Document
from qwenlong.synthesis import parse
from qwenlong.synthesis.candidates import Candidate
from qwenlong.synthesis.pool import Pool, evidence

#: Bounds of a message's length in words; a small model cannot copy more.
MIN_WORDS, MAX_WORDS = 2, 12
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_LETTERS = "abcdefghijkmnpqrstuvwxyz"


def _ordinal(position: int) -> str:
    return _ORDINALS[position - 1] if position <= len(_ORDINALS) else f"{position}th"


def nth_message(pool: Pool) -> Iterator[Candidate]:
    """Yield questions for single messages; the conversation is named by its title."""
    found = []
    for document in pool.of_kind("dialogue"):
        counts: dict[str, int] = {}
        for said in parse.messages(document):
            counts[said.speaker] = counts.get(said.speaker, 0) + 1
            if MIN_WORDS <= len(said.text.split()) <= MAX_WORDS and counts[said.speaker] <= len(_ORDINALS):
                found.append((document, said, counts[said.speaker]))
    for document, said, position in pool.shuffled(found, "dialogue", pool.budget):
        needles = sum(other.speaker == said.speaker for other in parse.messages(document))
        if needles < 2:
            continue
        random = pool.rng("dialogue", "prefix", document.id, said.start)
        prefix = "".join(random.choice(_LETTERS) for _ in range(4)) + ":"
        yield Candidate(
            task="dialogue_memory",
            question_type="dialogue needle",
            template="nth_message@1",
            question=f'Reproduce the {_ordinal(position)} message of {said.speaker} in "{document.title}".',
            answers=(f"{prefix} {said.text}",),
            answer_prefix=prefix,
            n_needles=needles,
            evidence=(evidence(said),),
            reasoning_chain=(f"The {_ordinal(position)} message of {said.speaker}: {said.text}",),
            instruction=f'Write the final answer as "Therefore, the answer is {prefix} (exact message)".',
            holds=partial(_one_conversation, document.id, document.title),
        )


def _one_conversation(name: str, title: str, documents: Sequence[Document]) -> bool:
    """Tell whether one document alone has the title, so that "the third message" is one message."""
    return [document.id for document in documents if document.title == title] == [name]


TEMPLATES: dict[str, Callable[[Pool], Iterator[Candidate]]] = {"nth_message": nth_message}
