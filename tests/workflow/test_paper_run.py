"""docs/paper_run.md says what works: its commands, targets, numbers of jobs, and its benchmark."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from qwenlong.cli import app
from qwenlong.core import config_files
from qwenlong.core.tokens import Tokenizer
from qwenlong.evaluation import registry

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "paper_run.md").read_text(encoding="utf-8")
PAPER = "configs/paper.yaml"
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
ROWS = re.findall(r"^\| `([^`]+)` \| (\d+) \|", PAGE, re.MULTILINE)


def commands() -> list[list[str]]:
    """Return the page's command lines, in code blocks and in text, those within sbatch too, as words."""
    lines = [line for kind, text in BLOCKS if not kind for line in text.splitlines()]
    lines += re.findall(r"`(qwenlong [^`]+)`", re.sub(r"^```.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL))
    found = [shlex.split(line, comments=True) for line in lines]
    for words in list(found):
        found += [shlex.split(words[i + 1]) for i, word in enumerate(words) if word == "--wrap"]
    return [words for words in found if words]


def called(program: str) -> list[list[str]]:
    return [words[1:] for words in commands() if words[0] == program]


def test_the_page_shows_what_it_is_about() -> None:
    """The commands are found by the functions above, or the tests below would hold nothing."""
    assert len(called("snakemake")) >= 8 and len(called("qwenlong")) >= 12 and len(ROWS) >= 5
    assert ["rl_stage_4", "-n", "--profile", "cluster", "--configfile", PAPER, "--forcerun", "memory_rl"] in called(
        "snakemake"
    )


def parsed() -> Iterator[tuple[list[str], Any]]:
    from snakemake.cli import get_argument_parser

    parser = get_argument_parser(profiles=None)
    for words in called("snakemake"):
        # What the profile sets needs its executor; that it is there is all that is asked here.
        yield words, parser.parse_args(words)


def test_snakemake_lines(plan) -> None:
    """Options are Snakemake's, files are there, overrides are accepted, targets and forced rules are in the DAG."""
    targets: set[str] = set()
    forced: set[str] = set()
    for words, args in parsed():
        files = args.configfile or []
        assert [(ROOT / file).is_file() for file in files] == [True], words
        assert [(ROOT / name / "config.yaml").is_file() for name in args.profile] == [True], words
        if files[0] == Path(PAPER):
            targets |= set(args.targets)
        forced |= set(args.forcerun or [])
        assert all(re.fullmatch(r"\w+=\{.*\}", one) for one in args.config or []), words
    assert {"rl_stage_4", "table_8", "table_2"} <= targets and forced == {"memory_rl"}
    # Unknown targets are no plan.
    jobs = plan(PAPER, *sorted(targets)).jobs
    assert forced <= {job.rule for job in jobs.values()}
    assert targets <= {job.rule for job in jobs.values()}


def test_numbers_of_jobs(plan) -> None:
    """Of each part in the table: what its ends need in the DAG of the whole, and the names that only collect."""
    whole = plan(PAPER)
    made = {file: name for name, job in whole.jobs.items() for file in job.outputs}
    for words, number in ROWS:
        open_names, names = [], 0
        for target in words.split():
            names += "/" not in target
            stage, table = re.fullmatch(r"rl_stage_(\d)", target), re.fullmatch(r"table_(\d+)", target)
            name = f"rl_{stage[1]}" if stage else f"paper_table table{table[1]}" if table else target
            open_names.append(made.get(target, name))
            names -= target == "all"
        cone: set[str] = set()
        while open_names:
            name = open_names.pop()
            if name not in cone:
                cone.add(name)
                open_names += whole.edges[name]
        assert len(cone) + names == int(number), words


def test_a_line_as_it_stands(snakemake, plan) -> None:
    """The partial rerun, through the profile, word by word."""
    (line,) = [words for words in called("snakemake") if "--forcerun" in words]
    shown = snakemake(*line, "-q", "rules").stdout
    counts = dict(re.findall(r"^(\w+) +(\d+)$", shown, re.MULTILINE))
    assert counts["memory_rl"] == counts["rl_stage_4"] == "1" and "evaluate_full" not in counts
    # What was fetched here before is not fetched again.
    fetches = sum(job.rule == "fetch" for job in plan(PAPER).jobs.values())
    (number,) = [int(number) for words, number in ROWS if words == "rl_stage_4"]
    assert int(counts["total"]) - int(counts.get("fetch", 0)) == int(number) - fetches


def test_qwenlong_lines() -> None:
    """Commands and options are there, and so are the files of a clone that they name; nothing is run."""
    for words in called("qwenlong"):
        command, rest = typer.main.get_command(app), list(words)
        while hasattr(command, "resolve_command"):
            with command.context_class(command) as context:
                _, command, rest = command.resolve_command(context, rest)
        known = {option for param in command.params for option in (*param.opts, *param.secondary_opts)}
        used = {word for word in rest if word.startswith("--")}
        assert used <= known, (words, used - known)
        for word in words:
            if word.startswith(("configs/", "models/")):
                assert (ROOT / word).exists(), words


def test_the_benchmark_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file is a benchmark: it reads the record, asks, scores; the configuration beside it is accepted."""
    blocks = {kind: text for kind, text in BLOCKS if kind in ("python", "json")}
    (tmp_path / "minutes.py").write_text(blocks["python"], encoding="utf-8")
    (tmp_path / "minutes.jsonl").write_text(blocks["json"], encoding="utf-8")
    record = json.loads(blocks["json"])
    spec = importlib.util.spec_from_file_location("minutes_of_the_page", tmp_path / "minutes.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    (benchmark,) = module.BENCHMARKS
    assert benchmark.name not in registry.BENCHMARKS
    (item,) = benchmark.load(tmp_path / "minutes.jsonl", None)
    prompt = item.messages(Tokenizer(ROOT / "models/nano"), 1000)[0]["content"]
    assert record["text"] in prompt and record["question"] in prompt and item.problem()[0] == record["question"]
    right = item.score(f"<think>\nx\n</think>\n\nTherefore, the answer is {record['answer']}")
    assert set(right) == set(benchmark.rules) and set(right.values()) == {1.0}
    around = item.score(f"Therefore, the answer is {record['answer']} of Kyoto")
    assert around[benchmark.fallback] == 1.0 and around["exact"] == 0.0
    assert set(item.score(f"<think>the answer is {record['answer']}").values()) == {0.0}
    monkeypatch.setitem(registry.BENCHMARKS, benchmark.name, benchmark)
    for text in [text for kind, text in BLOCKS if kind == "yaml"]:
        file = tmp_path / "c.yaml"
        file.write_text(text, encoding="utf-8")
        config = config_files.load(file)
        assert config.evaluation.data == {} or set(config.evaluation.data) == {"minutes"}


def test_links_lead_somewhere() -> None:
    for file, anchor in re.findall(r"\]\(([\w.]*)#?([\w'-]*)\)", PAGE):
        text = (ROOT / "docs" / file).read_text(encoding="utf-8")
        titles = {
            re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-")
            for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        }
        assert not anchor or anchor in titles, (file, anchor, titles)
