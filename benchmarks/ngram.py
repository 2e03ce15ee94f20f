"""What n-gram speculation does for the memory agent: vLLM on this machine's cores, with it and without it.

    python benchmarks/ngram.py --document FILE [--rounds N] [--tokens 0 8] [--markdown FILE]

The servers follow one another, since both would share the cores; rounds are in each.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "packages"), str(ROOT / "benchmarks")]

import llm_paths  # noqa: E402

from qwenlong.memory_agent.vllm_command import speculation  # noqa: E402

QUESTION = "Which commands are there, and what are they for?"
SIZES = ["--window", "8192", "--chunk-tokens", "1000", "--memory-tokens", "256", "--answer-tokens", "128"]
_COUNTER = re.compile(r"^vllm:spec_decode_num_(draft|accepted)_tokens_total\{[^}]*\} (\S+)", re.MULTILINE)


def counters(url: str) -> dict[str, float]:
    """Return the server's counts of proposed and accepted tokens."""
    return {
        name: float(value) for name, value in _COUNTER.findall(httpx.get(url.removesuffix("/v1") + "/metrics").text)
    }


def once(server: llm_paths.Server, document: Path, temperature: float, seed: int) -> dict[str, float]:
    """Return seconds, tokens and proposals of one question."""
    words = ["agent", "answer", "--document", document, "--question", QUESTION, "--base-url", server.url, "--json"]
    words += ["--model", server.model, "--tokenizer", server.folder, "--temperature", temperature, "--seed", seed]
    before, began = counters(server.url), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "qwenlong", *map(str, words), *SIZES],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "packages")},
        check=True,
    )
    seconds, after = time.monotonic() - began, counters(server.url)
    said = json.loads(done.stdout)
    gained = {name: after[name] - before.get(name, 0.0) for name in after}
    return {"seconds": seconds, "calls": said["calls"], "prompt": said["prompt_tokens"],
            "completion": said["completion_tokens"], **gained}  # fmt: skip


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--document", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tokens", type=int, nargs="+", default=[0, 8], help="proposed at a time; 0: off")
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    lines = [
        "| proposed | temperature | seconds | calls | prompt | completion | completion tokens/s | accepted |",
        "|---|---|---|---|---|---|---|---|",
    ]
    with llm_paths.model_folder(ROOT / "data/cache") as folder, tempfile.TemporaryDirectory() as work:
        for tokens in given.tokens:
            options = ["--max-model-len", "8192", *speculation(tokens)]
            with llm_paths.served(folder, Path(work), "vllm", options) as server:
                for temperature in (0.0, 0.7):
                    for seed in range(given.rounds):
                        row = once(server, given.document, temperature, seed)
                        drafted = row.get("draft", 0.0)
                        share = f"{row['accepted'] / drafted:.0%} of {drafted:.0f}" if drafted else "-"
                        speed = row["completion"] / row["seconds"]
                        lines.append(
                            f"| {tokens or 'off'} | {temperature} | {row['seconds']:.1f} | {row['calls']} | "
                            f"{row['prompt']} | {row['completion']} | {speed:.1f} | {share} |"
                        )
                        print(lines[-1], flush=True)
    table = "\n".join(lines) + "\n"
    print(table)
    if given.markdown:
        text = given.markdown.read_text() if given.markdown.is_file() else ""
        # What stands before the table is written by hand.
        given.markdown.write_text(text.partition("| proposed")[0] + table)


if __name__ == "__main__":
    main()
