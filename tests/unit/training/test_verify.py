"""Verification by a local model: blind successes count only beyond guessing, robustness needs one right answer."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from qwenlong.core.config import SelectionConfig
from qwenlong.core.errors import DataError
from qwenlong.core.records import Document, Sample
from qwenlong.core.tokens import Tokenizer
from qwenlong.inference.engine import Generation
from qwenlong.inference.sampling import Sampling
from qwenlong.training.verify import verify

NANO = Path(__file__).parents[3] / "models" / "nano"


class Scripted:
    """A generator whose replies are a function of the prompt's text and the seed."""

    def __init__(self, tokenizer: Tokenizer, answer: Callable[[str, int], str]) -> None:
        self.tokenizer, self.answer, self.prompts = tokenizer, answer, list[str]()

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sequence[Sampling], seeds: Sequence[int]
    ) -> list[Generation]:
        texts = [self.tokenizer.decode(prompt) for prompt in prompts]
        self.prompts += texts
        said = [f"Therefore, the answer is {self.answer(t, s)}." for t, s in zip(texts, seeds, strict=True)]
        return [Generation(token_ids=self.tokenizer.encode(text), finish_reason="stop") for text in said]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(NANO)


CORPUS = {
    name: Document(
        id=name, source="s", category=category, title=name, text=f"Text of {name}. " * 5, n_tokens=30, licence="MIT"
    )
    for name, category in (("home", "general"), ("other", "code"), ("third", "dialogue"))
}  # fmt: skip


def sample(number: int, answer: str, choices: tuple[str, ...] = ()) -> Sample:
    return Sample(
        id=f"s{number:03d}", task="multiple_choice" if choices else "reading_comprehension", question_type="q",
        question=f"Question {number}?", instruction="Answer.", documents=("home",), answers=(answer,), choices=choices,
        category="general", source="s", generator="g", template="t@1", n_tokens=50,
    )  # fmt: skip


def measured(
    samples: Sequence[Sample], tokenizer: Tokenizer, answer: Callable[[str, int], str], **selection: object
) -> tuple[set[str], dict[str, object], Scripted]:
    scripted = Scripted(tokenizer, answer)
    kept, report = verify(
        samples, CORPUS, scripted, tokenizer, Sampling(max_new_tokens=8),  # type: ignore[arg-type]
        SelectionConfig.model_validate({"k": 2} | selection), max_input_tokens=600, seed=1, model="scripted",
    )  # fmt: skip
    return {one.id for one in kept}, report, scripted


OPTIONS = ("opal", "ruby", "jade", "onyx")


def test_what_is_known_goes_and_a_guess_stays(tokenizer: Tokenizer) -> None:
    known = [sample(n, f"fact{n}") for n in range(5)]
    options = [sample(100 + n, "ABCD"[n % 4], OPTIONS) for n in range(40)]

    def answer(prompt: str, seed: int) -> str:
        number = int(re.search(r"Question (\d+)", prompt)[1])  # type: ignore[index]
        return f"fact{number}" if number < 3 else random.Random(seed).choice("ABCD")

    kept, report, scripted = measured([*known, *options], tokenizer, answer)
    assert {"s000", "s001", "s002"}.isdisjoint(kept) and {"s003", "s004"} <= kept
    # One of 256 passes by luck.
    assert len(kept & {one.id for one in options}) >= 39
    assert report["blind_unprovable"] == 0
    assert sum("Text of" not in prompt for prompt in scripted.prompts) == 4 * 45


@pytest.mark.parametrize("letter", "ABCD")
def test_a_model_that_always_says_one_letter_loses_nothing(tokenizer: Tokenizer, letter: str) -> None:
    options = [sample(n, "ABCD"[n % 4], OPTIONS) for n in range(20)]
    kept, _, _ = measured(options, tokenizer, lambda *_: letter)
    assert len(kept) == 20


def test_a_model_that_knows_the_option_is_found_out_wherever_it_stands(tokenizer: Tokenizer) -> None:
    options = [sample(0, "C", OPTIONS), sample(1, "A", OPTIONS)]

    def answer(prompt: str, _: int) -> str:
        if "Question 1?" in prompt:
            return "A"
        return re.search(r"\((\w)\) jade", prompt)[1]  # type: ignore[index]

    assert measured(options, tokenizer, answer)[0] == {"s001"}
    # Two tries cannot tell it from luck: nothing is dropped, and the report says so.
    kept, report, _ = measured(options, tokenizer, answer, blind_tries=2)
    assert kept == {"s000", "s001"} and report["blind_unprovable"] == 2


def test_robustness_needs_one_right_answer(tokenizer: Tokenizer) -> None:
    samples = [sample(n, f"fact{n}") for n in range(4)]

    def answer(prompt: str, _: int) -> str:
        number = int(re.search(r"Question (\d+)", prompt)[1])  # type: ignore[index]
        return f"fact{number}" if "Text of" in prompt and number % 2 else "no idea"

    kept, report, _ = measured(samples, tokenizer, answer)
    assert len(kept) == 4 and report["robust_zero"] == 2
    kept, report, _ = measured(samples, tokenizer, answer, require_robust=True)
    assert kept == {"s001", "s003"} and report["dropped"] == {"not_robust": 2}
    assert json.dumps(report)


def test_nothing_left_is_an_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="verification dropped all 2 samples"):
        measured([sample(n, "yes") for n in range(2)], tokenizer, lambda *_: "yes", blind_tries=8)
