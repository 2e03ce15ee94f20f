"""What may and what may not be seen in a log."""

from __future__ import annotations

import io
import logging

import pytest

from qwenlong.core import config_files, logs
from qwenlong.core.config import Config
from qwenlong.core.errors import UsageError

SECRET = "sk-abcdefgh12345678"


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("api_key", True),
        ("HF_TOKEN", True),
        ("apiKey", True),
        ("MLFLOW_TRACKING_PASSWORD", True),
        ("client.secret", True),
        ("secret_value", True),
        ("Authorization", True),
        ("n_tokens", False),
        ("max_tokens", False),
        ("chunk_tokens", False),
        ("api_key_env", False),
        ("token_id", False),
        ("tokenizer", False),
        ("keyword", False),
        ("monkey", False),
    ],
)
def test_names_of_secrets(name: str, secret: bool) -> None:
    assert logs.is_secret_name(name) is secret


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://user:hunter2hunter2@db/x",
        "https://hunter2hunter2@host/v1",
        "Authorization: Bearer hunter2hunter2",
        "api_key=hunter2hunter2",
        '{"password": "hunter2hunter2"}',
        "--api-key hunter2hunter2",
        "OPENAI_API_KEY=hunter2hunter2 qwenlong",
        "HF_TOKEN: hunter2hunter2",
    ],
)
def test_text_is_redacted_by_its_look(text: str) -> None:
    clean = logs.redact_text(text)
    assert "hunter2" not in clean and logs.REDACTED in clean


def test_a_configuration_is_stored_as_it_is() -> None:
    text = config_files.dump(Config())
    assert logs.redact_text(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "n_tokens=123456789, token 151645, 5 tokens per second",
        "wrote results/laptop/corpus/documents.parquet",
        "sqlite:////tmp/x/mlflow.db?timeout=120",
        "the token is missing; a secret was kept",
        "normalize: per_token\n  clipping: null",
        "mail someone@example.org",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert logs.redact_text(text) == text


def test_values_of_secret_variables_are_redacted_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", "correct-horse-battery")
    monkeypatch.setenv("OTHER_TOKEN", "1")  # too short to be one, and would blank out every 1
    assert logs.redact_text("got correct-horse-battery, 1 of 1") == f"got {logs.REDACTED}, 1 of 1"


def test_nested_values_are_redacted_by_key() -> None:
    value = {"llm": {"api_key": "abc", "api_key_env": "JUDGE_KEY", "n_tokens": 5}, "urls": ["http://u:p@h/"], "key": ""}
    clean = logs.redact(value)
    assert clean["llm"] == {"api_key": logs.REDACTED, "api_key_env": "JUDGE_KEY", "n_tokens": 5}
    assert clean["urls"] == [f"http://{logs.REDACTED}@h/"] and clean["key"] == ""


@pytest.mark.parametrize("program", ["/opt/bin/qwenlong", "/opt/site/qwenlong/__main__.py", "qwenlong"])
def test_a_command_line_can_be_typed_again(program: str) -> None:
    """The program has its name, also when it ran as a module."""
    assert logs.command_line([program, "doctor"]) == ["qwenlong", "doctor"]


def test_command_line_is_redacted() -> None:
    words = ["/opt/venv/bin/qwenlong", "agent", "--api-key", "short", "--token=short", "--max-tokens", "5", SECRET]
    assert logs.command_line(words) == [
        "qwenlong",
        "agent",
        "--api-key",
        logs.REDACTED,
        f"--token={logs.REDACTED}",
        "--max-tokens",
        "5",
        logs.REDACTED,
    ]


def test_filter_cleans_messages_arguments_and_tracebacks() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(logs.RedactionFilter())
    logger = logging.Logger("test")
    logger.addHandler(handler)
    logger.info("key %s", SECRET)
    try:
        raise ValueError(f"refused {SECRET}")
    except ValueError:
        logger.exception("failed with %d", 3)
    text = stream.getvalue()
    assert SECRET not in text and "failed with 3" in text and f"ValueError: refused {logs.REDACTED}" in text


def test_setup_adds_one_handler_and_names_a_bad_level(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    logs.setup("warning")
    logs.setup("DEBUG")
    assert len(root.handlers) == 1 and logging.getLogger("qwenlong").level == logging.DEBUG
    with pytest.raises(UsageError, match="'LOUD' is unknown; use DEBUG"):
        logs.setup("LOUD")
    logs.setup("INFO")
