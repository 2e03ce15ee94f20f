"""`qwenlong train nano`, added to the commands of training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from qwenlong.core.console import print_result
from qwenlong.training.commands import app


@app.command()
def nano(
    config: Annotated[Path, typer.Option(help="Configuration file; configs/nano.yaml makes the shipped policy.")],
    out: Annotated[Path, typer.Option(help="Folder of the policy: weights, tokenizer, card.")],
    corpus: Annotated[Path, typer.Option(help="Folder with documents.parquet (`qwenlong corpus build`).")],
    heldout: Annotated[
        Path | None, typer.Option(help="Folder of `qwenlong synthesize run`, whose held-out samples are measured too.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: a GPU if there is one.")] = None,
    limit_seconds: Annotated[float, typer.Option(help="Stop training after so long, to be resumed.")] = float("inf"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train the nano policy from nothing; run again, it goes on where it was stopped."""
    from qwenlong.core import config_files, processes, provenance, tracking
    from qwenlong.core.files import read_parquet
    from qwenlong.core.logs import get
    from qwenlong.core.records import Document
    from qwenlong.nano import run as runner

    settings = config_files.load(config)
    log = get(__name__)
    with (
        processes.register(Path(settings.run.results), "nano"),
        tracking.stage(settings, "nano", settings.nano.model_dump(mode="json")) as tracked,
    ):
        documents = read_parquet(corpus / "documents.parquet", Document)

        def heard(values: dict[str, object]) -> None:
            log.info("%s", json.dumps(values))
            numbers = {key: value for key, value in values.items() if isinstance(value, int | float)}
            tracked.log_metrics(numbers, step=int(str(values["round"])))

        made = runner.make(
            settings, documents, out, heldout=heldout, device=device, limit_seconds=limit_seconds, log=heard
        )
        if made is not None:
            inputs = {"documents": corpus / "documents.parquet"}
            if heldout is not None:
                inputs["heldout"] = heldout / "heldout.parquet"
            provenance.sidecar(
                out, inputs=inputs, config=settings.nano.model_dump(mode="json"), packages=["nano", "synthesis"],
                seed=settings.run.seed,
            )  # fmt: skip
    if made is None:
        print_result({"done": False}, "stopped early; the same command goes on", as_json)
    else:
        rows = made["accuracy"].get("heldout", made["accuracy"]["exercises"])
        whole = [row for row in rows if row["length"] == "all"]
        text = "\n".join(f"{r['kind']}: {r['accuracy']:.3f} ({r['low']:.3f} to {r['high']:.3f})" for r in whole)
        print_result(made, f"{text}\nwritten to {out}", as_json)
