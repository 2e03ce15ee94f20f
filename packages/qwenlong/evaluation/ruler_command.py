"""`qwenlong evaluate ruler`: write the items of a needle-length sweep; `ruler-report`: their scores by length."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from qwenlong.core.console import reported
from qwenlong.core.errors import UsageError


def ruler(
    lengths: Annotated[str, typer.Option(help="tokens of the prompts, as 4096,8192,16384")],
    tokenizer: Annotated[Path, typer.Option(help="tokenizer directory whose tokens are counted")],
    out: Annotated[Path, typer.Option(help="JSON lines to write")],
    n: Annotated[int, typer.Option("--n", min=1, help="items a task and length")] = 100,
    seed: Annotated[int, typer.Option(help="seed of the items")] = 17,
    tasks: Annotated[str, typer.Option(help="tasks, separated by commas; default: all thirteen")] = "",
    essays: Annotated[Path | None, typer.Option(help="text file to fill prompts with")] = None,
    documents: Annotated[Path | None, typer.Option(help="Document Parquet to fill prompts with instead")] = None,
    squad: Annotated[Path | None, typer.Option(help="dev-v2.0.json of SQuAD 2.0, for qa_1")] = None,
    hotpotqa: Annotated[Path | None, typer.Option(help="hotpot_dev_distractor_v1.json, for qa_2")] = None,
) -> None:
    """Make RULER's tasks at given lengths; each prompt fills 95 to 100% of its length."""
    from qwenlong.core import provenance
    from qwenlong.core.files import read_parquet, write_jsonl
    from qwenlong.core.progress import Progress
    from qwenlong.core.records import Document
    from qwenlong.core.tokens import Tokenizer
    from qwenlong.evaluation.ruler import sources, suite

    with reported():
        if essays is not None and documents is not None:
            raise UsageError("--essays and --documents both give text to fill with; give one of them")
        sizes = _lengths(lengths)
        chosen = suite.choose([name.strip() for name in tasks.split(",") if name.strip()])
        prose = sources.prose_of_file(essays) if essays is not None else None
        if documents is not None:
            prose = sources.prose_of_documents(read_parquet(documents, Document))
        questions = {} if squad is None else {"squad": sources.read_squad(squad)}
        questions |= {} if hotpotqa is None else {"hotpotqa": sources.read_hotpotqa(hotpotqa)}
        given = sources.Sources(prose, questions)
        files = {"essays": essays, "documents": documents, "squad": squad, "hotpotqa": hotpotqa}
        total = len(chosen) * len(sizes) * n
        with Progress("ruler", total, "item") as progress:

            def items() -> Iterator[suite.RulerRecord]:
                for record in suite.generate(chosen, sizes, n, seed, Tokenizer(tokenizer), given):
                    progress.advance()
                    yield record

            write_jsonl(out, items())
            provenance.sidecar(
                out,
                inputs={name: path for name, path in files.items() if path is not None},
                config={"lengths": sizes, "n": n, "tasks": chosen, "tokenizer": Tokenizer(tokenizer).digest},
                packages=("evaluation",),
                seed=seed,
            )
        typer.echo(f"{total} items of {len(chosen)} tasks at {len(sizes)} lengths in {out}")


def _lengths(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"--lengths {text!r} are no token counts; give them as 4096,8192")
    return list(dict.fromkeys(int(part) for part in parts))


def report(
    examples: Annotated[Path, typer.Option(help="the items, as `evaluate ruler` wrote them")],
    predictions: Annotated[Path, typer.Option(help="predictions.jsonl")],
    out: Annotated[Path | None, typer.Option(help="Markdown file to write; default: print")] = None,
) -> None:
    """Print the scores of a RULER run by task and length, and by the depth of single needles."""
    from qwenlong.core.files import read_jsonl, write_text
    from qwenlong.core.records import Prediction
    from qwenlong.evaluation.benchmarks.ruler import BENCHMARKS
    from qwenlong.evaluation.ruler.report import markdown

    with reported():
        text = markdown(BENCHMARKS[0].load(examples, None), read_jsonl(predictions, Prediction))
        if out is not None:
            write_text(out, text)
        else:
            typer.echo(text)
