"""Tokens and chat templates without torch: `tokenizers` for the one, a sandboxed jinja2 for the other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from qwenlong.core.errors import DataError
from qwenlong.core.files import digest_value, sha256_file


class Tokenizer:
    """A Hugging Face tokenizer directory (`tokenizer.json`, `tokenizer_config.json`, chat template)."""

    def __init__(self, folder: str | Path) -> None:
        import tokenizers

        self.folder = Path(folder)
        file = self.folder / "tokenizer.json"
        if not file.is_file():
            raise DataError(f"no tokenizer.json in {self.folder}; give a Hugging Face model or tokenizer directory")
        self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        config = self.folder / "tokenizer_config.json"
        self.config: dict[str, Any] = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}

    @cached_property
    def digest(self) -> str:
        """Digest of the vocabulary and the chat template: what a token count depends on."""
        return digest_value([sha256_file(self.folder / "tokenizer.json"), self.chat_template])[:16]

    def encode(self, text: str) -> list[int]:
        """Return token ids of plain text; special tokens are neither added nor kept from being recognised."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return token ids of many texts, on all cores."""
        return [list(e.ids) for e in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def count_batch(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each of many plain texts, on all cores."""
        return [len(encoding) for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return where the tokens of plain text stand in it, [start, end) in characters.

        Tokens of less than a character share its span; blanks around a token may lie outside of it.
        """
        return list(self._tokenizer.encode(text, add_special_tokens=False).offsets)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Return the text of token ids."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def count(self, text: str) -> int:
        """Return the number of tokens of plain text."""
        return len(self.encode(text))

    def count_chat(self, messages: Sequence[dict[str, str]]) -> int:
        """Return the number of tokens of a rendered chat with its generation prompt."""
        return self.count(self.render_chat(messages))

    def token_id(self, token: str) -> int | None:
        """Return the id of one token, none if the vocabulary lacks it."""
        return self._tokenizer.token_to_id(token)

    @cached_property
    def control_tokens(self) -> tuple[str, ...]:
        """Texts that the tokenizer reads as one control token wherever they stand (<|im_end|>, <s>, [INST])."""
        added = self._tokenizer.get_added_tokens_decoder().values()
        return tuple(sorted({t.content for t in added if t.special and len(t.content.strip()) > 1}))

    @property
    def eos_id(self) -> int:
        """Id of the end-of-turn token. Raises DataError when the configuration names none."""
        token = self.config.get("eos_token")
        if isinstance(token, dict):
            token = token.get("content")
        found = self.token_id(token) if token else None
        if found is None:
            raise DataError(f"{self.folder}: tokenizer_config.json names no known eos_token; add it")
        return found

    @property
    def vocabulary_size(self) -> int:
        """Entries of the vocabulary, added tokens included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    @cached_property
    def chat_template(self) -> str:
        """Jinja text of the chat template. Raises DataError when there is none."""
        file = self.folder / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8")
        text = self.config.get("chat_template")
        if not isinstance(text, str):
            raise DataError(f"{self.folder} has no chat template; add chat_template.jinja")
        return text

    @cached_property
    def _compiled(self) -> Any:
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def refuse(message: str) -> None:
            raise DataError(f"{self.folder}: chat template refuses the messages: {message}")

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
        environment.globals["raise_exception"] = refuse
        return environment.from_string(self.chat_template)

    def render_chat(self, messages: Sequence[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return messages as the model reads them, with the opening of its turn."""
        specials = {k: v for k, v in self.config.items() if k.endswith("_token") and isinstance(v, str)}
        return str(
            self._compiled.render(
                messages=list(messages), add_generation_prompt=add_generation_prompt, tools=None, **specials
            )
        )
