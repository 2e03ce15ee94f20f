"""The map of the questions: embeddings in two dimensions, by UMAP or, for few of them, by principal components.

UMAP: McInnes, Healy, Melville, "UMAP: Uniform Manifold Approximation and Projection for Dimension Reduction" (2018).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from qwenlong.core.embeddings import embed
from qwenlong.core.records import Sample
from qwenlong.core.seeds import derive, rng

#: Below so many questions principal components show as much, and UMAP's compilation takes longer than all else.
FEW = 100
#: Most questions that are drawn; more are an ink blot. Below 4096 UMAP finds neighbours exactly, not by descent.
MANY = 4000
NEIGHBOURS = 15
MIN_DISTANCE = 0.1


def questions_map(samples: Sequence[Sample], seed: int) -> dict[str, Any]:
    """Return `method`, `shown`, `of`, `note` and `points`, {task: "x,y x,y …"} with coordinates within [0, 1].

    The same samples and seed give the same text. Above MANY a subsample is drawn by seed; of fewer than three
    different questions there is no map, and the note says so.
    """
    ordered = sorted(samples, key=lambda sample: sample.id)
    drawn = ordered if len(ordered) <= MANY else rng(seed, "card", "map").sample(ordered, MANY)
    drawn = sorted(drawn, key=lambda sample: sample.id)
    result: dict[str, Any] = {"method": "none", "shown": 0, "of": len(ordered), "points": {}}
    if len({sample.question for sample in drawn}) < 3:
        return result | {"note": "A map needs at least three different questions."}
    vectors = embed([sample.question for sample in drawn])
    if len(drawn) < FEW:
        method, placed = "PCA", _principal(vectors)
        note = f"Principal components: below {FEW} questions UMAP has too few neighbours to go by."
    else:
        method, placed = "UMAP", _umap(vectors, seed)
        note = f"UMAP with {NEIGHBOURS} neighbours, minimal distance {MIN_DISTANCE}, cosine distance, fixed seed."
    if len(drawn) < len(ordered):
        note += f" {len(drawn):,} of {len(ordered):,} questions, drawn by seed."
    points: dict[str, list[str]] = {}
    for sample, (x, y) in zip(drawn, _unit_square(placed).tolist(), strict=True):
        points.setdefault(sample.task, []).append(f"{x:.4f},{y:.4f}")
    drawn_points = {task: " ".join(of_task) for task, of_task in sorted(points.items())}
    return result | {"method": method, "shown": len(drawn), "points": drawn_points, "note": note}


def _principal(vectors: np.ndarray) -> np.ndarray:
    """Return the first two principal components; the sign of each makes its largest loading positive."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2] * np.sign(axes[:2][np.arange(2), np.abs(axes[:2]).argmax(axis=1)])[:, None]
    return np.asarray(centred @ axes.T)


def _umap(vectors: np.ndarray, seed: int) -> np.ndarray:
    with warnings.catch_warnings():
        # A seed forbids threads, which UMAP remarks on; a graph in several parts is no fault of the data.
        warnings.simplefilter("ignore")
        import umap

        reducer = umap.UMAP(
            n_neighbors=NEIGHBOURS,
            min_dist=MIN_DISTANCE,
            metric="cosine",
            # Principal components as the start, as wide as UMAP's own start: the usual one, by eigenvectors of the
            # graph, gives other vectors from call to call when the graph falls into parts.
            init=(10 * _unit_square(_principal(vectors))).astype(np.float32),
            random_state=derive(seed, "card", "umap") % 2**32,
            n_jobs=1,
        )
        return np.asarray(reducer.fit_transform(vectors), np.float64)


def _unit_square(points: np.ndarray) -> np.ndarray:
    low, high = points.min(axis=0), points.max(axis=0)
    # One scale for both axes: distances are what a map is for.
    scale = float((high - low).max()) or 1.0
    return np.asarray((points - low) / scale)
