"""Both extractors over a corpus, and the files they give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from qwenlong.core.config import Config
from qwenlong.core.files import write_json, write_jsonl
from qwenlong.core.records import Document
from qwenlong.synthesis import agents, graph_files
from qwenlong.synthesis.extract.extractors import Extraction, RuleExtractor
from qwenlong.synthesis.extract.model import ModelExtractor
from qwenlong.synthesis.graph import Edge, KnowledgeGraph

Which = Literal["rules", "llm", "both"]


async def extract(
    config: Config, documents: Sequence[Document], folder: Path, which: Which, state: Path | None = None
) -> Extraction:
    """Return the edges of documents. `both`: rules first, a model for the documents in which they find nothing.

    Journal and replies stand in `state`, by default `folder`/journal.

    Raises ConfigError when a model is wanted and no endpoint is set.
    """
    edges: list[Edge] = []
    funnel: dict[str, Any] = {}
    unavailable = 0
    rest = list(documents)
    if which != "rules":
        # Asked for before any work, so that a missing endpoint costs nothing.
        endpoint = agents.endpoint(config, "synthesis.extract.endpoint", config.synthesis.extract.endpoint)
    if which != "llm":
        by_rules = await RuleExtractor().extract(documents)
        edges, funnel[RuleExtractor.name] = by_rules.edges, by_rules.funnel
        known = {edge.document for edge in edges}
        rest = [document for document in documents if document.id not in known]
    if which != "rules":
        state = state or folder / "journal"
        journal = state / "extractor.jsonl"
        async with agents.clients({"extractor": endpoint}, state / "cache") as clients:
            model = ModelExtractor(clients["extractor"], config.synthesis.extract, config.run.seed, journal)
            try:
                by_model = await model.extract(rest)
            finally:
                # A run that fails has cost something too.
                write_json(folder / "usage.json", agents.usage(clients, {"extractor": journal}))
        edges, unavailable = [*edges, *by_model.edges], by_model.unavailable
        funnel[ModelExtractor.name] = by_model.funnel
    return Extraction(KnowledgeGraph(edges).edges, funnel, unavailable)


def write(folder: Path, made: Extraction) -> None:
    """Write edges.jsonl, graph.graphml and funnel.json; the same extraction gives the same bytes."""
    write_jsonl(folder / "edges.jsonl", [asdict(edge) for edge in made.edges])
    graph_files.write(KnowledgeGraph(made.edges), folder / "graph.graphml")
    write_json(folder / "funnel.json", made.funnel)


def read(path: Path) -> list[Edge]:
    """Return the edges of a file that `write` wrote. Raises DataError naming file, line and field."""
    from pydantic import TypeAdapter, ValidationError

    from qwenlong.core.errors import DataError

    adapter = TypeAdapter(Edge)
    edges = []
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; run `qwenlong synthesize extract`") from error
    for number, line in enumerate(lines, 1):
        try:
            edges.append(adapter.validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            raise DataError(f"{path}, line {number}: {first['loc']}: {first['msg']}; run extract again") from error
    return edges
