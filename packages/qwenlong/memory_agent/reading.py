"""One turn after another: asking, reading the reply, repairing it once, keeping to the window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from qwenlong.core.errors import DataError
from qwenlong.core.llm import Unavailable
from qwenlong.core.tokens import Tokenizer
from qwenlong.memory_agent import parsing
from qwenlong.memory_agent.budget import CUT, REASONS, SURELY, Sizes
from qwenlong.memory_agent.gains import Gains
from qwenlong.memory_agent.gains.recall import Recall
from qwenlong.memory_agent.prompting import Prompts
from qwenlong.memory_agent.turns import Generate, Kind, Messages, Step, Turn


@dataclass
class State:
    """What goes from one section to the next."""

    memory: str = ""
    plan: str = ""
    recall: Recall | None = None


@dataclass(frozen=True)
class Turns:
    """Numbers of the turns: they follow from the settings, never from what happened before."""

    split: int
    chunks: int
    merges: int

    def update(self, chunk: int) -> int:
        """Return the number of the update by a chunk."""
        return self.split + chunk

    def merge(self, number: int) -> int:
        """Return the number of a merge."""
        return self.split + self.chunks + number

    @property
    def answer(self) -> int:
        """The number of the answer, the last that is planned."""
        return self.split + self.chunks + self.merges

    def repair(self, turn: int) -> int:
        """Return the number of the repair of a turn."""
        return self.answer + 1 + turn


@dataclass(frozen=True)
class Reader:
    """A question on its way through a document: everything that stays the same from turn to turn.

    With a window, `counted` are the tokens of the chunks and `beside` the most that an update has beside its chunk.
    """

    question: str
    chunks: Sequence[str]
    generate: Generate
    tokenizer: Tokenizer
    prompts: Prompts
    sizes: Sizes
    gains: Gains
    turns: Turns
    may_exit: bool
    on_step: Callable[[Step], None]
    counted: Sequence[int] = ()
    beside: int = 0

    async def read(self, chunks: range, steps: list[Step]) -> State:
        """Return what the memory holds after some consecutive chunks, read from an empty one."""
        state = State(recall=Recall(self.question) if self.gains.recall_tokens else None)
        for chunk in chunks:
            if await self._update(state, chunk, steps):
                break
        return state

    async def _update(self, state: State, chunk: int, steps: list[Step]) -> bool:
        """Read one chunk into the memory; return whether the model needs no more."""
        raw = self.chunks[chunk]
        section = self.prompts.safe(raw)
        # A section that was not harmless yet may have been counted as it was.
        size = self.counted[chunk] if len(self.counted) and section == raw else None
        recalled = self._recalled(state, state.plan)
        gains, exits = self.gains, self.may_exit

        def build(plan: str, recalled: str, memory: str) -> Messages:
            place = chunk + 1, len(self.chunks)
            return self.prompts.update(
                self.question, memory, plan, section, *place, gains=gains, may_exit=exits, recalled=recalled
            )

        parts = [state.plan, recalled, state.memory]
        number = self.turns.update(chunk)
        new = await self._memory("update", number, build, parts, recalled, state, steps, chunk, size)
        if state.recall is not None:
            state.recall.overwritten(state.memory, new.memory, chunk)
            if self.gains.recall_chunks:
                state.recall.passed(section, new.plan, chunk)
        state.memory, state.plan = new.memory, new.plan
        return new.done

    async def merge(self, number: int, states: list[State], steps: list[Step]) -> State:
        """Return one memory of several. No call is made where one of them holds all, or all fit into one memory."""
        recall = None
        if self.gains.recall_tokens:
            recall = Recall(self.question)
            recall.merge(state.recall for state in states if state.recall is not None)
        held = [state for state in states if state.memory]
        if len(held) < 2:
            return replace(held[0], recall=recall) if held else State(recall=recall)
        joined = "\n".join(state.memory for state in held)
        if self.prompts.safe(joined) == joined and self.tokenizer.count(joined) <= self.sizes.memory:
            room = self.sizes.memory - self.tokenizer.count(joined)
            return State(joined, parsing.fit(held[-1].plan, self.tokenizer, room, self.prompts.safe), recall)
        share = self.sizes.memory // len(held)
        cut = [parsing.fit(state.memory, self.tokenizer, max(share - 1, 0), self.prompts.safe) for state in held]
        # What stays when the merge fails: the beginning of each.
        before = State(parsing.fit("\n".join(cut), self.tokenizer, self.sizes.memory, self.prompts.safe), "", recall)
        recalled = self._recalled(before, "\n".join(state.plan for state in held))

        def build(recalled: str, *memories: str) -> Messages:
            return self.prompts.merge(self.question, list(memories), recalled)

        parts = [recalled, *(state.memory for state in held)]
        new = await self._memory("merge", self.turns.merge(number), build, parts, recalled, before, steps)
        if recall is not None:
            recall.overwritten(joined, new.memory, len(self.chunks))
        return State(new.memory, new.plan, recall)

    async def answer(self, state: State, instruction: str, steps: list[Step]) -> str:
        """Return the final answer, from the memory alone; empty when there is none. Raises Unavailable."""
        recalled = self._recalled(state, state.plan)

        def build(recalled: str, memory: str) -> Messages:
            recall = bool(self.gains.recall_tokens)
            return self.prompts.answer(self.question, instruction, memory, recall=recall, recalled=recalled)

        parts = [recalled, state.memory]
        kind: Kind = "answer"
        number = self.turns.answer
        reason = ""
        while True:
            turn, error = await self._ask(number, build, parts, self.sizes.answer, reason)
            if error:
                raise Unavailable(f"all sections are read, but the answer failed: {error}")
            found = parsing.after_thinking(turn.text)
            status: parsing.Status = "unfinished" if found is None else "ok" if found else "empty"
            last = bool(found) or kind == "repair" or not self.gains.repair
            if kind == "repair" and found:
                status = "repaired"
            self._record(steps, Step(number, kind, status, turn, state.memory, state.plan, None, bool(found), recalled))
            if last:
                return found or ""
            kind, number, reason = "repair", self.turns.repair(number), REASONS[status]

    async def _memory(
        self,
        kind: Kind,
        number: int,
        build: Callable[..., Messages],
        parts: list[str],
        recalled: str,
        state: State,
        steps: list[Step],
        chunk: int | None = None,
        size: int | None = None,
    ) -> parsing.Update:
        """Ask for a new memory, once more where the reply is unusable and repairs are on; without one `state` stays."""

        async def ask(kind: Kind, number: int, reason: str) -> tuple[parsing.Update, Step]:
            turn, error = await self._ask(number, build, parts, self.sizes.memory, reason, size)
            if error:
                new = parsing.Update(state.memory, state.plan, "failed", used=False)
            else:
                new = parsing.update(
                    turn.text,
                    state.memory,
                    state.plan,
                    self.tokenizer,
                    self.sizes.memory,
                    finish_reason=turn.finish_reason,
                    skip=self.gains.skip and chunk is not None,
                    early_exit=self.may_exit and chunk is not None,
                    safe=self.prompts.safe,
                )
            if self.gains.repair and new.status in REASONS:
                new = replace(new, memory=state.memory, plan=state.plan, used=False, done=False)
            if kind == "repair" and new.status == "ok":
                new = replace(new, status="repaired")
            return new, Step(number, kind, new.status, turn, new.memory, new.plan, chunk, new.used, recalled, error)

        new, step = await ask(kind, number, "")
        self._record(steps, step)
        if self.gains.repair and new.status in REASONS:
            reason = REASONS[new.status] + (CUT if step.turn.finish_reason == "length" else "")
            new, step = await ask("repair", self.turns.repair(number), reason)
            self._record(steps, step)
        return new

    async def _ask(
        self,
        number: int,
        build: Callable[..., Messages],
        parts: list[str],
        limit: int,
        reason: str,
        size: int | None = None,
    ) -> tuple[Turn, str]:
        """Return the model's turn; where the endpoint gave up, an empty one and what it said."""
        messages = self._within(build, parts, limit, reason, size)
        try:
            return await self.generate(messages, limit, number), ""
        except Unavailable as error:
            return Turn("", "error", n_prompt_tokens=0, n_response_tokens=0), str(error)

    def _within(
        self, build: Callable[..., Messages], parts: list[str], limit: int, reason: str, size: int | None
    ) -> Messages:
        """Return a prompt that leaves room for `limit` tokens; `size` are its section's tokens where they are sure.

        Where joined text takes more than was set aside for it, the parts give way, the first before the others, never
        the section or the question.
        """

        def prompt() -> Messages:
            messages = build(*parts)
            return self.prompts.repair(messages, reason, limit) if reason else messages

        messages, window = prompt(), self.sizes.window
        # Counting every prompt would cost as much as cutting the document: of most, `size` tells that they fit.
        fits = window is None or (size is not None and self.beside + size + SURELY <= window)
        while window is not None and not fits:
            over = self.tokenizer.count_chat(messages) + limit - window
            fits = over <= 0
            if not fits:
                if not any(parts):
                    raise DataError(
                        f"a prompt of the memory agent exceeds the window of {window} tokens by {over}: the text of a "
                        "section takes more tokens than were counted for it; lower chunk_tokens"
                    )
                parts = self._shorter(parts, over)
                messages = prompt()
        return messages

    def _shorter(self, parts: list[str], tokens: int) -> list[str]:
        shorter = []
        for part in parts:
            has = self.tokenizer.count(part)
            take = min(has, tokens)
            shorter.append(parsing.fit(part, self.tokenizer, has - take, self.prompts.safe) if take else part)
            tokens -= take
        return shorter

    def _recalled(self, state: State, query: str) -> str:
        """Return the passages that the next prompt shows beside the memory."""
        if state.recall is None:
            return ""
        return state.recall.select(query, state.memory, self.gains.recall_tokens, self.tokenizer.count)

    def _record(self, steps: list[Step], step: Step) -> None:
        steps.append(step)
        self.on_step(step)
