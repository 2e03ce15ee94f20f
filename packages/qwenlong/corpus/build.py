"""From the sources to the corpus: load, filter, split, choose, deduplicate. Same input and seed, same bytes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenlong.core.config import Config
from qwenlong.core.errors import ConfigError, DataError
from qwenlong.core.records import CATEGORIES, Document
from qwenlong.core.seeds import derive
from qwenlong.corpus import decontaminate, dedup, filters, sections
from qwenlong.corpus.hostile import Losses
from qwenlong.corpus.origins import Origin, no_documents, origins
from qwenlong.corpus.origins import documents as documents_of

if TYPE_CHECKING:
    from qwenlong.core.llm import Outcome

log = logging.getLogger(__name__)
#: Memory of `build`, in bytes a byte of the sources' files (measured: 3.9 for JSON lines).
MEMORY_PER_BYTE = 4


def build(config: Config, cache: str | Path) -> tuple[list[Document], dict[str, Any]]:
    """Return the documents of all sources, sorted by id with n_tokens 0, and the statistics.

    Packages are read from `cache` only; the network is used for data sets of the hub alone. Raises ConfigError for an
    unknown source or loader and a path that is not there, DataError for a package that is not in the cache or has other
    bytes than registered, for a source that keeps no document, and for an empty corpus.
    """
    from qwenlong.core.progress import track

    corpus = config.corpus
    sources = origins(corpus, cache)
    if corpus.judge_filter:
        from qwenlong.corpus import judge

        judge.endpoint(config)  # A missing endpoint is told before the work, not after it.
    documents: list[Document] = []
    stats: dict[str, Any] = {}
    # The digests of all archives are checked before the first one is read: a long build must not fail at its end.
    for source in sources:
        source.check()
    decontaminate.check(corpus.decontaminate)
    _check_memory(sources)
    for source in track(sources, total=len(sources), description="corpus"):
        kept, stats[source.name] = _source(config, source)
        documents += kept
    # Within a source duplicates are gone already: these stand in two sources.
    documents, twins = dedup.exact(documents)
    for document, _ in twins:
        _count(stats, document, "duplicate")
    documents, contaminated = _clean(config, documents, stats)
    _refuse_empty(config, sources, documents, stats)
    if corpus.judge_filter:
        documents = _judged(config, documents, stats)
        _refuse_empty(config, sources, documents, stats)
    for source in sources:
        own = [document for document in documents if document.source == source.name]
        stats[source.name] |= {"documents": len(own), "characters": sum(len(document.text) for document in own)}
    return documents, {
        "documents": len(documents),
        "characters": sum(len(document.text) for document in documents),
        "categories": {
            category: sum(document.category == category for document in documents) for category in CATEGORIES
        },
        "contaminated": contaminated,
        "sources": stats,
    }


def write(
    config: Config, cache: str | Path, out: str | Path, documents: Sequence[Document], stats: dict[str, Any]
) -> None:
    """Write documents.parquet and corpus.json into `out`, each with its provenance sidecar: all or none."""
    from qwenlong.core.files import all_or_none, write_json, write_parquet
    from qwenlong.core.provenance import path_of, sidecar

    folder = Path(out)
    inputs = {name: path for source in origins(config.corpus, cache) for name, path in source.inputs().items()}
    if config.corpus.sources:
        inputs["registry"] = Path(config.corpus.registry)
    inputs |= {f"benchmark {one.name}": Path(one.path) for one in config.corpus.decontaminate}
    names = ("documents.parquet", "corpus.json")
    with all_or_none(*(path for name in names for path in (folder / name, path_of(folder / name)))):
        write_parquet(folder / "documents.parquet", documents, Document)
        write_json(folder / "corpus.json", stats)
        for name in names:
            sidecar(
                folder / name,
                inputs=inputs,
                config=config.corpus.model_dump(mode="json"),
                packages=["corpus"],
                seed=config.run.seed,
                extra={"documents": len(documents)},
            )


def _check_memory(sources: Sequence[Origin]) -> None:
    """Raise DataError when the files of the sources need more memory than there is; warn of more than half of it."""
    import psutil

    files = sum(_bytes(path) for source in sources for path in source.inputs().values())
    need, there = MEMORY_PER_BYTE * files, psutil.virtual_memory().available
    if need > there // 2:
        said = (
            f"the sources have {files / 2**20:,.0f} MB; `corpus build` holds all documents, about "
            f"{need / 2**20:,.0f} MB of the {there / 2**20:,.0f} MB that are free. `qwenlong corpus shards` takes the "
            "same sources through the same rules, shard by shard"
        )
        if need > there:
            raise DataError(said)
        log.warning("%s", said)


def _bytes(path: Path) -> int:
    if path.is_dir():
        return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())
    return path.stat().st_size if path.is_file() else 0


def _source(config: Config, source: Origin) -> tuple[list[Document], dict[str, Any]]:
    corpus = config.corpus
    seed = derive(config.run.seed, "corpus", source.name)
    losses = Losses(source.name)
    dropped = losses.dropped
    whole = list(_accepted(documents_of(source, corpus, losses), config, dropped))
    numbers: dict[str, Any] = {"read": len(whole) + sum(dropped.values()), "dropped_documents": _counts(dropped)}
    if made_harmless := _counts(losses.neutralised):
        numbers["neutralised"] = made_harmless
    dropped.clear()
    if corpus.section_characters is not None:
        try:
            made = list(_sectioned(whole, corpus.section_characters, corpus.max_documents_per_source, seed))
        except ValueError as error:
            raise ConfigError(
                f"corpus.section_characters = {corpus.section_characters}: source {source.name}: {error}"
            ) from error
        numbers["sections"] = len(made)
        kept = list(_accepted(made, config, dropped))
    else:
        kept = whole
    # Exact duplicates first, since they are cheap; then the bound, so that near duplicates are sought in what is kept.
    kept, twins = dedup.exact(kept)
    dropped["duplicate"] += len(twins)
    within = _bounded(kept, corpus.max_documents_per_source, seed)
    numbers["left_out"] = len(kept) - len(within)
    kept, twins = dedup.near(within, corpus.near_duplicate_threshold, seed)
    dropped["near_duplicate"] += len(twins)
    return kept, source.describe() | numbers | {"dropped": _counts(dropped), "messages": losses.messages}


def _count(stats: dict[str, Any], document: Document, why: str) -> None:
    drops = stats[document.source]["dropped"]
    drops[why] = drops.get(why, 0) + 1


def _clean(config: Config, documents: list[Document], stats: dict[str, Any]) -> tuple[list[Document], dict[str, int]]:
    """Return the documents that hold nothing of `corpus.decontaminate`, and the others' number by benchmark."""
    if not config.corpus.decontaminate:
        return documents, {}
    index = decontaminate.read(config.corpus.decontaminate)
    hits = [index.document(document.text) for document in documents]
    for document, found in zip(documents, hits, strict=True):
        if found:
            _count(stats, document, "contaminated")
    return (
        [document for document, found in zip(documents, hits, strict=True) if not found],
        _counts(Counter(name for found in hits for name in found)),
    )


def _judged(config: Config, documents: list[Document], stats: dict[str, Any]) -> list[Document]:
    """Return what the LLM judge lets pass; `stats` counts by source what it said (`judge`) and what it dropped."""
    from qwenlong.corpus import judge

    state, used = judge.folder(config), list[dict[str, Any]]()
    try:
        outcomes = judge.judge(documents, judge.endpoint(config), config.run.seed, state, used)
    finally:
        judge.write_usage(state, used)
    by_source: dict[str, list[Outcome[bool]]] = {}
    kept = []
    for document, outcome in zip(documents, outcomes, strict=True):
        by_source.setdefault(document.source, []).append(outcome)
        if outcome.value is False:
            _count(stats, document, "judge")
        else:
            kept.append(document)
    for source, said in by_source.items():
        stats[source]["judge"] = judge.counts(said)
    return kept


def judge_open(stats: dict[str, Any]) -> int:
    """Return how many documents of a build an outage of the judge left open."""
    return sum(source.get("judge", {}).get("open", 0) for source in stats["sources"].values())


def _refuse_empty(
    config: Config, sources: Sequence[Origin], documents: Sequence[Document], stats: dict[str, Any]
) -> None:
    """Raise DataError when a source, or all of them, keep no document."""
    full = {document.source for document in documents}
    empty = [no_documents(source, stats[source.name]) for source in sources if source.name not in full]
    if empty:
        what = "" if documents else "the corpus is empty: "
        corpus = config.corpus
        raise DataError(
            f"{what}{'; '.join(empty)}. Loosen the filters in corpus (min_characters = {corpus.min_characters}, "
            f"max_repetition = {corpus.max_repetition}, max_symbol_share = {corpus.max_symbol_share}), mend the source "
            "or take it out of corpus.sources"
        )


def _counts(counter: Counter[str]) -> dict[str, int]:
    return {name: count for name, count in sorted(counter.items()) if count}


def _accepted(documents: Iterable[Document], config: Config, dropped: Counter[str]) -> Iterator[Document]:
    for document in documents:
        why = filters.reason(document, config.corpus)
        if why is None:
            yield document
        else:
            dropped[why] += 1


def _shuffled(documents: Sequence[Document], seed: int, what: str) -> list[Document]:
    """Return documents in an order that depends on seed and id alone, not on which others are there."""
    return sorted(documents, key=lambda document: (derive(seed, what, document.id), document.id))


def _sectioned(whole: Sequence[Document], limit: int, bound: int | None, seed: int) -> Iterator[Document]:
    """Yield sections, under a bound those of as many documents as sections each, so that facts can be compared.

    300 sections are not the first 300 of seven countries: documents are taken in a seeded order, of each the first
    piece of every heading, then second pieces, at most sqrt(bound) sections (more where the source has few documents).
    """
    if bound is None:
        for document in whole:
            yield from sections.split(document, limit)
        return
    share = max(round(bound**0.5), -(-bound // max(1, len(whole))))
    # Half as many again: the filters and the deduplication after this take some away.
    wanted = bound + bound // 2
    taken = 0
    for document in _shuffled(whole, seed, "choose"):
        if taken >= wanted:
            return
        pieces = sections.split(document, limit)
        chosen_pieces = sorted(pieces, key=lambda s: (s.metadata["piece"], s.metadata["section"]))[:share]
        taken += len(chosen_pieces)
        yield from chosen_pieces


def _bounded(documents: list[Document], bound: int | None, seed: int) -> list[Document]:
    """Return at most `bound` documents: whole parents in a seeded order, the last one cut."""
    if bound is None or len(documents) <= bound:
        return documents
    parents: dict[str, list[Document]] = {}
    for document in documents:
        parents.setdefault(str(document.metadata.get("parent", document.id)), []).append(document)
    kept: list[Document] = []
    for parent in sorted(parents, key=lambda name: (derive(seed, "choose", name), name)):
        kept += parents[parent]
    return sorted(kept[:bound], key=lambda document: document.id)
