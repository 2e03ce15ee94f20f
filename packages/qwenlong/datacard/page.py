"""The data card as pages: a section of the report, a page of its own, and the head of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenlong.core.errors import DataError
from qwenlong.core.files import read_json
from qwenlong.core.records import TASKS
from qwenlong.datacard.charts import charts
from qwenlong.datacard.figures import embedded

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup

FOLDER = Path(__file__).parent / "pages"
#: Version of card.json that these pages show.
SCHEMA = 1
#: Licences by the name that the hub's data sets use.
_HUB_LICENCES = {
    "apache-2.0": "apache-2.0",
    "bsd-3-clause": "bsd-3-clause",
    "cc-by-4.0": "cc-by-4.0",
    "cc-by-sa-4.0": "cc-by-sa-4.0",
    "cc0-1.0": "cc0-1.0",
    "mit": "mit",
}
#: Sets in their order, with the names of splits that hubs know.
_SPLITS = {"samples": "train", "memory": "memory", "heldout": "test", "heldout_long": "test_long"}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def load(file: Path) -> dict[str, Any]:
    """Read a card.json. Raises DataError when it is something else, or of another version."""
    value = read_json(file)
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise DataError(f"{file} is no data card of version {SCHEMA}; make it anew with `qwenlong synthesize card`")
    return value


def environment(*folders: Path) -> jinja2.Environment:
    """Return the templates of `folders` and of the card: escaped, undefined names are errors."""
    import jinja2

    loader = jinja2.FileSystemLoader([*folders, FOLDER])
    made = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    made.undefined = jinja2.StrictUndefined
    made.filters |= {"number": number, "percent": percent, "words": lambda text: str(text).replace("_", " ")}
    return made


def number(value: Any) -> str:
    """Return a count or setting for reading."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e3 or value.is_integer() else f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def percent(share: float) -> str:
    """Return a share in percent; a little is not nothing."""
    value = 100 * share
    return "0%" if value == 0 else f"{value:.1f}%" if value >= 0.1 else f"{value:.2f}%"


def ordered(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return the card in the order in which it is read, whatever the order of its keys: JSON's are sorted.

    Sets stand with the training set first, counts from the largest on, numbers from the smallest on.
    """
    answers = {
        name: _by_number(rows) if name in ("evidence_documents", "hops", "needles") else rows
        for name, rows in card["answers"].items()
    }
    return {
        **card,
        "sets": {name: card["sets"][name] for name in _SPLITS if name in card["sets"]},
        "counts": {name: _by_count(rows) for name, rows in card["counts"].items()},
        "types_by_task": {task: _by_count(rows) for task, rows in sorted(card["types_by_task"].items())},
        "languages": {**card["languages"], "documents": _by_count(card["languages"]["documents"])},
        "answers": answers,
    }


def _by_count(rows: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(rows.items(), key=lambda item: (-item[1], item[0])))


def _by_number(rows: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(rows.items(), key=lambda item: int(item[0].partition("–")[0])))


def section(card: Mapping[str, Any], level: int = 3) -> Markup:
    """Return the card as a part of a page, its headings of a level."""
    from markupsafe import Markup

    card = ordered(card)
    drawn = {key: (title, embedded(text), note) for key, (_, title, text, note) in charts(card).items()}
    tasks = [task for task in TASKS if task in card["counts"]["task"]]
    body = environment().get_template("section.html.j2").render(card=card, charts=drawn, tasks=tasks, level=level)
    return Markup(body)


def page(card: Mapping[str, Any]) -> str:
    """Return the card as one HTML file that needs no other."""
    return environment().get_template("card.html.j2").render(card=card, body=section(card, 2)) + "\n"


def markdown(card: Mapping[str, Any]) -> str:
    """Return the card as Markdown under a YAML head, as data-set hubs read it."""
    import jinja2
    import yaml

    card = ordered(card)
    head = yaml.safe_dump(_head(card), sort_keys=False, allow_unicode=True, width=1000)
    plain = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    plain.undefined = jinja2.StrictUndefined
    plain.filters |= {"number": number, "percent": percent, "cell": _cell}
    tasks = [task for task in TASKS if task in card["counts"]["task"]]
    body = plain.get_template("card.md.j2").render(card=card, tasks=tasks)
    return f"---\n{head}---\n\n{body}\n"


def _cell(value: Any) -> str:
    """Return a text that stands in a Markdown table's cell as it is: no bars, line ends or HTML."""
    text = " ".join(str(value).split()).replace("\\", "\\\\").replace("|", "\\|")
    return text.replace("<", "&lt;").replace("`", "'")


def _head(card: Mapping[str, Any]) -> dict[str, Any]:
    licences = sorted({source["data_licence"].strip().lower() for source in card["sources"]})
    known = _HUB_LICENCES.get(licences[0]) if len(licences) == 1 else None
    head: dict[str, Any] = {"pretty_name": card["run"]["name"], "license": known or "other"}
    if known is None:
        # The hub wants a name for what is not on its list; the table of sources says which text has which.
        head["license_name"] = "several" if len(licences) > 1 else (licences[0] if licences else "none")
    languages = card["languages"]
    # A language of one document in a hundred and more: quotations in others are no language of the data set.
    spoken = [n for n, count in languages["documents"].items() if n != "none" and 100 * count >= languages["looked_at"]]
    total = sum(members["n"] for members in card["sets"].values())
    return head | {
        "language": spoken,
        "task_categories": ["question-answering"],
        "size_categories": [next((name for bound, name in _SIZES if total < bound), "1M<n<10M")],
        "tags": ["long-context", "synthetic"],
        "configs": [
            {
                "config_name": "samples",
                "default": True,
                "data_files": [
                    {"split": _SPLITS[name], "path": f"{name}.parquet"}
                    for name, members in card["sets"].items()
                    if members["n"]
                ],
            },
            {"config_name": "documents", "data_files": [{"split": "train", "path": "documents.parquet"}]},
        ],
    }
