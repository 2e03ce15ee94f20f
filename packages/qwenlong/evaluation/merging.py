"""The shards of a run put together, with the files that the whole run would have written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qwenlong.core.config import Config
from qwenlong.core.errors import DataError
from qwenlong.core.files import digest_path
from qwenlong.evaluation import shards
from qwenlong.evaluation.registry import find
from qwenlong.evaluation.run_work import Done, failures, write


def merge(
    folders: Sequence[Path], out: Path, data: Path | None = None, config: Config | None = None, score: bool = True
) -> Done:
    """Write the merged run to `out`; its scores are made anew, or left out. `data`: where the shards read it.

    Raises DataError as `shards.merged` does, and where the data is not there or is another.
    """
    whole = shards.merged(folders)
    run, first = whole.run, whole.first
    benchmark = find(run["benchmark"])
    source = data if data is not None else Path(first["data_path"])
    if not source.exists():
        raise DataError(f"{source}, which the shards read, is not here; give its copy with --data")
    if digest_path(source) != run["data"]["digest"]:
        raise DataError(f"{source} is not what the shards read (another digest); give that with --data")
    documents = None if first["documents_path"] is None else Path(first["documents_path"])
    settings = config or Config()
    settings = settings.model_copy(
        update={
            "run": settings.run.model_copy(update={"seed": run["settings"]["seed"]}),
            "evaluation": settings.evaluation.model_copy(
                update={key: run["settings"][key] for key in ("max_input_tokens", "max_output_tokens")}
                | {key: run["settings"][key] for key in ("temperature", "top_p", "samples")}
            ),
        }
    )
    seed = settings.run.seed
    items = shards.drawn(benchmark.load(source, documents), run["limit"], seed, benchmark.name)
    agent = settings.agent if run["settings"]["agent"] is not None else None
    failed = failures(whole.predictions)
    details = run | {
        "data_path": str(source),
        "documents_path": first["documents_path"],
        "base_url": first["base_url"],
        "failed": failed,
        "shard": None,
        "assumptions": list(benchmark.assumptions()),
    }
    inputs = {"data": source} | ({"documents": documents} if documents is not None else {})
    scores = write(out, benchmark, items, whole.predictions, whole.timings, details, settings, inputs, agent, score)
    return Done(scores, failed)
