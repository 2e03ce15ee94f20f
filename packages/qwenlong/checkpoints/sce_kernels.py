"""The loops of SCE over one piece of a tensor, compiled: the operations of `sce.merge_tensor`, in its order.

Every kernel reads `values`, float32 [1 + experts, n]: the base, then the experts (bfloat16 and float16 are exact in
float32), and computes in float64. A kernel holds blocks of `BLOCK` elements, which fit a core's own cache, and releases
the interpreter lock. Nothing is reordered or contracted: results equal those of `sce.merge_tensor` bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from qwenlong.checkpoints.sce import BLOCK

#: Buckets of one round of `histogram`.
BUCKETS = 1 << 16
#: Tables that `histogram` counts in.
TABLES = 4


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:
        # No folder to keep the machine code in: it is made anew by each process, in a few seconds.
        return njit(nogil=True, error_model="numpy")(function)


@_compiled
def _deltas(values, at, n, deltas):  # type: ignore[no-untyped-def]
    for j in range(deltas.shape[0]):
        for i in range(n):
            deltas[j, i] = np.float64(values[j + 1, at + i]) - np.float64(values[0, at + i])


@_compiled
def _variances(deltas, n, variances):  # type: ignore[no-untyped-def]
    for i in range(n):
        variances[i] = 0.0
    for j in range(deltas.shape[0]):
        for k in range(j + 1, deltas.shape[0]):
            for i in range(n):
                difference = deltas[j, i] - deltas[k, i]
                variances[i] += difference * difference


@_compiled
def _keep(variances, n, threshold, inclusive, ties, kept):  # type: ignore[no-untyped-def]
    """Mark the selected elements of a block; return how many ties are left.

    Selected are variances above the threshold, and of those at it all (`inclusive`) or the first `ties`.
    """
    for i in range(n):
        kept[i] = variances[i] > threshold or (inclusive and variances[i] == threshold)
    if not inclusive and ties > 0:
        for i in range(n):
            if ties > 0 and variances[i] == threshold:
                kept[i] = True
                ties -= 1
    return ties


@_compiled
def histogram(values, counts):  # type: ignore[no-untyped-def]
    """Add to `counts`, int64 [TABLES, BUCKETS], the variances by their upper 16 bits.

    Returns how many are not 0, and how many are not finite. Which table an element counts in says nothing. The bits of
    a float64 that is not negative order as integers. What is not finite is not counted.
    """
    n_experts, size = values.shape[0] - 1, values.shape[1]
    deltas = np.empty((n_experts, BLOCK))
    variances = np.empty(BLOCK)
    bits = variances.view(np.int64)
    nonzero = bad = 0
    for at in range(0, size, BLOCK):
        n = min(BLOCK, size - at)
        _deltas(values, at, n, deltas)
        _variances(deltas, n, variances)
        for i in range(n):
            nonzero += bits[i] != 0
            bad += not variances[i] < np.inf
        if bad == 0:
            # Most variances fall into few buckets: one table would wait for its own last addition.
            for i in range(n):
                counts[i % TABLES, bits[i] >> 48] += 1
    return nonzero, bad


@_compiled
def bucket(values, place, shift, found):  # type: ignore[no-untyped-def]
    """Write into `found` the variances whose bits above `shift` are `place`, in order; return how many there are."""
    n_experts, size = values.shape[0] - 1, values.shape[1]
    deltas = np.empty((n_experts, BLOCK))
    variances = np.empty(BLOCK)
    bits = variances.view(np.int64)
    count = 0
    for at in range(0, size, BLOCK):
        n = min(BLOCK, size - at)
        _deltas(values, at, n, deltas)
        _variances(deltas, n, variances)
        for i in range(n):
            if (bits[i] >> shift) == place:
                found[count] = variances[i]
                count += 1
    return count


@_compiled
def equal_to(values, threshold):  # type: ignore[no-untyped-def]
    """Return how many variances are the threshold exactly."""
    n_experts, size = values.shape[0] - 1, values.shape[1]
    deltas = np.empty((n_experts, BLOCK))
    variances = np.empty(BLOCK)
    equal = 0
    for at in range(0, size, BLOCK):
        n = min(BLOCK, size - at)
        _deltas(values, at, n, deltas)
        _variances(deltas, n, variances)
        for i in range(n):
            equal += variances[i] == threshold
    return equal


@_compiled
def energies(values, masked, threshold, inclusive, ties, sums):  # type: ignore[no-untyped-def]
    """Write the sums of selected squared deltas, by block, into `sums`, float64 [experts, blocks]; count the selected.

    A block is summed by halves: the second half is added to the first until one value is left.
    """
    n_experts, size = values.shape[0] - 1, values.shape[1]
    deltas = np.empty((n_experts, BLOCK))
    variances = np.empty(BLOCK)
    kept = np.empty(BLOCK, dtype=np.bool_)
    squares = np.empty(BLOCK)
    selected = 0
    for at in range(0, size, BLOCK):
        n = min(BLOCK, size - at)
        _deltas(values, at, n, deltas)
        if masked:
            _variances(deltas, n, variances)
            ties = _keep(variances, n, threshold, inclusive, ties, kept)
            for i in range(n):
                selected += kept[i]
        else:
            selected += n
        for j in range(n_experts):
            for i in range(n, BLOCK):
                squares[i] = 0.0
            if masked:
                for i in range(n):
                    squares[i] = deltas[j, i] * deltas[j, i] if kept[i] else 0.0
            else:
                for i in range(n):
                    squares[i] = deltas[j, i] * deltas[j, i]
            width = BLOCK // 2
            while width:
                left, right = squares[:width], squares[width : 2 * width]
                for i in range(width):
                    left[i] += right[i]
                width //= 2
            sums[j, at // BLOCK] = squares[0]
    return selected


@_compiled
def merge(values, etas, masked, threshold, inclusive, ties, out):  # type: ignore[no-untyped-def]
    """Write the merged values into `out`, float64 [n]; return the counts (non-zero, erased, reverted).

    `masked`: unselected deltas are zeroed before Erase, as the mode "mergekit" does.
    """
    n_experts, size = values.shape[0] - 1, values.shape[1]
    deltas = np.empty((n_experts, BLOCK))
    weights = np.empty((n_experts, BLOCK))
    variances = np.empty(BLOCK)
    kept = np.empty(BLOCK, dtype=np.bool_)
    changed = np.empty(BLOCK, dtype=np.bool_)
    totals = np.empty(BLOCK)
    divisors = np.empty(BLOCK)
    nonzero = erased = reverted = 0
    for at in range(0, size, BLOCK):
        n = min(BLOCK, size - at)
        _deltas(values, at, n, deltas)
        for i in range(n):
            changed[i] = False
        for j in range(n_experts):
            for i in range(n):
                changed[i] |= deltas[j, i] != 0.0
        if masked:
            _variances(deltas, n, variances)
            ties = _keep(variances, n, threshold, inclusive, ties, kept)
            for j in range(n_experts):
                for i in range(n):
                    deltas[j, i] = deltas[j, i] if kept[i] else 0.0
        for i in range(n):
            totals[i] = deltas[0, i]
            divisors[i] = 0.0
        for j in range(1, n_experts):
            for i in range(n):
                totals[i] += deltas[j, i]
        for j in range(n_experts):
            eta = etas[j]
            for i in range(n):
                delta = deltas[j, i]
                survives = (delta != 0.0) & ((delta > 0.0) == (totals[i] >= 0.0))
                weight = eta if survives else 0.0
                weights[j, i] = weight
                divisors[i] += weight
                nonzero += delta != 0.0
                erased += (delta != 0.0) & (not survives)
        for i in range(n):
            reverted += changed[i] & (divisors[i] == 0.0)
            divisors[i] = divisors[i] if divisors[i] != 0.0 else 1.0
        for i in range(n):
            totals[i] = weights[0, i] / divisors[i] * deltas[0, i]
        for j in range(1, n_experts):
            for i in range(n):
                totals[i] += weights[j, i] / divisors[i] * deltas[j, i]
        for i in range(n):
            out[at + i] = np.float64(values[0, at + i]) + totals[i]
    return nonzero, erased, reverted


@_compiled
def to_bfloat16(values, out):  # type: ignore[no-untyped-def]
    """Round float64 values through float32, as PyTorch does, into the bits of bfloat16; return whether all fit."""
    single = np.empty(BLOCK, dtype=np.float32)
    bits = single.view(np.uint32)
    bad = 0
    for at in range(0, values.shape[0], BLOCK):
        n = min(BLOCK, values.shape[0] - at)
        for i in range(n):
            single[i] = np.float32(values[at + i])
        for i in range(n):
            # To the nearest, ties to the even one: half of what is cut off, less one if the last bit kept is 0.
            rounded = (bits[i] + np.uint32(0x7FFF) + ((bits[i] >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
            bad += (rounded & np.uint32(0x7F80)) == np.uint32(0x7F80)
            out[at + i] = np.uint16(rounded)
    return bad == 0
