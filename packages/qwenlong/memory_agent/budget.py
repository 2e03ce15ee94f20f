"""Tokens of every kind of turn, added up before the first call and held at each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qwenlong.core.errors import UsageError
from qwenlong.core.tokens import Tokenizer
from qwenlong.memory_agent.gains import Gains
from qwenlong.memory_agent.prompting import Prompts
from qwenlong.memory_agent.turns import Messages

#: Tokens set aside in the window check: text that is joined can take a few more tokens than its parts.
SLACK_TOKENS = 8
#: Why a reply was unusable, by its status, as a repair says it; CUT stands behind where the limit of the output fell.
REASONS = {
    "malformed": "it had no complete <memory>",
    "empty": "it was empty",
    "unfinished": "its thinking never ended",
    "over_budget": "its memory was too long",
}
CUT = ", and it was cut off at the limit of its length"
#: Room above which a prompt need not be counted: text that is joined never takes so many tokens more.
SURELY = 256
#: Chunks whose tokens are counted at a time, where they are not known.
_COUNTED = 64


@dataclass(frozen=True)
class Sizes:
    """Limits in tokens: of memory and plan together, of the answer, of prompt and output (none: not known)."""

    memory: int
    answer: int
    window: int | None = None


def counts(chunks: Sequence[str], prompts: Prompts, tokenizer: Tokenizer) -> Sequence[int]:
    """Return the tokens of each chunk as prompts show it; a sequence with `.tokens` knows them, and is not read."""
    known: Sequence[int] | None = getattr(chunks, "tokens", None)
    if known is not None:
        return known
    found: list[int] = []
    for start in range(0, len(chunks), _COUNTED):
        shown = [prompts.safe(chunks[n]) for n in range(start, min(start + _COUNTED, len(chunks)))]
        found += tokenizer.count_batch(shown)
    return found


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
) -> int:
    """Refuse sizes that cannot fit, before the first call; return the most tokens an update has beside its chunk.

    `chunk` are the tokens of the largest of `chunks`, `merged` is the arity of merges (0: none), `split` the raw
    request where one more call splits it. Raises UsageError with the numbers and the remedy.
    """
    if sizes.window is None:
        return 0
    count, window = tokenizer.count_chat, sizes.window
    recall = {"recall": gains.recall_tokens} if gains.recall_tokens else {}
    frame = "x" if gains.recall_tokens else ""

    def asked(chat: Messages, output: int) -> int:
        chats = [prompts.repair(chat, reason + CUT, output) for reason in REASONS.values()] if gains.repair else [chat]
        return max(map(count, chats))

    if split is not None:
        parts = {"prompt": count(prompts.split(split)), "slack": SLACK_TOKENS, "output": sizes.memory}
        _refuse("split", parts, window)
    beside = 0
    if chunks:
        chat = prompts.update(question, "", "", "", chunks, chunks, gains=gains, may_exit=may_exit, recalled=frame)
        parts = {"prompt": asked(chat, sizes.memory), "memory": sizes.memory, **recall, "slack": SLACK_TOKENS}
        beside = sum(parts.values()) + sizes.memory
        _refuse("update", {**parts, "chunk": chunk, "output": sizes.memory}, window)
    if merged > 1:
        prompt = asked(prompts.merge(question, ["x"] * merged, frame), sizes.memory)
        parts = {"prompt": prompt, "memories": merged * sizes.memory, **recall, "slack": SLACK_TOKENS}
        _refuse("merge", {**parts, "output": sizes.memory}, window)
    prompt = asked(
        prompts.answer(question, instruction, "", recall=bool(gains.recall_tokens), recalled=frame), sizes.answer
    )
    parts = {"prompt": prompt, "memory": sizes.memory, **recall, "slack": SLACK_TOKENS}
    _refuse("answer", {**parts, "output": sizes.answer}, window)
    return beside


def _refuse(turn: str, parts: dict[str, int], window: int) -> None:
    needed = sum(parts.values())
    if needed > window:
        shown = " + ".join(f"{name} {tokens}" for name, tokens in parts.items())
        raise UsageError(
            f"the memory agent's {turn} turn needs {needed} tokens ({shown}) and the model's window has {window}; "
            "lower chunk_tokens, memory_tokens or answer_tokens"
            + (", or set parallel to 1" if turn == "merge" else "")
            + (", or recall_tokens" if "recall" in parts else "")
            + (", or shorten the question" if parts["prompt"] > window // 2 else "")
        )
