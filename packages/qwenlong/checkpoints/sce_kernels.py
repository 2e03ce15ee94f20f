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

HALF = BLOCK // 2
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


# Inner loops run over slices of rows: over two indices the compiler makes no vector instructions.


@_compiled
def _delta(base, expert, delta):  # type: ignore[no-untyped-def]
    for i in range(base.shape[0]):
        delta[i] = np.float64(expert[i]) - np.float64(base[i])


@_compiled
def _deltas(values, at, n, deltas):  # type: ignore[no-untyped-def]
    for j in range(deltas.shape[0]):
        _delta(values[0, at : at + n], values[j + 1, at : at + n], deltas[j, :n])


@_compiled
def _add_squared_difference(first, second, total):  # type: ignore[no-untyped-def]
    for i in range(total.shape[0]):
        difference = first[i] - second[i]
        total[i] += difference * difference


@_compiled
def _variances(deltas, n, variances):  # type: ignore[no-untyped-def]
    for i in range(n):
        variances[i] = 0.0
    for j in range(deltas.shape[0]):
        for k in range(j + 1, deltas.shape[0]):
            _add_squared_difference(deltas[j, :n], deltas[k, :n], variances[:n])


@_compiled
def _zero_unless(kept, delta):  # type: ignore[no-untyped-def]
    for i in range(delta.shape[0]):
        delta[i] = delta[i] if kept[i] else 0.0


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
    squares = np.empty(HALF)
    selected = 0
    for at in range(0, size, BLOCK):
        n = min(BLOCK, size - at)
        _deltas(values, at, n, deltas)
        if masked:
            _variances(deltas, n, variances)
            ties = _keep(variances, n, threshold, inclusive, ties, kept)
            for i in range(n):
                selected += kept[i]
            for j in range(n_experts):
                _zero_unless(kept[:n], deltas[j, :n])
        else:
            selected += n
        for j in range(n_experts):
            delta = deltas[j]
            for i in range(n, BLOCK):
                delta[i] = 0.0
            # The first halving squares on the way.
            left, right = delta[:HALF], delta[HALF:]
            for i in range(HALF):
                squares[i] = left[i] * left[i] + right[i] * right[i]
            width = HALF // 2
            while width:
                left, right = squares[:width], squares[width : 2 * width]
                for i in range(width):
                    left[i] += right[i]
                width //= 2
            sums[j, at // BLOCK] = squares[0]
    return selected


@_compiled
def _add(values, total):  # type: ignore[no-untyped-def]
    for i in range(total.shape[0]):
        total[i] += values[i]


@_compiled
def _note_changed(delta, changed):  # type: ignore[no-untyped-def]
    for i in range(delta.shape[0]):
        changed[i] |= delta[i] != 0.0


@_compiled
def _weigh(delta, total, eta, weight, divisor):  # type: ignore[no-untyped-def]
    """Write an expert's weights, eta where it survives, and add them to the divisors; count (non-zero, surviving)."""
    nonzero = surviving = 0
    for i in range(delta.shape[0]):
        survives = (delta[i] != 0.0) & ((delta[i] > 0.0) == (total[i] >= 0.0))
        weight[i] = eta if survives else 0.0
        divisor[i] += weight[i]
        nonzero += delta[i] != 0.0
        surviving += survives
    return nonzero, surviving


@_compiled
def _divide(divisor, weight, delta):  # type: ignore[no-untyped-def]
    for i in range(delta.shape[0]):
        delta[i] = weight[i] / divisor[i] * delta[i]


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
        changed[:n] = False
        for j in range(n_experts):
            _note_changed(deltas[j, :n], changed[:n])
        if masked:
            _variances(deltas, n, variances)
            ties = _keep(variances, n, threshold, inclusive, ties, kept)
            for j in range(n_experts):
                _zero_unless(kept[:n], deltas[j, :n])
        totals[:n] = deltas[0, :n]
        divisors[:n] = 0.0
        for j in range(1, n_experts):
            _add(deltas[j, :n], totals[:n])
        for j in range(n_experts):
            counts = _weigh(deltas[j, :n], totals[:n], etas[j], weights[j, :n], divisors[:n])
            nonzero += counts[0]
            erased += counts[0] - counts[1]
        for i in range(n):
            reverted += changed[i] & (divisors[i] == 0.0)
            divisors[i] = divisors[i] if divisors[i] != 0.0 else 1.0
        for j in range(n_experts):
            _divide(divisors[:n], weights[j, :n], deltas[j, :n])
            if j:
                _add(deltas[j, :n], deltas[0, :n])
        base, moved, merged = values[0, at : at + n], deltas[0, :n], out[at : at + n]
        for i in range(n):
            merged[i] = np.float64(base[i]) + moved[i]
    return nonzero, erased, reverted


@_compiled
def to_bfloat16(values, out):  # type: ignore[no-untyped-def]
    """Round float64 values through float32, as PyTorch does, into the bits of bfloat16; return whether all fit."""
    single = np.empty(BLOCK, dtype=np.float32)
    bits = single.view(np.uint32)
    bad = 0
    for at in range(0, values.shape[0], BLOCK):
        n = min(BLOCK, values.shape[0] - at)
        part, rounds = values[at : at + n], out[at : at + n]
        for i in range(n):
            single[i] = np.float32(part[i])
        for i in range(n):
            # To the nearest, ties to the even one: half of what is cut off, less one if the last bit kept is 0.
            rounded = (bits[i] + np.uint32(0x7FFF) + ((bits[i] >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
            bad += (rounded & np.uint32(0x7F80)) == np.uint32(0x7F80)
            rounds[i] = np.uint16(rounded)
    return bad == 0
