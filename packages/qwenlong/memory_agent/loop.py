"""The memory agent (SPEC section 4): one loop for inference, evaluation and memory RL.

Each turn is a fresh prompt: nothing but the memory and the plan goes from one section to the next.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from qwenlong.core import templates
from qwenlong.core.errors import UsageError
from qwenlong.core.tokens import Tokenizer
from qwenlong.memory_agent import parsing

Messages = list[dict[str, str]]
Kind = Literal["split", "update", "answer"]
#: Tokens set aside in the window check: text that is joined can take a few more tokens than its parts.
SLACK_TOKENS = 8
_NOTHING_YET = "(empty)"


@dataclass(frozen=True)
class Turn:
    """One generation. Token ids and log-probabilities are there when the model runs in this process.

    `text` holds the thinking block too; `finish_reason` is "stop" or "length". The ids are those the model read and
    wrote (end-of-turn token included), `log_probs` one value a response token.
    """

    text: str
    finish_reason: str
    prompt_ids: list[int] = field(default_factory=list)
    response_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    n_prompt_tokens: int | None = None
    n_response_tokens: int | None = None

    @property
    def prompt_tokens(self) -> int:
        """Tokens read: as the server counted them, else those at hand."""
        return len(self.prompt_ids) if self.n_prompt_tokens is None else self.n_prompt_tokens

    @property
    def completion_tokens(self) -> int:
        """Tokens written: as the server counted them, else those at hand."""
        return len(self.response_ids) if self.n_response_tokens is None else self.n_response_tokens


class Generate(Protocol):
    """What the loop needs of a model."""

    def __call__(self, messages: Messages, max_tokens: int, turn_index: int) -> Awaitable[Turn]:
        """Return the model's turn on `messages`, of at most `max_tokens` tokens."""
        ...


@dataclass(frozen=True)
class Step:
    """One turn of the agent with what was made of it."""

    index: int
    kind: Kind
    status: parsing.Status
    turn: Turn
    memory: str
    plan: str

    def summary(self) -> dict[str, object]:
        """Return the step as `agent answer --json` prints it."""
        return {
            "index": self.index,
            "kind": self.kind,
            "status": self.status,
            "finish_reason": self.turn.finish_reason,
            "prompt_tokens": self.turn.prompt_tokens,
            "completion_tokens": self.turn.completion_tokens,
        }


@dataclass(frozen=True)
class Result:
    """What the agent found. `answer` is the text after thinking, empty when the thinking never ended."""

    answer: str
    memory: str
    plan: str
    steps: tuple[Step, ...]

    @property
    def response(self) -> str:
        """The last turn as generated, thinking included: what rewards and scores read."""
        return self.steps[-1].turn.text

    def chunks(self) -> dict[str, int]:
        """Return how many chunks there were, were read, skipped, and failed (the reply unusable, memory kept)."""
        updates = [step for step in self.steps if step.kind == "update"]
        failed = sum(step.status in ("empty", "unfinished") for step in updates)
        return {"total": len(updates), "read": len(updates) - failed, "skipped": 0, "failed": failed}


def update_messages(question: str, memory: str, plan: str, section: str, index: int, total: int) -> Messages:
    """Return the prompt of one update; `index` counts from 1."""
    values = {
        "question": question,
        "memory": memory or _NOTHING_YET,
        "plan": plan or _NOTHING_YET,
        "section": section,
        "index": index,
        "total": total,
    }
    return [{"role": "user", "content": templates.fill("memory_update", values)}]


def answer_messages(question: str, instruction: str, memory: str) -> Messages:
    """Return the prompt of the final answer; it carries the format instruction, which the updates never see."""
    values = {"question": question, "memory": memory or _NOTHING_YET, "instruction": instruction}
    return [{"role": "user", "content": templates.fill("memory_answer", values)}]


def split_messages(query: str) -> Messages:
    """Return the prompt that splits a request into question and format."""
    return [{"role": "user", "content": templates.fill("memory_split", {"query": query})}]


def check_window(
    question: str,
    instruction: str,
    chunks: Sequence[str],
    *,
    tokenizer: Tokenizer,
    memory_tokens: int,
    answer_tokens: int,
    window: int,
) -> None:
    """Refuse sizes that cannot fit, before the first call. Raises UsageError with the numbers and the remedy."""
    total = len(chunks)
    largest = max((len(ids) for ids in tokenizer.encode_batch(list(chunks))), default=0)
    parts = {"memory": memory_tokens, "slack": SLACK_TOKENS}
    prompt = tokenizer.count_chat(update_messages(question, "", "", "", total, total))
    if chunks:
        _refuse("update", {"prompt": prompt, **parts, "chunk": largest, "output": memory_tokens}, window)
    prompt = tokenizer.count_chat(answer_messages(question, instruction, ""))
    _refuse("answer", {"prompt": prompt, **parts, "output": answer_tokens}, window)


def _refuse(turn: str, parts: dict[str, int], window: int) -> None:
    needed = sum(parts.values())
    if needed > window:
        shown = " + ".join(f"{name} {tokens}" for name, tokens in parts.items())
        raise UsageError(
            f"the memory agent's {turn} turn needs {needed} tokens ({shown}) and the model's window has {window}; "
            "lower chunk_tokens, memory_tokens or answer_tokens"
        )


async def fold(
    question: str,
    instruction: str,
    chunks: Sequence[str],
    generate: Generate,
    *,
    tokenizer: Tokenizer,
    memory_tokens: int,
    answer_tokens: int,
    window: int | None = None,
    split_request: bool = False,
    on_step: Callable[[Step], None] | None = None,
) -> Result:
    """Read `chunks` one by one into a memory of at most `memory_tokens` tokens, then answer from it alone.

    One call per chunk and one to answer. With `split_request` the `question` is a raw request, and one more call
    before the others splits it (mode "paper"); samples come with both halves and leave it out. An update's reply
    may have `memory_tokens` tokens, thinking included, the answer `answer_tokens`.

    A reply without tags is the memory as a whole; an empty one or one whose thinking never ended leaves memory and
    plan as they were, and its step says so. `window` (tokens of prompt and output) is checked before the first call.
    Raises UsageError when it is too small, and whatever `generate` raises.
    """
    if window is not None:
        longest = max(instruction, templates.ANSWER_INSTRUCTION, key=tokenizer.count) if split_request else instruction
        # The query bounds both of its halves.
        asked = f"{longest}\n{question}" if split_request else longest
        if split_request:
            prompt = tokenizer.count_chat(split_messages(question))
            _refuse("split", {"prompt": prompt, "slack": SLACK_TOKENS, "output": memory_tokens}, window)
        sizes = {"memory_tokens": memory_tokens, "answer_tokens": answer_tokens, "window": window}
        check_window(question, asked, chunks, tokenizer=tokenizer, **sizes)
    steps: list[Step] = []
    memory = plan = ""

    def record(kind: Kind, status: parsing.Status, turn: Turn) -> None:
        steps.append(Step(len(steps), kind, status, turn, memory, plan))
        if on_step is not None:
            on_step(steps[-1])

    if split_request:
        turn = await generate(split_messages(question), memory_tokens, 0)
        found = parsing.request(turn.text, question)
        question, instruction = found.question, found.instruction or templates.ANSWER_INSTRUCTION
        record("split", found.status, turn)
    for number, chunk in enumerate(chunks, 1):
        messages = update_messages(question, memory, plan, chunk, number, len(chunks))
        turn = await generate(messages, memory_tokens, len(steps))
        new = parsing.update(turn.text, memory, plan, tokenizer, memory_tokens)
        memory, plan = new.memory, new.plan
        record("update", new.status, turn)
    turn = await generate(answer_messages(question, instruction, memory), answer_tokens, len(steps))
    answer = parsing.after_thinking(turn.text)
    record("answer", "unfinished" if answer is None else "ok" if answer else "empty", turn)
    return Result(answer or "", memory, plan, tuple(steps))
