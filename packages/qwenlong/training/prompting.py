"""The prompt of a sample as token ids: one function for the RL data set, difficulty and evaluation."""

from __future__ import annotations

from collections.abc import Mapping

from qwenlong.core import templates
from qwenlong.core.records import Document, Sample
from qwenlong.core.tokens import Tokenizer


def prompt_ids(
    sample: Sample, corpus: Mapping[str, Document], tokenizer: Tokenizer, max_tokens: int | None = None
) -> list[int]:
    """Return the prompt's token ids, at most `max_tokens`: the middle of the context is cut, the question never.

    Raises DataError when a document is missing or the question alone does not fit.
    """
    return tokenizer.encode(tokenizer.render_chat(templates.messages(sample, corpus, tokenizer, max_tokens)))


def blind_prompt_ids(sample: Sample, tokenizer: Tokenizer) -> list[int]:
    """Return the token ids of the sample's prompt without documents."""
    chat = [{"role": "user", "content": templates.user_prompt(sample, "")}]
    return tokenizer.encode(tokenizer.render_chat(chat))
