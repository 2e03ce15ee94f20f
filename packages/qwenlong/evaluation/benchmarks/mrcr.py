"""MRCR: repeat one of several answers to the same request in a long chat, behind a random string.

Rule `ratio`, the same as `official`: 0 unless the response starts with the random string; otherwise difflib's ratio
of response and answer without it. Only what follows the thinking counts; white space right behind it does not.
The paper does not say how its subsets are bounded: they are unions of the published bins, 128K = 131072 [assumed].
The environment variable QWENLONG_MRCR_RENDER = flat shows the chat as text in one message; default: chat [assumed].
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import field_validator

from qwenlong.core.errors import ConfigError, DataError
from qwenlong.core.tokens import Tokenizer
from qwenlong.evaluation import chats, mrcr_lengths
from qwenlong.evaluation.interface import Benchmark, Item
from qwenlong.evaluation.prompting import fit
from qwenlong.evaluation.reading import Published, distinct, read_records
from qwenlong.evaluation.sources import Source
from qwenlong.memory_agent.loop import Messages
from qwenlong.rewards.extract import after_thinking
from qwenlong.rewards.similarity import ratio


class Record(Published):
    """A record of openai/mrcr; `prompt` is a JSON array of messages."""

    prompt: str
    answer: str
    random_string_to_prepend: str
    n_needles: int
    n_chars: int | None = None

    @field_validator("prompt")
    @classmethod
    def _chat(cls, value: str) -> str:
        try:
            messages = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"is no JSON string of messages ({error.msg})") from error
        whole = isinstance(messages, list) and all(
            isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
            for m in messages
        )
        if not whole or not messages or messages[-1]["role"] != "user":
            raise ValueError("is no list of messages with role and content, the last of them the user's")
        return value


def answer_part(response: str) -> str | None:
    """Return what a response says after its thinking, white space before it stripped; None while it is unfinished.

    A response without thinking is returned as it is, as the official rule takes it.
    """
    text = after_thinking(response)
    if text is None or response.strip() == text:
        return None if text is None else response
    # Thinking was cut off: white space at the end is kept as without thinking.
    end = response.rstrip()
    return text + response[len(end) :] if end.endswith(text) else text


def _render() -> str:
    """Return how chats are shown. Raises ConfigError naming the variable when it is neither."""
    value = os.environ.get("QWENLONG_MRCR_RENDER", "chat")
    if value not in ("chat", "flat"):
        raise ConfigError(f"QWENLONG_MRCR_RENDER = {value!r}: give chat or flat")
    return value


@dataclass(frozen=True)
class MrcrItem(Item):
    """One chat; `group` is its number of needles, `slices` its bin."""

    id: str
    group: str
    prompt: str = field(repr=False)
    answer: str = field(repr=False)
    prefix: str
    slices: tuple[str, ...] = ()
    render: str = "chat"

    def messages(self, tokenizer: Tokenizer, max_tokens: int) -> Messages:
        """Return the chat, or one message that holds it as text; above `max_tokens` the middle is left out.

        Of a chat whole turns are left out, of a text the middle. Raises DataError when the last message does not fit.
        """
        chat: Messages = [{"role": m["role"], "content": m["content"]} for m in json.loads(self.prompt)]
        if self.render == "chat":
            return chats.fit_chat(f"mrcr {self.id}", chat, tokenizer, max_tokens)
        last = chats.flat(chat[-1:])

        def build(context: str) -> Messages:
            return [{"role": "user", "content": f"{context}\n\n{last}" if context else last}]

        return fit(f"mrcr {self.id}", chats.flat(chat[:-1]), build, tokenizer, max_tokens)

    def problem(self) -> tuple[str, str, str]:
        """Return the last message as question, no instruction, and the earlier messages as text with their roles."""
        chat = json.loads(self.prompt)
        return chat[-1]["content"], "", chats.flat(chat[:-1])

    def score(self, response: str) -> dict[str, float]:
        """Return the ratio in [0, 1], under its own name and as the official rule."""
        given = answer_part(response)
        value = 0.0
        if given is not None and given.startswith(self.prefix):
            value = ratio(given.removeprefix(self.prefix), self.answer.removeprefix(self.prefix))
        return {"ratio": value, "official": value}


@dataclass(frozen=True)
class Mrcr(Benchmark):
    """All records of a file, or those of more than `low` and at most `high` tokens."""

    low: int = 0
    high: int = 0

    def assumptions(self) -> tuple[str, ...]:
        """Return what a result rests on that the paper does not say."""
        _, said = mrcr_lengths.counter()
        rendered = "one user message with the chat as text" if _render() == "flat" else "the chat's own messages"
        bounds = (f"{self.name} has items of more than {self.low} and at most {self.high} tokens",) if self.high else ()
        return (f"MRCR {said}", *bounds, f"MRCR prompts are {rendered}")

    def load(self, examples: Path, documents: Path | None) -> Sequence[MrcrItem]:
        """Read the published file; an item's id is its record's number in it from 0. Raises DataError."""
        records = read_records(examples, Record)
        count, said = mrcr_lengths.counter()
        render = _render()
        found = []
        for number, record in enumerate(records):
            contents = [message["content"] for message in json.loads(record.prompt)]
            tokens = sum(count([*contents, record.answer]))
            if self.high and not mrcr_lengths.within(tokens, self.low, self.high):
                continue
            name = mrcr_lengths.bin_of(tokens)
            found.append(
                MrcrItem(
                    str(number),
                    f"{record.n_needles} needles",
                    record.prompt,
                    record.answer,
                    record.random_string_to_prepend,
                    (name,) if name else (),
                    render,
                )
            )
        if not found:
            raise DataError(
                f"{examples} holds no item of more than {self.low} and at most {self.high} tokens ({said}); "
                f"give the file of another length, or set {mrcr_lengths.VARIABLE}"
            )
        return distinct(found, examples)


_SOURCE = Source(
    "openai/mrcr",
    ("2needle.parquet", "4needle.parquet", "8needle.parquet"),
    licence="MIT",
    records=2400,
)


def _mrcr(name: str, title: str, low: int = 0, high: int = 0, agent: bool = False) -> Mrcr:
    return Mrcr(
        name,
        title,
        ("ratio", "official"),
        "ratio",
        official="official",
        groups=("2 needles", "4 needles", "8 needles"),
        agent=agent,
        source=_SOURCE,
        low=low,
        high=high,
    )


BENCHMARKS = (
    _mrcr("mrcr", "MRCR"),
    _mrcr("mrcr_0_128k", "MRCR 0-128K", 0, 131072),
    _mrcr("mrcr_128k_512k", "MRCR 128K-512K", 131072, 524288, True),
    _mrcr("mrcr_512k_1m", "MRCR 512K-1M", 524288, 1048576, True),
)
