"""What stands between a model and the official harness, which evaluates what it is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwenlong.core.config import EvaluationConfig
from qwenlong.core.errors import UsageError
from qwenlong.evaluation.bfcl import official
from qwenlong.evaluation.bfcl.official_driver import UNKNOWN, computes, harmless
from qwenlong.evaluation.registry import find

KNOWN = frozenset({"core_memory_add", "memory_append"})


@pytest.mark.parametrize(
    "call",
    [
        "core_memory_add(key=open(file='x', mode='w'), value='y')",
        "core_memory_add(key='a', value=__import__('os').system('id'))",
        "core_memory_add(key='a', value=f'{exit()}')",
        "core_memory_add(key='a', value=[x for x in y])",
        "core_memory_add('a', 'b')",
        "core_memory_add(**{'key': 'a'})",
        "core_memory_add(key=name, value='b')",
        "print(x='y')",
        "importlib.import_module(name='os')",
        "core_memory_add.__globals__.get(k='x')",
        "(lambda: 0)()",
        "'no call'",
        "no Python",
        "",
        "f(" * 5000,
    ],
)
def test_what_is_no_call_of_a_known_function_with_literals_is_replaced(call: str) -> None:
    assert harmless([call], KNOWN) == [UNKNOWN]


def test_calls_with_literals_stay_as_they_are() -> None:
    calls = ["core_memory_add(key='a', value='exit() or 1 + 1')", "memory_append(text=['x', -1, {'a': None}])"]
    assert harmless(calls, KNOWN) == calls


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("[f(a=1 + 1)]", True),
        ("f(a='x' * 9**9)", True),
        ("```\n[f(a=lambda: 0)]\n```", True),
        ("[f(a=-1, b=['x'])]", False),
        ("'word'", False),
        ("Seattle", False),
    ],
)
def test_what_the_harness_would_compute_is_seen(message: str, told: bool) -> None:
    assert computes(message) is told


def test_an_environment_without_the_harness_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"bfcl_environment = .*scripts/bfcl_env\.sh install"):
        find("bfcl_v4_memory_kv").configured(EvaluationConfig(bfcl_environment=str(tmp_path)))


def test_without_an_environment_nothing_changes() -> None:
    benchmark = find("bfcl_v4_memory_vector")
    assert benchmark.configured(EvaluationConfig()) == benchmark


def test_ids_of_the_harness() -> None:
    assert official.official_id("memory_0-customer-0", "rec_sum") == "memory_rec_sum_0-customer-0"
