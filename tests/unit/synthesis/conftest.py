"""Real documents (sections of the five demo sources, licences in each record) and a tokenizer trained on them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from qwenlong.core.config import Config
from qwenlong.core.files import read_jsonl
from qwenlong.core.records import Document
from qwenlong.core.tokens import Tokenizer
from qwenlong.synthesis.run import Result, synthesize

sys.path.insert(0, str(Path(__file__).parent))

TEMPLATE = (
    "{%- for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)


@pytest.fixture(scope="session")
def corpus() -> list[Document]:
    return read_jsonl(Path(__file__).parent / "documents.jsonl", Document)


@pytest.fixture(scope="session")
def tokenizer(corpus: list[Document], tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, trainers

    folder = tmp_path_factory.mktemp("tokenizer")
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=specials,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator([document.text for document in corpus], trainer)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return Tokenizer(folder)


@pytest.fixture(scope="session")
def config() -> Config:
    return Config.model_validate(
        {
            "run": {"seed": 17},
            "base": {"window": 512},
            "synthesis": {
                "samples_per_task": 10,
                "heldout_per_task": 4,
                "long_heldout_per_task": 1,
                "memory_samples_per_task": 3,
                "length_targets": [256, 448],
                "memory_length_targets": [448],
                "long_length_target": 700,
                "split_seed": 18,  # holds out two to four entities of each of the five small sources
            },
        }
    )


@pytest.fixture(scope="session")
def result(config: Config, corpus: list[Document], tokenizer: Tokenizer) -> Result:
    return synthesize(config, corpus, tokenizer)
