"""Verification of a bundle: every digest, every score from the stored predictions, every table and page from those."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwenlong.audit.bundles import difference, layout, rescoring, unfinished
from qwenlong.audit.bundles.collect import EVALUATIONS, KEPT, asked_otherwise, recorded_examples
from qwenlong.audit.site import sources
from qwenlong.audit.site.build import drawn_with, write
from qwenlong.audit.site.runs import Opened, Run, opened
from qwenlong.core import config_files
from qwenlong.core.errors import DataError, QwenlongError
from qwenlong.core.files import digest_value, read_json, sha256_file


@dataclass
class Checked:
    """What was checked, and every fault, a line each: file, place, value, expected value."""

    counts: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def verify(folder: Path) -> Checked:
    """Verify a bundle: nothing is trusted but the predictions, metrics, examples and configurations that it holds.

    Raises DataError when the folder is no bundle at all.
    """
    layout.expect_bundle(folder)
    checked = Checked()
    try:
        _digests(folder, checked)
        with opened(folder) as found, tempfile.TemporaryDirectory(prefix="qwenlong-verify-") as scratch:
            checked.faults += found.faults
            _runs(folder, found, checked)
            _scores(found, Path(scratch), checked)
            _site(folder, found, Path(scratch) / "report", checked)
    except QwenlongError as error:
        # A file that cannot be read ends the check: whatever follows from it is not known.
        checked.faults.append(str(error))
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        # A file of another form than the commands write: an edit, whatever digests say.
        checked.faults.append(f"{folder}: a file of it has another form than its commands write ({error!r})")
    checked.faults = list(dict.fromkeys(checked.faults))
    return checked


def _digests(folder: Path, checked: Checked) -> None:
    try:
        recorded = layout.read_manifest(folder)
    except DataError as error:
        checked.faults.append(str(error))
        recorded = {}
    checked.faults += [line for _, line in layout.differing(folder, recorded)]
    checked.counts["files"] = len(list(layout.files(folder)))


def _runs(folder: Path, found: Opened, checked: Checked) -> None:
    known = {run.name for run in found.runs}
    for place in sorted(p.name for p in (folder / layout.RUNS).iterdir()) if (folder / layout.RUNS).is_dir() else ():
        if place not in known:
            checked.faults.append(f"{layout.RUNS}/{place}: is no run of {layout.INDEX}; runs there: {sorted(known)}")
    for run in found.runs:
        checked.faults += list(_run(run))
    checked.counts["runs"] = len(found.runs)


def _run(run: Run) -> Iterator[str]:
    """Yield where a run's own files contradict each other: record, configuration, sidecars, data."""
    place = f"{layout.RUNS}/{run.name}"
    record = read_json(run.folder / "run.json") if (run.folder / "run.json").is_file() else {}
    kept = dict(record)
    values = kept.pop("config", None)
    for where, a, b in rescoring.compare(kept, dict(run.record)):
        yield f"{place}/run.json: {where} = {a!r}, expected {b!r} (as {layout.INDEX} has it)"
    # As the file has it: settings that came to be later have no place in it.
    for where, a, b in rescoring.compare(config_files.read_yaml(run.folder / "config.yaml"), values):
        yield f"{place}/config.yaml: {where} = {a!r}, expected {b!r}"
    own = run.config
    if (own.run.seed, own.scale) != (run.seed, run.scale):
        yield f"{place}/config.yaml: seed {own.run.seed} of {own.scale}, expected {run.seed} of {run.scale}"
    if not run.planned and (count := len(_files(run))) < int(run.record["files"]):
        yield f"{place}: {count} files, expected {run.record['files']}: seed {run.seed} of {run.scale} is not whole"
    for name, sidecar in run.sidecars.items():
        yield from _sidecar(run, place, name, sidecar)


def _files(run: Run) -> list[Path]:
    """Return the files of a run that were counted when it was bundled."""
    kept = [file for pattern in (*KEPT, unfinished.PATTERN) for file in run.folder.glob(pattern)]
    inside = [file for pattern in EVALUATIONS for file in run.folder.glob(f"{pattern}/*") if file.is_file()]
    return [*kept, *inside]


def _sidecar(run: Run, place: str, name: str, sidecar: Mapping[str, Any]) -> Iterator[str]:
    file, shown = run.folder / name, f"{place}/{layout.stored(name)}"
    made = sidecar["output"]["digest"]
    if file.is_file() and (found := sha256_file(file)) != made:
        yield f"{shown}: holds SHA-256 {found[:12]}, expected {made[:12]} (its sidecar)"
    recorded = sidecar.get("config", {})
    if "values" in recorded:
        # Where folders of a machine were taken out of the settings, their digest is another one.
        expected = str(recorded.get("travelled") or recorded.get("digest"))
        if (found := digest_value(recorded["values"])) != expected:
            yield f"{place}/{name}: its sidecar's config.values give SHA-256 {found[:12]}, expected {expected[:12]}"
    if name.endswith("/scores.json"):
        data, benchmark = recorded_examples(sidecar), name.split("/")[-2]
        source = run.record["examples"].get(benchmark, "")
        local = run.folder / "synthesis" / f"{benchmark}{Path(source).suffix}"
        if data is not None and local.is_file() and (found := sha256_file(local)) != data["digest"]:
            yield f"{source}: SHA-256 {found[:12]}, expected {data['digest'][:12]} (examples of {shown})"
    if name.endswith("/predictions.jsonl"):
        for where, a, b in asked_otherwise(run.config, sidecar):
            yield f"{place}/config.yaml: evaluation.{where} = {a!r}, expected {b!r} (sidecar of {name})"


def _scores(found: Opened, scratch: Path, checked: Checked) -> None:
    chosen = rescoring.jobs(found.runs, scratch)
    rescoring.score(chosen, scratch)
    for job in chosen:
        checked.faults += rescoring.differences(job)
        again = read_json(job.again)
        if "metrics" in again:
            # Tables are made from the scores of the predictions that are there, whatever the stored ones say.
            job.stored.write_bytes(job.again.read_bytes())
    checked.counts["scores"] = len(chosen)


def _site(folder: Path, found: Opened, out: Path, checked: Checked) -> None:
    written = {file.relative_to(out).as_posix() for file in write(found, out)}
    stored_root = folder / layout.REPORT
    stored = {file.relative_to(stored_root).as_posix() for file in stored_root.rglob("*") if file.is_file()}
    for name in sorted(written - stored):
        checked.faults.append(f"{layout.REPORT}/{name}: is missing; it follows from the runs")
    for name in sorted(stored - written):
        checked.faults.append(f"{layout.REPORT}/{name}: follows from no run; remove it")
    values = read_json(stored_root / "tables.json") if "tables.json" in stored else {}
    drawn = values.get("drawn_with") if isinstance(values, dict) else None
    elsewhere = drawn != drawn_with()
    if elsewhere:
        checked.notes.append(
            f"figures were drawn with {drawn}, here is {drawn_with()}: drawings are checked by digest, numbers anew"
        )
    for name in sorted(written & stored):
        a, b = (stored_root / name).read_bytes(), (out / name).read_bytes()
        if a == b or (elsewhere and _drawn(name) and _without_drawings(a) == _without_drawings(b)):
            continue
        texts = (raw.decode("utf-8", "replace") for raw in (a, b))
        checked.faults.append(difference.describe(f"{layout.REPORT}/{name}", *texts))
    known = {(r.name, file.relative_to(r.folder).as_posix()) for r in found.runs for file in r.folder.rglob("*")}
    for key in sources.without_source(values, known):
        checked.faults.append(f"{layout.REPORT}/tables.json: {key} is a number without a source in the bundle")
    checked.counts["pages"] = len(written)


def _drawn(name: str) -> bool:
    return name.endswith((".svg", ".html")) or name == "tables.json"


def _without_drawings(data: bytes) -> bytes:
    """Return a page without the images in it, and without the name of what drew them."""
    text = re.sub(rb"data:image/svg\+xml;base64,[\w+/=]+", b"", data)
    text = re.sub(rb'"drawn_with": "[^"]*"', b"", text)
    return b"" if text.lstrip().startswith((b"<?xml", b"<svg")) else text
