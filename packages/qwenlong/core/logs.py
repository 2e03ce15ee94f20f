"""Logging for commands, and what keeps secrets out of logs, parameters, errors and provenance."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

REDACTED = "<redacted>"

# Words of a key's name. "key" and "token" count only as the last word: api_key_env names a variable, n_tokens is a
# count, token_id an index. The others count anywhere.
_SECRET_WORDS = {"secret", "secrets", "password", "passwd", "passphrase", "credential", "credentials", "authorization"}
_SECRET_LAST = {"key", "keys", "token", "apikey", "accesskey", "pat"}

_PATTERNS = (
    # scheme://user:password@host, and scheme://token@host
    (re.compile(r"(?P<keep>[a-zA-Z][a-zA-Z0-9+.-]*://)[^\s/@]+@"), r"\g<keep>" + REDACTED + "@"),
    (re.compile(r"(?i)\b(?P<keep>(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}"), r"\g<keep>" + REDACTED),
    (re.compile(r"\b(?:sk|hf|ghp|gho|glpat|xox[abp])[-_][A-Za-z0-9_-]{8,}"), REDACTED),
    # --api-key VALUE, api_key=VALUE, "password": "VALUE"; not the next line of `loss: group_token`
    (
        re.compile(
            r"(?i)(?P<keep>(?<![a-z0-9])(?:[a-z0-9]+[_-])*(?:api[_-]?key|access[_-]?key|private[_-]?key|secret|password"
            r"|passwd|token)[\"']?(?:\s*[=:]\s*|[ \t]+)[\"']?)(?!<redacted>|is\b|was\b)(?=[^\s\"',;]{8,})[^\s\"',;]+"
        ),
        r"\g<keep>" + REDACTED,
    ),
)


def is_secret_name(name: str) -> bool:
    """Tell whether a key or variable of this name holds a secret.

    >>> [is_secret_name(n) for n in ("api_key", "HF_TOKEN", "n_tokens", "api_key_env", "tokenizer")]
    [True, True, False, False, False]
    """
    words = [w for w in re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()) if w]
    return bool(words) and (words[-1] in _SECRET_LAST or any(w in _SECRET_WORDS for w in words))


def _known_secrets() -> list[tuple[str, str]]:
    # Short values ("1", "yes") would blank out ordinary text.
    found = [(v, k) for k, v in os.environ.items() if is_secret_name(k) and len(v) >= 8]
    return sorted(found, key=lambda pair: (-len(pair[0]), pair))


def redact_text(text: str) -> str:
    """Return `text` without credentials: values of secret environment variables, keys, passwords, URLs' user parts."""
    for value, _ in _known_secrets():
        text = text.replace(value, REDACTED)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def redact(value: Any, name: str = "") -> Any:
    """Return a JSON-like value with secret strings replaced, by the name of their key or by their look."""
    if isinstance(value, str):
        return REDACTED if value and is_secret_name(name) else redact_text(value)
    if isinstance(value, Mapping):
        return {k: redact(v, str(k)) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [redact(v, name) for v in value]
    return value


def command_line(arguments: Sequence[str] | None = None) -> list[str]:
    """Return the command line (default: this process's) with secrets redacted, the program as its bare name."""
    words = list(sys.argv if arguments is None else arguments)
    if words:
        folder, name = os.path.split(words[0])
        # `python -m qwenlong` runs qwenlong/__main__.py: what is typed again is the package's name.
        words[0] = os.path.basename(folder) if name == "__main__.py" and folder else name
    shown: list[str] = []
    for position, word in enumerate(words):
        before = words[position - 1] if position else ""
        if before.startswith("-") and "=" not in before and is_secret_name(before) and not word.startswith("-"):
            shown.append(REDACTED)
        elif word.startswith("-") and "=" in word and is_secret_name(word.partition("=")[0]):
            shown.append(word.partition("=")[0] + "=" + REDACTED)
        else:
            shown.append(redact_text(word))
    return shown


class RedactionFilter(logging.Filter):
    """Redacts a record's message and its traceback before any handler sees it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact in place; never drops a record."""
        message = record.getMessage()
        clean = redact_text(message)
        if clean != message:
            record.msg, record.args = clean, None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = redact_text(record.exc_text)
        return True


def setup(level: str | int | None = None) -> None:
    """Send the log to stderr, redacted. `level` defaults to the variable QWENLONG_LOG_LEVEL, then INFO.

    Calling it again changes the level and adds nothing.
    """
    chosen = level if level is not None else os.environ.get("QWENLONG_LOG_LEVEL", "INFO")
    number = chosen if isinstance(chosen, int) else logging.getLevelNamesMapping().get(chosen.upper())
    if number is None:
        from qwenlong.core.errors import UsageError

        raise UsageError(f"log level {chosen!r} is unknown; use DEBUG, INFO, WARNING or ERROR")
    logger = logging.getLogger("qwenlong")
    logger.setLevel(number)
    root = logging.getLogger()
    if not any(getattr(h, "_qwenlong", False) for h in root.handlers):
        handler = logging.StreamHandler()
        handler._qwenlong = True  # type: ignore[attr-defined]
        handler.addFilter(RedactionFilter())
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
        root.addHandler(handler)
    # Per request chatter of libraries is not worth a line each.
    for name in ("httpx", "httpcore", "alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(max(number, logging.WARNING))


def get(name: str) -> logging.Logger:
    """Return the logger of a module, under `qwenlong`."""
    return logging.getLogger(name if name.startswith("qwenlong") else f"qwenlong.{name}")
