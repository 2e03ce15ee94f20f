"""Gradients of verl's own engine worker against the equations, case by case; without Ray and pytest.

    python tests/engines/gradient_driver.py [--device cpu|cuda] [--ranks N] [--model DIR] [--dtype float32|bfloat16]
        [--engines ours stock stream] [--sequence N] [--batch-ranks N] [--only PATTERN] [--keep G.pt] [--against G.pt]
        --out F.json
    python tests/engines/gradient_driver.py --table F.json [G.json …] --out benchmarks/gradient_parity.md

Without --model two tiny random models are used, one dense and one mixture of experts. Errors are relative: `element` is
the largest difference over the largest element, `norm` that of the 2-norms, each the worst of all parameters. With
--against the reference is not the equations' gradient but one kept earlier with --keep: that of fewer ranks, say, which
were given the same batch with --batch-ranks.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from gradient_batch import VOCABULARY

#: Largest relative error of a case in float32.
TOLERANCE = 1e-4


def tiny_models(folder: Path) -> dict[str, Path]:
    """Write a dense and a mixture-of-experts model with random weights and a tokenizer of as many words."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

    shape = {
        "vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512,
        # Large enough that attention and experts tell tokens apart.
        "initializer_range": 0.15, "eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None,
    }  # fmt: skip
    experts = {"moe_intermediate_size": 32, "num_experts": 8, "num_experts_per_tok": 2, "tie_word_embeddings": True}
    words = {f"<{n}>": n for n in range(VOCABULARY)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<2>")),
        pad_token="<0>", eos_token="<1>", unk_token="<2>",
    )  # fmt: skip
    made = {}
    for name, build, config in (
        ("dense", Qwen3ForCausalLM, Qwen3Config(**shape, tie_word_embeddings=False)),
        ("experts", Qwen3MoeForCausalLM, Qwen3MoeConfig(**shape, **experts)),
    ):
        torch.manual_seed(1)
        made[name] = folder / name
        build(config).save_pretrained(made[name])
        tokenizer.save_pretrained(made[name])
    return made


def errors(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, float | str]:
    """Return the worst relative errors over all parameters, and whose they are."""
    if found.keys() != expected.keys():
        raise RuntimeError(f"parameters differ: {sorted(found.keys() ^ expected.keys())[:4]}")
    element = {n: float((found[n] - r).abs().max() / r.abs().max()) for n, r in expected.items()}
    norm = {n: float((found[n] - r).norm() / r.norm()) for n, r in expected.items()}
    worst = {"element": max(element, key=element.__getitem__), "norm": max(norm, key=norm.__getitem__)}
    return {
        "element": element[worst["element"]],
        "norm": norm[worst["norm"]],
        "parameter": worst["element"],
        "reference_norm": float(torch.stack([r.norm() for r in expected.values()]).norm()),
    }


class Comparison:
    """All cases of one model and engine in one process; references are made once for each objective."""

    def __init__(self, options: argparse.Namespace, name: str, folder: Path) -> None:
        from transformers import AutoModelForCausalLM

        self.options, self.name, self.folder = options, name, folder
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        self.model.to(options.device)
        self.known: dict[Any, dict[str, torch.Tensor]] = {}
        self.kept: dict[str, dict[str, torch.Tensor]] = {}
        self.before = torch.load(options.against) if options.against else {}

    def run(self, engine: str) -> list[dict[str, Any]]:
        """Return one record per case, empty on ranks other than the first."""
        import torch.distributed as dist
        from gradient_cases import cases, stage
        from gradient_reference import gradient
        from gradient_worker import Actor, configuration, update

        actor, records = None, []
        options = self.options
        ranks = options.batch_ranks or dist.get_world_size()
        for case in cases(dist.get_world_size() // options.sequence, brief=self.name == "experts"):
            if options.only and not re.search(options.only, case.name):
                continue
            if options.against and case.wrong:
                continue  # no gradient of a right case to hold it against
            rows = case.rows(ranks)
            objective = self.objective(case, rows)
            settings = stage(case, rows, objective.clip[2] if objective.clip else None)
            config = configuration(settings, self.folder, options.device, case.micro, options.dtype, options.sequence)
            actor = actor or Actor(config, engine)
            begun = time.perf_counter()
            metrics = update(actor, case, rows, objective, config)
            took = time.perf_counter() - begun
            if dist.get_rank():
                continue
            name = f"{self.name}: {case.name}"
            self.kept[name] = actor.gradient
            if options.against:
                reference = self.before[name]
            else:
                key = (case.layout, len(rows), objective)
                if key not in self.known:
                    self.known[key] = gradient(self.model, rows, objective)
                reference = self.known[key]
            kind = type(actor.engine)
            records.append(
                {
                    "ranks": dist.get_world_size(), "model": self.name, "engine": engine,
                    "class": f"{kind.__module__}.{kind.__qualname__}", "case": case.name, "wrong": case.wrong,
                    "sequence": options.sequence, **errors(actor.gradient, reference),
                    "grad_norm": metrics["actor/grad_norm"], "masked_share": metrics.get("aepo/masked_share", 0.0),
                    "clipped_share": metrics.get("clipping/token_share", 0.0), "seconds": round(took, 3),
                }
            )  # fmt: skip
            print("{ranks} {model} {engine} {case}: {element:.1e} {norm:.1e}".format(**records[-1]), flush=True)
        return records

    def objective(self, case: Any, rows: Any) -> Any:
        """Return what a case shall maximise; the threshold of clipping lies in the widest gap between entropies."""
        from gradient_cases import TEMPERATURE
        from gradient_reference import Objective, entropies

        plain = Objective(
            case.kind, TEMPERATURE, masks_above=case.aepo[1] if case.aepo else None, shifted=case.shifted,
            dropped=(rows[0].group, rows[0].trajectory) if case.drops else None,
        )  # fmt: skip
        if case.clip is None:
            return plain
        level, side = case.clip
        values = list(entropies(self.model, rows, plain).values())
        flat = torch.cat(values) if level == "token" else torch.stack([v.mean() for v in values])
        middle = flat.sort().values[len(flat) // 4 : -len(flat) // 4]
        place = int(middle.diff().argmax())
        return Objective(case.kind, TEMPERATURE, clip=(level, side, float(middle[place : place + 2].mean())))


def work(rank: int, options: argparse.Namespace, models: dict[str, Path], port: int, out: Path) -> None:
    """Run all cases as one rank."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": options.ranks, "LOCAL_WORLD_SIZE": options.ranks}
    os.environ.update({name: str(value) for name, value in places.items()})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    import verl  # noqa: F401  registers the project's parts
    from verl.utils.device import get_torch_device
    from verl.utils.distributed import initialize_global_process_group_ray

    get_torch_device().set_device(rank)
    initialize_global_process_group_ray()
    records, kept = [], {}
    for name, folder in models.items():
        comparison = Comparison(options, name, folder)
        for engine in options.engines:
            records += comparison.run(engine)
        kept |= comparison.kept
    if rank == 0:
        out.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
        if options.keep:
            torch.save(kept, options.keep)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Start the ranks, wait for them and return their records."""
    from qwenlong.core.config import Config
    from qwenlong.training.verl_plugin import launch

    # What every process of a training run has before it imports torch and verl. Tiny models gain nothing from threads.
    threads = max(1, (os.cpu_count() or 1) // options.ranks) if options.model else 1
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.update(
        launch.environment(
            Config.model_validate({"engine": {"platform": options.device, "micro_batch_tokens": 200_000}})
        )
    )
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        models = {options.model.name: options.model.resolve()} if options.model else tiny_models(Path(folder))
        out = Path(folder) / "records.json"
        torch.multiprocessing.spawn(work, (options, models, port, out), nprocs=options.ranks)
        return list(json.loads(out.read_text(encoding="utf-8")))


def failures(records: list[dict[str, Any]]) -> list[str]:
    """Return what is not as it must be: an error above the tolerance, or a wrong variant that passes for right."""
    found = []
    for one in records:
        worst = max(one["element"], one["norm"])
        if not (worst > 100 * TOLERANCE if one["wrong"] else worst <= TOLERANCE):
            found.append(
                "{ranks} ranks, {model}, {engine}, {case}: element {element:.1e}, norm {norm:.1e}".format(**one)
            )
    return found


def main() -> int:
    """Measure, or write the table of measured files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--ranks", type=int, choices=(1, 2), default=1)
    parser.add_argument("--model", type=Path, help="folder of a real model with at least 320 tokens")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--engines", nargs="+", choices=("ours", "stock", "stream"), default=["ours", "stock"])
    parser.add_argument("--sequence", type=int, default=1, help="ranks that share a row")
    parser.add_argument("--batch-ranks", type=int, choices=(1, 2), help="the batch of so many ranks; default: --ranks")
    parser.add_argument("--keep", type=Path, help="where to keep the gradients")
    parser.add_argument("--against", type=Path, help="compare with gradients kept by --keep")
    parser.add_argument("--only", help="regular expression: cases whose names match")
    parser.add_argument("--table", type=Path, nargs="+", help="measured files to write as Markdown")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.table:
        from gradient_table import table

        options.out.write_text(table([json.loads(f.read_text(encoding="utf-8")) for f in options.table]), "utf-8")
        return 0
    records = measure(options)
    wrong = failures(records) if options.dtype == "float32" else []
    result = {
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "dtype": options.dtype, "torch": torch.__version__, "failures": wrong, "cases": records,
        "against": options.against is not None,
    }  # fmt: skip
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(*wrong, sep="\n", file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
