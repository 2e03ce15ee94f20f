"""The table of benchmarks: a new one is a file in evaluation/benchmarks with a tuple BENCHMARKS, and a line here."""

from __future__ import annotations

from qwenlong.core.errors import UsageError
from qwenlong.evaluation.benchmarks import (
    aime,
    bfcl_v4_memory,
    corpusqa,
    docmath,
    frames,
    gpqa_diamond,
    heldout,
    longbench_v1_qa,
    longbench_v2,
    longmemeval,
    mmlu_pro,
    mrcr,
    ruler,
)
from qwenlong.evaluation.interface import Benchmark

_MODULES = (
    aime,
    bfcl_v4_memory,
    corpusqa,
    docmath,
    frames,
    gpqa_diamond,
    heldout,
    longbench_v1_qa,
    longbench_v2,
    longmemeval,
    mmlu_pro,
    mrcr,
    ruler,
)

BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for module in _MODULES for benchmark in module.BENCHMARKS}


def find(name: str) -> Benchmark:
    """Return a benchmark. Raises UsageError naming the known ones."""
    if name not in BENCHMARKS:
        raise UsageError(f"no benchmark {name!r}; there are {', '.join(sorted(BENCHMARKS))}")
    return BENCHMARKS[name]
