"""What a run of the agent is made of: turns of the model, steps of the agent, the result."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from qwenlong.memory_agent import parsing

Messages = list[dict[str, str]]
#: split: the request in two. update: one section into the memory. merge: memories into one. repair: any of them again.
Kind = Literal["split", "update", "merge", "repair", "answer"]


@dataclass(frozen=True)
class Turn:
    """One generation. Token ids and log-probabilities are there when the model runs in this process.

    `text` holds the thinking block too; `finish_reason` is "stop" or "length", or another word of the server; "error"
    when there was no reply. The ids are those the model read and wrote (end-of-turn token included), `log_probs` one
    value a response token.
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
    """One turn of the agent with what was made of it.

    `index` is the number of the turn, the same in every run of these settings: it does not depend on the order in
    which replies arrive, and repairs are numbered after all turns that are planned. `chunk` counts from 0 and belongs
    to updates and their repairs; `used` tells whether memory (or question, or answer) is what this turn said;
    `recalled` are the passages that its prompt showed beside the memory; `error` says why there was no reply.
    """

    index: int
    kind: Kind
    status: parsing.Status
    turn: Turn
    memory: str
    plan: str
    chunk: int | None = None
    used: bool = True
    recalled: str = ""
    error: str = ""

    def summary(self) -> dict[str, object]:
        """Return the step as `agent answer --json` prints it."""
        return {
            "index": self.index,
            "kind": self.kind,
            "chunk": self.chunk,
            "status": self.status,
            "finish_reason": self.turn.finish_reason,
            "prompt_tokens": self.turn.prompt_tokens,
            "completion_tokens": self.turn.completion_tokens,
        }


@dataclass(frozen=True)
class Result:
    """What the agent found. `answer` is the text after thinking, empty when the thinking never ended.

    `steps` are in the order of the document: with parallel groups that is not the order of arrival.
    """

    answer: str
    memory: str
    plan: str
    steps: tuple[Step, ...]
    total: int = 0

    @property
    def response(self) -> str:
        """The last turn as generated, thinking included: what rewards and scores read."""
        return self.steps[-1].turn.text

    def chunks(self) -> dict[str, int]:
        """Return how many chunks there were, were read, skipped (nothing to add), failed, and left unread.

        The five are of one sum: total = read + skipped + failed + unread. A failed chunk was offered to the model and
        left no trace in the memory; an unread one stands behind an early exit.
        """
        last = {step.chunk: step for step in self.steps if step.chunk is not None}
        skipped = sum(step.status == "skipped" for step in last.values())
        failed = sum(not step.used for step in last.values())
        read = len(last) - skipped - failed
        return {
            "total": self.total,
            "read": read,
            "skipped": skipped,
            "failed": failed,
            "unread": self.total - len(last),
        }

    @property
    def clean(self) -> bool:
        """Whether no chunk and no merge of memories failed, and the answer is there and was not cut off."""
        # A merge's repair stands right behind it.
        pairs = zip(self.steps, self.steps[1:], strict=False)
        lost = any(s.kind == "merge" and not s.used and not (r.kind == "repair" and r.used) for s, r in pairs)
        whole = bool(self.answer) and self.steps[-1].turn.finish_reason != "length"
        return whole and not lost and self.chunks()["failed"] == 0
