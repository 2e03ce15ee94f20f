"""`qwenlong evaluate rescore`: many files of stored predictions in one process, for what checks them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwenlong.core.console import reported

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qwenlong.evaluation.interface import Item


def rescore(
    jobs: Annotated[
        Path,
        typer.Argument(
            metavar="JOBS.jsonl",
            help="a line each: benchmark, examples, predictions, out, seed; config and judgements where there are any",
        ),
    ],
) -> None:
    """Score stored predictions again, by the rules and with what a judge said before; asks nobody.

    Each job's `out` holds the scores, or {"error": …} where its files cannot be scored; examples are read once.
    """
    from qwenlong.core.errors import QwenlongError
    from qwenlong.core.files import write_json

    with reported():
        loaded: dict[tuple[str, str, str], Sequence[Item]] = {}
        for number, line in enumerate(jobs.read_text(encoding="utf-8").splitlines(), 1):
            job = _job(line, f"{jobs}, line {number}")
            try:
                value = _scores(job, loaded)
            except QwenlongError as error:
                value = {"error": str(error)}
            write_json(job["out"], value)


def _job(line: str, where: str) -> dict[str, Any]:
    from qwenlong.core.errors import DataError

    try:
        job = json.loads(line)
        missing = {"benchmark", "examples", "predictions", "out", "seed"} - set(job)
    except (ValueError, TypeError) as error:
        raise DataError(f"{where} is no JSON object ({error}); write one job a line") from error
    if missing:
        raise DataError(f"{where} lacks {', '.join(sorted(missing))}; see `qwenlong evaluate rescore --help`")
    return dict(job)


def _scores(job: dict[str, Any], loaded: dict[tuple[str, str, str], Sequence[Item]]) -> dict[str, Any]:
    from qwenlong.core.config import Config
    from qwenlong.core.config_files import load
    from qwenlong.evaluation import predictions, scoring
    from qwenlong.evaluation.registry import find
    from qwenlong.evaluation.score_command import Source, judge

    config = load(job["config"]) if job.get("config") else Config()
    benchmark = find(job["benchmark"]).configured(config.evaluation)
    examples, said = Path(job["examples"]), job.get("judgements")
    key = (benchmark.name, str(examples), str(job.get("config")))
    if key not in loaded:
        loaded[key] = benchmark.load(examples, None)
    stored = predictions.read(Path(job["predictions"]))
    answered = predictions.match(loaded[key], stored.predictions, stored)
    found, _ = judge(benchmark, answered, Source(examples, stored.path, Path(said) if said else None))
    return scoring.scores(benchmark, answered, job["seed"], found)
