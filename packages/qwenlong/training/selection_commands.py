"""`qwenlong train tokenizer | base | verify | difficulty | bins | select`: from the corpus to a stage's data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwenlong.core.console import print_result

if TYPE_CHECKING:
    from qwenlong.core.config import Config
    from qwenlong.core.records import Document, Sample
    from qwenlong.core.tracking import Run

app = typer.Typer(help="Tokenizer, base model, selection of samples, RL stages.", no_args_is_help=True)

ConfigFile = Annotated[Path, typer.Option(help="Configuration file.")]
Samples = Annotated[Path, typer.Option(help="Samples (Parquet of Sample).")]
Documents = Annotated[Path, typer.Option(help="Their documents (Parquet of Document).")]
Model = Annotated[Path, typer.Option(help="Hugging Face directory of the model that answers.")]
OutFolder = Annotated[Path, typer.Option(help="Folder to write.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command()
def tokenizer(
    config: ConfigFile,
    corpus: Annotated[Path, typer.Option(help="Folder of the corpus (documents.parquet).")],
    out: OutFolder,
    as_json: Json = False,
) -> None:
    """Train the nano model's tokenizer on the corpus, or copy the one of the configured base model."""
    from qwenlong.core import provenance
    from qwenlong.core.files import read_parquet
    from qwenlong.core.records import Document
    from qwenlong.core.tokens import Tokenizer
    from qwenlong.training import tokenizer as work

    with _stage(config, "tokenizer") as (settings, run):
        work.build(settings, read_parquet(corpus / "documents.parquet", Document), out)
        made = Tokenizer(out)
        result = {"entries": made.vocabulary_size, "digest": made.digest}
        provenance.sidecar(
            out,
            inputs={"corpus": corpus / "documents.parquet"},
            config={"base": settings.base.model_dump(mode="json")},
            packages=["training.tokenizer"],
            seed=settings.run.seed,
            extra=result,
        )
        run.log_metrics({"entries": made.vocabulary_size})
    print_result(result, f"tokenizer of {made.vocabulary_size} entries in {out}", as_json)


@app.command()
def base(
    config: ConfigFile,
    samples: Samples,
    documents: Documents,
    tokenizer: Annotated[Path, typer.Option(help="Tokenizer directory.")],
    out: OutFolder,
    as_json: Json = False,
) -> None:
    """Make the base model: initialise and warm up the nano model, or take the configured one."""
    from qwenlong.core import provenance
    from qwenlong.training import base as work

    with _stage(config, "base") as (settings, run):
        kept, corpus = _read(samples, documents)
        report = work.make(settings, tokenizer, out, kept, corpus, run.log_metrics)
        provenance.sidecar(
            out,
            inputs={"samples": samples, "documents": documents, "tokenizer": tokenizer},
            config={"base": settings.base.model_dump(mode="json")},
            packages=["training", "synthesis", "inference"],
            seed=settings.run.seed,
        )
    print_result(report, f"{report['kind']} base model, {report['parameters']:,} parameters, in {out}", as_json)


@app.command()
def verify(
    config: ConfigFile, samples: Samples, documents: Documents, model: Model, out: OutFolder, as_json: Json = False
) -> None:
    """Drop samples that the model answers without documents; measure robustness to more of them."""
    from qwenlong.training import verify as work

    with _stage(config, "verification") as (settings, run):
        asked, corpus = _read(samples, documents)
        generator, tokens, sampling, limit = _model(settings, model, "verification")
        kept, report = work.verify(
            asked, corpus, generator, tokens, sampling, settings.selection,
            max_input_tokens=limit, seed=settings.run.seed, model=model.name,
        )  # fmt: skip
        inputs = {"samples": samples, "documents": documents, "model": model}
        _write(out, "verification", kept, report, settings, inputs, run)
    print_result(report, f"{len(kept)} of {len(asked)} samples kept -> {out}", as_json)


@app.command()
def difficulty(
    config: ConfigFile, samples: Samples, documents: Documents, model: Model, out: OutFolder, as_json: Json = False
) -> None:
    """Measure pass@k of the model on every sample."""
    from qwenlong.training import difficulty as work

    with _stage(config, "difficulty") as (settings, run):
        asked, corpus = _read(samples, documents)
        generator, tokens, sampling, limit = _model(settings, model, "difficulty")
        scored = work.pass_at_k(
            asked, corpus, generator, tokens, sampling,
            k=settings.selection.k, max_input_tokens=limit, seed=settings.run.seed, model=model.name,
        )  # fmt: skip
        report = work.summary(scored)
        inputs = {"samples": samples, "documents": documents, "model": model}
        _write(out, "difficulty", scored, report, settings, inputs, run)
    print_result(report, f"mean reward {report['mean']:.3f} over {report['n']} samples -> {out}", as_json)


@app.command()
def bins(config: ConfigFile, samples: Samples, out: OutFolder, as_json: Json = False) -> None:
    """Keep the same number of samples from each difficulty bin, per source."""
    from qwenlong.core.files import read_parquet
    from qwenlong.core.records import Sample
    from qwenlong.training import bins as work

    with _stage(config, "bins") as (settings, run):
        scored = read_parquet(samples, Sample)
        chosen = settings.selection
        kept, report = work.balance(scored, chosen.bins, chosen.per_bin, chosen.min_per_bin, settings.run.seed)
        result = {"n": len(kept), "of": len(scored), "sources": report}
        _write(out, "bins", kept, result, settings, {"samples": samples}, run)
    print_result(result, f"{len(kept)} of {len(scored)} samples kept -> {out}", as_json)


@app.command()
def select(
    config: ConfigFile,
    stage: Annotated[str, typer.Option(help="rl_1, rl_2, rl_3 or rl_4")],
    samples: Samples,
    documents: Documents,
    model: Model,
    out: OutFolder,
    as_json: Json = False,
) -> None:
    """Score the data under a stage's limits by the model that enters it; drop the solved, carry hard ones along."""
    from dataclasses import asdict

    from qwenlong.core.config import SCORED_STAGES
    from qwenlong.core.errors import DataError, UsageError
    from qwenlong.inference.sampling import Sampling
    from qwenlong.training import curriculum
    from qwenlong.training import difficulty as work

    if stage not in SCORED_STAGES:
        raise UsageError(f"--stage = {stage!r}; data is selected for {', '.join(SCORED_STAGES)}")
    with _stage(config, f"score_{stage[-1]}") as (settings, run):
        asked, corpus = _read(samples, documents)
        limits = settings.stage(stage)
        fitting = [sample for sample in asked if sample.n_tokens <= limits.max_input_tokens]
        if not fitting:
            raise DataError(
                f"{samples}: none of {len(asked)} samples fits {stage}'s max_input_tokens = "
                f"{limits.max_input_tokens}; raise it, or lower synthesis.length_targets"
            )
        generator, tokens, _, _ = _model(settings, model, f"score_{stage[-1]}")
        sampling = Sampling(limits.max_output_tokens, limits.temperature, limits.top_p)
        scored = work.pass_at_k(
            fitting, corpus, generator, tokens, sampling,
            k=settings.selection.k, max_input_tokens=limits.max_input_tokens, seed=settings.run.seed, model=model.name,
        )  # fmt: skip
        # What fitted an earlier stage was that stage's data.
        before = [settings.stage(name).max_input_tokens for name in SCORED_STAGES if name < stage]
        earlier = {sample.id for sample in scored if before and sample.n_tokens <= max(before)}
        selection = curriculum.select(
            scored,
            earlier,
            solved_above=settings.selection.solved_above,
            carry_share=settings.selection.carry_share,
            seed=settings.run.seed,
        )
        report = {
            "stage": stage,
            "too_long": len(asked) - len(fitting),
            "difficulty": work.summary(scored),
            "selected": len(selection.samples),
            **{k: v for k, v in asdict(selection).items() if k != "samples"},
        }
        inputs = {"samples": samples, "documents": documents, "model": model}
        _write(out, "score", selection.samples, report, settings, inputs, run, file="train.parquet")
    print_result(report, f"{stage}: {len(selection.samples)} of {len(asked)} samples -> {out}", as_json)


@contextmanager
def _stage(config: Path, name: str) -> Iterator[tuple[Config, Run]]:
    """Load the configuration, register the process, open the MLflow run."""
    from qwenlong.core import config_files, processes, tracking

    settings = config_files.load(config)
    if not name.startswith("score_"):
        # What a stage trains on is the run's; all before it may be shared by runs of several seeds.
        settings = settings.for_data()
    with processes.register(Path(settings.run.results), name), tracking.stage(settings, name, {}) as run:
        yield settings, run


def _read(samples: Path, documents: Path) -> tuple[list[Sample], dict[str, Document]]:
    from qwenlong.core.errors import DataError
    from qwenlong.core.files import read_parquet
    from qwenlong.core.records import Document, Sample

    asked = read_parquet(samples, Sample)
    if not asked:
        raise DataError(f"{samples} holds no sample; run the stage that writes it again")
    return asked, {document.id: document for document in read_parquet(documents, Document)}


def _model(settings: Config, model: Path, name: str) -> tuple[Any, Any, Any, int]:
    """Return what answers for a job of that name, its tokenizer, sampling and prompt limit outside a stage."""
    from qwenlong.inference.sampling import Sampling

    chosen = settings.selection
    if chosen.server is None:
        from qwenlong.inference.engine import load_generator

        generator, tokens = load_generator(model, settings.engine.dtype)
    else:
        generator, tokens = _served(settings, model, name)
    sampling = Sampling(chosen.max_new_tokens, settings.training.temperature, settings.training.top_p)
    return generator, tokens, sampling, settings.base.window - chosen.max_new_tokens


def _served(settings: Config, model: Path, name: str) -> tuple[Any, Any]:
    """Return the model as `qwenlong serve NAME --model MODEL` serves it, and its tokenizer."""
    from qwenlong.core.config import EndpointConfig
    from qwenlong.core.config.services import PREFIX, instance
    from qwenlong.core.tokens import Tokenizer
    from qwenlong.corpus.folders import listing_digest
    from qwenlong.memory_agent.backends import label
    from qwenlong.training.served import Served

    chosen, results = settings.selection, Path(settings.run.results)
    server = str(chosen.server)
    endpoint = EndpointConfig(
        base_url=f"{PREFIX}{results}/state/services/{instance(server, str(model))}",
        model=settings.services[server].name or label(str(model)),
        concurrency=chosen.concurrency,
        timeout_seconds=chosen.timeout_seconds,
    )
    tokens = Tokenizer(model)
    journal = results / "state" / "selection" / f"{name}.jsonl"
    return Served(endpoint, tokens, journal, listing_digest(model)), tokens


def _write(
    out: Path,
    name: str,
    samples: list[Sample],
    report: dict[str, Any],
    settings: Config,
    inputs: dict[str, Path],
    run: Run,
    file: str = "samples.parquet",
) -> None:
    from qwenlong.core import provenance
    from qwenlong.core.files import write_json, write_parquet
    from qwenlong.core.records import Sample

    summary = out / f"{name}.json"
    write_parquet(out / file, samples, Sample)
    write_json(summary, report)
    for output in (out / file, summary):
        provenance.sidecar(
            output,
            inputs=inputs,
            config={"selection": settings.selection.model_dump(mode="json")},
            packages=["training", "rewards", "inference"],
            seed=settings.run.seed,
        )
    run.log_metrics({"samples": len(samples)})
    run.log_artifact(summary)
