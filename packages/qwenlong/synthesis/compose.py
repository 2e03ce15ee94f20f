"""Length extension in linear time: documents are chosen by estimate, tried together, and counted exactly at the end.

Used where a distribution of lengths, uniform places or clusters are wanted; `extend` is the plain form.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from qwenlong.core.records import Document, Sample
from qwenlong.core.tokens import Tokenizer
from qwenlong.synthesis.candidates import Candidate
from qwenlong.synthesis.distractors import Distractors
from qwenlong.synthesis.extend import context_tokens, sample
from qwenlong.synthesis.places import Block, scatter
from qwenlong.synthesis.pool import Pool

#: Documents in a row that do not fit before the remaining room is filled by size instead of by chance.
MAX_MISSES = 24
#: Among how many documents of nearly the wanted size one is drawn to fill the remaining room.
CLOSEST = 16
#: Exact counts of one sample, at most: each corrects the estimate by the error that the last one showed.
MAX_COUNTS = 4
#: Tokens of "[n] title" beyond the title's own, for a number of one digit.
HEADING = 5
#: Shortest passage of evidence, in characters, that must not stand in a distractor too.
MIN_PASSAGE = 40


@dataclass(frozen=True)
class Wanted:
    """Tokens: at most `limit` (None: no bound), as near to `target` as documents allow, from below where possible.

    With `reach` at least `target`. `of_context`: of the documents alone, otherwise of the whole prompt.
    """

    target: int
    limit: int | None
    low: int = 0
    reach: bool = False
    of_context: bool = False


@dataclass
class Composer:
    """Puts documents around candidates of one pool."""

    pool: Pool
    tokenizer: Tokenizer
    distractors: Distractors
    uniform: bool
    _sizes: dict[str, int] = field(default_factory=dict)

    def compose(self, candidate: Candidate, wanted: Wanted, randomness: random.Random) -> Sample | str:
        """Return the sample, or the step of the funnel that lost it: "too_long" or "not_extended".

        No document stands beside the evidence that would change the answer, has the title of a document with evidence,
        or repeats its passage.
        """
        home = [self.pool.by_id[name] for name in candidate.documents]
        bare = self._measure(candidate, home, wanted)
        if wanted.limit is not None and bare > wanted.limit:
            return "too_long"
        if not candidate.holds(home):
            return "not_extended"
        draw = _Screened(
            self.distractors.draw(candidate.documents, randomness),
            self._foreign(candidate, home),
            self.distractors.far(candidate.documents),
        )
        added: list[Document] = []
        # What the estimate leaves out: borders between documents can merge or split tokens.
        error = 0
        best: Sample | None = None
        for _ in range(MAX_COUNTS):
            before = len(added)
            self._fill(candidate, home, added, bare + error, wanted, draw, randomness)
            if best is not None and len(added) == before:
                break
            shown, places = self._arranged(candidate, home, added, randomness)
            made = sample(candidate, shown, self.tokenizer, wanted.target)
            size = context_tokens(shown, self.tokenizer) if wanted.of_context else made.n_tokens
            fits = wanted.limit is None or size <= wanted.limit
            if fits and (size >= wanted.target or not wanted.reach) and candidate.holds(shown):
                best = made.model_copy(update={"checks": made.checks | {"evidence_places": places}})
                if wanted.reach or size >= wanted.low:
                    break
            error = size - bare - sum(self._size(document) for document in added)
            if not fits:
                self._shorten(added, bare + error, wanted)
        return best if best is not None else "not_extended"

    def _measure(self, candidate: Candidate, shown: Sequence[Document], wanted: Wanted) -> int:
        if wanted.of_context:
            return context_tokens(shown, self.tokenizer)
        return sample(candidate, shown, self.tokenizer, wanted.target).n_tokens

    def _size(self, document: Document) -> int:
        """Return about how many tokens a document takes in a prompt."""
        size = self._sizes.get(document.id)
        if size is None:
            size = self._sizes[document.id] = document.n_tokens + self.tokenizer.count(document.title) + HEADING
        return size

    def _foreign(self, candidate: Candidate, home: Sequence[Document]) -> Callable[[Document], bool]:
        titles = {document.title.casefold() for document in home}
        spans = (self.pool.by_id[span.document].text[span.start : span.end].strip() for span in candidate.evidence)
        passages = sorted({span for span in spans if len(span) >= MIN_PASSAGE})
        return lambda document: (
            document.title.casefold() not in titles and not any(passage in document.text for passage in passages)
        )

    def _fill(
        self,
        candidate: Candidate,
        home: Sequence[Document],
        added: list[Document],
        bare: int,
        wanted: Wanted,
        draw: _Screened,
        randomness: random.Random,
    ) -> None:
        """Add documents until the estimate reaches the target; those that change the answer are left out."""
        while True:
            size = bare + sum(self._size(document) for document in added)
            chosen = self._chosen(size, wanted, draw, {document.id for document in added}, randomness)
            if not chosen:
                return
            admitted = _admitted([*home, *added], chosen, candidate.holds)
            added += admitted
            draw.refused |= {document.id for document in chosen} - {document.id for document in admitted}
            if len(admitted) == len(chosen):
                return

    def _chosen(
        self, size: int, wanted: Wanted, draw: _Screened, taken: set[str], randomness: random.Random
    ) -> list[Document]:
        chosen: list[Document] = []
        misses = 0
        while size < wanted.target and misses < MAX_MISSES:
            document = next(draw, None)
            if document is None:
                break
            if size + self._size(document) > wanted.target and not wanted.reach:
                misses += 1
                continue
            chosen.append(document)
            size += self._size(document)
            misses = 0
        if wanted.reach:
            return chosen
        # The rest by size: what is nearest to the target, or reaches the lower bound where nothing smaller does.
        taken |= {document.id for document in chosen}
        last = self._closest(wanted.target - size, draw, taken, randomness)
        if last is None and size < wanted.low and wanted.limit is not None:
            last = self._closest(wanted.limit - size, draw, taken, randomness)
        return chosen if last is None else [*chosen, last]

    def _closest(self, room: int, draw: _Screened, taken: set[str], randomness: random.Random) -> Document | None:
        """Return one of the largest documents that fit the room; None when none does."""
        by_size = self.pool.memo("by size", make=self._by_size)
        end = bisect_right(by_size, (room, len(by_size) + 1))
        near = [self.pool.documents[place] for _, place in by_size[max(0, end - CLOSEST) : end]]
        randomness.shuffle(near)
        return next((document for document in near if document.id not in taken and draw.may_end(document)), None)

    def _by_size(self) -> list[tuple[int, int]]:
        return sorted((self._size(document), place) for place, document in enumerate(self.pool.documents))

    def _shorten(self, added: list[Document], bare: int, wanted: Wanted) -> None:
        """Take out the smallest document that brings the estimate under the limit; if none alone does, the largest."""
        over = bare + sum(self._size(document) for document in added) - (wanted.limit or 0)
        while over > 0 and added:
            enough = [document for document in added if self._size(document) >= over]
            out = min(enough or added, key=lambda d: (self._size(d) if enough else -self._size(d), d.id))
            added.remove(out)
            over -= self._size(out)

    def _arranged(
        self, candidate: Candidate, home: Sequence[Document], added: Sequence[Document], randomness: random.Random
    ) -> tuple[list[Document], list[float]]:
        """Return the documents in their order, and the relative place of each document with evidence."""
        first = {d.id: min(span.start for span in candidate.evidence if span.document == d.id) for d in home}
        blocks = [Block(d.id, self._size(d), round(d.n_tokens * first[d.id] / max(1, len(d.text)))) for d in home]
        others = [Block(document.id, self._size(document)) for document in added]
        names, places = scatter(blocks, others, randomness)
        if not self.uniform:
            randomness.shuffle(names)
            places = _places(names, {block.item: block for block in (*blocks, *others)}, candidate.documents)
        shown = [self.pool.by_id[name] for name in names]
        return shown, [round(places[name], 4) for name in candidate.documents]


class _Screened(Iterator[Document]):
    """Drawn documents that a sample may show; `refused` are those that would change its answer."""

    def __init__(
        self, documents: Iterator[Document], allows: Callable[[Document], bool], far: Callable[[Document], bool]
    ) -> None:
        self._documents, self._allows, self._far = documents, allows, far
        self.refused: set[str] = set()

    def __next__(self) -> Document:
        return next(d for d in self._documents if d.id not in self.refused and self._allows(d))

    def may_end(self, document: Document) -> bool:
        """Tell whether a document that was not drawn may fill what room is left."""
        return document.id not in self.refused and self._far(document) and self._allows(document)


def _places(names: Sequence[str], blocks: dict[str, Block[str]], evidence: Sequence[str]) -> dict[str, float]:
    at, places = 0, {}
    total = max(1, sum(block.size for block in blocks.values()))
    for name in names:
        if name in evidence:
            places[name] = (at + blocks[name].offset) / total
        at += blocks[name].size
    return places


def _admitted(
    base: list[Document], group: list[Document], holds: Callable[[Sequence[Document]], bool]
) -> list[Document]:
    """Return the documents of a group beside which the answer still holds.

    The whole group is tried first and halved only where it fails, so that the cost is that of few tries.
    """
    if holds([*base, *group]):
        return group
    if len(group) == 1:
        return []
    half = len(group) // 2
    left = _admitted(base, group[:half], holds)
    return left + _admitted([*base, *left], group[half:], holds)
