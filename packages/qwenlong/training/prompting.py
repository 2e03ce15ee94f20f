"""The prompt of a sample as token ids: one function for the RL data set, difficulty and evaluation."""

from __future__ import annotations

from collections.abc import Mapping

from qwenlong.core import templates
from qwenlong.core.records import Document, Sample
from qwenlong.core.tokens import Tokenizer

#: A prompt before the model's template renders it.
Chat = list[dict[str, str]]


def chat_ids(chat: Chat, tokenizer: Tokenizer) -> list[int]:
    """Return a chat's token ids."""
    return tokenizer.encode(tokenizer.render_chat(chat))


def prompt_ids(
    sample: Sample, corpus: Mapping[str, Document], tokenizer: Tokenizer, max_tokens: int | None = None
) -> list[int]:
    """Return the prompt's token ids, at most `max_tokens`: the middle of the context is cut, the question never.

    Raises DataError when a document is missing or the question alone does not fit.
    """
    return chat_ids(templates.messages(sample, corpus, tokenizer, max_tokens), tokenizer)


def blind_chat(sample: Sample) -> Chat:
    """Return the sample's prompt without documents."""
    return [{"role": "user", "content": templates.user_prompt(sample, "")}]
