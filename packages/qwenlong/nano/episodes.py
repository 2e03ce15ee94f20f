"""Training examples of the nano policy: the synthesis stage's own questions over documents composed anew.

Each episode builds one pool of composed documents, asks what synthesis would ask, extends every question to a length
below the curriculum's, and writes prompt and response as the recipe's templates and warm-up targets have them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from qwenlong.core import templates
from qwenlong.core.records import Document, Sample
from qwenlong.core.seeds import derive
from qwenlong.core.tokens import Tokenizer
from qwenlong.nano import compose
from qwenlong.nano.material import Material
from qwenlong.synthesis import extend, graph, parse, warmup
from qwenlong.synthesis.candidates import Candidate
from qwenlong.synthesis.pool import Pool
from qwenlong.synthesis.run import chosen, counted
from qwenlong.synthesis.tables import Table

#: Questions drawn from each template of a pool, by task: what is hard to learn is asked more often.
DRAWS = {
    "corpus_numerical": 1,
    "dialogue_memory": 16,
    "doc_multi_hop": 10,
    "multiple_choice": 10,
    "reading_comprehension": 12,
}
#: Share of samples that also give memory-agent turns, and of pools that give copying exercises.
MEMORY_SHARE, COPY_SHARE = 0.25, 0.15
#: Tokens of the shortest extension.
SHORTEST = 64
#: Tasks that are given up now and then, and the response that does it.
GIVEN_UP = ("dialogue_memory", "doc_multi_hop", "reading_comprehension")
GIVES_UP = "<think>\ntoo long to read\n</think>\n\nTherefore, the answer is not stated"
#: Prompt tokens from which giving up begins, and where its share is the greatest.
GIVES_UP_FROM, GIVES_UP_AT = 256, 640


@dataclass(frozen=True)
class Example:
    """Token ids of a prompt and its response (with the end token), and what it teaches."""

    kind: str
    prompt: list[int]
    response: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


class Teacher:
    """Makes examples from material; `length` bounds prompts and may grow between calls."""

    def __init__(
        self,
        material: Material,
        tokenizer: Tokenizer,
        seed: int,
        window: int,
        templates: Sequence[str] | None = None,
    ) -> None:
        self.material, self.tokenizer, self.seed, self.window = material, tokenizer, seed, window
        self.templates = chosen(templates)

    def examples(self, number: int, length: int, gives_up: float = 0.0) -> list[Example]:
        """Return the examples of pool `number`, prompts of up to `length` tokens: a function of its arguments.

        `gives_up` is the share of the longest questions whose example gives up (`GIVEN_UP`).
        """
        rng = random.Random(derive(self.seed, "nano", number))
        made = [self._taught(self._answered(s, corpus), gives_up, rng) for s, corpus in self.samples(number, length)]
        for sample, corpus in self.memory_samples(number, length):
            made += self.turns(sample, corpus, rng)
        made += self.copies(number, length)
        made = [example for example in made if len(example) <= self.window]
        rng.shuffle(made)
        return made

    def _pool(self, number: int, length: int, use: str) -> tuple[list[Document], random.Random]:
        rng = random.Random(derive(self.seed, "nano", use, number))
        # About twenty tokens a line: short prompts need documents of a line or two.
        lines = max(1, min(8, (length - 90) // 60))
        return counted(compose.pool(self.material, rng, lines), self.tokenizer), rng

    def samples(self, number: int, length: int, use: str = "samples") -> Iterator[tuple[Sample, dict[str, Document]]]:
        """Yield samples of all tasks with their documents."""
        documents, rng = self._pool(number, length, use)
        with Table(cell for document in documents for cell in parse.cells(document)) as table:
            pool = Pool(documents, table, graph.build(documents), length, rng.randrange(2**62))
            for task, makers in sorted(self.templates.items()):
                for _, make in sorted(makers.items()):
                    for candidate in islice(make(pool), DRAWS[task]):
                        sample = self._extended(candidate, pool, length, rng)
                        if sample is not None:
                            yield sample, pool.by_id  # type: ignore[misc]

    def _extended(self, candidate: Candidate, pool: Pool, length: int, rng: random.Random) -> Sample | None:
        shortest = extend.length(candidate, pool, self.tokenizer, False)
        if shortest > length:
            return None
        target = rng.randint(max(SHORTEST, shortest), length)
        return extend.extend(candidate, pool, self.tokenizer, target, False, False, rng)

    def memory_samples(self, number: int, length: int) -> Iterator[tuple[Sample, dict[str, Document]]]:
        """Yield samples that the memory agent reads, longer than `length`."""
        for sample, corpus in self.samples(number, length, "memory"):
            if random.Random(derive(self.seed, sample.id)).random() < MEMORY_SHARE:
                yield sample, corpus

    def _answered(self, sample: Sample, corpus: dict[str, Document]) -> Example:
        chat = templates.messages(sample, corpus, self.tokenizer)
        return self._example(sample.task, chat, warmup.target(sample, corpus))

    def _taught(self, example: Example, gives_up: float, rng: random.Random) -> Example:
        """Return the example, or with the probability that belongs to its length one that gives the question up.

        The policy can answer more than it does: what reinforcement learning is to find out.
        """
        rise = (len(example.prompt) - GIVES_UP_FROM) / (GIVES_UP_AT - GIVES_UP_FROM)
        share = gives_up * min(1.0, max(0.0, rise))
        if example.kind not in GIVEN_UP or rng.random() >= share:
            return example
        return Example(example.kind, example.prompt, [*self.tokenizer.encode(GIVES_UP), self.tokenizer.eos_id])

    def turns(self, sample: Sample, corpus: dict[str, Document], rng: random.Random) -> list[Example]:
        """Return the memory agent's turns over a sample, its documents cut into chunks of a drawn size."""
        size = max(32, min(self.window // 3, sample.n_tokens // rng.randint(2, 4)))
        made = []
        for turn in warmup.memory_targets(sample, corpus, self.tokenizer, size):
            kind = "memory_update" if turn.target.startswith("<memory>") else "memory_answer"
            made.append(self._example(kind, turn.messages, turn.target))
        return made

    def copies(self, number: int, length: int) -> list[Example]:
        """Return exercises that repeat a line of the documents word for word, found by how it begins."""
        documents, rng = self._pool(number, length, "copies")
        made: list[Example] = []
        for _ in range(int(COPY_SHARE * 60)):
            shown = rng.sample(documents, rng.randint(1, max(1, min(6, length // 120))))
            lines = [line for document in shown for line in document.text.splitlines() if len(line) > 12]
            if not lines:
                continue
            line = rng.choice(lines)
            words = line.split(" ")
            if len(words) < 3:
                continue
            begun = " ".join(words[: max(1, len(words) // 3)])
            if sum(other.startswith(begun) for other in lines) != 1:
                continue
            values = {
                "documents": templates.render_documents(shown),
                "question": f'Repeat the line that begins with "{begun}".',
                "instruction": templates.ANSWER_INSTRUCTION,
            }
            chat = [{"role": "user", "content": templates.fill("reading_comprehension", values)}]
            made.append(self._example("copy", chat, f"<think>\n\n</think>\n\nTherefore, the answer is {line}"))
        return [example for example in made if len(example.prompt) <= length]

    def _example(self, kind: str, chat: Sequence[dict[str, str]], target: str) -> Example:
        tokens = self.tokenizer
        return Example(kind, tokens.encode(tokens.render_chat(list(chat))), [*tokens.encode(target), tokens.eos_id])
