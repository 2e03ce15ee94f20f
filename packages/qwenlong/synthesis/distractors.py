"""Irrelevant documents in random order, from other groups of meaning than the evidence's."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from qwenlong.core.config import DistractorsConfig
from qwenlong.core.records import Document
from qwenlong.core.seeds import derive
from qwenlong.synthesis.pool import Pool

#: Rounds of k-means, at most.
_ROUNDS = 50
#: Documents per cluster that the centres are fitted on, at most: more hardly move them.
_PER_CLUSTER = 200


def clustered(documents: Sequence[Document], clusters: int, seed: int) -> list[int]:
    """Return the cluster of each document: k-means over embeddings of title and text.

    Numbers depend on documents and seed alone. With fewer different documents than clusters there are fewer clusters.
    """
    import numpy as np
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    from qwenlong.core.embeddings import embed

    if not documents:
        return []
    rows = embed([f"{document.title}\n{document.text}" for document in documents])
    chosen = random.Random(derive(seed, "distractors", "fit"))
    places = sorted(chosen.sample(range(len(rows)), min(len(rows), clusters * _PER_CLUSTER)))
    k = min(clusters, len(np.unique(rows[places], axis=0)))
    model = KMeans(k, n_init=1, max_iter=_ROUNDS, random_state=derive(seed, "distractors") % 2**32)
    # Threads add their shares in the order in which they finish: on one, the same documents give the same clusters.
    with threadpool_limits(1):
        model.fit(rows[places])
        return [int(label) for label in model.predict(rows)]


class Distractors:
    """The documents of a pool, drawn without replacement for one sample after another."""

    def __init__(self, pool: Pool, config: DistractorsConfig) -> None:
        self._documents = pool.documents
        self._near_share = config.near_share
        self.labels: list[int] | None = None
        self._members: dict[int, list[int]] = defaultdict(list)
        self._place: dict[str, int] = {}
        if config.clusters is not None:
            k = config.clusters
            self.labels = pool.memo("clusters", k, make=lambda: clustered(pool.documents, k, pool.seed))
            for place, label in enumerate(self.labels):
                self._members[label].append(place)
            self._place = {document.id: place for place, document in enumerate(pool.documents)}

    def draw(self, evidence: Sequence[str], randomness: random.Random) -> Iterator[Document]:
        """Yield documents other than the evidence, each once, until there are none of the wanted kind.

        With clusters: from clusters that hold no evidence, a share of `near_share` from those that do. Where one kind
        runs out (all documents are in the evidence's clusters, say) the other takes its place.
        """
        inside = set(evidence)
        if self.labels is None:
            for place in _permutation(len(self._documents), randomness):
                if self._documents[place].id not in inside:
                    yield self._documents[place]
            return
        labels, own = self.labels, self._own(evidence)
        near_places = [place for label in sorted(own) for place in self._members[label]]
        near = (near_places[n] for n in _permutation(len(near_places), randomness))
        far = (place for place in _permutation(len(self._documents), randomness) if labels[place] not in own)
        # A draw is made only where there is a choice, so that a share of 0 costs no randomness.
        while True:
            first, second = (far, near)
            if self._near_share and randomness.random() < self._near_share:
                first, second = (near, far)
            found = next(first, None)
            if found is None:
                found = next(second, None)
            if found is None:
                return
            if self._documents[found].id not in inside:
                yield self._documents[found]

    def far(self, evidence: Sequence[str]) -> Callable[[Document], bool]:
        """Return what tells whether a document is in no cluster of the evidence; without clusters any is."""
        if self.labels is None:
            return lambda _: True
        labels, own = self.labels, self._own(evidence)
        return lambda document: labels[self._place[document.id]] not in own

    def _own(self, evidence: Sequence[str]) -> set[int]:
        assert self.labels is not None
        return {self.labels[self._place[name]] for name in evidence}


def _permutation(n: int, randomness: random.Random) -> Iterator[int]:
    """Yield 0 … n - 1 in random order; the cost is of what is taken, not of n."""
    moved: dict[int, int] = {}
    for last in range(n - 1, -1, -1):
        place = randomness.randrange(last + 1)
        yield moved.get(place, place)
        if place != last:
            moved[place] = moved.pop(last, last)
