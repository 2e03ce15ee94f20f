"""Fixtures of the memory agent's tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from agent_helpers import THINKING, make_model, make_tokenizer

from qwenlong.core.tokens import Tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A small ChatML tokenizer."""
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def thinking_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tokenizer whose template opens the thinking block, as thinking models' templates do."""
    return make_tokenizer(tmp_path_factory.mktemp("thinking"), THINKING)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of a window of 1024 tokens."""
    return make_model(tmp_path_factory.mktemp("models") / "noise")
