"""The site of a bundle: pages, figures and tables for machines, the same bytes for the same bundle."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwenlong.audit import assumptions, report
from qwenlong.audit.bundles import layout
from qwenlong.audit.site import claims, efficiency, exports, sources, versions
from qwenlong.audit.site.cells import SeededTable, all_tables
from qwenlong.audit.site.figures import Figure, all_figures
from qwenlong.audit.site.published import Entry, entries
from qwenlong.audit.site.runs import Opened, Run, opened
from qwenlong.core.files import dump_json, write_text
from qwenlong.core.published import Published, load
from qwenlong.datacard import page as cards
from qwenlong.datacard.figures import embedded

PAGES = Path(__file__).parent / "pages"
#: Pages of the site by file, in the order of the navigation.
TITLES = {
    "index": "Summary",
    "claims": "Claims",
    "tables": "Tables",
    "figures": "Figures",
    "published": "Published numbers",
    "efficiency": "Time",
    "sources": "Sources",
    "assumptions": "Assumptions",
}


@dataclass(frozen=True)
class Site:
    """Everything that the pages show."""

    bundle: Opened
    paper: Published
    tables: list[SeededTable]
    claims: list[claims.Verdict]
    figures: list[Figure]
    entries: list[Entry]
    stages: list[efficiency.StageTime]
    minutes: list[efficiency.TableTime]
    held: list[efficiency.Held]
    sources: list[sources.Made]
    versions: list[versions.Version]


def build(bundle: Path, out: Path) -> list[Path]:
    """Write the site of a bundle to `out`, and return its files. Raises DataError for what is no bundle."""
    with opened(bundle) as found:
        return write(found, out)


def write(found: Opened, out: Path) -> list[Path]:
    """Write the site of an open bundle to `out`, and return its files."""
    site = gather(found)
    files = texts(site)
    for name, text in files.items():
        write_text(out / name, text)
    written = [out / name for name in files]
    for run in found.runs:
        if not run.planned:
            written += report.build(run.folder, run.config, run.file, out / "runs" / run.name)
    return written


def gather(found: Opened) -> Site:
    """Compute everything that the pages show."""
    known = load()
    tables, verdicts, drawn, minutes = [], [], [], []
    for scale in found.scales:
        runs = found.of(scale)
        own = all_tables(runs, scale, known)
        tables += own
        verdicts += claims.verdicts(runs, scale, known)
        drawn += all_figures(runs, scale, own)
        minutes += efficiency.tables(runs, scale)
    named = entries(known, found.runs, tables)
    stages = efficiency.stages(found.runs)
    held = efficiency.held(found.runs)
    used = {(s.run, s.file) for table in tables for cell in table.cells() for s in cell.sources}
    used |= {(s.run, s.file) for verdict in verdicts for s in verdict.sources}
    used |= {(s.run, s.file) for entry in named for _, _, _, _, many in entry.measured for s in many}
    used |= {pair for figure in drawn for pair in figure.sources} | {(s.run, s.source) for s in stages}
    made = sources.listing(found.runs, used)
    several = versions.several(found.runs)
    return Site(found, known, tables, verdicts, drawn, named, stages, minutes, held, made, several)


def texts(site: Site) -> dict[str, str]:
    """Return the site's own files by name; each run's page comes on top."""
    files = {f"{name}.html": _page(site, name) for name in TITLES}
    files["tables.json"] = dump_json(_values(site))
    files["tables.csv"] = exports.tables_csv(site.tables)
    files["tables.md"] = exports.tables_markdown(site.tables)
    files["claims.csv"] = exports.claims_csv(site.claims)
    files["claims.md"] = exports.claims_markdown(site.claims)
    files["published.csv"] = exports.published_csv(site.entries)
    files["efficiency.csv"] = exports.efficiency_csv(site.stages, site.minutes)
    for figure in site.figures:
        files[f"figures/{figure.name}.svg"] = figure.drawing
        files[f"figures/{figure.name}.csv"] = figure.numbers
    return files


def _values(site: Site) -> dict[str, Any]:
    return {
        "runs": [_run(run) for run in site.bundle.runs],
        "tables": [table.as_json() for table in site.tables],
        "claims": [verdict.as_json() for verdict in site.claims],
        "published": [entry.as_json() for entry in site.entries],
        "efficiency": {
            "stages": [stage.as_json() for stage in site.stages],
            "tables": [table.as_json() for table in site.minutes],
            "held": [one.as_json() for one in site.held],
        },
        "sources": [made.as_json() for made in site.sources],
        "versions": [one.as_json() for one in site.versions],
        "drawn_with": drawn_with(),
    }


def drawn_with() -> str:
    """Return what draws the figures here: another version may draw the same numbers in other bytes."""
    import matplotlib

    return f"matplotlib {matplotlib.__version__}"


def _run(run: Run) -> dict[str, Any]:
    return {
        "name": run.name,
        "scale": run.scale,
        "seed": run.seed,
        "planned": run.planned,
        "window": run.config.base.window,
    }


def _page(site: Site, name: str) -> str:
    environment = cards.environment(PAGES)
    script = (PAGES / "sort.js").read_text(encoding="utf-8")
    loaded = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    statuses = {scale: claims.counts([v for v in site.claims if v.scale == scale]) for scale in site.bundle.scales}
    page = environment.get_template(f"{name}.html.j2").render(
        site=site,
        name=name,
        titles=TITLES,
        script=script,
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{loaded}'",
        scales=site.bundle.scales,
        statuses=statuses,
        order=claims.STATUSES,
        anchor=sources.anchor,
        embedded=embedded,
        assumed=_assumed(site.bundle) if name == "assumptions" else {},
        raw=layout.RUNS,
        cards=efficiency.flops.CARDS,
    )
    return page + "\n"


def _assumed(found: Opened) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return each assumed setting with its description, and its value by scale, of the scale's first run."""
    listed: dict[str, tuple[str, dict[str, Any]]] = {}
    for scale in found.scales:
        for one in assumptions.listing(found.of(scale)[0].config):
            value = list(one.value) if isinstance(one.value, tuple) else one.value
            listed.setdefault(one.key, (one.text, {}))[1][scale] = value
    return dict(sorted(listed.items()))
