"""Static text embeddings that need neither a GPU nor a model hub: the mean of a text's token vectors.

Vectors and tokenizer are those of the package `wordllama` (MIT; l2_supercat, 256 dimensions), read from its files.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from qwenlong.core.errors import QwenlongError

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer

DIMENSIONS = 256
#: What is read of a text, in characters: the mean of so many tokens hardly moves any more.
MAX_CHARACTERS = 20_000
#: Texts that are tokenised at a time.
_BATCH = 256


def embed(texts: Sequence[str]) -> np.ndarray:
    """Return float32 [len(texts), DIMENSIONS], rows of unit length; a text without any known token gives zeros.

    The same text gives the same row in any company. Cost grows with the characters read. Raises QwenlongError when the
    package is not installed.
    """
    import numpy as np

    tokenizer, vectors = _model()
    rows = np.zeros((len(texts), DIMENSIONS), np.float32)
    for begin in range(0, len(texts), _BATCH):
        cut = [text[:MAX_CHARACTERS] for text in texts[begin : begin + _BATCH]]
        for number, encoded in enumerate(tokenizer.encode_batch_fast(cut, add_special_tokens=False), begin):
            ids = np.asarray(encoded.ids, np.int64)
            if len(ids):
                # In float64, so that the sum does not depend on how the processor splits it.
                rows[number] = _unit(vectors[ids].sum(axis=0, dtype=np.float64))
    return rows


def _unit(vector: np.ndarray) -> np.ndarray:
    import numpy as np

    norm = float(np.sqrt((vector * vector).sum()))
    return vector if norm == 0 else vector / norm


@lru_cache(maxsize=1)
def _model() -> tuple[Tokenizer, np.ndarray]:
    """Return tokenizer and float32 [vocabulary, DIMENSIONS]."""
    from safetensors import safe_open
    from tokenizers import Tokenizer

    spec = find_spec("wordllama")
    if spec is None or spec.origin is None:
        raise QwenlongError("embeddings need the package wordllama, which is not installed; run `make setup`")
    folder = Path(spec.origin).parent
    tokenizer = Tokenizer.from_file(str(folder / "tokenizers" / "l2_supercat_tokenizer_config.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    with safe_open(folder / "weights" / "l2_supercat_256.safetensors", framework="np") as file:
        vectors = file.get_tensor("embedding.weight").astype("float32")
    return tokenizer, vectors
