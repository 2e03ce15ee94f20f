"""The agent's prompts: templates in files, any of them replaced from a folder, filled with text made harmless."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from qwenlong.core import templates
from qwenlong.core.errors import UsageError
from qwenlong.core.files import digest_value
from qwenlong.core.tokens import Tokenizer
from qwenlong.memory_agent.gains import Gains
from qwenlong.memory_agent.safety import headings, neutralise
from qwenlong.memory_agent.turns import Messages

#: Templates of the gains. Those of the paper's loop are what models are trained on, and stand with the other prompts.
FOLDER = Path(__file__).parent / "prompts"
#: The slots that a template must have: without one of them, the agent could not work.
SLOTS = {
    "memory_split": ("query",),
    "memory_update": ("question", "memory", "plan", "section"),
    "memory_update_gains": ("question", "memory", "plan", "section", "offers", "recalled"),
    "memory_update_section_first": ("question", "memory", "plan", "section", "offers", "recalled"),
    "memory_offer_skip": (),
    "memory_offer_done": (),
    "memory_recalled": ("passages",),
    "memory_merge": ("question", "memories", "recalled"),
    "memory_merge_part": ("memory",),
    "memory_repair": ("reason", "tokens"),
    "memory_answer": ("question", "memory", "instruction"),
    "memory_answer_recall": ("question", "memory", "instruction", "recalled"),
}
#: Slots that a template may have beside those that it must have.
MAY = {
    "memory_update": ("index", "total"),
    "memory_update_gains": ("index", "total"),
    "memory_update_section_first": ("index", "total"),
    "memory_merge_part": ("index", "total"),
}
#: Tags that a template must name, for replies are read by them.
TAGS = {
    "memory_split": ("<question>", "<format>"),
    "memory_update": ("<memory>", "<plan>"),
    "memory_update_gains": ("<memory>", "<plan>"),
    "memory_update_section_first": ("<memory>", "<plan>"),
    "memory_offer_skip": ("<nothing/>",),
    "memory_offer_done": ("<done/>",),
    "memory_merge": ("<memory>", "<plan>"),
}
_NOTHING_YET = "(empty)"
_SLOT = re.compile(r"\{([a-z_]+)\}")


def _built_in(name: str) -> Path:
    return FOLDER if (FOLDER / f"{name}.txt").is_file() else templates.FOLDER / templates.VERSION


class Prompts:
    """The prompts of a run, in the templates of `folder` where it has them, and for one model's tokenizer.

    Raises UsageError naming a file of the folder that replaces nothing, a slot that a template lacks or that nothing
    fills, and a tag that it must name.
    """

    def __init__(self, folder: str | Path | None = None, tokenizer: Tokenizer | None = None) -> None:
        self._control = () if tokenizer is None else tokenizer.control_tokens
        self._texts = {name: templates.template(name, _built_in(name)) for name in SLOTS}
        if folder:
            self._texts |= _replacements(Path(folder))
        self._headings = headings(self._texts.values())

    @cached_property
    def digest(self) -> str:
        """Digest of all templates: a part of what a result depends on."""
        return digest_value(self._texts)

    def safe(self, text: str) -> str:
        """Return `text` as prompts show it: without anything that could be taken for the prompt's own."""
        return neutralise(text, self._control, self._headings)

    def _fill(self, name: str, values: Mapping[str, object]) -> str:
        # In one pass: braces inside a value are no slots.
        return _SLOT.sub(lambda slot: str(values[slot.group(1)]), self._texts[name]).strip()

    def split(self, query: str) -> Messages:
        """Return the prompt that splits a request into question and format."""
        return _user(self._fill("memory_split", {"query": self.safe(query)}))

    def update(
        self,
        question: str,
        memory: str,
        plan: str,
        section: str,
        index: int,
        total: int,
        *,
        gains: Gains | None = None,
        may_exit: bool = False,
        recalled: str = "",
    ) -> Messages:
        """Return the prompt of one update; `index` counts from 1. Without gains it is the paper's."""
        gains = gains or Gains()
        section_first = gains.order == "section_first"
        plain = not (gains.skip or may_exit or gains.recall_tokens or section_first)
        offers = [name for name, on in (("memory_offer_skip", gains.skip), ("memory_offer_done", may_exit)) if on]
        values = {
            "question": self.safe(question),
            "memory": self.safe(memory) or _NOTHING_YET,
            "plan": self.safe(plan) or _NOTHING_YET,
            "section": self.safe(section),
            "index": index,
            "total": total,
            "offers": "\n".join(self._fill(name, {}) for name in offers),
            "recalled": self._recalled(recalled),
        }
        name = "memory_update" if plain else "memory_update_section_first" if section_first else "memory_update_gains"
        return _user(self._fill(name, values))

    def merge(self, question: str, memories: list[str], recalled: str = "") -> Messages:
        """Return the prompt that makes one memory of several, which are in the order of the document."""
        parts = [
            self._fill("memory_merge_part", {"memory": self.safe(memory), "index": n, "total": len(memories)})
            for n, memory in enumerate(memories, 1)
        ]
        values = {"question": self.safe(question), "memories": "\n".join(parts), "recalled": self._recalled(recalled)}
        return _user(self._fill("memory_merge", values))

    def answer(
        self, question: str, instruction: str, memory: str, *, recall: bool = False, recalled: str = ""
    ) -> Messages:
        """Return the prompt of the final answer; it carries the format instruction, which the updates never see."""
        values = {
            "question": self.safe(question),
            "memory": self.safe(memory) or _NOTHING_YET,
            "instruction": self.safe(instruction),
            "recalled": self._recalled(recalled),
        }
        return _user(self._fill("memory_answer_recall" if recall else "memory_answer", values))

    def repair(self, messages: Messages, reason: str, tokens: int) -> Messages:
        """Return a prompt with a note behind it that its reply was unusable; the prefix stays, and its cache."""
        note = self._fill("memory_repair", {"reason": reason, "tokens": tokens})
        return _user(f"{messages[-1]['content']}\n\n{note}")

    def _recalled(self, passages: str) -> str:
        return self._fill("memory_recalled", {"passages": self.safe(passages)}) if passages else ""


def _user(content: str) -> Messages:
    return [{"role": "user", "content": content}]


def _replacements(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        raise UsageError(f"agent.prompts = {str(folder)!r} is no directory; give one with templates (NAME.txt)")
    found: dict[str, str] = {}
    for file in sorted(folder.glob("*.txt")):
        name = file.stem
        if name not in SLOTS:
            raise UsageError(f"{file} replaces no template of the agent; the names are {', '.join(SLOTS)}")
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"{file} is not UTF-8 (byte {error.start}); convert it") from error
        slots = set(_SLOT.findall(text))
        for slot in SLOTS[name]:
            if slot not in slots:
                raise UsageError(f"{file} has no slot {{{slot}}}, without which the agent cannot work; add it")
        for slot in sorted(slots - set(SLOTS[name]) - set(MAY.get(name, ()))):
            raise UsageError(f"{file} has a slot {{{slot}}} that nothing fills; take it out")
        for tag in TAGS.get(name, ()):
            if tag not in text:
                raise UsageError(f"{file} never names {tag}, by which the reply is read; add it")
        found[name] = text
    if not found:
        raise UsageError(f"agent.prompts = {str(folder)!r} holds no template; its names are {', '.join(SLOTS)}")
    return found
