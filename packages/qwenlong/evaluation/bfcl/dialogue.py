"""A conversation with a model that has a memory's tools: calls are run until a message is none, at most so many."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qwenlong.core import templates
from qwenlong.core.tokens import Tokenizer
from qwenlong.evaluation import prompting
from qwenlong.evaluation.bfcl import calls
from qwenlong.evaluation.bfcl.calls import Call
from qwenlong.evaluation.bfcl.records import Tool
from qwenlong.evaluation.bfcl.store import Store
from qwenlong.memory_agent.loop import Generate, Messages, Turn
from qwenlong.memory_agent.safety import neutralise
from qwenlong.rewards.extract import after_thinking

FOLDER = Path(__file__).parents[1] / "prompts" / "v1"
#: Messages with calls that a turn of the user may cause; after one more the conversation ends. The official harness's.
MAX_STEPS = 20
#: Calls of one message that are run.
MAX_CALLS = 64


@dataclass(frozen=True)
class Setting:
    """What a conversation is held with; limits in tokens, `max_tokens` of the prompt, `answer_tokens` of a reply."""

    name: str
    tools: Sequence[Tool]
    tokenizer: Tokenizer
    max_tokens: int
    answer_tokens: int

    def safe(self, text: str) -> str:
        """Return text of records, memory or model without anything that the chat template gives a meaning."""
        # Halves of surrogate pairs, which JSON escapes can make, are in no tokenizer's reach.
        return neutralise(text.encode("utf-8", "replace").decode("utf-8"), self.tokenizer.control_tokens)


def system(scenario: str, memory: str, store: Store, tools: Sequence[Tool], question: bool) -> str:
    """Return the system prompt: task, tools, memory, and for a question the form of the answer.

    Raises UsageError for a scenario without a template.
    """
    values = {
        "scenario": templates.template(f"bfcl_{scenario}", FOLDER).strip(),
        "tools": json.dumps([tool.shown() for tool in tools], ensure_ascii=False),
        "memory": store.visible() or "(nothing yet)",
    }
    memory_part = templates.fill(f"bfcl_{'one' if memory == 'rec_sum' else 'two'}_memory", values, FOLDER)
    parts = [templates.fill("bfcl_tools", values, FOLDER), memory_part]
    if question:
        parts.append(templates.fill("bfcl_answer", {}, FOLDER))
    return "\n\n".join(parts)


@dataclass
class _History:
    """What was said: finished turns of the user, and the turn under way (its text, then calls and results)."""

    system: str
    past: list[Messages] = field(default_factory=list)
    current: Messages = field(default_factory=list)

    def fit(self, setting: Setting) -> Messages:
        """Return the prompt, its oldest parts left out until it has at most `max_tokens` tokens.

        First go earlier turns, then earlier calls of this one, then the middle of the longer of the last two messages
        (calls and results). Raises DataError when the rest alone is longer.
        """
        head: Messages = [{"role": "system", "content": self.system}]
        question, steps = self.current[:1], self.current[1:]
        while True:
            chat = head + [message for turn in self.past for message in turn] + question + steps
            excess = setting.tokenizer.count_chat(chat) - setting.max_tokens
            if excess <= 0:
                return chat
            # As many at once as hold the excess by their own counts: every count of the whole reads it all.
            if self.past:
                while self.past and excess > 0:
                    excess -= sum(setting.tokenizer.count(message["content"]) for message in self.past.pop(0))
            elif len(steps) > 2:
                while len(steps) > 2 and excess > 0:
                    excess -= sum(setting.tokenizer.count(message["content"]) for message in steps[:2])
                    steps = steps[2:]
            else:
                break
        if not steps:
            return prompting.fit(setting.name, "", lambda _: chat, setting.tokenizer, setting.max_tokens)
        place = len(chat) - (2 if len(steps[-2]["content"]) > len(steps[-1]["content"]) else 1)

        def build(kept: str) -> Messages:
            return [*chat[:place], chat[place] | {"content": kept}, *chat[place + 1 :]]

        return prompting.fit(setting.name, chat[place]["content"], build, setting.tokenizer, setting.max_tokens)


async def converse(said: Sequence[str], prompt: str, store: Store, generate: Generate, setting: Setting) -> list[Turn]:
    """Return the model's messages, in order; the calls in them have changed the memory.

    A turn of the user ends with a message that calls nothing; a model that goes on calling ends the conversation.
    Raises DataError when a prompt cannot be made to fit, and what `generate` raises.
    """
    history = _History(setting.safe(prompt))
    turns: list[Turn] = []
    for text in said:
        history.current = [{"role": "user", "content": setting.safe(text)}]
        for _ in range(MAX_STEPS + 1):
            turn = await generate(history.fit(setting), setting.answer_tokens, len(turns))
            turns.append(turn)
            message = after_thinking(turn.text)
            history.current.append({"role": "assistant", "content": setting.safe(message or "")})
            wanted = calls.parse(message) if message else []
            if not wanted:
                break
            history.current.append({"role": "user", "content": setting.safe(results(wanted, store))})
        else:
            return turns
        history.past.append(history.current)
    return turns


def results(wanted: Sequence[Call], store: Store) -> str:
    """Run the calls; return their results as the model is told them."""
    lines = [f"{call.name[:100]}: {store.run(call)}" for call in wanted[:MAX_CALLS]]
    if len(wanted) > MAX_CALLS:
        lines.append(f"{len(wanted) - MAX_CALLS} more calls were not run; make at most {MAX_CALLS} at a time")
    return templates.fill("bfcl_results", {"results": "\n".join(lines)}, FOLDER)
