"""Gradients of verl's own engine worker equal those of Eqs. 4, 7, 8 and 9. One start of the driver per world size."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import gradient_batch  # noqa: E402
from gradient_cases import cases  # noqa: E402
from gradient_driver import TOLERANCE, failures  # noqa: E402

pytestmark = pytest.mark.engines
#: Seconds; on a quiet machine a start takes a tenth of it.
LIMIT = 1800


@pytest.fixture(scope="module", params=[1, 2], ids=["one rank", "two ranks"])
def measured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, list[dict]]:
    """Every case of one world size, in one start."""
    out = tmp_path_factory.mktemp("gradient") / "records.json"
    command = [sys.executable, str(HERE / "gradient_driver.py"), "--ranks", str(request.param), "--out", str(out)]
    packages = os.pathsep.join(str(path) for path in sys.path if path)
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=LIMIT, env={**os.environ, "PYTHONPATH": packages}
    )
    assert out.is_file(), done.stdout[-2000:] + done.stderr[-4000:]
    result = json.loads(out.read_text())
    assert done.returncode == bool(result["failures"])
    return request.param, result["cases"]


def of(records: list[dict[str, Any]], *words: str) -> list[dict[str, Any]]:
    found = [one for one in records if all(word in one["case"] for word in words)]
    assert found, words
    return found


def test_every_case_ran_on_both_engines_and_models(measured):
    ranks, records = measured
    ran = {(one["model"], one["engine"], one["case"]) for one in records}
    wanted = {
        (model, engine, case.name)
        for model in ("dense", "experts")
        for engine in ("ours", "stock")
        for case in cases(ranks, brief=model == "experts")
    }
    assert ran == wanted and len(records) == len(wanted)
    classes = {engine: {one["class"] for one in records if one["engine"] == engine} for engine in ("ours", "stock")}
    assert classes["stock"] == {"verl.workers.engine.fsdp.transformer_impl.FSDPEngineWithLMHead"}
    assert len(classes["ours"]) == 1 and next(iter(classes["ours"])).startswith("qwenlong.")


def test_gradients_are_those_of_the_equations(measured):
    _, records = measured
    right = [one for one in records if not one["wrong"]]
    assert failures(right) == []
    for one in right:
        # Neither side is trivially 0, and what verl clips is the gradient that was compared.
        assert one["reference_norm"] > 1e-3
        assert math.isclose(one["grad_norm"], one["reference_norm"], rel_tol=TOLERANCE), one


def test_wrong_variants_are_rejected(measured):
    ranks, records = measured
    wrong = [one for one in records if one["wrong"]]
    kinds = {"token-mean", "mask lost"} | ({"own tokens"} if ranks > 1 else set())
    for model in ("dense", "experts"):
        for engine in ("ours", "stock"):
            assert {one["wrong"] for one in wrong if (one["model"], one["engine"]) == (model, engine)} == kinds
    for one in wrong:
        assert min(one["element"], one["norm"]) > 100 * TOLERANCE, one


def test_masks_and_clipping_were_at_work(measured):
    _, records = measured
    for one in of(records, "AEPO masks"):
        assert 0 < one["masked_share"] < 1
    for one in of(records, "clipping"):
        assert 0 < one["clipped_share"] < 1
    for one in of(records, "AEPO off") + of(records, "AEPO open"):
        assert one["masked_share"] == one["clipped_share"] == 0


def test_ranks_that_share_rows_give_the_gradients_of_the_equations(tmp_path):
    # The engine of GPUs, with Ulysses over two gloo ranks; dense attention stands in for FlexAttention's kernel.
    out = tmp_path / "records.json"
    command = [sys.executable, str(HERE / "gradient_driver.py"), "--ranks", "2", "--sequence", "2"]
    command += ["--engines", "stream", "--only", "by tokens|wrong", "--out", str(out)]
    packages = os.pathsep.join(str(path) for path in sys.path if path)
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=LIMIT, env={**os.environ, "PYTHONPATH": packages}
    )
    assert out.is_file(), done.stdout[-2000:] + done.stderr[-4000:]
    records = json.loads(out.read_text())["cases"]
    assert {one["class"].rpartition(".")[2] for one in records} == {"StreamEngine"}
    assert {one["sequence"] for one in records} == {2} and {one["model"] for one in records} == {"dense", "experts"}
    assert failures(records) == []
    assert {one["wrong"] for one in records} == {None, "token-mean", "mask lost"}


def test_the_stored_batch_is_what_its_program_writes():
    assert gradient_batch.FILE.read_text() == gradient_batch.make()
    for layout in ("flat", "memory"):
        for ranks in (1, 2):
            rows = gradient_batch.load(layout, gradient_batch.ROWS * ranks)
            lengths = [len(row.response) for row in rows]
            assert max(lengths) >= 50 * min(lengths)
    turns = {(row.group, row.trajectory): row.turn + 1 for row in gradient_batch.load("memory", 24)}
    assert set(turns.values()) == {1, 2, 3, 4, 5}
