"""From results folders to a bundle: what a number rests on, and nothing larger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwenlong.audit.bundles import carrying, layout, unfinished
from qwenlong.audit.bundles.foreign import taught_by_others
from qwenlong.audit.bundles.travelling import Travels
from qwenlong.core import config_files
from qwenlong.core.config import Config
from qwenlong.core.errors import DataError, UsageError
from qwenlong.core.files import atomic_directory, atomic_file, dump_json, read_json, sha256_file, write_json

#: Files of a results folder that are kept as they are, beside its evaluations.
KEPT = (
    "stages/*/policy/metrics.jsonl",
    "stages/*/policy/similarity.json",
    "stages/*/policy/stage.json",
    "stages/*/score/score.json",
    "ablations/*/policy/metrics.jsonl",
    "ablations/*/policy/similarity.json",
    "ablations/*/policy/stage.json",
    "ablations/*/model/MERGE.json",
    "models/*/MERGE.json",
    "models/*/config.json",
    "corpus/corpus.json",
    "synthesis/funnel.json",
    "data_card/card.json",
    "verification/verification.json",
    "difficulty/difficulty.json",
    "bins/bins.json",
    "benchmarks/**/*.tsv",
)
#: Sidecars, also of outputs that are too large or not part of a number; paths of the machine are taken out.
SIDECARS = (
    "models/*/provenance.json",
    "stages/*/policy/provenance.json",
    "ablations/*/policy/provenance.json",
    "ablations/*/model/provenance.json",
    "corpus/corpus.json.provenance.json",
    "synthesis/*.provenance.json",
    "data_card/card.json.provenance.json",
    "verification/verification.json.provenance.json",
    "difficulty/difficulty.json.provenance.json",
    "bins/*.provenance.json",
    "stages/*/score/*.provenance.json",
)
EVALUATIONS = ("evaluation/*/*", "ablations/*/evaluation/*")


@dataclass(frozen=True)
class Run:
    """A results folder with its configuration. `name` is that of its folder in the bundle; planned: nothing ran yet."""

    results: Path
    config: Config
    name: str
    scale: str
    planned: bool = False
    earlier: carrying.Earlier | None = None
    """What an earlier bundle has of it, which `results` is then."""


@dataclass
class Collected:
    """What became of a run: its record for bundle.json, and what was left out with the reason."""

    record: dict[str, Any]
    left_out: list[str] = field(default_factory=list)


def configuration(results: Path, given: Path | None) -> Config:
    """Return the configuration of a results folder, given or the one that the workflow left in it.

    Raises UsageError where there is none, or several.
    """
    if given is not None:
        return config_files.load(given)
    found = sorted((results / "state" / "configs").glob("*.yaml"))
    if len(found) > 1:
        # The one that the latest scores were made with: a run that went on under other settings leaves several.
        named = _last_used(results)
        found = [file for file in found if file.name == named]
    if len(found) != 1:
        raise UsageError(
            f"no configuration in {results} that is its own beyond doubt; name it with --config, one for each results "
            "folder in their order"
        )
    return config_files.load(found[0])


def _last_used(results: Path) -> str:
    """Return the file name of the configuration in the command of the latest scores; empty without any."""
    latest = ("", "")
    for pattern in EVALUATIONS:
        for file in results.glob(f"{pattern}/scores.json.provenance.json"):
            value = read_json(file)
            words = [str(word) for word in value.get("command") or ()]
            if "--config" in words[:-1]:
                used = Path(words[words.index("--config") + 1]).name
                latest = max(latest, (str(value.get("written", "")), used))
    return latest[1]


def _machines(results: Path) -> dict[str, Any]:
    """Return what a run's records say of its machines: cards, how many, cores; empty where they say nothing."""
    cards: dict[str, None] = {}
    counts, cores, bare = set(), set(), 0
    for file in sorted((results / layout.RECORDS).glob("environment-*.json")):
        value = read_json(file)
        gpus = value.get("gpus") or []
        cards |= dict.fromkeys(str(gpu).partition(",")[0].strip() for gpu in gpus)
        counts |= {len(gpus)} if gpus else set()
        cores |= {value["cores"]} if value.get("cores") else set()
        bare += not gpus
    most = {"cores": max(cores)} if cores else {}
    if not cards:
        return {"device": f"CPU, {max(cores)} cores", **most} if bare and cores else {}
    # Several kinds of cards: no floor is that of the run.
    many = {"devices": max(counts)} if len(counts) == 1 else {}
    return {"device": "; ".join(cards), **many, **most}


def runs(results: Sequence[Path], configs: Sequence[Path], planned: Sequence[Path] = ()) -> list[Run]:
    """Return the runs of results folders, and those that are only planned, in the order of scale, name and seed.

    A folder may be a bundle: its runs, but for those that a results folder has anew. Raises UsageError for a folder
    that is none, and for two runs of one name and seed.
    """
    bundles = [folder for folder in results if layout.is_bundle(folder)]
    results = [folder for folder in results if folder not in bundles]
    if configs and len(configs) != len(results):
        raise UsageError(f"{len(configs)} --config for {len(results)} results folders; give one for each, in order")
    found: dict[str, Run] = {}
    for place, folder in enumerate(results):
        if not folder.is_dir():
            raise UsageError(f"{folder} is no folder; give the run.results of a configuration, or a bundle")
        config = configuration(folder, configs[place] if configs else None)
        name = f"{config.run.name}-s{config.run.seed}"
        if name in found:
            raise UsageError(
                f"{found[name].results} and {folder} are both run {config.run.name!r} with seed {config.run.seed}; "
                "give each once, or name one's run.name otherwise"
            )
        found[name] = Run(folder, config, name, config.scale)
    fresh = set(found)
    for folder in bundles:
        for one in carrying.earlier(folder):
            name = str(one.record["name"])
            if name in fresh:
                continue
            if name in found:
                raise UsageError(f"{found[name].results} and {folder} both hold run {name}; give one of them")
            config = config_files.load(folder / layout.RUNS / name / "config.yaml")
            found[name] = Run(folder, config, name, str(one.record["scale"]), bool(one.record["planned"]), one)
    for file in planned:
        config = config_files.load(file)
        name = f"{config.run.name}-s{config.run.seed}"
        # What was planned and has run is a run.
        found.setdefault(name, Run(Path(config.run.results), config, name, config.scale, True))
    return sorted(found.values(), key=lambda run: (run.scale, run.config.run.name, run.config.run.seed))


def bundle(chosen: Sequence[Run], out: Path, environment: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Write a bundle with its site to `out`, all of it or nothing, and return bundle.json.

    `environment` says what the runs themselves did not record. Raises DataError when no run has anything to keep.
    """
    from qwenlong.audit.site.build import build

    if out.exists() and not layout.is_bundle(out) and any(out.iterdir()):
        raise UsageError(f"{out} holds something else than a bundle; give an empty folder, or one to be made")
    with atomic_directory(out) as folder:
        collected = [_collect(run, folder, environment or {}) for run in chosen]
        if not any(one.record["files"] for one in collected):
            raise DataError(
                f"nothing to keep in {', '.join(str(run.results) for run in chosen)}: no scores with their sidecars, "
                "no metrics; run the stages first"
            )
        index = {
            "form": layout.FORMAT,
            "place": _place(out),
            "runs": [one.record for one in collected],
            "left_out": {one.record["name"]: one.left_out for one in collected if one.left_out},
        }
        write_json(folder / layout.INDEX, index)
        build(folder, folder / layout.REPORT)
        layout.write_manifest(folder)
    return index


def _place(out: Path) -> str:
    """Return where the bundle stands, for commands: from the working directory, or its name alone."""
    full, here = out.resolve(), Path.cwd()
    return full.relative_to(here).as_posix() if full.is_relative_to(here) else full.name


def _collect(run: Run, folder: Path, environment: Mapping[str, Any]) -> Collected:
    if run.earlier is not None:
        carrying.copy(run.earlier, folder)
        return Collected(dict(run.earlier.record), list(run.earlier.left_out))
    root = folder / layout.RUNS / run.name
    shown = run.config.run.results if not Path(run.config.run.results).is_absolute() else f"results/{run.name}"
    travels = Travels(run.results, shown, (*SIDECARS, *(f"{place}/*.provenance.json" for place in EVALUATIONS)))
    collected = Collected({})
    taken = 0
    foreign = {} if run.planned else taught_by_others(run.results, run.config)
    collected.left_out += dict.fromkeys(foreign.values())
    for pattern in () if run.planned else KEPT:
        for file in sorted(run.results.glob(pattern)):
            if _home(file, run.results) in foreign:
                continue
            layout.put(root, file.relative_to(run.results).as_posix(), file.read_bytes())
            taken += 1
    for name, metrics, why in () if run.planned else unfinished.found(run.results, run.config):
        if metrics is None:
            collected.left_out.append(why)
        else:
            layout.put(root, name, metrics.read_bytes())
            taken += 1
    for file in () if run.planned else sorted((run.results / layout.RECORDS).rglob("*.json")):
        layout.put(root, file.relative_to(run.results).as_posix(), travels.json(file))
    for pattern in () if run.planned else SIDECARS:
        for file in sorted(run.results.glob(pattern)):
            layout.put(root, file.relative_to(run.results).as_posix(), travels.json(file))
    examples: dict[str, str] = {}
    for pattern in () if run.planned else EVALUATIONS:
        for place in sorted(p for p in run.results.glob(pattern) if p.is_dir()):
            if _home(place, run.results) in foreign:
                continue
            try:
                source = _examples(place, run.results)
                _consistent(place, run.config)
            except DataError as error:
                collected.left_out.append(travels.text(str(error)))
                continue
            examples[place.name] = _keep_examples(source, folder, examples.get(place.name), place)
            for file in _evaluation_files(place):
                name = file.relative_to(run.results).as_posix()
                plain = file.name.endswith("provenance.json") or file.name == "run.json"
                layout.put(root, name, travels.json(file) if plain else file.read_bytes())
                taken += 1
    layout.put(root, "config.yaml", travels.text(config_files.dump(run.config)).encode())
    values = config_files.read_yaml(root / "config.yaml")
    record = {
        "name": run.name,
        "scale": run.scale,
        "seed": run.config.run.seed,
        "results": shown,
        "planned": run.planned,
        "files": taken,
        "examples": dict(sorted(examples.items())),
        "environment": dict(environment) | ({} if run.planned else _machines(run.results)),
    }
    layout.put(root, "run.json", dump_json(record | {"config": values}).encode())
    collected.record = record
    return collected


def _home(path: Path, results: Path) -> str:
    """Return the first two folders below the results, which say of what model a file is; models' as evaluations'."""
    kind, *rest = path.relative_to(results).parts
    return "/".join(["evaluation" if kind == "models" else kind, *rest[:1]])


def _evaluation_files(place: Path) -> list[Path]:
    names = ("predictions.jsonl", "scores.json", "judgements.jsonl")
    files = [place / name for name in (*names, *(f"{name}.provenance.json" for name in names))]
    return [file for file in (*files, place / "run.json", place / "timings.jsonl") if file.is_file()]


def _sidecar(file: Path) -> dict[str, Any]:
    sidecar = file.with_name(f"{file.name}.provenance.json")
    if not file.is_file() or not sidecar.is_file():
        gone = sidecar if file.is_file() else file
        raise DataError(f"{gone} is missing: nothing says what made {file.name}; run and score its benchmark again")
    value = read_json(sidecar)
    if not isinstance(value, dict) or not {"output", "inputs", "seed"} <= value.keys():
        raise DataError(f"{sidecar} is no sidecar; run and score its benchmark again")
    return value


def recorded_examples(sidecar: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the examples as a sidecar of scores names them: scored apart, or by the command that asked."""
    found: dict[str, Any] | None = sidecar["inputs"].get("examples") or sidecar["inputs"].get("data")
    return found


def _examples(place: Path, results: Path) -> Path:
    """Return the file of examples that scores rest on, by its digest."""
    record = recorded_examples(_sidecar(place / "scores.json"))
    if record is None:
        raise DataError(f"{place}/scores.json names no examples in its sidecar; score it again")
    candidates = [Path(record["path"]), results / "synthesis" / Path(record["path"]).name]
    for file in candidates:
        if file.is_file() and sha256_file(file) == record["digest"]:
            return file
    raise DataError(
        f"{place}/scores.json: its examples {record['path']} (SHA-256 {record['digest'][:12]}) are not there as one "
        "file; score again with the examples at hand"
    )


def asked_otherwise(config: Config, sidecar: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return settings of `evaluation` that differ: name, value in the configuration, value when it was asked."""
    used = (sidecar.get("config") or {}).get("values", {}).get("evaluation") or {}
    own = config.evaluation.model_dump(mode="json")
    return [(key, own[key], value) for key, value in sorted(used.items()) if key in own and own[key] != value]


def _consistent(place: Path, config: Config) -> None:
    """Raise DataError when scores are not of the predictions beside them, or a file is not what its sidecar says.

    Also when the model was asked with other settings than the configuration's.
    """
    scores, predictions = place / "scores.json", place / "predictions.jsonl"
    made, asked = _sidecar(scores), _sidecar(predictions)
    found = {file: sha256_file(file) for file in (scores, predictions)}
    for file, record in ((scores, made["output"]), (predictions, asked["output"])):
        if found[file] != record["digest"]:
            raise DataError(
                f"{file} is not what its sidecar says (SHA-256 {found[file][:12]}, recorded {record['digest'][:12]}); "
                "run and score its benchmark again"
            )
    given = made["inputs"].get("predictions")
    if given is not None and given["digest"] != found[predictions]:
        raise DataError(f"{scores} is of other predictions than those beside it; score it again")
    for key, own, used in asked_otherwise(config, asked):
        raise DataError(
            f"{predictions} was asked with evaluation.{key} = {used!r}, the configuration says {own!r}; give the "
            "configuration of that run, or run the benchmark again"
        )


def _keep_examples(source: Path, folder: Path, known: str | None, place: Path) -> str:
    name = f"{layout.DATA}/{sha256_file(source)[:16]}/{source.name}"
    if known is not None and known != name:
        raise DataError(f"{place} was scored on {source}, others of {place.name} on {known}; score all on one file")
    if not (folder / name).is_file():
        with atomic_file(folder / name) as partial:
            partial.write_bytes(source.read_bytes())
    return name
