"""The card of the nano policy: what it is, what it was trained on, what it can do, and what it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwenlong.core import templates
from qwenlong.core.files import read_json

#: What trains the policy anew.
COMMAND = "qwenlong train nano --config configs/nano.yaml --out models/nano (docs/nano.md)"


def drift(folder: Path) -> str | None:
    """Return what to do when the prompts are no longer those the policy was trained on, None when they are."""
    trained = read_json(folder / "card.json")["templates"]["digest"]
    if trained == templates.digest():
        return None
    return (
        f"the prompt templates have digest {templates.digest()[:16]}, {folder} was trained on {trained[:16]}; "
        f"train it anew: {COMMAND}"
    )


def render(card: dict[str, Any]) -> str:
    """Return the card as Markdown."""
    tables = card["accuracy"]
    parts = [
        "# nano policy",
        f"A Qwen3-MoE with {card['parameters'] / 1e6:.1f}M parameters and a window of {card['window']:,} tokens, "
        "trained from nothing on the five tasks of the recipe and on memory-agent turns. It exists so that the recipe "
        "means something on a laptop; it knows nothing about the world.",
        f"Trained on {card['progress']['tokens'] / 1e6:.0f}M tokens (passes counted) in "
        f"{card['progress']['seconds']:.0f} s on {card['hardware']}, seed {card['seed']}, torch {card['torch']}. "
        f"Prompt templates {card['templates']['version']} ({card['templates']['digest'][:16]}), data "
        f"{card['data']['material']}, tokenizer {card['data']['tokenizer']}. Train it anew: `{COMMAND}`.",
        "Training documents are put together from real names, labels, values, messages and verses of the training side "
        f"of the split (split seed {card['split_seed']}, held-out share {card['heldout_share']}); which value belongs "
        "to which name is drawn, so nothing can be known by heart. Source files and guides are shown as they are.",
    ]
    if "heldout" in tables:
        parts += ["## Held-out samples on real documents", _table(tables["heldout"]), _limits(tables["heldout"])]
    parts += ["## Exercises on held-out names and values", _table(tables["exercises"])]
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| task | prompt tokens | n | accuracy | 95% interval | baseline | well formed |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['kind']} | {row['length']} | {row['n']} | {row['accuracy']:.3f} | {row['low']:.3f} to "
            f"{row['high']:.3f} | {row['baseline']:.3f} | {row['well_formed']:.3f} |"
        )
    return "\n".join(lines)


def _limits(rows: Sequence[dict[str, Any]]) -> str:
    """Say which tasks are not learned: the interval's lower end less than five points above the trivial baseline."""
    weak = [row["kind"] for row in rows if row["length"] == "all" and row["low"] < row["baseline"] + 0.05]
    named = f"Not learned: {', '.join(weak)}." if weak else "Every task is five points or more above its baseline."
    return (
        f"{named} The baseline is the best of: the commonest answer, the first option, the most frequent number, the "
        "last name. Sums, means and differences are beyond it, and prose it can only copy from. It was taught to "
        "give up long questions that it could answer (docs/nano.md), so that reinforcement learning has something to "
        "find out."
    )
