"""The files of a synthesis folder, each with its provenance."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from qwenlong.core.config import Config
from qwenlong.core.files import all_or_none, write_json, write_parquet
from qwenlong.core.provenance import path_of, sidecar
from qwenlong.core.records import Document, Sample
from qwenlong.synthesis.run import Result

SETS = ("samples", "heldout", "heldout_long", "memory")


def write(config: Config, result: Result, out: Path, inputs: Mapping[str, Path]) -> None:
    """Write the samples, their documents and the funnel into `out`; the same result gives the same bytes.

    All of them or, when it fails, none.
    """
    names = (*(f"{name}.parquet" for name in SETS), "documents.parquet", "funnel.json")
    with all_or_none(*(path for name in names for path in (out / name, path_of(out / name)))):
        for name in SETS:
            write_parquet(out / f"{name}.parquet", getattr(result, name), Sample)
        write_parquet(out / "documents.parquet", result.documents, Document)
        write_json(out / "funnel.json", result.funnel)
        for name in names:
            sidecar(
                out / name,
                inputs=dict(inputs),
                config=config.synthesis.model_dump(mode="json") | {"base.window": config.base.window},
                packages=["synthesis"],
                seed=config.run.seed,
                extra={"samples": {name: len(getattr(result, name)) for name in SETS}},
            )
