"""Checkpoints of Qwen3-MoE geometry from a seed, a base and two experts, written in chunks.

The experts differ from the base as those of RL do: expert 1 at every element of most tensors, expert 2 descends from
expert 1 and moves a quarter of the elements of most tensors further, so that the two agree on the rest. Some tensors
are unchanged in one or in both.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from qwenlong.core.files import atomic_file, dump_json, write_json

SEED = 20_251_125
#: Elements made at a time.
CHUNK = 1 << 22
#: Largest weight file in bytes.
FILE_BYTES = 2 * 10**9
MODELS = ("base", "expert1", "expert2")
#: Standard deviation of the weights, as Qwen's initializer_range.
SCALE = 0.02


@dataclass(frozen=True)
class Geometry:
    """Sizes of a Qwen3-MoE; what is not given is that of Qwen3-30B-A3B. `delta` is the RMS of expert - base."""

    vocabulary: int = 151_936
    layers: int = 48
    experts: int = 128
    tied: bool = False
    hidden: int = 2048
    width: int = 768
    heads: int = 32
    kv_heads: int = 4
    head: int = 128
    dtype: str = "bfloat16"
    delta: float = 3e-4

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield names on disk and shapes, by layer."""
        hidden, q, kv = self.hidden, self.heads * self.head, self.kv_heads * self.head
        yield "model.embed_tokens.weight", (self.vocabulary, hidden)
        for layer in range(self.layers):
            at = f"model.layers.{layer}."
            yield f"{at}self_attn.q_proj.weight", (q, hidden)
            yield f"{at}self_attn.k_proj.weight", (kv, hidden)
            yield f"{at}self_attn.v_proj.weight", (kv, hidden)
            yield f"{at}self_attn.o_proj.weight", (hidden, q)
            yield f"{at}self_attn.q_norm.weight", (self.head,)
            yield f"{at}self_attn.k_norm.weight", (self.head,)
            yield f"{at}mlp.gate.weight", (self.experts, hidden)
            for expert in range(self.experts):
                yield f"{at}mlp.experts.{expert}.gate_proj.weight", (self.width, hidden)
                yield f"{at}mlp.experts.{expert}.up_proj.weight", (self.width, hidden)
                yield f"{at}mlp.experts.{expert}.down_proj.weight", (hidden, self.width)
            yield f"{at}input_layernorm.weight", (hidden,)
            yield f"{at}post_attention_layernorm.weight", (hidden,)
        yield "model.norm.weight", (hidden,)
        if not self.tied:
            yield "lm_head.weight", (self.vocabulary, hidden)

    @property
    def parameters(self) -> int:
        """Number of elements over all tensors."""
        return sum(int(np.prod(shape)) for _, shape in self.tensors())

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return 2 if self.dtype == "bfloat16" else 4

    def config(self) -> dict[str, object]:
        """Return config.json."""
        return {
            "architectures": ["Qwen3MoeForCausalLM"],
            "attention_bias": False,
            "decoder_sparse_step": 1,
            "dtype": self.dtype,
            "head_dim": self.head,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": SCALE,
            "intermediate_size": 3 * self.hidden,
            "max_position_embeddings": 262_144,
            "mlp_only_layers": [],
            "model_type": "qwen3_moe",
            "moe_intermediate_size": self.width,
            "norm_topk_prob": True,
            "num_attention_heads": self.heads,
            "num_experts": self.experts,
            "num_experts_per_tok": min(8, self.experts),
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10_000_000,
            "router_aux_loss_coef": 0.001,
            "tie_word_embeddings": self.tied,
            "vocab_size": self.vocabulary,
        }


FULL = Geometry()
_SMALL = Geometry(vocabulary=1_000, layers=2, experts=4, hidden=64, width=24, heads=4, kv_heads=2, head=16)
#: Models by name. Below 1B the embedding is tied, or it would leave no room for anything else; 0.25B has an eighth of
#: the vocabulary. From 1B on a layer is whole, and the largest tensor is 151,936 x 2,048 from 0.5B on.
SIZES: dict[str, Geometry] = {
    "tiny": _SMALL,
    "0.25B": Geometry(vocabulary=18_992, layers=1, experts=40, tied=True),
    "0.5B": Geometry(layers=1, experts=40, tied=True),
    "1B": Geometry(layers=1, tied=True),
    "2B": Geometry(layers=2),
    # Both merges are compared with float64 references on these: in float32 files deltas so large that mergekit's
    # threshold on their squares holds nowhere, and RL's in bfloat16.
    "check-large": Geometry(vocabulary=4_000, layers=1, experts=8, dtype="float32", delta=2e-2),
    "check-rl": Geometry(vocabulary=4_000, layers=1, experts=8),
    "tiny-large": replace(_SMALL, dtype="float32", delta=2e-2),
}


def make(root: Path, size: str) -> list[Path]:
    """Write base and experts of a size under `root`, file by file; what is there is kept. Return the three folders."""
    geometry = SIZES[size]
    folders = [root / size / name for name in MODELS]
    for which, folder in enumerate(folders):
        files = _files(geometry)
        for file, tensors in files.items():
            if not (folder / file).exists():
                _write(folder / file, tensors, geometry, which)
                print(f"{folder / file}: {(folder / file).stat().st_size / 1e9:.2f} GB", flush=True)
        weight_map = {name: file for file, tensors in files.items() for name, _ in tensors}
        metadata = {"total_size": geometry.parameters * geometry.itemsize}
        write_json(folder / "config.json", geometry.config())
        _tokenizer(folder, geometry.vocabulary)
        write_json(folder / "model.safetensors.index.json", {"metadata": metadata, "weight_map": weight_map})
    return folders


def _files(geometry: Geometry) -> dict[str, list[tuple[str, tuple[int, ...]]]]:
    groups: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    room = FILE_BYTES
    for name, shape in geometry.tensors():
        size = int(np.prod(shape)) * geometry.itemsize
        if groups[-1] and size > room:
            groups.append([])
            room = FILE_BYTES
        groups[-1].append((name, shape))
        room -= size
    return {f"model-{n:05d}-of-{len(groups):05d}.safetensors": group for n, group in enumerate(groups, 1)}


def _write(path: Path, tensors: list[tuple[str, tuple[int, ...]]], geometry: Geometry, which: int) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, shape in tensors:
        end = place + int(np.prod(shape)) * geometry.itemsize
        code = "BF16" if geometry.dtype == "bfloat16" else "F32"
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with atomic_file(path) as partial, partial.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name, shape in tensors:
            for values in _chunks(name, shape, geometry, which):
                stream.write((bfloat16(values) if geometry.dtype == "bfloat16" else values).tobytes())


def _chunks(name: str, shape: tuple[int, ...], geometry: Geometry, which: int) -> Iterator[np.ndarray]:
    """Yield the values of a tensor of base (0), expert 1 or expert 2 in float32."""
    base, first, second = (np.random.default_rng([SEED, zlib.crc32(name.encode()), part]) for part in range(3))
    lot = np.random.default_rng([SEED, zlib.crc32(name.encode()), 3])
    # One tensor in ten is as in the base in both, one in ten as in expert 1 in expert 2; sizes differ by tensor.
    draw, size = lot.random(), geometry.delta * (0.5 + lot.random())
    norm = name.endswith("norm.weight")
    left = int(np.prod(shape))
    while left:
        count = min(left, CHUNK)
        left -= count
        values = base.standard_normal(count, dtype=np.float32)
        values *= np.float32(SCALE)
        if norm:
            values += 1
        if which and draw >= 0.1:
            values += first.standard_normal(count, dtype=np.float32) * np.float32(size)
            if which == 2 and draw >= 0.2:
                moved = second.integers(4, size=count, dtype=np.uint8) == 0
                values[moved] += second.standard_normal(int(moved.sum()), dtype=np.float32) * np.float32(size)
        yield values


def bfloat16(values: np.ndarray) -> np.ndarray:
    """Return the bits of finite float32 values rounded to bfloat16, ties to even, as uint16."""
    bits = values.view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)


def _tokenizer(folder: Path, vocabulary: int) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    tokenizer = Tokenizer(BPE({f"word{number}": number for number in range(vocabulary)}, []))
    with atomic_file(folder / "tokenizer.json") as partial:
        partial.write_text(tokenizer.to_str(), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(dump_json({"tokenizer_class": "PreTrainedTokenizerFast"}))
