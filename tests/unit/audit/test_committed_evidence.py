"""The evidence that is committed is whole: scores, tables, verdicts and pages follow from its predictions."""

from __future__ import annotations

import time
from pathlib import Path

from typer.testing import CliRunner

from qwenlong.audit.bundles import layout
from qwenlong.audit.commands import app
from qwenlong.core.files import read_json

PLACE = Path(__file__).parents[3] / "reports" / "h200"


def test_it_verifies() -> None:
    began = time.monotonic()
    done = CliRunner().invoke(app, ["verify", str(PLACE)])
    assert done.exit_code == 0, done.output
    assert "0 differences" in done.output
    print(f"{time.monotonic() - began:.0f} s")


def test_its_numbers_are_of_models_that_ran() -> None:
    index = read_json(PLACE / layout.INDEX)
    assert any(not run["planned"] and run["files"] for run in index["runs"])
    tables = read_json(PLACE / layout.REPORT / "tables.json")
    assert tables["sources"] and all(source["commit"] for source in tables["sources"])
    assert not [source for source in tables["sources"] if source["commit"].endswith("-dirty")]


def test_what_is_shown_of_a_claim_differs_by_what_is_estimated() -> None:
    """Both means are of the seeds that have both models, whatever other seeds have of one of them."""
    tables = read_json(PLACE / layout.REPORT / "tables.json")
    pairs = [v for v in tables["claims"] if v["unit"] == "points" and v["value"] is not None and len(v["ours"]) == 2]
    assert len(pairs) > 20
    for claim in pairs:
        first, second = map(float, claim["ours"])
        assert abs(first - second - claim["value"]) < 0.1001, claim["key"]
