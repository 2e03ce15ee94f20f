"""How long a training step takes on a GPU: verl as it comes, and this project's engine, on the same prompts.

    python benchmarks/gpu_step.py stock --samples S --documents D --model M --out DIR [--prompt 1536] [--steps 3]
    python benchmarks/gpu_step.py ours  --samples S --documents D --model M --out DIR [--prompt 1536] [--steps 8]
    python benchmarks/gpu_step.py table DIR... --out benchmarks/gpu_step.md

`stock` runs verl's own `main_ppo` with its defaults (synchronous trainer, vLLM, FSDP, token-mean loss), 64 prompts x 8
rollouts, responses of at most 192 tokens; what differs from its defaults is in `STOCK`. `ours` runs
`qwenlong train stage` with benchmarks/gpu.yaml at the same sizes. Both leave `steps.json`; run them in one lease.
`ours` also takes `--gpus`, `--sequence` (GPUs that share a row), `--tensor` (GPUs that share a vLLM replica),
`--kill-after` (the stage ends with the checkpoint of that step) and `--kill-rank-after` (one worker is killed at that
step; the stage has to end by itself); the same command without the kill goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from qwenlong.core.files import read_parquet, write_json, write_text
from qwenlong.core.records import Document, Sample

PROMPTS, GROUP, RESPONSE = 64, 8, 192
#: What verl's defaults are not: sizes, a file of rewards, no flash-attn package, micro-batches that fit, no checkpoint.
STOCK = {
    "data.train_batch_size": PROMPTS,
    "data.max_response_length": RESPONSE,
    "data.filter_overlong_prompts": False,
    "data.dataloader_num_workers": 0,
    "+actor_rollout_ref.model.override_config.attn_implementation": "sdpa",
    "actor_rollout_ref.model.use_remove_padding": False,
    "actor_rollout_ref.actor.ppo_mini_batch_size": PROMPTS,
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 16,
    "actor_rollout_ref.actor.use_kl_loss": False,
    "actor_rollout_ref.actor.optim.lr": 2e-6,
    "actor_rollout_ref.rollout.name": "vllm",
    "actor_rollout_ref.rollout.n": GROUP,
    "actor_rollout_ref.rollout.temperature": 0.7,
    "actor_rollout_ref.rollout.top_p": 0.95,
    "actor_rollout_ref.rollout.tensor_model_parallel_size": 1,
    "actor_rollout_ref.rollout.gpu_memory_utilization": 0.4,
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": 16,
    "algorithm.adv_estimator": "grpo",
    "algorithm.use_kl_in_reward": False,
    "trainer.n_gpus_per_node": 1,
    "trainer.nnodes": 1,
    "trainer.logger": '["console"]',
    "trainer.val_before_train": False,
    "trainer.test_freq": -1,
    "trainer.save_freq": -1,
    "trainer.resume_mode": "disable",
    "reward.num_workers": 1,
}
#: Parts of a step by verl's timers.
PARTS = ("gen", "old_log_prob", "adv", "update_actor", "update_weights", "step")
#: Bytes/s of device memory by name of the card.
BANDWIDTHS = {"H100": 3.35e12, "H200": 4.8e12}
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "WANDB_MODE": "disabled",
    "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1",
}  # fmt: skip


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None, **_: Any) -> float:
    """Return the reward that verl's own workers ask for: the same rule."""
    from qwenlong.rewards import rules

    gold = json.loads(ground_truth)
    return rules.score(data_source, solution_str, gold["answers"], answer_prefix=gold["prefix"])


def stock(arguments: argparse.Namespace) -> None:
    """Run verl's main_ppo and read its console."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from qwenlong.core import templates
    from qwenlong.core.tokens import Tokenizer

    out: Path = arguments.out
    tokenizer = Tokenizer(arguments.model)
    documents = {d.id: d for d in read_parquet(arguments.documents, Document)}
    rows = []
    for sample in fitting(arguments, tokenizer):
        gold = {"answers": list(sample.answers), "prefix": sample.answer_prefix}
        rows.append(
            {
                "prompt": templates.messages(sample, documents, tokenizer),
                "data_source": sample.task,
                "reward_model": {"style": "rule", "ground_truth": json.dumps(gold)},
                "extra_info": {"index": len(rows)},
            }
        )
    out.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), out / "train.parquet")
    values = STOCK | {
        "data.train_files": out / "train.parquet",
        "data.val_files": out / "train.parquet",
        "data.max_prompt_length": arguments.prompt,
        "actor_rollout_ref.model.path": arguments.model,
        "reward.custom_reward_function.path": Path(__file__).resolve(),
        "trainer.total_training_steps": arguments.steps,
        "trainer.default_local_dir": out / "checkpoints",
        "hydra.run.dir": out / "hydra",
    }
    command = [sys.executable, "-m", "verl.trainer.main_ppo", *(f"{name}={value}" for name, value in values.items())]
    log = watched(command, out / "log.txt")
    steps = []
    for line in log.splitlines():
        found = re.search(r"step:(\d+) - (.*)", line)
        if found:
            pairs = re.findall(r"(\S+):([-+.\deE]+)(?: - |$)", found.group(2))
            steps.append({"step": int(found.group(1))} | {name: float(value) for name, value in pairs})
    finish(arguments, "verl as it comes", steps)


def ours(arguments: argparse.Namespace) -> None:
    """Run the stage and read its metrics."""
    import yaml

    root = Path(__file__).resolve().parents[1]
    config = yaml.safe_load((arguments.config or root / "benchmarks/gpu.yaml").read_text(encoding="utf-8"))
    out: Path = arguments.out
    config["run"] = {"name": "gpu_step", "results": str(out / "results"), "seed": 17}
    sizes = {"max_input_tokens": arguments.prompt, "max_output_tokens": RESPONSE, "steps": arguments.steps}
    config["training"] |= sizes | {"save_every": arguments.save_every}
    config["stages"]["rl_1"] = sizes
    config["engine"] |= {"gpus_per_node": arguments.gpus, "tensor_parallel": arguments.tensor}
    if arguments.sequence > 1:
        config["engine"] |= {"sequence_parallel": arguments.sequence, "packed": True}
    config["tracking"] = {"enabled": False}
    write_text(out / "config.yaml", yaml.safe_dump(config))
    command = [sys.executable, "-m", "qwenlong", "train", "stage", "rl_1", "--config", out / "config.yaml",
               "--samples", arguments.samples, "--documents", arguments.documents, "--model", arguments.model,
               "--out", out / "policy"]  # fmt: skip
    place = out / "results"
    log = out / f"log{len(list(out.glob('log*.txt')))}.txt"
    if arguments.kill_rank_after:
        watched([str(word) for word in command], log, watch=place, kill_rank_after=arguments.kill_rank_after)
    else:
        watched([str(word) for word in command], log, watch=place, kill_after=arguments.kill_after)
    files = sorted((out / "results/state/stages/rl_1").glob("*/metrics.jsonl"))
    steps = [json.loads(line) for line in files[-1].read_text(encoding="utf-8").splitlines()]
    finish(arguments, "this project", steps)


def fitting(arguments: argparse.Namespace, tokenizer: Any) -> list[Sample]:
    """Return the samples whose prompts fit, as the stage's own data set keeps them."""
    from qwenlong.core import templates

    documents = {d.id: d for d in read_parquet(arguments.documents, Document)}
    samples = read_parquet(arguments.samples, Sample)
    return [s for s in samples if tokenizer.count_chat(templates.messages(s, documents, tokenizer)) <= arguments.prompt]


def watched(
    command: list[str], log: Path, kill_after: int = 0, watch: Path | None = None, kill_rank_after: int = 0
) -> str:
    """Run a command into a log; with `kill_after`, end its process when the checkpoint of that step is whole.

    With `kill_rank_after`, end one of its workers instead, and wait for the command to end by itself.
    """
    import signal

    begin = time.monotonic()
    killed = 0.0
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=os.environ | ENVIRONMENT)
        while process.poll() is None:
            time.sleep(0.2)
            if kill_after and watch and list(watch.rglob(f"global_step_{kill_after}/complete.json")):
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                print(f"killed after the checkpoint of step {kill_after}")
                break
            if kill_rank_after and not killed and watch and list(
                watch.rglob(f"global_step_{kill_rank_after}/complete.json")
            ):  # fmt: skip
                worker = workers()[-1]
                print(f"worker {worker} of {workers()} killed after the checkpoint of step {kill_rank_after}")
                os.kill(worker, signal.SIGKILL)
                killed = time.monotonic()
    text = log.read_text(encoding="utf-8")
    if kill_rank_after:
        print(f"rc {process.returncode} {time.monotonic() - killed:.0f} s after the kill; the log ends with:")
        print(text[-1500:])
        if not killed or process.returncode == 0:
            raise SystemExit("the stage did not fail")
        return text
    print(f"rc {process.returncode} after {time.monotonic() - begin:.0f} s", flush=True)
    if process.returncode not in (0, -9):
        print(text[-6000:])
        raise SystemExit(1)
    return text


def workers() -> list[int]:
    """Return the process ids of verl's actor workers on this machine, in the order of their start."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if name.startswith(b"ray::") and b"Worker" in name and b"AgentLoop" not in name:
            found.append(int(folder.name))
    return sorted(found)


def finish(arguments: argparse.Namespace, name: str, steps: list[dict[str, Any]]) -> None:
    """Write steps.json and print the timers of each step."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    versions = {}
    for package in ("torch", "vllm", "verl", "transformers"):
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    write_json(
        arguments.out / "steps.json",
        {"name": name, "prompt": arguments.prompt, "device": device, "gpus": arguments.gpus,
         "sequence": arguments.sequence, "tensor": arguments.tensor, "model": arguments.model.name,
         "versions": versions, "steps": steps},
    )  # fmt: skip
    for step in steps:
        shown = {part: round(step.get(f"timing_s/{part}", float("nan")), 2) for part in PARTS}
        print(step["step"], shown, "reward", step.get("reward/mean", step.get("critic/score/mean")), flush=True)


def table(folders: list[Path], out: Path) -> None:
    """Write the table of runs: medians without the first step, ratios to verl as it comes, floors."""
    from statistics import median

    runs = [json.loads((folder / "steps.json").read_text(encoding="utf-8")) for folder in folders]
    for run in runs:
        run["label"] = run["name"] + (f", {run['gpus']} GPUs" if run["gpus"] > 1 else "")
        run["label"] += f", {run['sequence']} share a row" if run["sequence"] > 1 else ""
        run["label"] += f", {run['tensor']} share a vLLM replica" if run.get("tensor", 1) > 1 else ""
    lines = [
        "| run | prompt | GPU | " + " | ".join(PARTS) + " | other | response tokens | steps |",
        "|" + "---|" * (len(PARTS) + 6),
    ]
    whole: dict[tuple[str, int, str], float] = {}
    for run in runs:
        steps = warm(run)
        times = {part: median(s.get(f"timing_s/{part}", 0.0) for s in steps) for part in PARTS}
        whole[run["label"], run["prompt"], run["device"]] = times["step"]
        other = times["step"] - sum(times[part] for part in PARTS if part != "step")
        shown = " | ".join(f"{times[part]:.2f}" for part in PARTS)
        lines.append(
            f"| {run['label']} | {run['prompt']} | {run['device']} | {shown} | {other:.2f} | "
            f"{median(s['response_length/mean'] for s in steps):.0f} | {len(steps)} |"
        )
    # Only runs of one card are compared.
    for prompt, device in sorted({(prompt, device) for _, prompt, device in whole}):
        ours = whole.get(("this project", prompt, device))
        others = [run for run in runs if (run["prompt"], run["device"]) == (prompt, device)]
        others = [run for run in others if run["label"] != "this project"]
        if ours is None or not others:
            continue
        lines.append(f"\nPrompts of at most {prompt} tokens, {device}:\n")
        for run in others:
            ratio = whole[run["label"], prompt, device] / ours
            lines.append(f"- {run['label']}: {ratio:.2f} times as long a step as this project on one GPU")
            if run["gpus"] > 1:
                lines[-1] += f", scaling efficiency {1 / ratio / run['gpus']:.2f}"
    for run in runs:
        if run["label"] == "this project":
            lines += ["", *floors(run)]
    text = "\n".join(
        ["# A training step on GPUs", "",
         f"`python benchmarks/gpu_step.py`, SmolLM2-135M, {PROMPTS} prompts x {GROUP} rollouts, responses of at most "
         f"{RESPONSE} tokens; seconds, medians over the steps after the first, by verl's timers "
         f"({', '.join(f'{k} {v}' for k, v in runs[0]['versions'].items())}).", "", *lines, ""]
    )  # fmt: skip
    write_text(out, text)
    print(text)


def warm(run: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the steps after the first of each of a run's processes; a step whose process was killed has no timers."""
    steps = {step["step"]: step for step in run["steps"]}
    return [s for n, s in steps.items() if "timing_s/step" in s and "timing_s/step" in steps.get(n - 1, {})]


def floors(run: dict[str, Any]) -> list[str]:
    """Return what arithmetic and memory traffic alone would take, beside what was measured."""
    from statistics import median

    import gpu_floors

    bandwidth = next(value for name, value in BANDWIDTHS.items() if name in run["device"])
    flops = gpu_floors.peak(run["device"])
    steps = warm(run)

    def middle(name: str) -> float:
        return median(s[name] for s in steps)

    prompt, response = middle("prompt_length/mean"), middle("response_length/mean")
    floor = gpu_floors.seconds(run["device"], [(prompt, [response] * GROUP)] * PROMPTS)
    # The rollout reads prompts once, and for each token weights and every running row's keys and values, in 2 bytes.
    layers, attention, _ = gpu_floors.forward([(prompt, [])] * PROMPTS)
    weights = 2 * (gpu_floors.BODY + gpu_floors.HEAD)
    row = 2 * 2 * gpu_floors.LAYERS * gpu_floors.KV_HEADS * gpu_floors.WIDTH * (prompt + response / 2)
    floor["gen"] = (layers + attention) / flops + response * (weights + PROMPTS * GROUP * row) / bandwidth
    return [
        f"Floors at {prompt:.0f} prompt and {response:.0f} response tokens ({run['device']}: "
        f"{flops / 1e12:.0f} TFLOP/s, {bandwidth / 1e12:.2f} TB/s):", "",
        *gpu_floors.table(floor, {name: middle(f"timing_s/{name}") for name in floor}),
    ]  # fmt: skip


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function in (("stock", stock), ("ours", ours)):
        command = commands.add_parser(name)
        for option in ("samples", "documents", "model", "out"):
            command.add_argument(f"--{option}", type=lambda text: Path(text).resolve(), required=True)
        command.add_argument("--prompt", type=int, default=1536)
        command.add_argument("--steps", type=int, default=3)
        command.add_argument("--save-every", type=int, default=1000)
        command.add_argument("--kill-after", type=int, default=0)
        command.add_argument("--kill-rank-after", type=int, default=0)
        command.add_argument("--gpus", type=int, default=1)
        command.add_argument("--sequence", type=int, default=1)
        command.add_argument("--tensor", type=int, default=1)
        command.add_argument("--config", type=Path)
        command.set_defaults(run=function)
    command = commands.add_parser("table")
    command.add_argument("folders", type=Path, nargs="+")
    command.add_argument("--out", type=Path, default=Path("benchmarks/gpu_step.md"))
    command.set_defaults(run=lambda arguments: table(arguments.folders, arguments.out))
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
