"""A tiny policy and five tasks of made-up samples: what the tests of real stages share."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwenlong.core.files import write_parquet
from qwenlong.core.records import TASKS, Document, Sample

CONFIG = """\
run: {{name: engines, results: {results}, seed: 3}}
base: {{window: 1024, kind: nano-scratch, scratch: {{vocabulary: 300}}}}
training:
  max_input_tokens: 700
  max_output_tokens: 16
  steps: 4
  batch_prompts: 6
  group_size: 3
  learning_rate: 1.0e-3
  temperature: 1.0
  top_p: 0.99
  save_every: 1
  aepo: {{low: 0.1, high: 0.2}}
stages:
  memory_rl:
    max_input_tokens: 900
    batch_prompts: 2
    steps: 2
    memory: {{chunk_tokens: 48, memory_tokens: 16, answer_tokens: 16, max_document_tokens: 2000}}
"""


class World:
    """Files of a run: configuration, samples, documents, an untrained model."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.yaml"
        self.samples = root / "samples.parquet"
        self.documents = root / "documents.parquet"
        self.model = root / "model"
        self.results = root / "results"


def _samples() -> list[Sample]:
    # The letter "e" is among the likeliest of a random byte model's outputs, so that some rewards differ.
    return [
        Sample(
            id=f"{task}-{i}", task=task, question_type="test", question=f"Which mark stands at {i}?",
            instruction="Write it.", documents=(f"d{i % 4}", f"d{i % 4 + 1}"),
            answers=("A",) if task == "multiple_choice" else ("e",),
            choices=("w", "x", "y", "z") if task == "multiple_choice" else (),
            category="general", source="made-up", generator="test", template="test@1", n_tokens=0,
        )
        for task in TASKS
        for i in range(4)
    ]  # fmt: skip


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A whole small input for `qwenlong train stage`."""
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    from qwenlong.core import config_files
    from qwenlong.training import tokenizer

    made = World(tmp_path_factory.mktemp("engines"))
    made.config.write_text(CONFIG.format(results=made.results))
    documents = [
        Document(
            id=f"d{i}", source="made-up", category="general", title=f"Page {i}",
            text=f"Mark {i} stands here. " * 3, n_tokens=0, licence="Apache-2.0",
        )
        for i in range(6)
    ]  # fmt: skip
    write_parquet(made.documents, documents, Document)
    write_parquet(made.samples, _samples(), Sample)
    settings = config_files.load(made.config)
    tokenizer.build(settings, documents, made.model)
    from qwenlong.core.tokens import Tokenizer

    tokens = Tokenizer(made.model)
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=tokens.vocabulary_size, hidden_size=32, intermediate_size=32, moe_intermediate_size=32,
        num_experts=2, num_experts_per_tok=2, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        head_dim=32, max_position_embeddings=1024, tie_word_embeddings=True,
        eos_token_id=tokens.eos_id, pad_token_id=tokens.token_id("<|endoftext|>"), bos_token_id=None,
    )  # fmt: skip
    Qwen3MoeForCausalLM(config).save_pretrained(made.model)
    return made
