"""Checkpoints made once for all tests: tiny Qwen3-MoE models and their real FSDP2 shards."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hugging Face directories `base`, `expert1`, `expert2` (untied) and `tied`."""
    import torch
    from fsdp_shards import tiny_model

    root = tmp_path_factory.mktemp("models")
    for name in ("base", "expert1", "expert2", "tied"):
        model = tiny_model(tied=name == "tied")
        if name.startswith("expert"):
            torch.manual_seed(int(name[-1]))
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += torch.randn_like(parameter) * 3e-4 * int(name[-1])
        model.save_pretrained(root / name)
        (root / name / "tokenizer.json").write_text(
            json.dumps(
                {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 2, "content": "<e>"}]}
            )
        )
        (root / name / "chat_template.jinja").write_text("{{ messages }}")
    return root


@pytest.fixture(scope="session")
def shards(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards: `one` (1 rank), `two` (2 ranks), `replicated` (2 replicas of 1 shard, tied)."""
    from fsdp_shards import Job, make

    root = tmp_path_factory.mktemp("shards")
    make(1, [Job(root / "one", models / "base")], root / "store1")
    make(2, [Job(root / "two", models / "base"), Job(root / "replicated", models / "tied", 2)], root / "store2")
    return root
