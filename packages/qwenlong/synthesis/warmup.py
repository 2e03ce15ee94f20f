"""Supervised targets for the base model's warm-up: the answer format, and the memory agent's turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from qwenlong.core.records import Document, Sample
from qwenlong.core.templates import full_question, render_documents, select_documents
from qwenlong.core.tokens import Tokenizer

#: Longest reason inside the thinking block, in words.
MAX_REASON_WORDS = 40
NOTHING_FOUND = "nothing yet"
PLAN_SEARCH = "read on"
PLAN_DONE = "answer"


@dataclass(frozen=True)
class TrainingTurn:
    """One supervised turn: chat messages and the response (without end-of-turn token)."""

    messages: list[dict[str, str]]
    target: str


def reason(sample: Sample, words: int = MAX_REASON_WORDS) -> str:
    """Return the reasoning chain in at most so many words; what carries the answer is shortened last."""
    chain = [" ".join(step.split()) for step in sample.reasoning_chain] or [sample.question]
    return _joined(chain, words, _key(sample, chain))


def _key(sample: Sample, chain: Sequence[str]) -> int | None:
    """Return the step that the answer can be read off; None where it is computed from all of them."""
    if sample.task == "corpus_numerical":
        return None
    answer = sample.answers[0].removeprefix(sample.answer_prefix).strip()
    found = [number for number, step in enumerate(chain) if answer in step]
    return found[-1] if found else len(chain) - 1


def _joined(chain: Sequence[str], words: int, key: int | None) -> str:
    """Join steps in at most so many words: the key step keeps its end, the others share what is left."""
    parts = [step.split() for step in chain]
    if sum(map(len, parts)) > words:
        kept = len(parts[key][-words:]) if key is not None and key < len(parts) else 0
        others = len(parts) - (kept > 0)
        share, extra = divmod(words - kept, max(1, others))
        for number, part in enumerate(parts):
            if kept and number == key:
                parts[number] = part[-kept:]
            else:
                parts[number] = part[: share + (extra > 0)]
                extra -= 1
    # Tags in a document's text must not open or close the thinking block.
    return " ".join(" ".join(part) for part in parts if part).replace("<think>", "").replace("</think>", "")


def target(
    sample: Sample,
    documents: Mapping[str, Document],
    tokenizer: Tokenizer | None = None,
    max_tokens: int | None = None,
) -> str:
    """Return the response that the warm-up teaches for a sample; with a tokenizer, at most `max_tokens` tokens long.

    The reason gives way, the answer never does (it may exceed the limit alone). `documents` are the sample's; they are
    looked at only to refuse a sample whose evidence is missing (DataError).
    """
    select_documents(sample, documents)
    return _answered(lambda words: reason(sample, words), sample.answers[0], tokenizer, max_tokens)


def _answered(thought: Callable[[int], str], answer: str, tokenizer: Tokenizer | None, max_tokens: int | None) -> str:
    words = MAX_REASON_WORDS
    while True:
        text = f"<think>\n{thought(words)}\n</think>\n\nTherefore, the answer is {answer}"
        # One token is the end of the turn.
        if tokenizer is None or max_tokens is None or words <= 1 or tokenizer.count(text) + 1 <= max_tokens:
            return text
        words -= 1


def memory_targets(
    sample: Sample,
    documents: Mapping[str, Document],
    tokenizer: Tokenizer,
    chunk_tokens: int,
    memory_tokens: int | None = None,
    answer_tokens: int | None = None,
) -> list[TrainingTurn]:
    """Return the turns of the memory agent over a sample's documents: one update a chunk, then the answer.

    The memory holds the steps of the reasoning chain whose evidence lies in the chunks read so far; the plan says
    whether to read on. The documents are cut as `memory_agent.chunking.split` cuts what the prompt shows. With
    `memory_tokens` and `answer_tokens` no target is longer, as the agent's output limits ask for.
    """
    from qwenlong.memory_agent.chunking import split
    from qwenlong.memory_agent.loop import answer_messages, update_messages

    shown = select_documents(sample, documents)
    chunks = split(render_documents(shown), tokenizer, chunk_tokens)
    question = full_question(sample)
    found = _found_at(sample, shown, chunks)
    turns: list[TrainingTurn] = []
    memory = plan = ""
    for number, chunk in enumerate(chunks, 1):
        messages = update_messages(question, memory, plan, chunk, number, len(chunks))
        known = [step for step, at in found if at < number]
        complete = len(known) == len(found)
        plan = PLAN_DONE if complete else PLAN_SEARCH
        memory, reply = _update(known, _key(sample, known) if complete else None, plan, tokenizer, memory_tokens)
        turns.append(TrainingTurn(messages, reply))
    final = _answered(lambda words: " ".join(memory.split()[-words:]), sample.answers[0], tokenizer, answer_tokens)
    turns.append(TrainingTurn(answer_messages(question, sample.instruction, memory), final))
    return turns


def _update(
    known: Sequence[str], key: int | None, plan: str, tokenizer: Tokenizer, memory_tokens: int | None
) -> tuple[str, str]:
    """Return (memory, reply) of one update, the memory shortened until the reply fits."""
    for words in range(MAX_REASON_WORDS, 0, -1):
        memory = _joined(known, words, key) if known else NOTHING_FOUND
        reply = f"<memory>{memory}</memory>\n<plan>{plan}</plan>"
        if memory_tokens is None or tokenizer.count(reply) + 1 <= memory_tokens:
            break
    return memory, reply


def _found_at(sample: Sample, shown: Sequence[Document], chunks: Sequence[str]) -> list[tuple[str, int]]:
    """Return each step of the chain with the index of the chunk in which its evidence ends."""
    ends = []
    total = 0
    for chunk in chunks:
        total += len(chunk)
        ends.append(total)
    rendered = render_documents(shown)
    places = []
    for span in sample.evidence:
        document = next(d for d in shown if d.id == span.document)
        start = rendered.find(document.text) + span.end
        places.append(next((i for i, end in enumerate(ends) if start <= end), len(chunks) - 1))
    last = max(places, default=0)
    steps = [" ".join(step.split()) for step in sample.reasoning_chain]
    # A chain has one step per evidence span, unless one span carries several or a conclusion closes it.
    return [(step, places[i] if i < len(places) else last) for i, step in enumerate(steps)]
