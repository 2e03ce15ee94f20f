"""Items of MRCR's published form from real dialogues: the same request several times, and which answer is wanted.

Every answer is a stretch of a real dialogue; every request names what the dialogue is about. Several stretches about
the same thing are the needles, stretches about other things lie between them.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from random import Random

from qwenlong.core import seeds, templates
from qwenlong.core.errors import DataError
from qwenlong.core.records import Document
from qwenlong.memory_agent.loop import Messages
from qwenlong.synthesis import parse

#: Templates of the requests.
PROMPTS = Path(__file__).parent / "prompts" / templates.VERSION
#: Messages of a dialogue in one stretch.
STRETCH = (2, 5)
#: Length of the random string that an answer starts with.
PREFIX = 10
#: Characters a token where there is no tokenizer. [assumed]
CHARS_PER_TOKEN = 4

Count = Callable[[Messages], int]


def by_characters(messages: Messages) -> int:
    """Return tokens as a fourth of the characters, rounded up."""
    return -(-sum(len(message["content"]) for message in messages) // CHARS_PER_TOKEN)


def stretches(dialogues: Iterable[Document], seed: int) -> dict[str, list[str]]:
    """Return what dialogues say, in stretches of a few messages, by what they are about; no stretch stands twice."""
    found: dict[str, list[str]] = {}
    seen: set[str] = set()
    for document in sorted(dialogues, key=lambda d: d.id):
        topic = str(document.metadata.get("prompt") or document.title)
        random = seeds.rng(seed, "mrcr", "stretches", document.id)
        messages = parse.messages(document)
        at = 0
        while at < len(messages):
            size = random.randint(*STRETCH)
            text = "\n".join(f"{said.speaker}: {said.text}" for said in messages[at : at + size])
            at += size
            if text not in seen:
                seen.add(text)
                found.setdefault(topic, []).append(text)
    return found


def mrcr_items(
    dialogues: Iterable[Document],
    n: int,
    needles: Sequence[int] = (2, 4, 8),
    tokens: int = 4096,
    seed: int = 17,
    count: Count = by_characters,
) -> list[dict[str, object]]:
    """Return `n` records of the published schema of openai/mrcr, from documents of category "dialogue".

    Item k has `needles[k % len(needles)]` answers to the same request. Prompt and answer together have at most
    `tokens` tokens, and as many as whole turns allow; `count` counts those of messages. `desired_msg_index` is the
    number from 0 of the wanted message, `total_messages` counts the messages of the prompt, `n_chars` their characters.
    The same dialogues and seed give the same records. Raises DataError when the dialogues hold too few stretches.
    """
    pool = stretches((d for d in dialogues if d.category == "dialogue"), seed)
    return [
        _item(pool, needles[number % len(needles)], tokens, seeds.rng(seed, "mrcr", "item", number), count)
        for number in range(n)
    ]


def _item(pool: Mapping[str, list[str]], needles: int, tokens: int, random: Random, count: Count) -> dict[str, object]:
    topics = [topic for topic, texts in pool.items() if len(texts) >= needles]
    if not topics:
        raise DataError(f"no dialogue has {needles} different stretches on one subject; give more or longer dialogues")
    topic = random.choice(topics)
    wanted = random.sample(pool[topic], needles)
    place = random.randint(1, needles)
    prefix = "".join(random.choices(string.ascii_letters + string.digits, k=PREFIX))
    request = _request(topic)
    answer = prefix + wanted[place - 1]
    question = templates.fill(
        "mrcr_question", {"needles": needles, "request": request, "place": place, "prefix": prefix}, PROMPTS
    )
    last = {"role": "user", "content": question}
    others = [(other, text) for other, texts in pool.items() if other != topic for text in texts]
    random.shuffle(others)
    frame = count([last])

    def size(turn: Messages) -> int:
        # What a chat template puts around a whole chat is counted once, with the last message.
        return count([*turn, last]) - frame

    room = tokens - count([last, {"role": "assistant", "content": answer}])
    room -= sum(size(_turn(request, text)) for text in wanted)
    if room < 0:
        raise DataError(f"{needles} needles do not fit into {tokens} tokens; raise tokens or lower needles")
    fillers: list[Messages] = []
    for other, text in others:
        turn = _turn(_request(other), text)
        needed = size(turn)
        if needed > room:
            break
        fillers.append(turn)
        room -= needed
    else:
        raise DataError(f"the dialogues do not fill {tokens} tokens; give more dialogues or lower tokens")
    where = sorted(random.sample(range(len(fillers) + needles), needles))
    turns = fillers
    for position, text in zip(where, wanted, strict=True):
        turns.insert(position, _turn(request, text))
    messages = [message for turn in turns for message in turn] + [last]
    return {
        "prompt": json.dumps(messages, ensure_ascii=False),
        "answer": answer,
        "random_string_to_prepend": prefix,
        "n_needles": needles,
        "desired_msg_index": 2 * where[place - 1] + 1,
        "total_messages": len(messages),
        "n_chars": sum(len(message["content"]) for message in messages),
    }


def _request(topic: str) -> str:
    return templates.fill("mrcr_request", {"topic": topic}, PROMPTS)


def _turn(request: str, text: str) -> Messages:
    return [{"role": "user", "content": request}, {"role": "assistant", "content": text}]
