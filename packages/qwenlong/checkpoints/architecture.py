"""What config.json says a checkpoint must hold: names and shapes of the model built without memory, or plain counts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from qwenlong.checkpoints.weights import Entry, compare_names

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.")
#: Most layers, or experts of a layer, of a model that is built.
_MOST = 10_000
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def expected(config: Mapping[str, Any]) -> dict[str, Entry] | None:
    """Return the tensors in memory of the model that a config.json describes, None where transformers knows no such.

    The model is built on the meta device: no weights, no network and no code but that of transformers. Of tied weights
    only the embedding is returned. Dtypes are transformers' default and say nothing.
    """
    import torch

    built = _build(config)
    if built is None:
        return None
    model, tied = built
    return {
        name: Entry(name, tuple(value.shape), value.dtype)
        for name, value in model.state_dict().items()
        if isinstance(value, torch.Tensor) and not (tied and name == HEAD)
    }


def name_faults(
    config: Mapping[str, Any], wanted: Mapping[str, Entry], found: Mapping[str, Entry], where: str, like: str
) -> list[str]:
    """Return what `compare_names` finds, less what makes no difference to a loader of this architecture.

    That is tensors which transformers leaves unread, such as heads for several tokens, and the second copy of a tied
    output layer. Both sides in one view of experts.
    """
    faults = compare_names(dict(wanted), dict(found), where, like)
    if not faults or not config.get("model_type"):
        return faults
    skipped = _unread(config)
    if is_tied(config) and HEAD not in found:
        skipped.append(re.compile(re.escape(HEAD)))
    return compare_names(_without(wanted, skipped), _without(found, skipped), where, like)


def is_tied(config: Mapping[str, Any]) -> bool:
    """Whether the output layer is the embedding: what config.json says, else the default of its model type."""
    stated = config.get("tie_word_embeddings")
    if stated is not None:
        return bool(stated)
    parsed = _parsed(config)
    return bool(getattr(parsed, "tie_word_embeddings", False))


def count_faults(config: Mapping[str, Any], entries: Mapping[str, Entry]) -> list[str]:
    """Return where layers, experts and vocabulary of the tensors (split view) differ from the counts in config.json."""
    faults = _count_faults(config, entries)
    return _count_faults(config, _without(entries, _unread(config))) if faults else faults


def _unread(config: Mapping[str, Any]) -> list[re.Pattern[str]]:
    """The names that transformers leaves unread in a checkpoint of this architecture."""
    kind = _class(config) if config.get("model_type") else None
    return [re.compile(pattern) for pattern in getattr(kind, "_keys_to_ignore_on_load_unexpected", None) or ()]


def _without(entries: Mapping[str, Entry], skipped: list[re.Pattern[str]]) -> dict[str, Entry]:
    return {name: entry for name, entry in entries.items() if not any(pattern.search(name) for pattern in skipped)}


def _count_faults(config: Mapping[str, Any], entries: Mapping[str, Entry]) -> list[str]:
    faults = []
    layers = {int(match[1]) for name in entries if (match := _LAYER.search(name))}
    n_layers = _counts(config).get("num_hidden_layers")
    if isinstance(n_layers, int) and layers and layers != set(range(n_layers)):
        odd = sorted(layers ^ set(range(n_layers)))[0]
        faults.append(f"config.json says {n_layers} layers, the tensors are of {len(layers)}; layer {odd} is the first")
    n_experts = next((n for key, n in _counts(config).items() if key != "num_hidden_layers"), None)
    blocks: dict[str, set[int]] = {}
    for name in entries:
        if match := _EXPERT.match(name):
            blocks.setdefault(match[1], set()).add(int(match[2]))
    for block, numbers in sorted(blocks.items()):
        if isinstance(n_experts, int) and numbers != set(range(n_experts)):
            odd = sorted(numbers ^ set(range(n_experts)))[0]
            faults.append(
                f"config.json says {n_experts} experts, {block} has {len(numbers)}; number {odd} is the first"
            )
    words = config.get("vocab_size")
    for name, entry in sorted(entries.items()):
        if name in (HEAD, EMBEDDING) and isinstance(words, int) and entry.shape[:1] != (words,):
            faults.append(f"config.json says {words} words, {name} has shape {list(entry.shape)}")
    return faults


def _counts(config: Mapping[str, Any]) -> dict[str, int]:
    keys = ("num_hidden_layers", "num_experts", "num_local_experts", "n_routed_experts")
    return {key: config[key] for key in keys if isinstance(config.get(key), int)}


def _parsed(config: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig

    values = {key: value for key, value in config.items() if key != "auto_map"}
    try:
        return AutoConfig.for_model(**values)
    except Exception:  # whatever transformers raises for a type or a value that it does not know
        return None


def _class(config: Mapping[str, Any]) -> Any:
    import transformers

    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    kind = getattr(transformers, name, None) if name.isidentifier() else None
    return kind if isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel) else None


def _build(config: Mapping[str, Any]) -> tuple[Any, bool] | None:
    import torch

    # A model of so many parts would be built for ever; what its tensors lack is told by count.
    if not isinstance(config.get("model_type"), str) or max(_counts(config).values(), default=0) > _MOST:
        return None
    kind, parsed = _class(config), _parsed(config)
    if kind is None or parsed is None:
        return None
    try:
        with torch.device("meta"):
            return kind(parsed), bool(getattr(parsed, "tie_word_embeddings", False))
    except Exception:  # a config that its own architecture does not take
        return None
