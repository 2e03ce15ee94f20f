"""Services as jobs of their own, by Snakemake's Slurm executor: before, while and after their consumers work."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import slurm as testbed
import yaml
from observed import Observed, events

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500), pytest.mark.usefixtures("quiet")]
ROOT = Path(__file__).resolve().parents[2]
SERVER = ROOT / "tests/unit/serving/replica_server.py"
FRAMES = ROOT / "tests/data/benchmarks/frames/frames_824_question_answer.jsonl"
ITEMS = 3
SNAKEFILE = """
from qwenlong.core import config_files, processes
RUN = config_files.load("config.yaml")
R = RUN.run.results
need, code_digest = lambda kind: {{}}, lambda *names: ""
processes.protect(workflow, R)
shell.prefix("set -euo pipefail; export QWENLONG_CONFIG=config.yaml; ")
localrules: all, lease

rule all:
    input: "said.json"

include: "{root}/workflow/rules/services.smk"

rule ask:
    input: services=ancient(f"{{R}}/state/services/little/leases/ask.job.json")
    output: "said.json"
    resources: mem_mb=1000, runtime=10
    shell: "qwenlong serve little --config config.yaml -- {python} ask.py {{output}}"
"""
#: Asks one question after the other until it is told that it is enough.
ASK = """
import asyncio, json, pathlib, sys
from qwenlong.core.config import EndpointConfig
from qwenlong.core.llm import Client

async def ask():
    url = f"service:{pathlib.Path('results/state/services/little').resolve()}"
    said = []
    async with Client(EndpointConfig(base_url=url, model="little")) as client:
        while not pathlib.Path("enough").exists():
            message = {"role": "user", "content": str(len(said))}
            reply = await client.chat([message], max_tokens=8, temperature=0, top_p=1, seed=1)
            said.append(reply.text)
    pathlib.Path(sys.argv[1]).write_text(json.dumps(said))

asyncio.run(ask())
"""


def _service(notes: Path, **environment: str) -> dict[str, Any]:
    notes.mkdir()
    command = [sys.executable, str(SERVER), "{port}", str(notes)]
    job = {"cpus": 1, "memory_mb": 1000, "runtime_minutes": 10}
    more = {"environment": environment, "linger_seconds": 1, "restart_seconds": 0.2}
    return {"model": "little", "command": command, "where": "slurm", "slurm": job, **more}


@pytest.fixture
def observed(slurm: testbed.Slurm, tmp_path: Path) -> Iterator[Callable[..., Observed]]:
    runs: list[Observed] = []

    def start(*words: object) -> Observed:
        runs.append(Observed(slurm, ROOT, tmp_path, *words))
        return runs[-1]

    yield start
    for run in runs:
        run.stop()


def _consumers(run: Observed) -> list[dict[str, str]]:
    return [one for one in run.jobs() if not one["JobName"].startswith("qwenlong-")]


def _written(file: Path) -> str:
    """Return when a command had written a file, as Slurm writes times; Snakemake touches the file itself later."""
    beside = file.with_name(file.name + ".provenance.json")
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(beside.stat().st_mtime))


def _over(run: Observed, folder: Path) -> None:
    """Hold that the services' jobs have ended by themselves, in time after their consumers', and that no key is out."""
    services = run.jobs("qwenlong-")
    end = time.monotonic() + 30
    while any(one["JobState"] in ("RUNNING", "COMPLETING") for one in run.jobs("qwenlong-")):
        assert time.monotonic() < end, run.jobs()
        run.look()
        time.sleep(0.2)
    state = folder / "results/state/services"
    assert services and not list(state.glob("*/service.json")) and not list(state.glob("*/leases/*.json"))
    keys = [file.read_text().strip() for file in state.glob("*/key")]
    keys += [str(e["key"]) for file in folder.glob("notes*") for e in events(file) if "start" in e]
    assert len(keys) >= 2 and all(len(key) > 30 for key in keys)
    # The watch has seen what there was to see: the service's job, its own process and the server.
    for what in ("qwenlong-", "-m qwenlong serve", "replica_server.py"):
        assert any(what in line for line in run.shown), what
    logs = [*folder.rglob("*.log"), *folder.rglob("service.json"), *testbed.STATE.glob("*.log")]
    assert any("ready after" in file.read_text(errors="replace") for file in logs)
    text = "\n".join([*run.shown, *(file.read_text(errors="replace") for file in logs)])
    assert [key for key in keys if key in text] == []


def test_a_benchmark_is_answered_and_judged_by_services(observed, tmp_path):
    base = tmp_path / "results/models/base"
    shutil.copytree(ROOT / "models/nano", base)
    items = tmp_path / "frames.jsonl"
    rows = [json.loads(line) for line in FRAMES.read_text().splitlines()[:ITEMS]]
    pages = {"wiki_items": [{"title": "A page", "text": "It does not say."}]}
    items.write_text("".join(json.dumps(row | pages) + "\n" for row in rows))
    values = yaml.safe_load((ROOT / "configs/tiny.yaml").read_text())
    values["run"]["results"] = "results"
    values["corpus"] |= {"registry": str(ROOT / "data/sources.csv"), "cache": str(tmp_path / "cache")}
    values |= {"tracking": {"enabled": False}, "ablations": {"rows": [], "merges": []}}
    values["evaluation"] |= {"benchmarks": ["frames"], "data": {"frames": str(items)}, "server": "policy"}
    values["llm"] = {"evaluation_judge": {"base_url": "service:judge", "model": "little"}}
    services = {
        "policy": _service(tmp_path / "notes-policy"),
        "judge": _service(tmp_path / "notes-judge", SAY="[[YES]]"),
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values | {"services": services}))
    target = "results/evaluation/base/frames/scores.json"
    run = observed("--snakefile", ROOT / "Snakefile", "--configfile", "config.yaml", "--", target)
    assert run.wait() == 0, run.said[-6000:]
    _over(run, tmp_path)
    # Two rules, each with the job of its service, which was there before the first question and ends after its last.
    [policy], [judge] = run.jobs("qwenlong-policy-"), run.jobs("qwenlong-judge")
    asking, scoring = _consumers(run)
    assert [one["JobState"] for one in (policy, judge, asking, scoring)] == ["COMPLETED"] * 4
    folder = tmp_path / target
    predictions = folder.with_name("predictions.jsonl")
    assert asking["StartTime"] <= policy["SubmitTime"] and policy["EndTime"] >= _written(predictions)
    assert scoring["StartTime"] <= judge["SubmitTime"] and judge["EndTime"] >= _written(folder)
    rows = [json.loads(line) for line in predictions.read_text().splitlines()]
    notes = events(tmp_path / "notes-policy")
    assert [e.get("start") for e in notes] == [True, *[None] * ITEMS]
    assert sorted(row["response"] for row in rows) == sorted(f"{e['asked']} by {e['port']}" for e in notes[1:])
    judged = [json.loads(line) for line in (folder.parent / "judgements.jsonl").read_text().splitlines()]
    assert [one["verdict"] for one in judged] == [True] * len(judged) and len(judged) >= ITEMS
    assert len(events(tmp_path / "notes-judge")) == 1 + len(judged)


@pytest.mark.slow
def test_a_consumer_goes_on_when_its_service_is_cancelled_and_when_its_machine_dies(slurm, observed, tmp_path):
    values = {"run": {"results": "results"}, "tracking": {"enabled": False}}
    values |= {"services": {"little": _service(tmp_path / "notes", PAUSE="0.2")}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "ask.py").write_text(ASK)
    (tmp_path / "Snakefile").write_text(SNAKEFILE.format(root=ROOT, python=sys.executable))
    run = observed()

    def answered(starts: int) -> Callable[[], bool]:
        def more() -> bool:
            notes = events(tmp_path / "notes")
            at = [n for n, e in enumerate(notes) if "start" in e]
            return len(at) == starts and len(notes) > at[-1] + 3

        return more

    run.until(answered(1), "answers")
    [first], [consumer] = (
        run.jobs("qwenlong-little"),
        [j for j in run.jobs() if not j["JobName"].startswith("qwenlong-")],
    )
    assert int(first["JobId"]) < int(consumer["JobId"]), "submitted before the job that needs it"
    # The next one is kept from the consumer's machine, which is to live.
    testbed.sh("scontrol", "update", f"nodename={consumer['NodeList']}", "state=drain", "reason=test")
    testbed.sh("scancel", first["JobId"])
    run.until(answered(2), "answers of the service that came after the one that was cancelled")
    testbed.sh("scontrol", "update", f"nodename={consumer['NodeList']}", "state=resume")
    _, second = run.jobs("qwenlong-little")
    [dies] = [node for node in slurm.nodes if node.name == second["NodeList"] != consumer["NodeList"]]
    dies.plug(False)
    dies.kill()
    try:
        run.until(answered(3), "answers of the same job on the other machine")
        (tmp_path / "enough").touch()
        assert run.wait() == 0, run.said[-6000:]
        _over(run, tmp_path)
    finally:
        dies.plug(True)
        dies.start()
        slurm.ready()
    cancelled, moved = run.jobs("qwenlong-little")
    assert (cancelled["JobState"], moved["JobState"], moved["Restarts"]) == ("CANCELLED", "COMPLETED", "1")
    assert moved["NodeList"] == consumer["NodeList"]
    said = json.loads((tmp_path / "said.json").read_text())
    assert [text.split()[0] for text in said] == [str(n) for n in range(len(said))] and len(said) >= 9
    assert len({text.split()[-1] for text in said}) == 3, "three services have answered"
    assert [one["JobState"] for one in _consumers(run)] == ["COMPLETED"], "the rule ran once"
