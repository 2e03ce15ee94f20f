"""Where each number comes from: file, data, weights, configuration, commit, environment, MLflow run, command."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from qwenlong.audit.bundles import layout, unfinished
from qwenlong.audit.site.runs import Run
from qwenlong.core import config_files
from qwenlong.core.files import read_json, sha256_file


@dataclass(frozen=True)
class Made:
    """One file that numbers are from, as its sidecar tells. Digests are SHA-256, short ones of 12 digits.

    `stored` is its place in the bundle; `asked` the command that made the predictions where `command` scored them.
    """

    run: str
    scale: str
    seed: int
    file: str
    stored: str
    digest: str
    data: str
    data_file: str
    weights: str
    config: str
    commit: str
    versions: str
    mlflow: str
    command: str
    asked: str

    @property
    def anchor(self) -> str:
        """Name of its row on the page of sources."""
        return anchor(self.run, self.file)

    def as_json(self) -> dict[str, Any]:
        """Return the row for tables.json."""
        return {"key": self.anchor, **asdict(self)}


def anchor(run: str, file: str) -> str:
    """Return the name of a file's row on the page of sources."""
    return f"{run}:{file.removesuffix('/scores.json').removesuffix('/policy/metrics.jsonl')}"


def listing(runs: Sequence[Run], used: Iterable[tuple[str, str]]) -> list[Made]:
    """Return a row for every file (run, name under its results) that a number of the site is from, in order."""
    by_name = {run.name: run for run in runs}
    return [_made(by_name[run], file) for run, file in sorted(set(used))]


def _made(run: Run, file: str) -> Made:
    scored = file.endswith("/scores.json")
    sidecar = run.sidecars.get(file if scored else file.rpartition("/")[0], {}) or _unfinished(run, file)
    asked = run.sidecars.get(file.replace("scores.json", "predictions.jsonl"), {}) if scored else sidecar
    mlflow = sidecar.get("mlflow_run_id") or asked.get("mlflow_run_id") or ""
    benchmark = file.split("/")[-2]
    stored = f"{layout.RUNS}/{run.name}/{layout.stored(file)}"
    inputs = sidecar.get("inputs", {})
    data = inputs.get("examples") or inputs.get("data") or inputs.get("samples") or {}
    return Made(
        run.name,
        run.scale,
        run.seed,
        file,
        stored,
        _short(sidecar.get("output", {}).get("digest")),
        _short(data.get("digest")),
        str(run.record["examples"].get(benchmark, "")) if scored else "",
        _short(_weights(run, file, asked)),
        config_files.digest(run.config)[:12],
        _short(sidecar.get("code", {}).get("commit")),
        ", ".join(f"{name} {version}" for name, version in sorted(sidecar.get("versions", {}).items())),
        str(mlflow),
        _command(sidecar),
        _command(asked) if scored and asked is not sidecar else "",
    )


def _unfinished(run: Run, file: str) -> Mapping[str, Any]:
    """Return what stands for the sidecar of a training that did not end; empty for any other file.

    It wrote none: the records say by which command it was trained last, and in what environment.
    """
    if not file.startswith(f"{unfinished.FOLDER}/"):
        return {}
    kind, name = file.split("/")[1:3]
    records = run.folder / layout.RECORDS
    tries = [read_json(one) for one in records.glob("attempts/*.json")]
    # Targets name ablation rows; those of stages are named by what is evaluated.
    mine = [t for t in tries if any(f"/{name}/" in str(w) for w in t.get("command", ()))]
    mine = mine or [t for t in tries if kind == "stages" and "evaluate" in t.get("command", ())]
    if not mine:
        return {}
    # Of a try whose end nobody saw the record says when it was seen last.
    last = max(mine, key=lambda one: str(one.get("ended") or one.get("seen") or one.get("began") or ""))
    place = records / f"environment-{last.get('environment', '')}.json"
    environment = read_json(place) if place.is_file() else {}
    return {
        "output": {"digest": sha256_file(run.folder / file)},
        "code": {"commit": environment.get("commit")},
        "versions": environment.get("versions", {}),
        "command": last.get("command", ()),
    }


def _weights(run: Run, file: str, asked: Mapping[str, Any]) -> str | None:
    """Return the digest of the weights: as given to the command that asked, else as the model's own sidecar has it."""
    given = asked.get("inputs", {}).get("model")
    if given is not None:
        return str(given["digest"])
    parts = file.split("/")
    model = f"ablations/{parts[1]}/model" if parts[0] == "ablations" else f"models/{parts[1]}"
    found = run.sidecars.get(model, {}).get("output", {}).get("digest")
    return None if found is None else str(found)


def _short(digest: Any) -> str:
    return "" if digest is None else str(digest)[:12] + ("-dirty" if str(digest).endswith("-dirty") else "")


def _command(sidecar: Mapping[str, Any]) -> str:
    words = sidecar.get("command") or ()
    return words if isinstance(words, str) else shlex.join(str(word) for word in words)


def without_source(value: Any, known: set[tuple[str, str]]) -> Iterator[str]:
    """Yield the key of every number of tables.json whose sources are missing or not in the bundle.

    A number is a mapping with a "value" and "sources"; `known` holds (run, file under its results).
    """
    if isinstance(value, Mapping):
        if "sources" in value and value.get("value") is not None:
            named = [(source["run"], source["file"]) for source in value["sources"]]
            if not named or not set(named) <= known:
                yield str(value.get("key", value))
        for inner in value.values():
            yield from without_source(inner, known)
    elif isinstance(value, list):
        for inner in value:
            yield from without_source(inner, known)
