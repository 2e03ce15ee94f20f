"""The report and the verification of digests, as a user calls them."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
from pathlib import Path

from typer.testing import CliRunner

from qwenlong.audit.commands import app
from qwenlong.core import config_files
from qwenlong.core.config import Config

RUN = CliRunner()
VOID = {"meta", "br", "img", "hr", "link", "input"}


class Page(html.parser.HTMLParser):
    """Checks that elements nest, and collects ids, links and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.add(tag)
        self.ids += [values["id"]] if values.get("id") else []
        self.links += [values["href"]] if values.get("href") else []
        self.sources += [values["src"]] if values.get("src") else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def configuration(folder: Path, results: Path) -> Path:
    """The configuration file of a made-up results folder."""
    rows = [{"name": "grpo", "tables": ["table5"]}, {"name": "aepo", "tables": ["table5"]}]
    values = {"run": {"name": "made-up", "results": str(results)}, "tracking": {"enabled": False}}
    file = folder / "c.yaml"
    file.write_text(config_files.dump(Config.model_validate(values | {"ablations": {"rows": rows}})))
    return file


def report(config: Path, out: Path) -> Path:
    """Write a report and return the page."""
    done = RUN.invoke(app, ["report", "--config", str(config), "--out", str(out)])
    assert done.exit_code == 0, done.output
    return out / "report.html"


def test_the_page_is_one_file_that_nests_and_escapes(results: Path, tmp_path: Path) -> None:
    """No script, no outside address, every link of the navigation has its section, model output is text."""
    text = report(configuration(tmp_path, results), tmp_path / "audit").read_text()
    page = Page()
    page.feed(text)
    assert page.open == [] and "script" not in page.tags
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links) and len(page.links) == 11
    assert len(page.sources) == 8 and all(source.startswith("data:image/svg+xml;base64,") for source in page.sources)
    # Names of XML dialects inside the drawings are not fetched; nothing else names an address.
    plain = re.sub(r"data:image/svg\+xml;base64,[\w+/=]+", "", text)
    assert "http:" not in plain and "https:" not in plain and "default-src 'none'" in plain
    assert "<b>bold</b>" not in text and text.count("&lt;script&gt;") >= 10
    assert "seen once" in text and "models/rl_3 ✓" in text and "training.batch_prompts" in text


def test_rollouts_right_and_wrong_stand_beside_table_3(results: Path, tmp_path: Path) -> None:
    """The paper's two rows, then ours by stage and task, with the number of pairs; the same in tables.json."""
    folder = report(configuration(tmp_path, results), tmp_path / "audit").parent
    text = " ".join((folder / "report.html").read_text().split())
    table = text.partition('id="alike"')[2].partition("</table>")[0]
    assert "docmath" in table and ">45.4<" in table and ">27.7<" in table and "of 1,234" in table
    assert table.index("docmath") < table.index("rl_1") and "naive_grpo" not in table
    values = json.loads((folder / "tables.json").read_text())["similarity"]
    assert values["rl_1"][-1]["task"] == "all" and len(values) == 5
    for file in results.glob("stages/*/policy/similarity.json"):
        file.unlink()
    assert 'id="alike"' not in report(configuration(tmp_path, results), tmp_path / "again").read_text()


def test_the_same_files_give_the_same_bytes(results: Path, tmp_path: Path) -> None:
    """Twice, and after the folder's files were written anew in another order."""
    config = configuration(tmp_path, results)
    names = ("report.html", "tables.json", "table10.md")
    first = report(config, tmp_path / "a").parent
    copied = tmp_path / "copy"
    shutil.copytree(results, copied)
    shutil.rmtree(results)
    shutil.copytree(copied, results)
    second = report(config, tmp_path / "b").parent
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
        assert (first / f"{name}.provenance.json").is_file()
    values = json.loads((first / "tables.json").read_text())
    assert len(values["table10"]["rows"]) == 8 and len(values["claims"]) == 16 and values["assumptions"]
    parents = {link["output"]: [i["made_by"] for i in link["inputs"]] for link in values["provenance"]}
    assert list(parents)[0] == "models/base" and "models/sce_merge" in parents["models/rl_4"]


def test_an_empty_folder_gives_a_page_of_commands(tmp_path: Path) -> None:
    """Nothing was run yet: every cell says how to make it. No folder at all is refused."""
    config = configuration(tmp_path, tmp_path / "nothing")
    done = RUN.invoke(app, ["report", "--config", str(config), "--out", str(tmp_path / "audit")])
    assert done.exit_code == 1 and "nothing" in done.output and not (tmp_path / "audit").exists()
    (tmp_path / "nothing").mkdir()
    text = report(config, tmp_path / "audit").read_text()
    assert "nothing/evaluation/base/heldout/scores.json" in text and "16 claims" not in text
    assert text.count("not measured here") == 16
    wrong = RUN.invoke(app, ["report", "--config", str(tmp_path / "no.yaml"), "--out", str(tmp_path)])
    assert wrong.exit_code == 2 and "no.yaml" in wrong.output


def test_verification_names_the_changed_file(results: Path) -> None:
    """Untouched: 0. A changed weight file: 1, with its folder and everything made from it."""
    done = RUN.invoke(app, ["verify", str(results)])
    assert done.exit_code == 0 and "8 sidecars, 0 differences" in done.stdout
    (results / "models" / "rl_1" / "config.json").write_text("{}")
    done = RUN.invoke(app, ["verify", str(results), "--json"])
    found = json.loads(done.stdout)
    assert done.exit_code == 1 and found["sidecars"] == 8
    assert len(found["changed"]) == 2 and all("models/rl_1 has changed" in line for line in found["changed"])
    shutil.rmtree(results / "synthesis")
    done = RUN.invoke(app, ["verify", str(results)])
    assert done.exit_code == 1 and "heldout.parquet is gone" in done.stdout


def test_nothing_to_verify_is_an_error(tmp_path: Path) -> None:
    """A folder without sidecars is not a verified one."""
    done = RUN.invoke(app, ["verify", str(tmp_path)])
    assert done.exit_code == 1 and "no provenance files" in done.output
