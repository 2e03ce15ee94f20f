"""Checkpoints of verl's own manager, converted: the model that was trained, bit by bit; vLLM reads it too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from qwenlong.checkpoints.convert import convert
from qwenlong.checkpoints.verify import verify

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/unit/checkpoints"), str(ROOT / "tests/engines"), str(ROOT / "benchmarks")]
NANO = ROOT / "models/nano"
#: Names of checkpoints: base, world size, and the rest of the job.
JOBS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "dense_2": ("dense", 2, {}),
    "dense_4": ("dense", 4, {}),
    "moe_2": ("moe", 2, {}),
    "moe_4": ("moe", 4, {}),
    "moe_replicas": ("moe", 4, {"replicas": 2}),
    "moe_any_dim": ("moe", 2, {"wrap": "fsdp2-any-dim"}),
    "moe_fsdp1": ("moe", 2, {"wrap": "fsdp1"}),
    "nano": ("nano", 2, {"noise": 0.002}),
}

pytestmark = pytest.mark.engines


def tokens(vocabulary: int) -> torch.Tensor:
    return (torch.arange(40) * 7 % vocabulary).reshape(2, 20)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As many as in the driver: sums in another order differ in the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bases `dense` (tied; 67 words, 45 rows of MLP: neither 2 nor 4 ranks divide them) and `moe`; the checkpoints."""
    from fsdp_shards import tiny_model
    from transformers import Qwen3Config, Qwen3ForCausalLM

    root = tmp_path_factory.mktemp("verl")
    shape = {"hidden_size": 32, "intermediate_size": 45, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 67, "tie_word_embeddings": True}
    torch.manual_seed(0)
    Qwen3ForCausalLM(Qwen3Config(**shape, **heads)).save_pretrained(root / "dense")
    tiny_model().save_pretrained(root / "moe")
    bases = {"dense": root / "dense", "moe": root / "moe", "nano": NANO}
    jobs = [
        {"world": world, "source": str(bases[base]), "target": str(root / name), "wrap": "fsdp2", "noise": 0.01} | more
        for name, (base, world, more) in JOBS.items()
    ]
    (root / "jobs.json").write_text(json.dumps(jobs))
    driver = [sys.executable, str(ROOT / "tests/engines/shard_driver.py"), str(root / "jobs.json")]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "packages"), "VERL_PLATFORM": "cpu"}
    done = subprocess.run(driver, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return root


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize("known", [True, False], ids=["like", "alone"])
def test_reloaded_logits_are_those_of_the_trained_model(written: Path, tmp_path: Path, name: str, known: bool) -> None:
    from transformers import AutoModelForCausalLM

    base, world, _ = JOBS[name]
    source = NANO if base == "nano" else written / base
    report = convert(written / name, tmp_path / "out", like=source if known else None)
    assert (report["world_size"], report["dtypes"]) == (world, ["float32"])
    assert report["checked_against"] == ("reference" if known else "architecture")
    assert report["experts"] == (None if base == "dense" else "split")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        logits = model(tokens(model.config.vocab_size)).logits
    assert logits.dtype == torch.float32
    assert torch.equal(logits, torch.load(written / name / "trained.pt"))
    found = verify(tmp_path / "out", source, dtype=torch.float32)
    assert found["faults"] == [] and found["distance"]["unchanged_tensors"] == 0


def test_all_that_belongs_to_the_model_comes_along_without_a_reference(written: Path, tmp_path: Path) -> None:
    convert(written / "nano", tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"} <= names
    assert (tmp_path / "out/chat_template.jinja").read_text() == (NANO / "chat_template.jinja").read_text()


def test_worlds_give_the_same_bytes(written: Path, tmp_path: Path) -> None:
    same = ("moe_2", "moe_4", "moe_replicas", "moe_any_dim", "moe_fsdp1")
    for name in same:
        convert(written / name, tmp_path / name, like=written / "moe")
    assert len({(tmp_path / name / "model.safetensors").read_bytes() for name in same}) == 1


PROMPTS = (
    "What is the capital of France?",
    "The ledger of Aldona says",
    "Copy: alpha beta gamma delta.",
    "Which number is larger, 17 or 23?",
    "<memory>Nothing yet.</memory>",
    "Section 3. The bridge was built in 1894 by",
)


# vLLM has an environment of its own, made here where it is not there (3.5 GB, minutes): with the slow tests.
@pytest.mark.slow
def test_vllm_gives_the_greedy_tokens_of_transformers(written: Path, tmp_path: Path) -> None:
    import llm_paths
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path / "nano"
    convert(written / "nano", folder, like=NANO)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    prompts = [tokenizer(text)["input_ids"] for text in PROMPTS]
    prompts += [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        for text in PROMPTS
    ]
    expected = [greedy(model, ids, 32) for ids in prompts]
    assert len({tuple(one) for one in expected}) > len(PROMPTS)
    with llm_paths.served(folder, tmp_path, "vllm", ("--max-model-len", "512", "--dtype", "float32")) as server:
        for ids, wanted in zip(prompts, expected, strict=True):
            request = {"model": server.model, "prompt": ids, "max_tokens": 32, "temperature": 0, "ignore_eos": True}
            reply = httpx.post(f"{server.url}/completions", json=request | {"return_token_ids": True}, timeout=600)
            assert reply.json()["choices"][0]["token_ids"] == wanted


def greedy(model: Any, ids: list[int], count: int) -> list[int]:
    """The likeliest tokens; the end of a turn is a token as any other."""
    model.generation_config.eos_token_id = None
    with torch.no_grad():
        made = model.generate(torch.tensor([ids]), max_new_tokens=count, do_sample=False)
    return made[0, len(ids) :].tolist()
