"""Static embeddings: unit rows, no influence of company or order, nearness that means something."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np

from qwenlong.core.embeddings import DIMENSIONS, MAX_CHARACTERS, embed

TEXTS = ["The capital of France is Paris.", "Paris, France's capital city", "def sort(items): return sorted(items)", ""]


def test_rows_have_unit_length_and_an_empty_text_none() -> None:
    rows = embed(TEXTS)
    assert rows.shape == (4, DIMENSIONS) and rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1, 1, 1, 0], atol=1e-6)
    assert embed([]).shape == (0, DIMENSIONS)


def test_a_text_has_one_row_in_any_company() -> None:
    together = embed([*TEXTS, *(f"another text {n}" for n in range(600))])
    for number, text in enumerate(TEXTS):
        assert embed([text])[0].tobytes() == together[number].tobytes()


def test_related_texts_are_nearer() -> None:
    one, two, code, _ = embed(TEXTS)
    assert one @ two > 0.5 > one @ code


def test_what_lies_beyond_the_bound_is_not_read() -> None:
    long = "word " * (MAX_CHARACTERS // 5)
    assert embed([long])[0].tobytes() == embed([long + "something else entirely"])[0].tobytes()


def test_another_process_gives_the_same_bytes_without_torch() -> None:
    script = f"""
import hashlib, sys
from qwenlong.core.embeddings import embed
print(hashlib.sha256(embed({TEXTS!r}).tobytes()).hexdigest(), 'torch' in sys.modules, 'wordllama' in sys.modules)
"""
    said = {_run(script, seed) for seed in ("1", "2")}
    assert len(said) == 1 and said.pop().split()[1:] == ["False", "False"]


def _run(script: str, hash_seed: str) -> str:
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True)
    return done.stdout
