"""Every benchmark against its authors' scorer: tests/parity/<benchmark>, made by scripts/parity/<benchmark>.py.

A line of cases.jsonl: {"id", "record": a published record, "response", "expected": {rule: value}, "source", "rule",
"trap", "wrong"}. The value of the rule "official" is the official scorer's output, or derived by hand from the rule
that the line quotes; `official_value` is the scorer's where ours differs on purpose, `deviation` why. `verdict_replies`
are the judge's replies by name of the ask, `sample` the number of the response. `wrong` names a plausible scorer in
wrong_<benchmark>.py that gives another value.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from qwenlong.evaluation.interface import Item
from qwenlong.evaluation.registry import BENCHMARKS, find
from qwenlong.rewards.judge import parse_verdict

PARITY = Path(__file__).resolve().parents[2] / "parity"
SCRIPTS = PARITY.parents[1] / "scripts" / "parity"
FOLDERS = sorted(file.parent.name for file in PARITY.glob("*/cases.jsonl"))
#: Our own samples have no other scorer; the rest are the records of a benchmark that has a folder, by length or tool.
ALIASES = ("heldout", "heldout_long", "mrcr_", "corpusqa_", "bfcl_v4_memory_vector", "bfcl_v4_memory_rec_sum")
LEAST, LEAST_WRONG, MOST_BY_HAND = 30, 5, 0.2


@cache
def cases(folder: str) -> list[dict[str, Any]]:
    """Return the cases of a folder."""
    text = (PARITY / folder / "cases.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


@cache
def wrong_scorers(folder: str) -> dict[str, Callable[[dict[str, Any], str], float]]:
    """Return the plausible wrong scorers of a benchmark: the module's only dict of functions, or its functions."""
    spec = importlib.util.spec_from_file_location(f"wrong_{folder}", PARITY / f"wrong_{folder}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tables = [v for v in vars(module).values() if isinstance(v, dict) and v and all(map(callable, v.values()))]
    assert len(tables) == 1, f"wrong_{folder}.py needs one dict of name -> function"
    return tables[0]


@pytest.fixture(scope="module")
def item(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, dict[str, Any]], Item]:
    """Return the item of a published record, read from a file as a benchmark's own file is."""
    known: dict[str, Item] = {}

    def load(folder: str, record: dict[str, Any]) -> Item:
        line = json.dumps(record)
        key = f"{folder} {line}"
        if key not in known:
            file = tmp_path_factory.mktemp("record") / "records.jsonl"
            file.write_text(line + "\n")
            (known[key],) = find(folder).load(file, None)
        return known[key]

    return load


def values(item: Item, case: dict[str, Any]) -> dict[str, float]:
    """Return all rules' values of a case, with the judge's where it replies or a rule of its own is expected."""
    asked = item.variant(case.get("sample", 0))
    found = dict(asked.score(case["response"]))
    replies = case.get("verdict_replies", {})
    if replies or set(case["expected"]) - set(found):
        assert set(asked.asks(case["response"])) == set(replies), "the judge is asked something else"
        found |= asked.judged(found, {name: parse_verdict(reply) for name, reply in replies.items()})
    return found


@pytest.mark.parametrize(
    ("folder", "place"),
    [
        pytest.param(folder, n, id=f"{folder}-{case['id']}")
        for folder in FOLDERS
        for n, case in enumerate(cases(folder))
    ],
)
def test_a_case_has_the_expected_values(folder: str, place: int, item: Callable[[str, dict[str, Any]], Item]) -> None:
    """Our rules give what the authors' scorer gives, and the wrong scorer named gives something else."""
    case = cases(folder)[place]
    one = item(folder, case["record"])
    found = values(one, case)
    assert {rule: found[rule] for rule in case["expected"]} == pytest.approx(case["expected"], abs=1e-9)
    if case.get("wrong"):
        scorer = wrong_scorers(folder)[case["wrong"]["scorer"]]
        value = float(scorer(case["record"], case["response"]))
        assert value == pytest.approx(case["wrong"]["value"], abs=1e-9)
        assert value != pytest.approx(case["expected"]["official"], abs=1e-9)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_is_whole(folder: str) -> None:
    """Enough cases, few of them by hand, each with its rule; enough that a wrong scorer fails; the run is stated."""
    every = cases(folder)
    assert len(every) >= LEAST and len({case["id"] for case in every}) == len(every)
    by_hand = [case for case in every if case["source"] == "hand-derived"]
    official = [case for case in every if case["source"] == "official"]
    assert len(by_hand) + len(official) == len(every)
    assert len(by_hand) <= MOST_BY_HAND * len(every) and all(case["rule"].strip() for case in by_hand)
    known = {*find(folder).rules, *find(folder).judge_rules}
    assert all("official" in case["expected"] and set(case["expected"]) <= known for case in every)
    assert sum(bool(case.get("wrong")) for case in every) >= LEAST_WRONG
    assert len({case["expected"]["official"] for case in every}) > 1, "no scorer can fail on one value"
    assert all("official_value" in case for case in official if case.get("deviation"))
    assert all(case.get("deviation") for case in every if "official_value" in case)
    stated = json.loads((PARITY / folder / "official.json").read_text(encoding="utf-8"))
    assert stated["cases"] == len(official)
    assert re.fullmatch(r"[0-9a-f]{40}", stated["commit"]) and re.fullmatch(r"[0-9a-f]{64}", stated["output_sha256"])
    assert all(stated[name] for name in ("scorer", "path", "command", "environment"))
    script = re.search(r"scripts/parity/(\w+\.py)", stated["command"])
    assert script is not None and (SCRIPTS / script[1]).is_file()


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_stated_output_is_that_of_the_cases(folder: str) -> None:
    """The digest in official.json is that of id -> value as the scorer gave them: no value was mended after."""
    official = [case for case in cases(folder) if case["source"] == "official"]
    output = {case["id"]: case.get("official_value", case["expected"]["official"]) for case in official}
    stated = json.loads((PARITY / folder / "official.json").read_text(encoding="utf-8"))["output_sha256"]
    texts = [json.dumps(output, indent=indent, sort_keys=True) + "\n" for indent in (None, 0, 1, 2)]
    assert stated in [hashlib.sha256(text.encode()).hexdigest() for text in texts]


def test_every_benchmark_has_a_folder() -> None:
    """A benchmark is not registered without its cases, and no folder is left of one that is not."""
    named = {name for name in BENCHMARKS if not name.startswith(ALIASES)}
    assert named == set(FOLDERS)
