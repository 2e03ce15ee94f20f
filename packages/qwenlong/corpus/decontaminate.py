"""Decontamination: nothing that we evaluate on may stand in documents or questions that we train on.

A text is contaminated when it shares a run of 13 words with a benchmark's question or long answer, when it holds a
whole shorter question, or when it is one. Words are compared with case, punctuation and spacing folded away
(`words.folded`). Runs of 13 words are the measure of Brown et al., "Language Models are Few-Shot Learners" (2020),
appendix C.

Runs are kept as sorted arrays of 64-bit hashes, 8 bytes each: a false hit has a probability of about (runs kept) x
2^-64 for each run that is looked up. This module reads benchmarks as data; it knows nothing of how they are scored.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwenlong.core.config import BenchmarkTexts
from qwenlong.core.errors import ConfigError, DataError
from qwenlong.corpus import words
from qwenlong.corpus.words import Hashes

#: Words in a row that make a text contaminated.
NGRAM = 13
#: Fewest words of a whole question that a document must not hold: shorter ones ("What do you mean by that?") are
#: things that people say.
SHORTEST_IN_DOCUMENT = 8
#: The same for questions, which are short: there a whole question of four words is no accident.
SHORTEST_IN_QUESTION = 4
# Bytes; texts longer than any question are not asked about as a whole.
_LONGEST = 1 << 16
#: Bits of a run's hash that address the table of what the index may hold: 16 MiB, so that a miss costs one look-up.
_TABLE_BITS = 24


@dataclass(frozen=True)
class Index:
    """What benchmarks hold: runs[name][length] are the sorted hashes of runs of `length` words, whole[name] of texts.

    Lengths are 1 … NGRAM; below NGRAM a run is a whole question.
    """

    runs: Mapping[str, Mapping[int, Hashes]]
    whole: Mapping[str, Hashes]
    _tables: list[NDArray[np.bool_]] = field(default_factory=list, repr=False, compare=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the benchmarks, sorted."""
        return tuple(sorted(self.whole))

    def document(self, text: str) -> tuple[str, ...]:
        """Return the benchmarks that a document is contaminated with, sorted; empty when it is clean."""
        return self._hits(text, SHORTEST_IN_DOCUMENT)

    def question(self, text: str) -> tuple[str, ...]:
        """Return the benchmarks that a question (with its options) is contaminated with, sorted."""
        return self._hits(text, SHORTEST_IN_QUESTION)

    def _hits(self, text: str, shortest: int) -> tuple[str, ...]:
        found, whole = _hashes(text)
        names = {name for name, hashes in self.whole.items() if _holds(hashes, whole).any()}
        for length, run in enumerate(words.run_lengths(found, NGRAM), 1):
            if length < shortest or not len(run):
                continue
            owners = [name for name, lengths in self.runs.items() if length in lengths]
            if not owners:
                continue
            maybe = run[self._table()[run >> np.uint64(64 - _TABLE_BITS)]]
            if len(maybe):
                names |= {name for name in owners if _holds(self.runs[name][length], maybe).any()}
        return tuple(sorted(names))

    def _table(self) -> NDArray[np.bool_]:
        # One table serves all lengths: which of them a run belongs to is decided by the arrays.
        if not self._tables:
            table = np.zeros(1 << _TABLE_BITS, np.bool_)
            for lengths in self.runs.values():
                for hashes in lengths.values():
                    table[hashes >> np.uint64(64 - _TABLE_BITS)] = True
            self._tables.append(table)
        return self._tables[0]

    def save(self, path: str | Path) -> None:
        """Write the index as one file, whole or not at all."""
        from qwenlong.core.files import atomic_file

        arrays = {f"whole/{name}": hashes for name, hashes in self.whole.items()}
        arrays |= {f"{n}/{name}": hashes for name, lengths in self.runs.items() for n, hashes in lengths.items()}
        with atomic_file(path) as partial, partial.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **dict(sorted(arrays.items())))

    @classmethod
    def load(cls, path: str | Path) -> Index:
        """Read what `save` wrote."""
        runs: dict[str, dict[int, Hashes]] = {}
        whole: dict[str, Hashes] = {}
        with np.load(path, allow_pickle=False) as arrays:
            for key in arrays.files:
                kind, name = key.split("/", 1)
                if kind == "whole":
                    whole[name] = arrays[key]
                    runs.setdefault(name, {})
                else:
                    runs.setdefault(name, {})[int(kind)] = arrays[key]
        return cls(runs, whole)


def index(benchmarks: Mapping[str, tuple[Iterable[str], Iterable[str]]]) -> Index:
    """Return the index of {name: (questions, answers)}.

    Questions count whole and by their runs of NGRAM words, answers by such runs alone: a short answer ("1912", "the
    European Union") stands in any number of clean texts.
    """
    runs: dict[str, dict[int, Hashes]] = {}
    whole: dict[str, Hashes] = {}
    for name, (questions, answers) in benchmarks.items():
        found: dict[int, list[Hashes]] = {}
        wholes: list[Hashes] = []
        for text, is_question in [*((q, True) for q in questions), *((a, False) for a in answers)]:
            # Short answers, the most of all texts, count for nothing: they are not hashed.
            if not is_question and words.folded(text).count(b" ") < NGRAM - 1:
                continue
            hashes, as_whole = _hashes(text)
            if is_question:
                wholes.append(as_whole)
            if len(hashes) >= NGRAM:
                found.setdefault(NGRAM, []).append(words.runs(hashes, NGRAM))
            elif is_question and len(hashes) >= SHORTEST_IN_QUESTION:
                found.setdefault(len(hashes), []).append(words.runs(hashes, len(hashes)))
        runs[name] = {length: np.unique(np.concatenate(parts)) for length, parts in sorted(found.items())}
        whole[name] = np.unique(np.concatenate(wholes)) if wholes else np.empty(0, np.uint64)
    return Index(runs, whole)


def _hashes(text: str) -> tuple[Hashes, Hashes]:
    """Return a text's word hashes, and an array with the hash of the text as a whole (empty for one without words).

    As a whole only letters and digits count, so that "the U.S. in 1,000 words" equals "The US in 1000 words".
    """
    found = words.folded(text)
    return words.hashes(found), words.hashes(found.replace(b" ", b"") if len(found) < _LONGEST else b"")


def _holds(ordered: Hashes, wanted: Hashes) -> NDArray[np.bool_]:
    if not len(ordered):
        return np.zeros(len(wanted), np.bool_)
    places = np.searchsorted(ordered, wanted)
    return np.asarray(ordered[np.minimum(places, len(ordered) - 1)] == wanted)


def questions(
    texts: Iterable[tuple[str, str]], known: Index
) -> tuple[list[str], dict[str, tuple[str, ...]], Counter[str]]:
    """Return, of (id, question) pairs, the clean ids, the contaminated ones with their benchmarks, counts by benchmark.

    A question that stands in two benchmarks counts in both.
    """
    clean: list[str] = []
    dirty: dict[str, tuple[str, ...]] = {}
    for name, text in texts:
        hits = known.question(text)
        if hits:
            dirty[name] = hits
        else:
            clean.append(name)
    return clean, dirty, Counter(hit for hits in dirty.values() for hit in hits)


def check(settings: Sequence[BenchmarkTexts]) -> None:
    """Raise DataError naming every file of `corpus.decontaminate` that is not there."""
    missing = [f"{one.path} ({one.name})" for one in settings if not Path(one.path).is_file()]
    if missing:
        raise DataError(
            f"corpus.decontaminate: {len(missing)} of {len(settings)} benchmark files are not there: "
            f"{', '.join(missing)}. Get them as docs/corpus.md, Decontamination, says; or take out of "
            "corpus.decontaminate what is not evaluated"
        )


def read(settings: Sequence[BenchmarkTexts]) -> Index:
    """Return the index of the benchmark files of `corpus.decontaminate`.

    Raises ConfigError for a name that stands twice or a field that no record has, DataError for a file that cannot be
    read or holds no record.
    """
    check(settings)
    texts: dict[str, tuple[list[str], list[str]]] = {}
    for benchmark in settings:
        if benchmark.name in texts:
            raise ConfigError(
                f"corpus.decontaminate: the benchmark {benchmark.name} stands twice; give each of its files a name of "
                "its own (mrcr_2needle, mrcr_4needle)"
            )
        texts[benchmark.name] = _read(benchmark)
    return index(texts)


def _read(benchmark: BenchmarkTexts) -> tuple[list[str], list[str]]:
    wanted = dict.fromkeys([*benchmark.fields, *benchmark.answers], False)
    questions: list[str] = []
    answers: list[str] = []
    count = 0
    for record in records(Path(benchmark.path)):
        count += 1
        for names, into in ((benchmark.fields, questions), (benchmark.answers, answers)):
            for name in names:
                if record.get(name) is not None:
                    wanted[name] = True
                    into += strings(record[name])
    if not count:
        raise DataError(f"benchmark {benchmark.name}: {benchmark.path} holds no record; fetch it anew")
    missing = [name for name, seen in wanted.items() if not seen]
    if missing:
        raise ConfigError(
            f"corpus.decontaminate, benchmark {benchmark.name}: no record of {benchmark.path} has the field "
            f"{', '.join(missing)}; name fields of its records in `fields` and `answers`"
        )
    return questions, answers


def strings(value: Any) -> list[str]:
    """Return all strings in a field: a string, or lists and mappings of them; JSON in a string is opened.

    Of a chat only what the user says counts: MRCR's turns of the assistant are its context, of many megabytes.
    """
    if isinstance(value, str):
        # MRCR keeps its chat as JSON text: the names of its keys are no part of the question.
        if value[:1] in "[{":
            try:
                return strings(json.loads(value))
            except ValueError:
                pass
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        if value and all(isinstance(turn, Mapping) and {"role", "content"} <= turn.keys() for turn in value):
            value = [turn["content"] for turn in value if turn["role"] == "user"]
        return [text for part in value for text in strings(part)]
    return []


def records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a .parquet, .jsonl, .csv, .tsv or .json file. Raises DataError naming file and place.

    A .json file holds a list, or a record a line: benchmarks are published as both.
    """
    remedy = "give a .jsonl, .json, .csv, .tsv or .parquet file of one record a question"
    if not path.is_file():
        raise DataError(f"benchmark file {path} does not exist; fetch it, or take it out of corpus.decontaminate")
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            with pq.ParquetFile(path) as table:
                for batch in table.iter_batches(batch_size=256):
                    yield from batch.to_pylist()
        elif path.suffix in (".csv", ".tsv"):
            with path.open(encoding="utf-8-sig", newline="") as stream:
                yield from csv.DictReader(stream, delimiter="," if path.suffix == ".csv" else "\t", strict=True)
        elif path.suffix == ".json" and not _is_lines(path):
            found = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(found, list):
                raise DataError(f"benchmark file {path} holds {type(found).__name__}, not a list; {remedy}")
            yield from (_record(value, f"{path}, record {n}") for n, value in enumerate(found))
        elif path.suffix in (".json", ".jsonl"):
            with path.open(encoding="utf-8") as stream:
                for n, line in enumerate(stream, 1):
                    if line.strip():
                        yield _record(json.loads(line), f"{path}, line {n}")
        else:
            raise DataError(f"benchmark file {path} ends in {path.suffix or 'nothing'}; {remedy}")
    except (ValueError, OSError, csv.Error) as error:
        raise DataError(f"benchmark file {path} cannot be read ({error}); {remedy}") from error


def _is_lines(path: Path) -> bool:
    """Tell whether a .json file holds a record a line: then its first line is one."""
    with path.open(encoding="utf-8") as stream:
        first, second = stream.readline(), stream.readline()
    try:
        return bool(second.strip()) and isinstance(json.loads(first), dict)
    except ValueError:
        return False


def _record(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where} is {type(value).__name__}, not a record; give one JSON object a question")
    return value
