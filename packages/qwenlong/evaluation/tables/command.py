"""`qwenlong evaluate tables`: the paper's tables from score files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qwenlong.core.console import reported
from qwenlong.core.errors import DataError, UsageError
from qwenlong.evaluation.tables.formats import ENDINGS, Format
from qwenlong.evaluation.tables.layout import ABLATION_TABLES

if TYPE_CHECKING:
    from qwenlong.evaluation.tables.build import Table
    from qwenlong.evaluation.tables.results import Results


def tables(
    results: Annotated[
        list[Path], typer.Option(help="results folder of a run; several: runs that differ in their seed alone")
    ],
    table: Annotated[
        list[str] | None, typer.Option(help="2, 4, 5, 7, 8, 9, 10, 11 or 12; repeatable; default: all")
    ] = None,
    form: Annotated[
        Format | None, typer.Option("--format", help="default: as --out ends; for a folder all of them, else md")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="file, or folder, where md and latex get a file a table; default: print")
    ] = None,
    ablations: Annotated[
        list[Path] | None, typer.Option(help="results folder of Tables 2, 4 and 5; default: --results")
    ] = None,
    config: Annotated[Path, typer.Option(help="named in the commands of cells that were not run")] = Path(
        "configs/paper.yaml"
    ),
) -> None:
    """Write our scores as the paper's tables, published numbers beside; of other benchmarks a table each."""
    from qwenlong.evaluation.tables import by_benchmark
    from qwenlong.evaluation.tables.render import render
    from qwenlong.evaluation.tables.results import Results

    with reported():
        run = Results(results)
        trained = Results(ablations) if ablations else run
        names = _names(table, {*run.benchmarks(), *trained.benchmarks()})
        others = by_benchmark.read(results[0], _of_the_paper()) if table is None else {}
        if not names and not others:
            raise DataError(f"no scores.json under {results[0]}/evaluation; run `qwenlong evaluate run` first")
        made = _tables(names, run, trained, config)
        if out is None:
            typer.echo(render(made, others, form or Format.MD).whole)
            return
        if out.is_dir() or not out.suffix:
            for one in [form] if form else Format:
                _write({out / name: text for name, text in render(made, others, one).files.items()}, run, trained)
            return
        chosen = form or ENDINGS.get(out.suffix)
        if chosen is None:
            raise UsageError(f"--out {out} ends with none of {', '.join(ENDINGS)}; add --format, or name a folder")
        _write({out: render(made, others, chosen).whole}, run, trained)


def _write(texts: dict[Path, str], *runs: Results) -> None:
    from qwenlong.core import provenance
    from qwenlong.core.files import write_text

    inputs = {str(file): file for run in runs for file in run.read}
    seeds = sorted({seed for run in runs for seed in run.seeds})
    for file, text in texts.items():
        write_text(file, text)
        provenance.sidecar(
            file,
            inputs=inputs,
            config={},
            packages=("evaluation.tables", "evaluation.compare"),
            seed=seeds[0] if seeds else 0,
            extra={"seeds": seeds},
        )


def _of_the_paper() -> set[str]:
    from qwenlong.evaluation.tables.layout import BENCHMARKS, WHOLE_FILES

    return {*BENCHMARKS, *WHOLE_FILES.values()}


def _names(table: list[str] | None, evaluated: set[str]) -> list[str]:
    """Return the tables asked for; all of them where none is named and one of their benchmarks was run."""
    from qwenlong.evaluation.tables.layout import TABLES, name_of

    if table is not None:
        asked = {name_of(word) for word in table}
        return [name for name in TABLES if name in asked]
    return list(TABLES) if evaluated & _of_the_paper() else []


def _tables(names: list[str], run: Results, trained: Results, config: Path) -> list[Table]:
    from qwenlong.core import published
    from qwenlong.core.config_files import load
    from qwenlong.evaluation.tables.build import Commands, build

    commands = Commands(str(config), load(config).run.results if config.is_file() else None)
    figures = published.load()
    return [build(name, trained if name in ABLATION_TABLES else run, figures, commands) for name in names]
