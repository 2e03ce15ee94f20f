"""The audit of a results folder: report, tables, metrics and curves, the same bytes for the same files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qwenlong.audit import assumptions, chain, checks, curves, exports, merge_figures, merges, tables
from qwenlong.audit.results import Scores, read_metrics, read_similarity, sidecars
from qwenlong.core import config_files
from qwenlong.core.config import MODELS, RL_STAGES, AblationRow, Config
from qwenlong.core.errors import DataError
from qwenlong.core.files import dump_json, read_json, read_jsonl, read_parquet, write_text
from qwenlong.core.published import load
from qwenlong.core.records import TASKS, Prediction, Sample
from qwenlong.datacard import page as cards
from qwenlong.datacard.figures import embedded

#: Characters of a response or question shown; more is said to be cut.
SHOWN = 900
#: Counts that stages write, with their titles, in the order of the pipeline.
COUNTS = (
    ("Corpus", "corpus/corpus.json"),
    ("Synthesis", "synthesis/funnel.json"),
    ("Verification", "verification/verification.json"),
    ("Difficulty (base model)", "difficulty/difficulty.json"),
    ("Bins", "bins/bins.json"),
    *((f"Selection before {name}", f"stages/{name}/score/score.json") for name in RL_STAGES),
)


@dataclass(frozen=True)
class Counts:
    """One stage's counts as the report shows them: single values, and matrices of what has the same keys."""

    title: str
    values: list[tuple[str, Any]]
    matrices: list[tuple[str, list[str], list[tuple[str, list[Any]]]]]


@dataclass(frozen=True)
class Merge:
    """The recipe's merge with its figures (title, image, note), and other merges: name, settings, report, command."""

    report: merges.MergeReport | None
    command: str
    figures: list[tuple[str, str, str]]
    others: list[tuple[str, str, merges.MergeReport | None, str]]


@dataclass(frozen=True)
class Example:
    """One held-out question with the responses of two models."""

    task: str
    question: str
    answers: str
    responses: list[tuple[str, str, str, float | None]]


def build(results: Path, config: Config, config_file: str, out: Path) -> list[Path]:
    """Write the audit of `results` to `out` and return the files. Raises DataError when there is no such folder."""
    if not results.is_dir():
        raise DataError(f"no results in {results}; run `snakemake --cores all`, or give the folder with --results")
    config_file = _relative(config_file)
    published = load()
    evaluations = tables.Evaluations(results, config, config_file)
    table10 = tables.table10(evaluations, published)
    ablations = tables.ablations(evaluations, config, published)
    claims = checks.check_all(evaluations, config, published)
    links = chain.links(sidecars(results), results, config.run.results)
    assumed = assumptions.listing(config)
    stages = {n: read_metrics(results / "stages" / n / "policy" / "metrics.jsonl") for n in RL_STAGES}
    rows = [row.name for row in config.ablations.rows if isinstance(row, AblationRow)]
    trained = {n: read_metrics(results / "ablations" / n / "policy" / "metrics.jsonl") for n in rows}
    drawn = stages | {f"ablation {name}": metrics for name, metrics in trained.items()}
    figures = [
        ("Training along the recipe", curves.training(stages, config), "Green: the AEPO band of the stage. Red: steps "
         "whose negative gradients were masked; below, the share of rollouts that this took out. Dashed: naive GRPO "
         "from the base model. Entropy and mask have the shape of Figure 11."),
        ("Reward by task", curves.by_task(stages, "reward/{}/mean"), "Mean reward of the rollouts of a step, by task."),
        ("Spread of rewards by task", curves.by_task(stages, "reward/{}/std"), "Sample standard deviation of the "
         "rewards of a step, by task: what task-level advantages divide by."),
        ("Response length by task", curves.by_task(stages, "response_length/{}/mean"), "Mean tokens of a rollout's "
         "responses, by task."),
        ("Entropy against gradient norm", curves.entropy_against_norm(drawn), "The shape of Figure 9, a point a step; "
         "hollow: negative gradients were masked. ρ is Spearman's; the paper has 0.96, without AEPO. Skipped steps "
         "have no gradient."),
        ("Ablations", curves.ablation_curves(trained), "Each row trained alone from the base model: the shape of "
         "Figures 8 and 10."),
    ]  # fmt: skip
    merge = _merge(results, config, config_file)
    alike = {n: read_similarity(results / "stages" / n / "policy" / "similarity.json") for n in RL_STAGES}
    values = {
        "similarity": {n: [asdict(entry) for entry in entries] for n, entries in alike.items() if entries},
        "run": {"name": config.run.name, "seed": config.run.seed, "config": config_files.digest(config)[:12]},
        "table10": table10.as_json(),
        "ablations": [table.as_json() for table in ablations],
        "merge": None if merge.report is None else merge.report.as_json(),
        "merges": {name: report.as_json() for name, _, report, _ in merge.others if report is not None},
        "claims": [check.as_json() for check in claims],
        "assumptions": [{"key": a.key, "value": _plain(a.value), "text": a.text} for a in assumed],
        "provenance": [link.as_json() for link in links],
    }
    page = _page(
        config=config,
        digest=config_files.digest(config)[:12],
        command=f"qwenlong audit report --results {config.run.results} --config {config_file}",
        headline=_headline(evaluations),
        table10=table10,
        ablations=ablations,
        claims=claims,
        verdicts={name: sum(c.verdict == name for c in claims) for name in _VERDICTS},
        figures=[(title, embedded(svg), note) for title, svg, note in figures if svg is not None],
        merge=merge,
        alike={name: entries for name, entries in alike.items() if entries},
        card=_card(results),
        counts=list(_counts(results)),
        examples=list(_examples(results, config, evaluations)),
        links=links,
        assumptions=[(a.key, _plain(a.value), a.text) for a in assumed],
        published=published,
        tasks=TASKS,
        attempted=_attempted(evaluations),
    )
    files = {"report.html": page, "tables.json": dump_json(values), "table10.md": _markdown(table10, ablations)}
    files |= {"metrics.json": dump_json(exports.metrics(table10)), "curves.csv": exports.curves(stages)}
    for name, text in files.items():
        write_text(out / name, text)
    return [out / name for name in files]


_VERDICTS = {
    "seen": "as claimed, beyond noise",
    "leaning": "as claimed, within noise",
    "against": "not as claimed, within noise",
    "contradicted": "opposite, beyond noise",
    "not measured": "not measured here",
}


def _relative(path: str) -> str:
    """Return a path from the working directory where it lies under it: reports travel, machines' folders do not."""
    full = Path(path).resolve()
    return full.relative_to(Path.cwd()).as_posix() if full.is_relative_to(Path.cwd()) else path


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _markdown(table10: tables.ResultTable, ablations: list[tables.ResultTable]) -> str:
    blocks = [f"# {t.title} ({t.name})\n\n{tables.markdown(t)}" for t in (table10, *ablations)]
    head = "In percent, 95% interval, n items. The paper's numbers are of other models and benchmarks.\n\n"
    return head + "\n".join(blocks)


def _headline(evaluations: tables.Evaluations) -> list[tuple[str, str, str]]:
    """Return the figures on top: label, value, what it was before."""
    shown = []
    for label, column in (("Full context, average", "avg"), ("Memory agent, average", "memory_agent")):
        first, last = evaluations.cell("base", column), evaluations.cell("rl_4", column)
        if last.value is not None:
            before = "" if first.value is None else f"base model {first.value:.1f}"
            shown.append((label, f"{last.value:.1f}", before))
    return shown


def _attempted(evaluations: tables.Evaluations) -> list[tuple[str, str, Scores]]:
    found = []
    for agent in (False, True):
        for model in MODELS:
            scores = evaluations.scores(model, agent=agent)
            if scores is not None:
                found.append((model, scores.benchmark, scores))
    return found


def _card(results: Path) -> str:
    """Return the data card as a section; empty where there is none yet."""
    file = results / "data_card" / "card.json"
    return cards.section(cards.load(file)) if file.is_file() else ""


def _merge(results: Path, config: Config, config_file: str) -> Merge:
    command = f"snakemake --cores all --configfile {config_file}"
    report = merges.read(results, "models/sce_merge")
    drawn = [] if report is None else [
        ("Coefficients by layer", merge_figures.coefficients(report), "The weight of each expert; line: median over "
         "the matrices of a layer, band: lowest to highest."),
        ("Shares by layer", merge_figures.shares(report), "In percent, means by parameters. Shares that are the same "
         "everywhere are not drawn."),
    ]  # fmt: skip
    others = [
        (
            row.name,
            merges.described(row),
            merges.read(results, f"ablations/{row.name}/model"),
            f"{command} {config.run.results}/ablations/{row.name}/model",
        )
        for row in config.ablations.merges
    ]
    figures = [(title, embedded(image), note) for title, image, note in drawn if image is not None]
    return Merge(report, f"{command} merge", figures, others)


def _is_leaf(value: Any) -> bool:
    return isinstance(value, Mapping) and not any(isinstance(v, Mapping) for v in value.values())


def _leaves(value: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    for key, inner in value.items():
        if _is_leaf(inner):
            yield (*path, str(key)), inner
        elif isinstance(inner, Mapping):
            yield from _leaves(inner, (*path, str(key)))


def _counts(results: Path) -> Iterator[Counts]:
    """Yield what each stage counted, whatever its keys: dictionaries of the same level become one matrix."""
    for title, name in COUNTS:
        file = results / name
        value = read_json(file) if file.is_file() else None
        if not isinstance(value, Mapping):
            continue
        single = [(str(k), v) for k, v in value.items() if not isinstance(v, (Mapping, list))]
        matrices = []
        for key, inner in value.items():
            if not isinstance(inner, Mapping) or not inner:
                continue
            leaves = [((), inner)] if _is_leaf(inner) else list(_leaves(inner, ()))
            names = dict.fromkeys(str(c) for _, leaf in leaves for c in leaf)
            # JSON's keys are sorted; a funnel reads from what went in to what came out.
            columns = sorted(names, key=lambda name: (name == "kept") - (name == "candidates"))
            body = [(" / ".join(path) or "all", [leaf.get(c, "") for c in columns]) for path, leaf in leaves]
            matrices.append((str(key), columns, body))
        yield Counts(title, single, matrices)


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text) - SHOWN} more characters)"


def _examples(results: Path, config: Config, evaluations: tables.Evaluations) -> Iterator[Example]:
    """Yield the first held-out question of each task with the responses of the base and the last model there is."""
    benchmark = tables.HELDOUT if tables.HELDOUT in config.evaluation.benchmarks else ""
    source = results / "synthesis" / f"{benchmark}.parquet"
    present = [m for m in MODELS if (results / "evaluation" / m / benchmark / "predictions.jsonl").is_file()]
    if not source.is_file() or not present:
        return
    chosen = list(dict.fromkeys([present[0], present[-1]]))
    said: dict[str, dict[str, Prediction]] = {}
    for model in chosen:
        file = results / "evaluation" / model / benchmark / "predictions.jsonl"
        said[model] = {prediction.id: prediction for prediction in read_jsonl(file, Prediction)}
    first: dict[str, Sample] = {}
    for sample in read_parquet(source, Sample):
        if all(sample.id in predictions for predictions in said.values()):
            first.setdefault(sample.task, sample)
    for task in sorted(first):
        sample = first[task]
        rows = []
        for model in chosen:
            prediction, scores = said[model][sample.id], evaluations.scores(model)
            value = None if scores is None else scores.items.get(task, {}).get(sample.id)
            rows.append((model, _cut(prediction.response), prediction.finish_reason, value))
        yield Example(task, _cut(sample.question), " · ".join(sample.answers), rows)


def _page(**values: Any) -> str:
    environment = cards.environment(Path(__file__).parent / "pages")
    environment.filters["setting"] = merges.shown
    return environment.get_template("report.html.j2").render(verdict_texts=_VERDICTS, **values) + "\n"
