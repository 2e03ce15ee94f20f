"""The base model: copying heads at the start, deterministic and resumable warm-up, other models in its place."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qwenlong.core.config import Config
from qwenlong.core.errors import DataError
from qwenlong.core.files import digest_path, read_json
from qwenlong.core.records import Document, Evidence, Sample
from qwenlong.core.templates import ANSWER_INSTRUCTION
from qwenlong.core.tokens import Tokenizer
from qwenlong.inference import kernels
from qwenlong.inference.engine import Sampling, load_generator
from qwenlong.training import base, copying, warmup
from qwenlong.training import tokenizer as tokenizers

NAMES = ["Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hal"]


def config(results: Path, **nano: Any) -> Config:
    shape = {"vocabulary": 400, "hidden_size": 96, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 32}
    small = {"experts": 2, "experts_per_token": 1, "expert_size": 32, "warmup_steps": 12, "warmup_batch": 2}
    return Config.model_validate(
        {
            "run": {"results": str(results)},
            "tracking": {"enabled": False},
            "base": {"window": 256, "kind": "nano-scratch", "scratch": shape | small | nano},
        }
    )


def data() -> tuple[list[Sample], dict[str, Document]]:
    documents, samples = {}, []
    for n, name in enumerate(NAMES):
        text = f"Code: {n}{7 - n}{n}\nHome: town {n}"
        documents[f"d{n}"] = Document(
            id=f"d{n}", source="s", category="general", title=name, text=text, n_tokens=0, licence="MIT"
        )
    for n, name in enumerate(NAMES):
        samples.append(
            Sample(
                id=f"s{n}",
                task="reading_comprehension",
                question_type="fact",
                question=f"What is the code of {name}?",
                instruction=ANSWER_INSTRUCTION,
                documents=(f"d{n}", f"d{(n + 1) % 8}"),
                evidence=(Evidence(document=f"d{n}", start=0, end=9),),
                answers=(f"{n}{7 - n}{n}",),
                reasoning_chain=(f"{name}: Code: {n}{7 - n}{n}",),
                category="general",
                source="s",
                generator="g",
                template="t@1",
                n_tokens=1,
            )
        )
    return samples, documents


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("base") / "tokenizer"
    tokenizers.build(config(target.parent), list(data()[1].values()), target)
    return target


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    base.make(config(root / "results"), folder, root / "model", *data())
    return root / "model"


def test_fresh_model_copies_what_stood_before(folder: Path, tmp_path: Path) -> None:
    settings = config(tmp_path, hidden_size=192, head_dim=64, layers=3)
    model = base.nano_model(settings, Tokenizer(folder))
    torch.manual_seed(0)
    ids = torch.randint(5, 380, (4, 120))
    again = torch.cat([ids, ids[:, 30:80]], dim=1)
    with torch.no_grad():
        logits = model(again).logits
    # From the fourth repeated token on, three tokens of context say which place is meant.
    hits = logits[:, 123:-1].argmax(-1) == again[:, 124:]
    assert hits.float().mean() > 0.9


def test_model_without_room_for_copying_is_left_alone(folder: Path, tmp_path: Path) -> None:
    model = base.nano_model(config(tmp_path, layers=1), Tokenizer(folder))
    before = {name: p.clone() for name, p in model.named_parameters()}
    assert copying.initialise(model, 1) is False
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_same_inputs_same_bytes_and_another_seed_others(folder: Path, made: Path, tmp_path: Path) -> None:
    base.make(config(tmp_path / "results"), folder, tmp_path / "again", *data())
    assert digest_path(made) == digest_path(tmp_path / "again")
    other = config(tmp_path / "results")
    other = other.model_copy(update={"run": other.run.model_copy(update={"seed": 3})})
    base.make(other, folder, tmp_path / "other", *data())
    assert digest_path(made) != digest_path(tmp_path / "other")


def test_weights_in_bfloat16_are_the_float32_ones_rounded_and_config_json_says_so(
    folder: Path, made: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    from qwenlong.checkpoints.verify import verify

    settings = config(tmp_path / "results")
    settings = settings.model_copy(update={"run": settings.run.model_copy(update={"weights_dtype": "bfloat16"})})
    base.make(settings, folder, tmp_path / "model", *data())
    full, half = (load_file(path / "model.safetensors") for path in (made, tmp_path / "model"))
    assert full.keys() == half.keys() and {value.dtype for value in full.values()} == {torch.float32}
    for name, value in full.items():
        assert torch.equal(half[name], value.to(torch.bfloat16)), name
    assert read_json(tmp_path / "model" / "config.json")["dtype"] == "bfloat16"
    assert verify(tmp_path / "model", made)["faults"] == []
    assert digest_path(made / "base.json") == digest_path(tmp_path / "model" / "base.json")
    # What trains or answers with it loads it as float32.
    loaded, _ = load_generator(tmp_path / "model")
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}


def test_interrupted_warm_up_goes_on_to_the_same_bytes(
    folder: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warmup, "SAVE_EVERY", 5)
    settings = config(tmp_path / "results")
    steps: list[int] = []

    def killed(values: dict[str, float], step: int) -> None:
        steps.append(step)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        base.make(settings, folder, tmp_path / "model", *data(), killed)
    state = tmp_path / "results" / "state" / "base" / "warmup.safetensors"
    assert (steps, state.is_file(), (tmp_path / "model").exists()) == ([10], True, False)

    real, trained = warmup.loss, []
    monkeypatch.setattr(warmup, "loss", lambda *args: trained.append(args[3]) or real(*args))
    base.make(settings, folder, tmp_path / "model", *data())
    # The log came before step 10's own checkpoint, so the run goes on after step 5.
    assert trained == list(range(6, 13))
    assert not state.exists()
    assert digest_path(tmp_path / "model") == digest_path(made)


def test_a_warm_up_leaves_the_arithmetic_of_its_process_as_it_was(folder: Path, tmp_path: Path) -> None:
    """Denormal numbers are zero while it trains alone: whatever else runs in the process computes with them."""
    smallest = np.asarray([sys.float_info.min])
    base.make(config(tmp_path / "results"), folder, tmp_path / "model", *data())
    assert (smallest / 2 > 0).all() and not torch.are_deterministic_algorithms_enabled()


def test_state_of_another_configuration_is_not_used(folder: Path, tmp_path: Path) -> None:
    model = base.nano_model(config(tmp_path), Tokenizer(folder))
    optimizer = torch.optim.AdamW(model.parameters())
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    state = tmp_path / "warmup.safetensors"
    warmup._save(model, optimizer, state, "one", 3, [1.0])
    assert warmup._load(model, optimizer, state, "other") == (0, [])
    assert warmup._load(model, optimizer, state, "one") == (3, [1.0])


def test_directory_is_complete_and_loads(made: Path) -> None:
    names = {file.name for file in made.iterdir()}
    assert {"config.json", "model.safetensors", "generation_config.json", "base.json"} <= names
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= names
    report = read_json(made / "base.json")
    assert (report["warmup"]["steps"], report["kind"]) == (12, "nano-scratch")
    generator, tokenizer = load_generator(made)
    assert next(generator.model.parameters()).dtype == torch.float32
    assert generator.eos_ids == {tokenizer.eos_id}
    assert report["parameters"] == sum(p.numel() for p in generator.model.parameters())
    from safetensors import safe_open

    with safe_open(made / "model.safetensors", "pt") as stored:
        assert "model.layers.0.mlp.experts.1.gate_proj.weight" in stored.keys()  # noqa: SIM118


def test_warm_up_teaches_the_format(folder: Path, tmp_path: Path) -> None:
    settings = config(tmp_path / "results", warmup_steps=90, warmup_batch=4, warmup_copy_share=0.0)
    samples, corpus = data()
    report = base.make(settings, folder, tmp_path / "model", samples, corpus)
    assert report["warmup"]["final_loss"] < 0.5 * report["warmup"]["loss_curve"][0]
    generator, tokenizer = load_generator(tmp_path / "model")
    from qwenlong.training.prompting import prompt_ids

    prompts = [prompt_ids(sample, corpus, tokenizer) for sample in samples]
    results = generator.generate(prompts, [Sampling(64, temperature=0.0)] * 8, list(range(8)))
    good = sum(
        r.finish_reason == "stop" and "Therefore, the answer is" in tokenizer.decode(r.token_ids) for r in results
    )
    assert good >= 6


def test_kernels_give_the_results_of_transformers(made: Path) -> None:
    generator, _ = load_generator(made)
    model, ids = generator.model, torch.randint(5, 300, (3, 40))
    assert model.config._experts_implementation == kernels.EXPERTS
    with torch.no_grad():
        ours = model(ids).logits
        model.set_experts_implementation("eager")
        model.set_attn_implementation("eager")
        theirs = model(ids).logits
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)


def test_prompts_grow_from_the_evidence_to_everything() -> None:
    samples, _ = data()
    assert warmup.nearer(samples[0], 0.0, 1).documents == ("d0",)
    assert warmup.nearer(samples[0], 1.0, 1).documents == samples[0].documents


def test_exercise_asks_for_a_line_that_is_shown(folder: Path) -> None:
    tokenizer = Tokenizer(folder)
    text = "alpha beta gamma delta epsilon zeta eta\n" * 2
    shown = [Document(id="d", source="s", category="general", title="T", text=text, n_tokens=0, licence="MIT")]
    exercises = [warmup.exercise(shown, tokenizer, 512, 1, n) for n in range(20)]
    made = [item for item in exercises if item]
    assert len(made) > 10
    for item in made:
        answer = tokenizer.decode(item.response[:-1]).rpartition("the answer is ")[2]
        assert answer and answer in tokenizer.decode(item.prompt)


def test_memory_turns_fit_the_window(folder: Path, tmp_path: Path) -> None:
    samples, corpus = data()
    tokenizer = Tokenizer(folder)
    settings = config(tmp_path)
    wide = settings.model_copy(update={"base": settings.base.model_copy(update={"window": 1024})})
    turns = base.memory_turns(wide, samples, corpus, tokenizer)
    assert turns and all(len(turn) <= 1024 for turn in turns)
    assert "<memory>" in tokenizer.decode(turns[0].response)
    assert all(turn.response[-1] == tokenizer.eos_id for turn in turns)


@pytest.mark.parametrize("limit", [4, 30, 500])
def test_targets_keep_their_answer(folder: Path, limit: int) -> None:
    tokenizer = Tokenizer(folder)
    answer = "\n</think>\n\nTherefore, the answer is 1"
    for target, end in (
        ("<think>\n" + "one two " * 40 + answer, answer),
        ("<memory>" + "one two " * 40 + "</memory>\n<plan>go</plan>", "</memory>\n<plan>go</plan>"),
    ):
        made = base.fitted(target, tokenizer, limit)
        assert made.startswith(target[:7]) and made.endswith(end)
        assert tokenizer.count(made) <= max(limit, tokenizer.count(target[:8] + end))
        assert (made == target) == (limit == 500)


def test_any_directory_can_be_the_base(made: Path, tmp_path: Path) -> None:
    settings = Config.model_validate({"base": {"kind": "hf", "path": str(made), "window": 256}})
    tokenizers.build(settings, [], tmp_path / "tokenizer")
    report = base.make(settings, tmp_path / "tokenizer", tmp_path / "copy")
    assert report["origin"] == str(made)
    first, _ = load_generator(made)
    second, _ = load_generator(tmp_path / "copy")
    for (name, one), (_, two) in zip(first.model.state_dict().items(), second.model.state_dict().items(), strict=True):
        assert torch.equal(one, two), name


def test_window_above_the_models_is_refused(made: Path, tmp_path: Path) -> None:
    settings = Config.model_validate({"base": {"kind": "hf", "path": str(made), "window": 512}})
    with pytest.raises(DataError, match="exceeds the model's 256 positions"):
        base.make(settings, made, tmp_path / "copy")


def test_missing_package_and_samples_are_named(folder: Path, tmp_path: Path) -> None:
    settings = Config.model_validate({"base": {"kind": "smollm2"}, "corpus": {"cache": str(tmp_path)}})
    with pytest.raises(DataError, match="SmolLM2-135M-Instruct GGUF"):
        base.make(settings, folder, tmp_path / "model")
    with pytest.raises(DataError, match="no training samples"):
        base.make(config(tmp_path), folder, tmp_path / "model", [], {})
    assert json.dumps(sorted(p.name for p in tmp_path.iterdir())) == "[]"
