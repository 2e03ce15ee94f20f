"""BFCL memory's rule and records: golds score, others' golds do not, hostile text costs little, bad files are named."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from qwenlong.core.errors import DataError
from qwenlong.evaluation.benchmarks.bfcl_v4_memory import SCENARIOS, MemoryItem
from qwenlong.evaluation.bfcl import rule
from qwenlong.evaluation.registry import find

DATA = Path(__file__).parents[2] / "data" / "benchmarks" / "bfcl_v4_memory"
FILE = DATA / "BFCL_v4_memory.json"
NAMES = ("bfcl_v4_memory_kv", "bfcl_v4_memory_vector", "bfcl_v4_memory_rec_sum")


def load(name: str = NAMES[0]) -> list[MemoryItem]:
    return list(find(name).load(FILE, None))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_every_gold_scores_and_the_golds_of_others_do_not(name: str) -> None:
    """All 155 published questions, each of their golds, alone and in the form that is asked for."""
    items = load(name)
    assert len(items) == 155
    assert {item.group for item in items} == set(SCENARIOS) == set(find(name).groups)
    for item in items:
        for gold in item.golds:
            assert item.score(gold) == {"bounded": 1.0, "official": 1.0}
            assert item.score(f"<think>So.</think>{{'answer': '{gold}', 'context': 'said before'}}")["official"] == 1.0
    others = items.copy()
    random.Random(17).shuffle(others)
    right = sum(item.score(other.golds[0])["bounded"] for item, other in zip(items, others, strict=True))
    assert right / len(items) <= 0.03


@pytest.mark.parametrize("response", ["", " ", "[]", "I do not know", "<think>Michael", "[core_memory_retrieve_all()]"])
def test_what_is_no_answer_scores_nothing(response: str) -> None:
    assert load()[0].golds == ("Michael",)
    assert load()[0].score(response) == {"bounded": 0.0, "official": 0.0}


def test_hostile_text_of_ten_megabytes_costs_seconds_at_most() -> None:
    """No score raises, none is quadratic; what is no list of calls by its ends is not parsed."""
    item, size = load()[0], 10_000_000
    texts = {
        "opened calls": "f(" * (size // 2),
        "a list of calls": "[" + "f(a=1)," * (size // 7) + "]",
        "opened tags": "<tool_call>" * (size // 11),
        "closed tags": '<tool_call>{"name":"a"}</tool_call>' * (size // 35),
        "parts of the gold": "michae " * (size // 7),
        "thinking": "<think>" * (size // 7),
        "a call of blanks": "f(" + " " * size + ")",
        "zero bytes": "\0" * size,
        "surrogates": "\ud800" * size,
    }
    for name, text in texts.items():
        began = time.process_time()
        assert item.score(text) == {"bounded": 0.0, "official": 0.0}, name
        assert time.process_time() - began < 5, name
    assert item.score("no " * (size // 3) + "Michael") == {"bounded": 0.0, "official": 1.0}


def test_golds_in_the_records_need_no_other_file(tmp_path: Path) -> None:
    record = json.loads(FILE.read_text().splitlines()[0]) | {"ground_truth": ["Ada"]}
    (tmp_path / "one.jsonl").write_text(json.dumps(record))
    (item,) = find(NAMES[0]).load(tmp_path / "one.jsonl", None)
    assert (item.id, item.score("Ada!")["official"]) == ("memory_0-customer-0", 1.0)


def test_the_other_files_may_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    (tmp_path / FILE.name).write_bytes(FILE.read_bytes())
    assert len(find(NAMES[0]).load(tmp_path / FILE.name, DATA)) == 155


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scenario": "../../etc"}, "scenario"),
        ({"question": []}, "question"),
        ({"question": [[], []]}, "memory_0-customer-0 has 2 turns"),
        ({"ground_truth": []}, "ground_truth"),
        ({"ground_truth": ["-.-"]}, "nothing but marks"),
        ({"id": ""}, "id"),
    ],
)
def test_bad_records_are_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    record = json.loads(FILE.read_text().splitlines()[0]) | {"ground_truth": ["Ada"]} | change
    (tmp_path / "bad.jsonl").write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"bad\.jsonl") as caught:
        find(NAMES[0]).load(tmp_path / "bad.jsonl", None)
    assert said in str(caught.value)


def test_missing_golds_and_double_ids_are_named(tmp_path: Path) -> None:
    lines = FILE.read_text().splitlines()
    file = tmp_path / FILE.name
    file.write_text("\n".join(lines[:2]))
    with pytest.raises(DataError, match="possible_answer"):
        find(NAMES[0]).load(file, None)
    (tmp_path / "possible_answer").mkdir()
    (tmp_path / "possible_answer" / FILE.name).write_text('{"id": "memory_0-customer-0", "ground_truth": ["x"]}')
    with pytest.raises(DataError, match="memory_1-customer-1 has no gold"):
        find(NAMES[0]).load(file, None)
    file.write_text("\n".join([lines[0], lines[0]]))
    with pytest.raises(DataError, match="stands twice"):
        find(NAMES[0]).load(file, None)


@pytest.mark.parametrize(
    ("message", "gold", "right"),
    [
        ("4999", "49.99", True),
        ("138-85", "138/85", True),
        ("138 / 85", "138/85", False),
        ("35.0", "35", False),
        ("135", "35", False),
        ("frothing-pitcher", "frothing pitcher", False),
        ("Levi's", 'levi"s', True),
    ],
)
def test_marks_go_and_blanks_stay(message: str, gold: str, right: bool) -> None:
    assert rule.found(message, [gold]) is right
