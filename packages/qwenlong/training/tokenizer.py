"""The run's tokenizer: a byte-level BPE trained on the corpus for `nano-scratch`, the model's own otherwise."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from qwenlong.core import templates
from qwenlong.core.config import Config
from qwenlong.core.errors import DataError
from qwenlong.core.files import atomic_directory, write_json
from qwenlong.core.records import TASKS, Document

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
#: Kept by decoding, as in Qwen3: they belong to the response's text.
THINK = ("<think>", "</think>")
#: ChatML, without an opened thinking block: the nano model writes its own.
CHAT_TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}\n"
)
#: Qwen's split: words with one leading character, single digits (so that numbers can be copied), symbols, line ends.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
#: Times that the prompts' own words are counted, so that each of them becomes few tokens.
_PROMPT_WEIGHT = 200
_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def build(config: Config, documents: Sequence[Document], out_dir: str | Path) -> None:
    """Write the tokenizer directory: trained on `documents` for kind nano-scratch, copied from the model otherwise.

    The same documents and configuration give the same bytes. Raises DataError for an empty corpus and for a model
    without tokenizer.json or chat template.
    """
    if config.base.kind == "nano-scratch":
        train(documents, config.base.scratch.vocabulary, config.base.window, out_dir)
        return
    from qwenlong.training.base import source_folder

    with atomic_directory(out_dir) as folder, source_folder(config, weights=False) as source:
        copy(source, folder)


def copy(source: str | Path, target: str | Path) -> None:
    """Copy a tokenizer's files. Raises DataError naming the file that is missing."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (Path(source) / name).is_file():
            raise DataError(f"{source} has no {name}; give a model directory with a fast tokenizer")
    for name in _FILES:
        if (Path(source) / name).is_file():
            shutil.copyfile(Path(source) / name, Path(target) / name)


def train(documents: Sequence[Document], vocabulary: int, window: int, out_dir: str | Path) -> None:
    """Write a byte-level BPE tokenizer of `vocabulary` entries, trained on documents and on the prompts' words.

    Raises DataError for an empty corpus.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    if not documents:
        raise DataError(
            "the corpus is empty: a tokenizer cannot be trained on it; check corpus.json for what was dropped"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(THINK),
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(documents), trainer)
    tokenizer.add_tokens(list(THINK))
    with atomic_directory(out_dir) as folder:
        tokenizer.save(str(folder / "tokenizer.json"))
        write_json(
            folder / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "clean_up_tokenization_spaces": False,
                "eos_token": END,
                "model_max_length": window,
                "pad_token": PAD,
            },
        )
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def _texts(documents: Iterable[Document]) -> Iterator[str]:
    for document in documents:
        yield document.title
        yield document.text
    prompts = [templates.template(name) for name in (*TASKS, "document", "memory_update", "memory_answer")]
    fixed = [templates.ANSWER_INSTRUCTION, "user\nassistant\n", "\n\nTherefore, the answer is (A).", "(B) (C) (D) (E)"]
    for _ in range(_PROMPT_WEIGHT):
        yield from prompts
        yield from fixed
