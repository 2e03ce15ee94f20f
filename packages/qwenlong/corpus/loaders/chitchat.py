"""Chit-chat conversations of two people: one JSON file, rendered as "Speaker: text" lines.

Senders are opaque ids in the source; they become A and B in the order in which they first speak. Monologues are no
dialogues and are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from qwenlong.core.records import Document
from qwenlong.corpus.sources import Source

_SPACE = re.compile(r"\s+")


def wanted(member: str) -> bool:
    """Return whether the member is the data set."""
    return member.endswith("chitchat_dataset/dataset.json")


def parse(source: Source, member: str, text: str) -> Iterator[Document]:
    """Yield one document a conversation. Raises ValueError when it is not the JSON that the package publishes."""
    conversations = json.loads(text)
    if not isinstance(conversations, dict):
        raise ValueError("not a JSON object of conversations")
    for name, conversation in conversations.items():
        messages = [message for block in conversation["messages"] for message in block]
        speakers: dict[str, str] = {}
        lines = []
        for message in messages:
            said = _SPACE.sub(" ", str(message["text"])).strip()
            if said:
                speaker = speakers.setdefault(str(message["sender"]), _label(len(speakers)))
                lines.append(f"{speaker}: {said}")
        if len(speakers) < 2:
            continue
        metadata = {"entity": name, "kind": "dialogue", "speakers": len(speakers)}
        if conversation.get("prompt"):
            metadata["prompt"] = _SPACE.sub(" ", str(conversation["prompt"])).strip()
        yield Document(
            id=f"{source.name}/{name}",
            source=source.name,
            category=source.document_category,
            title=f"Conversation {name[:8]}",
            text="\n".join(lines),
            n_tokens=0,
            metadata=metadata,
            licence=source.data_licence,
        )


def _label(index: int) -> str:
    return chr(ord("A") + index) if index < 26 else f"Speaker {index + 1}"
