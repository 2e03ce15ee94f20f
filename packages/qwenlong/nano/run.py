"""`qwenlong train nano`: material, tokenizer, training, measurement and card of the shipped policy."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qwenlong.core import templates
from qwenlong.core.config import Config
from qwenlong.core.errors import DataError
from qwenlong.core.files import atomic_directory, digest_path, read_parquet, write_json, write_text
from qwenlong.core.records import Document, Sample
from qwenlong.core.seeds import derive
from qwenlong.core.tokens import Tokenizer
from qwenlong.nano import card, material, measure, model, train
from qwenlong.nano.episodes import Example
from qwenlong.synthesis.splits import split

#: Parameters that the policy may have at most.
MAX_PARAMETERS = 10_000_000


def prepare(config: Config, documents: Sequence[Document], work: Path) -> None:
    """Write the material of both sides and the tokenizer, trained on the training side alone, into `work`."""
    from qwenlong.training import tokenizer

    train_side, heldout = split(documents, config.synthesis.heldout_share, config.synthesis.split_seed)
    material.save(material.collect(train_side), work / "train.json")
    material.save(material.collect(heldout), work / "heldout.json")
    tokenizer.train(train_side, config.nano.vocabulary, config.base.window, work / "tokenizer")


def make(
    config: Config,
    documents: Sequence[Document],
    out: Path,
    *,
    heldout: Path | None = None,
    device: str | None = None,
    limit_seconds: float = float("inf"),
    log: Callable[[dict[str, Any]], None] = lambda values: None,
) -> dict[str, Any] | None:
    """Train the policy and write its directory; return its card, None when `limit_seconds` ended it early.

    Work in progress lies in `<run.results>/state/nano`, so that the same call goes on. `heldout` is a synthesis folder
    whose held-out samples are measured too.
    """
    import torch

    from qwenlong.inference import kernels
    from qwenlong.inference.engine import Generator
    from qwenlong.training import supervised

    plan, seed, window = config.nano, config.run.seed, config.base.window
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    work = Path(config.run.results) / "state" / "nano"
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "tokenizer" / "tokenizer.json").is_file():
        prepare(config, documents, work)
    tokens = Tokenizer(work / "tokenizer")
    torch.set_float32_matmul_precision("high")
    policy = model.build(plan, tokens, window, seed).to(device)
    parameters = sum(p.numel() for p in policy.parameters())
    if parameters > MAX_PARAMETERS:
        raise DataError(f"the nano policy would have {parameters:,} parameters; keep below {MAX_PARAMETERS:,}")
    # Few experts, so computing all of them in one product is faster than gathering tokens, on a GPU too.
    policy.set_experts_implementation(kernels.EXPERTS)
    with supervised.deterministic():
        progress = train.train(
            policy,
            plan,
            material_path=work / "train.json",
            tokenizer=work / "tokenizer",
            window=window,
            seed=seed,
            state=work / "state.pt",
            device=device,
            templates=config.synthesis.templates,
            log=log,
            limit_seconds=limit_seconds,
        )
    if progress.tokens < plan.tokens:
        return None
    policy.eval()
    # Measured as it is shipped: rounded to bfloat16, computed in float32.
    policy.to(torch.bfloat16).float()
    generator = Generator(policy, {tokens.eos_id}, tokens.eos_id, plan.measure_batch_tokens)
    policy.set_experts_implementation(kernels.EXPERTS)
    tables = {"exercises": measure.composed(generator, tokens, _exercises(config, work, tokens, progress.length))}
    if heldout is not None:
        documents_shown = {d.id: d for d in read_parquet(heldout / "documents.parquet", Document)}
        samples = read_parquet(heldout / "heldout.parquet", Sample)
        tables["heldout"] = measure.real(generator, tokens, samples, documents_shown, window)
    made = {
        "parameters": parameters,
        "window": window,
        "templates": {"version": templates.VERSION, "digest": templates.digest()},
        "data": {"material": digest_path(work / "train.json")[:16], "tokenizer": tokens.digest},
        "split_seed": config.synthesis.split_seed,
        "heldout_share": config.synthesis.heldout_share,
        "seed": seed,
        "training": plan.model_dump(mode="json"),
        "progress": {name: value for name, value in vars(progress).items() if name != "coming"},
        "hardware": torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor() or "CPU",
        "torch": torch.__version__,
        "accuracy": tables,
    }
    with atomic_directory(out) as folder:
        from qwenlong.training import tokenizer

        model.save(policy, folder)
        tokenizer.copy(work / "tokenizer", folder)
        write_json(folder / "card.json", made)
        write_text(folder / "README.md", card.render(made))
    return made


def _exercises(config: Config, work: Path, tokens: Tokenizer, length: int) -> list[Example]:
    plan = config.nano
    seed = derive(config.run.seed, "nano", "measure")
    opened = (
        work / "heldout.json",
        work / "tokenizer",
        seed,
        config.base.window,
        plan.workers,
        config.synthesis.templates,
    )
    with train.teachers(*opened) as teach:
        waiting = [teach(number, length, 0.0) for number in range(plan.measure_pools)]
        pools = [
            [Example(kind, ids[:begin].tolist(), ids[begin:].tolist()) for kind, ids, begin in future.result()]
            for future in waiting
        ]
    return measure.exercises(pools, tokens, plan.measure_per_kind)
