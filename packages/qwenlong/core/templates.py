"""Prompt templates: versioned files, rendered in one place, with a digest that models trained on them store."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from qwenlong.core.errors import DataError, UsageError
from qwenlong.core.files import digest_path
from qwenlong.core.records import Document, Sample
from qwenlong.core.tokens import Tokenizer

#: Version of the templates in use; a change of any template is a new version and a new folder.
VERSION = "v1"
FOLDER = Path(__file__).parent / "prompts"
#: How the published quick start asks for the answer (SPEC section 6).
ANSWER_INSTRUCTION = 'Write the final answer as "Therefore, the answer is (insert answer here)".'
_SLOT = re.compile(r"\{([a-z_]+)\}")


@cache
def template(name: str, folder: Path = FOLDER / VERSION) -> str:
    """Return the text of a template. Raises UsageError naming folder and templates when there is none."""
    file = folder / f"{name}.txt"
    if not file.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.txt")))
        raise UsageError(f"no template {name!r} in {folder}; it has {known or 'none'}")
    return file.read_text(encoding="utf-8")


def digest(folder: Path = FOLDER / VERSION) -> str:
    """Return the digest of all templates of a version."""
    return digest_path(folder)


def fill(name: str, values: Mapping[str, object], folder: Path = FOLDER / VERSION) -> str:
    """Fill a template's {slots} in one pass: braces inside a value (code, JSON) are never slots.

    Raises UsageError naming the template and the slot that has no value.
    """

    def value(match: re.Match[str]) -> str:
        if match.group(1) not in values:
            raise UsageError(f"template {name!r} has a slot {match.group(0)} that nothing fills; take it out")
        return str(values[match.group(1)])

    return _SLOT.sub(value, template(name, folder)).strip()


def around(name: str, values: Mapping[str, object], slot: str) -> tuple[str, str]:
    """Return what a filled template has before and behind one slot, whose value may be too long to be held.

    Raises UsageError as `fill` does, and for a template that does not have the slot exactly once.
    """
    # No value holds it: files cannot have a zero byte in their names.
    mark = "\0"
    parts = fill(name, {**values, slot: mark}).split(mark)
    if len(parts) != 2:
        raise UsageError(f"template {name!r} has the slot {{{slot}}} {len(parts) - 1} times; it needs it once")
    return parts[0], parts[1]


def render_documents(documents: Sequence[Document]) -> str:
    """Return documents as the prompt shows them, numbered from 1."""
    return "\n".join(
        fill("document", {"number": n, "title": d.title, "text": d.text}) for n, d in enumerate(documents, 1)
    )


def render_choices(choices: Sequence[str]) -> str:
    """Return options as lines "(A) ..." in order."""
    return "\n".join(f"({letter}) {choice}" for letter, choice in zip("ABCDEFGHIJ", choices, strict=False))


def user_prompt(sample: Sample, context: str) -> str:
    """Return the user message of a sample around an already rendered context (empty: the blind prompt)."""
    values = {
        "documents": context,
        "question": sample.question,
        "choices": render_choices(sample.choices),
        "instruction": sample.instruction,
    }
    return fill(sample.task, values)


def full_question(sample: Sample) -> str:
    """Return the question with its options: what the memory agent is asked."""
    return f"{sample.question}\n{render_choices(sample.choices)}".strip()


def select_documents(sample: Sample, corpus: Mapping[str, Document]) -> list[Document]:
    """Return the documents of a sample in its order. Raises DataError naming a missing one."""
    missing = [name for name in sample.documents if name not in corpus]
    if missing:
        raise DataError(f"sample {sample.id} needs document {missing[0]!r}, which is not there; run synthesis again")
    return [corpus[name] for name in sample.documents]


def messages(
    sample: Sample, corpus: Mapping[str, Document], tokenizer: Tokenizer, max_tokens: int | None = None
) -> list[dict[str, str]]:
    """Return the chat messages of a sample; above `max_tokens` the middle of the context is cut, the question never.

    Raises DataError when the question alone does not fit.
    """
    context = render_documents(select_documents(sample, corpus))
    chat = [{"role": "user", "content": user_prompt(sample, context)}]
    if max_tokens is None:
        return chat
    excess = tokenizer.count_chat(chat) - max_tokens
    ids = tokenizer.encode(context) if excess > 0 else []
    while excess > 0:
        keep = len(ids) - excess
        if keep <= 0:
            raise DataError(
                f"sample {sample.id}: the question alone exceeds {max_tokens} tokens; raise the input limit"
            )
        # Both ends stay; borders can merge into other tokens, so the count is taken again.
        head = (keep + 1) // 2
        shortened = tokenizer.decode(ids[:head]) + "\n...\n" + tokenizer.decode(ids[len(ids) - (keep - head) :])
        chat = [{"role": "user", "content": user_prompt(sample, shortened)}]
        over = tokenizer.count_chat(chat) - max_tokens
        if over <= 0:
            break
        excess += over
    return chat


def opens_thinking(prompt: str) -> bool:
    """Tell whether a rendered prompt ends inside a thinking block, as thinking models' chat templates do."""
    return prompt.rstrip().endswith("<think>")
