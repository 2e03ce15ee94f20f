"""`qwenlong synthesize card`: the data card of a synthesis folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def card(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `synthesize run` wrote.")],
    config: Annotated[Path, typer.Option(help="Configuration file of the run.")],
    out: Annotated[Path, typer.Option(help="Folder for card.json, card.html and card.md.")],
    corpus: Annotated[Path | None, typer.Option(help="Folder of the corpus, for corpus.json.")] = None,
    verification: Annotated[Path | None, typer.Option(help="Folder that `train verify` wrote.")] = None,
    difficulty: Annotated[Path | None, typer.Option(help="Folder that `train difficulty` wrote.")] = None,
    bins: Annotated[Path | None, typer.Option(help="Folder that `train bins` wrote.")] = None,
    check: Annotated[Path | None, typer.Option(help="What `synthesize check --json` printed.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write the data card: counts, funnel, lengths, map, duplicates, baselines, licences."""
    from qwenlong.core import config_files, tracking
    from qwenlong.core.files import all_or_none, dump_json, write_text
    from qwenlong.core.provenance import path_of, sidecar
    from qwenlong.datacard import page
    from qwenlong.datacard.build import build
    from qwenlong.datacard.inputs import read

    settings = config_files.load(config).for_data()
    stages = {"verification": verification, "difficulty": difficulty, "bins": bins}
    with tracking.stage(settings, "data_card", {"folder": str(folder)}) as tracked:
        inputs = read(folder, corpus, stages, check)
        made = build(settings, inputs)
        texts = {"card.json": dump_json(made), "card.html": page.page(made), "card.md": page.markdown(made)}
        files = [out / name for name in texts]
        with all_or_none(*(path for file in files for path in (file, path_of(file)))):
            for file, text in zip(files, texts.values(), strict=True):
                write_text(file, text)
                sidecar(
                    file,
                    inputs=inputs.files,
                    config=settings.model_dump(mode="json", include={"run", "corpus", "synthesis"}),
                    packages=["datacard", "synthesis.decontaminate", "synthesis.run", "rewards", "corpus.language"],
                    seed=settings.run.seed,
                )
                tracked.log_artifact(file)
    counted = {"samples": made["sets"]["samples"]["n"], "near_duplicates": made["questions"]["near"]}
    if as_json:
        typer.echo(json.dumps(counted | {"output": str(out)}, sort_keys=True))
    else:
        typer.echo(f"{counted['samples']} samples, {counted['near_duplicates']} near duplicates -> {out}/card.html")
