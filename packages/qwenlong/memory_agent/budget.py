"""Tokens of every kind of turn, added up before the first call and held at each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qwenlong.core.errors import UsageError
from qwenlong.core.tokens import Tokenizer
from qwenlong.memory_agent.gains import Gains
from qwenlong.memory_agent.prompting import Prompts

#: Tokens set aside in the window check: text that is joined can take a few more tokens than its parts.
SLACK_TOKENS = 8
#: Chunks whose tokens are counted at a time, where they are not known.
_COUNTED = 64


@dataclass(frozen=True)
class Sizes:
    """Limits in tokens: of memory and plan together, of the answer, of prompt and output (none: not known)."""

    memory: int
    answer: int
    window: int | None = None


def largest(chunks: Sequence[str], prompts: Prompts, tokenizer: Tokenizer) -> int:
    """Return the tokens of the largest chunk as prompts show it; a sequence with `.tokens` is not read for it."""
    known: Sequence[int] | None = getattr(chunks, "tokens", None)
    if known is not None:
        return max(known, default=0)
    most = 0
    for start in range(0, len(chunks), _COUNTED):
        shown = [prompts.safe(chunks[n]) for n in range(start, min(start + _COUNTED, len(chunks)))]
        most = max(most, *tokenizer.count_batch(shown))
    return most


def arity(chunk: int, memory: int, parallel: int) -> int:
    """Return how many memories one merge takes: as many as need no more room than an update's memory and chunk."""
    return min(max(2, 1 + chunk // max(memory, 1)), max(parallel, 2))


def check(
    question: str,
    instruction: str,
    chunks: int,
    chunk: int,
    *,
    prompts: Prompts,
    tokenizer: Tokenizer,
    sizes: Sizes,
    gains: Gains,
    may_exit: bool,
    split: str | None = None,
    merged: int = 0,
) -> None:
    """Refuse sizes that cannot fit, before the first call; `chunk` is the largest of `chunks`, `merged` the arity.

    `split` is the raw request where one more call splits it. Raises UsageError with the numbers and the remedy.
    """
    if sizes.window is None:
        return
    slack = {"slack": SLACK_TOKENS}
    recall = {"recall": gains.recall_tokens} if gains.recall_tokens else {}
    frame = "x" if gains.recall_tokens else ""
    if split is not None:
        prompt = tokenizer.count_chat(prompts.split(split))
        _refuse("split", {"prompt": prompt, **slack, "output": sizes.memory}, sizes.window)
    if chunks:
        chat = prompts.update(question, "", "", "", chunks, chunks, gains=gains, may_exit=may_exit, recalled=frame)
        if gains.repair:
            chat = prompts.repair(chat, "x " * REASON_TOKENS, sizes.memory)
        parts = {"memory": sizes.memory, **recall, "chunk": chunk, **slack, "output": sizes.memory}
        _refuse("update", {"prompt": tokenizer.count_chat(chat), **parts}, sizes.window)
    if merged > 1:
        chat = prompts.merge(question, ["x"] * merged, frame)
        if gains.repair:
            chat = prompts.repair(chat, "x " * REASON_TOKENS, sizes.memory)
        parts = {"memories": merged * sizes.memory, **recall, **slack, "output": sizes.memory}
        _refuse("merge", {"prompt": tokenizer.count_chat(chat), **parts}, sizes.window)
    chat = prompts.answer(question, instruction, "", recall=bool(gains.recall_tokens), recalled=frame)
    if gains.repair:
        chat = prompts.repair(chat, "x " * REASON_TOKENS, sizes.answer)
    parts = {"memory": sizes.memory, **recall, **slack, "output": sizes.answer}
    _refuse("answer", {"prompt": tokenizer.count_chat(chat), **parts}, sizes.window)


#: Tokens set aside for the words that say why a reply was unusable.
REASON_TOKENS = 40


def _refuse(turn: str, parts: dict[str, int], window: int) -> None:
    needed = sum(parts.values())
    if needed > window:
        shown = " + ".join(f"{name} {tokens}" for name, tokens in parts.items())
        raise UsageError(
            f"the memory agent's {turn} turn needs {needed} tokens ({shown}) and the model's window has {window}; "
            "lower chunk_tokens, memory_tokens or answer_tokens"
            + (", or recall_tokens" if "recall" in parts else "")
            + (", or shorten the question" if parts["prompt"] > window // 2 else "")
        )
