"""Prompts of one stage for verl: samples rendered with the shared templates, one row each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from qwenlong.core import templates
from qwenlong.core.errors import DataError
from qwenlong.core.files import read_parquet
from qwenlong.core.records import Document, Sample
from qwenlong.core.tokens import Tokenizer


class SampleDataset(Dataset):  # type: ignore[type-arg]
    """Samples of a Parquet file as verl rows. `config.qwenlong` names documents, tokenizer, limits and agent loop.

    Row: `raw_prompt` (chat messages, as verl wants them), `task`, `index`, `agent_name`, `payload` (JSON for the
    agent loop: prompt ids or context, gold answers). Raises DataError when no sample fits the limit.
    """

    def __init__(
        self, data_files: Any, tokenizer: Any = None, processor: Any = None, config: Any = None, max_samples: int = -1
    ) -> None:
        files = [data_files] if isinstance(data_files, str) else list(data_files)
        settings = config.qwenlong
        self.tokenizer = Tokenizer(settings.tokenizer)
        documents = {d.id: d for d in read_parquet(settings.documents, Document)}
        samples = [sample for file in files for sample in read_parquet(file, Sample)]
        self.rows = list(_rows(samples, documents, self.tokenizer, settings))
        if not self.rows:
            raise DataError(
                f"{', '.join(files)}: none of {len(samples)} samples fits {settings.max_input_tokens} input tokens; "
                "raise the stage's max_input_tokens or lower synthesis.length_targets"
            )

    @property
    def tasks(self) -> list[str]:
        """Task label of each row, for the sampler."""
        return [row["task"] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(self.rows[index], index=index)


def _rows(
    samples: list[Sample], documents: Mapping[str, Document], tokenizer: Tokenizer, settings: Any
) -> Iterator[dict[str, Any]]:
    memory = settings.memory is not None
    for sample in samples:
        payload: dict[str, Any] = {
            "id": sample.id,
            "task": sample.task,
            "answers": list(sample.answers),
            "answer_prefix": sample.answer_prefix,
            "question": templates.full_question(sample),
            "instruction": sample.instruction,
        }
        if memory:
            context = templates.render_documents(templates.select_documents(sample, documents))
            if tokenizer.count(context) > settings.memory.max_document_tokens:
                continue
            payload["context"] = context
            chat = [{"role": "user", "content": payload["question"]}]
        else:
            chat = templates.messages(sample, documents, tokenizer)
            prompt = tokenizer.render_chat(chat)
            ids = tokenizer.encode(prompt)
            if len(ids) > settings.max_input_tokens:
                continue
            payload["prompt_ids"] = ids
            payload["opens_thinking"] = templates.opens_thinking(prompt)
        yield {
            "raw_prompt": chat,
            "task": sample.task,
            "data_source": sample.task,
            "agent_name": "qwenlong_memory" if memory else "qwenlong_single",
            "payload": json.dumps(payload, ensure_ascii=False),
        }


class SampledLoader:
    """Batches in the order of one of our samplers, resumable: what the trainer uses in place of verl's loader."""

    def __init__(self, dataset: SampleDataset, sampler: Any, batch_size: int) -> None:
        self.dataset = dataset
        self.sampler = sampler
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        from verl.utils.dataset.rl_dataset import collate_fn

        for indices in self.sampler:
            rows = [self.dataset[i] for i in indices]
            batch = collate_fn(rows)
            # Position and index make the key unique even where a short task repeats a sample within a batch.
            batch["position"] = np.array(list(range(len(rows))), dtype=object)
            yield batch

    def __len__(self) -> int:
        return max(1, len(self.dataset) // self.batch_size)

    def state_dict(self) -> dict[str, Any]:
        """Return the sampler's state."""
        return dict(self.sampler.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the sampler's state."""
        self.sampler.load_state_dict(state)
