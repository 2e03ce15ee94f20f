"""How long an MRCR item is, and the published bins: o200k tokens of prompt and answer, or an estimate that says so."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from qwenlong.core.errors import ConfigError
from qwenlong.core.tokens import Tokenizer

#: Borders of the published bins. The first bin is closed, each later one leaves out its lower border.
BORDERS = tuple(4096 * 2**power for power in range(9))
#: Names what counts tokens.
VARIABLE = "QWENLONG_MRCR_TOKENS"
#: Characters a token where o200k cannot be had. [assumed]
CHARS_PER_TOKEN = 4
#: Under this name tiktoken stores the ranks of o200k_base in its cache.
_STORED = "fb374d419588a4632f3f557e76b4b70aebbca790"

CountTexts = Callable[[list[str]], list[int]]


def bin_of(tokens: int) -> str:
    """Return the name of the bin of so many tokens, "4096-8192" for the first; "" outside all of them.

    >>> bin_of(4096), bin_of(8192), bin_of(8193)
    ('4096-8192', '4096-8192', '8192-16384')
    """
    if tokens == BORDERS[0]:
        return f"{BORDERS[0]}-{BORDERS[1]}"
    pairs = zip(BORDERS, BORDERS[1:], strict=False)
    return next((f"{low}-{high}" for low, high in pairs if low < tokens <= high), "")


def within(tokens: int, low: int, high: int) -> bool:
    """Tell whether an item belongs to the subset of `low` to `high` tokens; as the bins, without the lower border."""
    return low < tokens <= high


def counter() -> tuple[CountTexts, str]:
    """Return how texts are counted, and the sentence that says so.

    The environment variable QWENLONG_MRCR_TOKENS is "o200k", "chars" (a fourth of the characters), a folder with a
    tokenizer.json, or "auto", the default: o200k where tiktoken and its stored ranks are here, else "chars". A run and
    its scoring need the same one. Nothing is downloaded but by "o200k".
    Raises ConfigError naming the variable for another value or missing parts.
    """
    name = os.environ.get(VARIABLE, "auto")
    if name == "o200k" or (name == "auto" and _stored()):
        return _o200k(), "lengths are o200k tokens, as published"
    if name in ("auto", "chars"):
        return _characters, f"lengths are characters / {CHARS_PER_TOKEN}, not the published o200k tokens"
    if (Path(name) / "tokenizer.json").is_file():
        tokenizer = Tokenizer(name)
        return tokenizer.count_batch, f"lengths are tokens of {tokenizer.digest}, not the published o200k tokens"
    raise ConfigError(f"{VARIABLE} = {name!r}: give auto, o200k, chars, or a folder that holds a tokenizer.json")


def _characters(texts: list[str]) -> list[int]:
    return [-(-len(text) // CHARS_PER_TOKEN) for text in texts]


def _stored() -> bool:
    """Tell whether tiktoken is installed and its cache holds the ranks."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", "")
    if not folder or not (Path(folder) / _STORED).is_file():
        return False
    try:
        import tiktoken  # noqa: F401
    except ImportError:
        return False
    return True


def _o200k() -> CountTexts:
    try:
        import tiktoken

        encoding = tiktoken.get_encoding("o200k_base")
    except ImportError as error:
        raise ConfigError(f"{VARIABLE} = 'o200k' needs tiktoken; pip install tiktoken") from error
    except Exception as error:  # Whatever its download meets.
        raise ConfigError(
            f"{VARIABLE} = 'o200k': tiktoken has no ranks ({error}); put o200k_base.tiktoken into "
            f"TIKTOKEN_CACHE_DIR under the name {_STORED}, or set it to chars"
        ) from error
    return lambda texts: [len(ids) for ids in encoding.encode_ordinary_batch(texts)]
