"""What makes a verdict, and arithmetic of times: by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from qwenlong.audit.bundles import difference
from qwenlong.audit.site import claims, flops, sources
from qwenlong.audit.site.statistics import Estimate
from qwenlong.core.published import Claim


def judged(
    direction: str, low: float, high: float, *, seeds: int = 3, n: int = 100, margin: float | None = None
) -> str:
    """The verdict on a difference with this interval."""
    claim = Claim.model_validate({"id": "c", "cells": ["a.b.c", "a.d.c"], "direction": direction, "margin": margin})
    return claims._status(claim, Estimate((low + high) / 2, low, high, 0.5, n, seeds))


def test_verdicts_by_hand() -> None:
    """Direction, one seed, few items, what "keeps" allows, and size."""
    assert judged("greater", 1.0, 3.0) == "supported" and judged("greater", -1.0, 3.0) == "undecided"
    assert judged("greater", -3.0, -1.0) == "contradicted" and judged("less", -3.0, -1.0) == "supported"
    assert judged("less", 1.0, 3.0) == "contradicted" and judged("increasing", 0.1, 3.0) == "supported"
    assert judged("greater", 1.0, 3.0, seeds=1) == "seen once" and judged("greater", 1.0, 3.0, n=19) == "undecided"
    assert judged("not_less", -1.9, 4.0) == "supported" and judged("not_less", -2.1, 4.0) == "undecided"
    assert judged("not_less", -1.5, -0.5) == "contradicted"
    assert (
        judged("greater", 1.0, 3.0, margin=2.0) == "reproduced"
        and judged("greater", 1.0, 3.0, margin=9.0) == "supported"
    )
    assert judged("greater", 1.0, 30.0, margin=2.0) == "supported"


def test_where_the_papers_difference_lies_is_said() -> None:
    """Whatever the verdict is: above, below, inside our interval, too few items, no size in the paper."""
    ours = Estimate(0.3, -1.0, 1.7, 0.5, 800, 3)
    assert [claims._outside(margin, ours) for margin in (2.6, -1.1, 1.7, None)] == ["above", "below", "", ""]
    assert claims._outside(2.6, Estimate(0.3, -1.0, 1.7, 0.5, 19, 3)) == ""
    assert claims._outside(2.6, Estimate(0.3, None, None, None, 800, 1)) == ""


def test_floors_are_those_of_the_step_benchmark(root: Path) -> None:
    """SmolLM2-135M: the same sizes and seconds as benchmarks/gpu_floors.py writes out."""
    sys.path.insert(0, str(root / "benchmarks"))
    try:
        import gpu_floors
    finally:
        sys.path.remove(str(root / "benchmarks"))
    config = {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}
    of = flops.shape(config | {"head_dim": 64, "intermediate_size": 1536, "vocab_size": 49152})
    assert of is not None and (of.body, of.head) == (gpu_floors.BODY, gpu_floors.HEAD)
    known = gpu_floors.seconds("NVIDIA H200", [(1331.0, [50.0] * 8)] * 64)
    card = flops.card("NVIDIA H200")
    assert card is not None and flops.card("a CPU") is None
    found = flops.floors(of, flops.Load(64, 1331, 512, 50), *card)
    assert {part: found[part] for part in known} == pytest.approx(known)
    # benchmarks/gpu_step.md has 0.193 s for the rollout; the lengths that it prints are rounded.
    assert found["gen"] == pytest.approx(0.193, abs=0.003)
    assert flops.shape({"hidden_size": 8}) is None


def test_active_experts_count() -> None:
    """The nano policy: two of four experts of 256 and the router, by hand."""
    config = {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2}
    config |= {"head_dim": 64, "intermediate_size": 512, "moe_intermediate_size": 256, "num_experts_per_tok": 2}
    of = flops.shape(config | {"num_local_experts": 4, "vocab_size": 6144})
    assert of is not None and of.body == 6 * (2 * 256 * 256 + 2 * 256 * 128 + 2 * 3 * 256 * 256 + 256 * 4)


def test_a_number_without_a_source_is_named() -> None:
    """No source, or one that is not there; a blank cell needs none."""
    known = {("run", "a/scores.json")}
    cells = [
        {"key": "good", "value": 1.0, "sources": [{"run": "run", "file": "a/scores.json"}]},
        {"key": "none", "value": 1.0, "sources": []},
        {"key": "gone", "value": 0.0, "sources": [{"run": "run", "file": "b/scores.json"}]},
        {"key": "blank", "value": None, "sources": []},
    ]
    assert list(sources.without_source({"rows": cells}, known)) == ["none", "gone"]


def test_differences_name_their_place() -> None:
    """CSV by line and column, JSON by key, pages by line and the cell before."""
    assert difference.describe("a.csv", "x,y\n1,2\n", "x,y\n1,3\n") == "a.csv: line 2 (1 3), y: '2', expected '3'"
    assert "2 lines, expected 3" in difference.describe("a.csv", "x,y\n1,2\n", "x,y\n1,2\n3,4\n")
    found = difference.describe("a.json", '{"r": [{"key": "k", "v": 1}]}', '{"r": [{"key": "k", "v": 2}]}')
    assert found == "a.json: r[k].v: '1', expected '2'"
    assert "line 1" in difference.describe("a.json", "{", '{"r": 1}')
    page = '<p>x</p>\n<td data-key="nano.table10.base.avg"><b>{}</b></td>\n'
    found = difference.describe("a.html", page.format("41.3"), page.format("41.2"))
    assert "line 2, at or after nano.table10.base.avg" in found and "41.3" in found and "41.2" in found
