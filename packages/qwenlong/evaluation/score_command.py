"""`qwenlong evaluate score`: from stored predictions to scores, with a judge where a rule needs one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwenlong.core.console import reported
from qwenlong.core.errors import QwenlongError, UsageError
from qwenlong.evaluation.printing import print_scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qwenlong.core.config import Config, EndpointConfig
    from qwenlong.evaluation.interface import Benchmark
    from qwenlong.evaluation.judging import Judgements
    from qwenlong.evaluation.predictions import Answered

#: Ids that a message names before it only counts.
_NAMED = 5


def score(
    benchmark: Annotated[str, typer.Argument(metavar="BENCHMARK", help="see `qwenlong evaluate list`")],
    examples: Annotated[Path, typer.Option(help="the benchmark's items, as given to run")],
    predictions: Annotated[Path, typer.Option(help="predictions.jsonl")],
    out: Annotated[Path, typer.Option(help="scores.json to write; judgements.jsonl goes beside it")],
    judge_url: Annotated[str | None, typer.Option(help="the judge's address, up to and with /v1")] = None,
    judge_model: Annotated[str | None, typer.Option(help="the judge's name there")] = None,
    judge_api_key_env: Annotated[str | None, typer.Option(help="environment variable that holds its key")] = None,
    no_judge: Annotated[bool, typer.Option("--no-judge", help="score by the rules alone")] = False,
    judgements: Annotated[Path | None, typer.Option(help="judgements.jsonl: what a judge said before")] = None,
    config: Annotated[Path | None, typer.Option(help="configuration file; its llm.evaluation_judge is asked")] = None,
    state: Annotated[Path | None, typer.Option(help="folder for resuming; default: <results>/state/judge")] = None,
    seed: Annotated[int | None, typer.Option(help="seed of the bootstrap; default: run.seed")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Score stored predictions again, without the model that made them."""
    from qwenlong.core.config import Config
    from qwenlong.core.config_files import load
    from qwenlong.evaluation.registry import find

    with reported():
        chosen = find(benchmark)
        settings = load(config) if config is not None else Config()
        given = [judge_url is not None or judge_model is not None, no_judge, judgements is not None]
        if sum(given) > 1:
            raise UsageError("--judge-url, --no-judge and --judgements exclude each other; give one of them")
        asked = None if no_judge or judgements else _endpoint(settings, judge_url, judge_model, judge_api_key_env)
        source = Source(examples, predictions, judgements, asked, state or Path(settings.run.results) / "state/judge")
        scores = score_files(chosen, source, out, settings.run.seed if seed is None else seed, quiet=no_judge)
        print_scores(scores, as_json)
        complete(scores)


@dataclass(frozen=True)
class Source:
    """What is scored, and who judges it: an endpoint, a file of judgements, or nobody."""

    examples: Path
    predictions: Path
    judgements: Path | None = None
    endpoint: EndpointConfig | None = None
    state: Path | None = None
    """Folder of the judge's journals and replies; needed with an endpoint."""


def _endpoint(config: Config, url: str | None, model: str | None, key: str | None) -> EndpointConfig | None:
    from qwenlong.core.config import EndpointConfig

    if url is None and model is None:
        if key is not None:
            raise UsageError(f"--judge-api-key-env {key} needs --judge-url and --judge-model")
        return config.llm.evaluation_judge
    if url is None or model is None:
        missing = "--judge-url" if url is None else "--judge-model"
        raise UsageError(f"--judge-url and --judge-model belong together; add {missing}")
    return EndpointConfig(base_url=url, model=model, api_key_env=key)


def score_files(benchmark: Benchmark, source: Source, out: Path, seed: int, quiet: bool = False) -> dict[str, Any]:
    """Score a file of predictions, write scores.json (and judgements.jsonl where a judge was asked), return the scores.

    What is missing, and a headline rule without its judge, is said on stderr; `quiet` where no judge is wanted. Raises
    DataError as reading and matching do, QwenlongError when another process asks the same judge the same.
    """
    from qwenlong.core import provenance
    from qwenlong.core.files import write_json
    from qwenlong.evaluation import judging, predictions, scoring

    items = benchmark.load(source.examples, None)
    stored = predictions.read(source.predictions)
    answered = predictions.match(items, stored.predictions, stored)
    _tell_missing(answered)
    found, journal = judge(benchmark, answered, source)
    if found is None and benchmark.headline in benchmark.judge_rules and not quiet:
        rule = scoring.headline(benchmark, judged=False)
        _note(f"no judge was asked, so the headline is {rule}, not {benchmark.headline}; name one with --judge-url")
    scores = scoring.scores(benchmark, answered, seed, found)
    inputs = {"examples": source.examples, "predictions": source.predictions}
    written = [out]
    if source.judgements is not None:
        inputs["judgements"] = source.judgements
    elif found is not None:
        written.append(judgements_file(out))
        judging.write(written[-1], found)
    write_json(out, scores)
    used = {"judge": None if source.endpoint is None else source.endpoint.model_dump(mode="json")}
    digests = provenance.Digests(inputs)
    for file in written:
        provenance.sidecar(file, inputs=digests, config=used, packages=("evaluation", "rewards"), seed=seed)
    if journal is not None and not scores["judge"]["failed"]:
        # With failures it stays: the same command then asks only for what is missing.
        journal.unlink(missing_ok=True)
    return scores


def judgements_file(scores: Path) -> Path:
    """Return where the judgements behind a scores file stand."""
    return scores.with_name("judgements.jsonl" if scores.name == "scores.json" else f"{scores.stem}.judgements.jsonl")


def judge(benchmark: Benchmark, answered: Sequence[Answered], source: Source) -> tuple[Judgements | None, Path | None]:
    """Return what the judge says of the answers, none where nobody is asked, and the journal of its replies."""
    from qwenlong.core.files import digest_path, digest_value
    from qwenlong.evaluation import judging

    if not benchmark.judge_rules or (source.endpoint is None and source.judgements is None):
        return None, None
    wanted = judging.questions(answered)
    if source.judgements is not None:
        return judging.read(source.judgements, wanted), None
    assert source.endpoint is not None and source.state is not None
    key = digest_value([digest_path(source.examples), digest_path(source.predictions), source.endpoint.model])
    journal = source.state / benchmark.name / f"{key[:24]}.jsonl"
    return judging.ask(wanted, source.endpoint, journal, source.state / "replies"), journal


def complete(scores: dict[str, Any]) -> None:
    """Raise QwenlongError (exit code 1) when the judge left answers without a reply; the scores are written."""
    lost = [row for row in scores["items"] if any(one["error"] in _failed() for one in (row["judge"] or {}).values())]
    if lost:
        raise QwenlongError(
            f"{len(lost)} of {scores['n_attempted']} responses have no score, because the judge gave no reply: "
            f"{_names([row['id'] for row in lost])} ({lost[0]['error']}). They count as judge_failed; with a judge "
            "that answers, the same command asks for them only"
        )


def _failed() -> frozenset[str]:
    from qwenlong.evaluation.judging import FAILED

    return FAILED


def _tell_missing(answered: Sequence[Answered]) -> None:
    missing = [name for one in answered for name, _, prediction in one.responses if prediction is None]
    if missing:
        n = sum(len(one.responses) for one in answered)
        _note(f"{len(missing)} of {n} responses are missing and count as wrong: {_names(missing)}")


def _names(ids: Sequence[str]) -> str:
    return ", ".join(ids[:_NAMED]) + (", …" if len(ids) > _NAMED else "")


def _note(text: str) -> None:
    typer.echo(f"note: {text}", err=True)
