"""A key-value cache for batches that shrink: room is kept ahead, so that a step copies nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

#: Columns added when a layer is full.
_ROOM = 64


class _RoomyLayer(DynamicLayer):
    """A dynamic layer whose tensors are views of larger buffers [rows, heads, columns, width]."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append columns and return all keys and values so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._buffers = (key_states, value_states)
            self.keys, self.values = key_states, value_states
            return self.keys, self.values
        start, end = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if end > self._buffers[0].shape[-2]:
            self._buffers = (_widened(self.keys, end + _ROOM), _widened(self.values, end + _ROOM))
        keys, values = self._buffers
        keys[..., start:end, :] = key_states
        values[..., start:end, :] = value_states
        self.keys, self.values = keys[..., :end, :], values[..., :end, :]
        return self.keys, self.values

    def take(self, keys: Sequence[tuple[Tensor, Tensor]], values: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Hold the named rows of several [rows, heads, columns, width], aligned at their last column."""
        columns = max(part.shape[-2] for part, _ in keys)
        self._buffers = (_aligned(keys, columns), _aligned(values, columns))
        self.keys, self.values = (buffer[..., :columns, :] for buffer in self._buffers)

    def select(self, rows: Tensor, first: int) -> None:
        """Keep these rows (repeats allowed) and the columns from `first` on."""
        columns = self.keys.shape[-2] - first
        keys = self.keys[:, :, first:].index_select(0, rows)
        values = self.values[:, :, first:].index_select(0, rows)
        self._buffers = (_widened(keys, columns + _ROOM), _widened(values, columns + _ROOM))
        self.keys, self.values = (buffer[..., :columns, :] for buffer in self._buffers)


def _widened(states: Tensor, columns: int) -> Tensor:
    wide = states.new_empty((*states.shape[:2], columns, states.shape[-1]))
    wide[..., : states.shape[-2], :] = states
    return wide


def _aligned(parts: Sequence[tuple[Tensor, Tensor]], columns: int) -> Tensor:
    states = parts[0][0]
    total = sum(len(rows) for _, rows in parts)
    wide = states.new_empty((total, states.shape[1], columns + _ROOM, states.shape[-1]))
    start = 0
    for part, rows in parts:
        end, missing = start + len(rows), columns - part.shape[-2]
        # Masked columns are weighed with 0, which a NaN of unset memory would survive.
        wide[start:end, :, :missing] = 0
        wide[start:end, :, missing:columns] = part.index_select(0, rows)
        start = end
    return wide


class RoomyCache(DynamicCache):
    """A cache of layers with full attention; rows and leading columns can be dropped."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = [_RoomyLayer() for _ in range(layers)]

    def select(self, rows: Tensor, first: int = 0) -> None:
        """Keep these rows, in this order (repeats allowed), and the columns from `first` on."""
        for layer in self.layers:
            layer.select(rows, first)


def join(parts: Sequence[tuple[RoomyCache, Tensor]]) -> RoomyCache:
    """Return one cache of these rows (repeats allowed) of several caches, narrower ones padded on the left with 0."""
    joined = RoomyCache(len(parts[0][0].layers))
    for number, layer in enumerate(joined.layers):
        layers = [(cache.layers[number], rows) for cache, rows in parts]
        layer.lazy_initialization(layers[0][0].keys, layers[0][0].values)
        layer.take([(part.keys, rows) for part, rows in layers], [(part.values, rows) for part, rows in layers])
    return joined


def cache_for(model: torch.nn.Module) -> RoomyCache:
    """Return an empty cache for a model of the Hugging Face interface."""
    config: Any = model.config
    return RoomyCache(int(config.get_text_config().num_hidden_layers))
