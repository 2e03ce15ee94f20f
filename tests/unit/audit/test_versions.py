"""Inputs that the results of one run read in several versions."""

from types import SimpleNamespace
from typing import Any, cast

from qwenlong.audit.site import versions
from qwenlong.audit.site.runs import Run

SAMPLES, MODEL = "results/r/seed_1/bins/samples.parquet", "results/r/seed_1/models/base"


def run(sidecars: dict[str, Any], name: str = "r-s1") -> Run:
    return cast(Run, SimpleNamespace(name=name, sidecars=sidecars))


def reads(**inputs: Any) -> dict[str, Any]:
    return {"inputs": inputs}


def test_versions_of_a_file_are_told_with_what_read_them() -> None:
    one, other = {"path": SAMPLES, "digest": "a" * 64}, {"path": SAMPLES, "digest": "b" * 64}
    model = {"path": MODEL, "digest": "c" * 64}
    found = versions.several(
        [
            run(
                {
                    "stages/naive_grpo/policy": reads(samples=other, model=model),
                    "stages/rl_1/score/train.parquet": reads(samples=one, model=model),
                    "stages/rl_1/score/score.json": reads(samples=one, model=model),
                }
            )
        ]
    )
    assert [(v.run, v.file, v.digest, v.results) for v in found] == [
        ("r-s1", SAMPLES, "b" * 12, ("stages/naive_grpo/policy",)),
        ("r-s1", SAMPLES, "a" * 12, ("stages/rl_1/score/score.json", "stages/rl_1/score/train.parquet")),
    ]
    assert found[0].as_json()["key"] == f"r-s1:{SAMPLES}:{'b' * 12}"


def test_one_version_is_nothing_to_tell_and_runs_are_told_apart() -> None:
    one, other = {"path": SAMPLES, "digest": "a" * 64}, {"path": SAMPLES, "digest": "b" * 64}
    assert versions.several([run({"x": reads(samples=one), "y": reads(samples=one)})]) == []
    assert versions.several([run({"x": reads(samples=one)}), run({"x": reads(samples=other)}, "r-s2")]) == []


def test_lists_of_inputs_are_read_and_what_is_no_input_is_not() -> None:
    one, other = {"path": SAMPLES, "digest": "a" * 64}, {"path": SAMPLES, "digest": "b" * 64}
    found = versions.several([run({"x": reads(parts=[one, other]), "y": {"inputs": None}, "z": {}, "w": reads(n=3)})])
    assert [(v.digest[0], v.results) for v in found] == [("a", ("x",)), ("b", ("x",))]
