"""The site of a bundle in a real browser: links, sorting, console, phone and desktop, light and dark."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from browser import Browser, browsing
from made_up_runs import configuration, make
from qwenlong.audit.bundles import collect

pytestmark = pytest.mark.engines

REPORT = Path(__file__).parents[2] / "reports" / "h200" / "report"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of two scales: three seeds of one, one of the other, and a run that is only planned."""
    root = tmp_path_factory.mktemp("site")
    made = [make(root, "nano", seed, items=6) for seed in (17, 18, 19)] + [make(root, "smollm2", 17, items=6)]
    planned = [configuration(root, "smollm2", 18)]
    chosen = collect.runs([results for results, _ in made], [file for _, file in made], planned)
    collect.bundle(chosen, root / "bundle", {"device": "NVIDIA H200", "devices": 1})
    return root / "bundle" / "report"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One tab for all tests."""
    with browsing(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def pages(site: Path) -> list[Path]:
    """All pages of the site, each run's too."""
    return sorted(site.rglob("*.html"))


def test_every_link_leads_somewhere(site: Path, tab: Browser) -> None:
    """Each link is a file of the bundle, and each part of a page that it names is there."""
    ids: dict[Path, set[str]] = {}
    links: list[tuple[Path, str]] = []
    for page in pages(site):
        tab.open(page)
        ids[page.resolve()] = set(tab.run("[...document.querySelectorAll('[id]')].map(e => e.id)"))
        links += [(page, href) for href in tab.run("[...document.querySelectorAll('a[href]')].map(e => e.href)")]
    assert len(links) > 300
    for page, href in set(links):
        parts = urllib.parse.urlsplit(href)
        assert parts.scheme == "file", f"{page}: {href} leads out of the site"
        target = Path(urllib.parse.unquote(parts.path)).resolve()
        assert target.is_file(), f"{page}: {href} is not there"
        if parts.fragment:
            assert urllib.parse.unquote(parts.fragment) in ids[target], f"{page}: {href} names no part of its page"


def test_no_page_complains_or_scrolls_sideways(site: Path, tab: Browser) -> None:
    """Nothing on the console, nothing fetched from outside; on a phone of 375 pixels only tables scroll."""
    tab.said.clear()
    for width, dark in ((375, False), (375, True), (1280, False)):
        tab.size(width, 800, dark)
        for page in pages(site):
            tab.open(page)
            wide = tab.run("document.documentElement.scrollWidth")
            assert wide <= width, f"{page.name} is {wide} pixels wide on {width}"
            shade = tab.run("getComputedStyle(document.body).backgroundColor")
            assert (shade == "rgb(255, 255, 255)") is not dark, f"{page.name}: {shade}"
    assert tab.said == []


def test_claims_are_read_without_scrolling(site: Path, tab: Browser) -> None:
    """On a phone each claim is a card that names its parts; on a desktop no column is cut off."""
    cut = "[...document.querySelectorAll('%s')].filter(t => t.parentNode.scrollWidth > t.parentNode.clientWidth).length"
    label = "getComputedStyle(document.querySelector('.cards tbody td'), '::before').content"
    for name, first in (("claims", '"verdict"'), ("index", '"paper"')):
        tab.size(375, 800, False)
        tab.open(site / f"{name}.html")
        assert tab.run("document.querySelectorAll('.cards').length") >= 1
        assert tab.run(cut % ".cards") == 0 and tab.run(label) == first
    tab.size(1300, 800, False)
    tab.open(site / "claims.html")
    assert tab.run(cut % ".cards") == 0 and tab.run(label) == "none"
    tab.size(1280, 800, False)
    for name in ("index", "claims", "tables"):
        tab.open(REPORT / f"{name}.html")
        assert tab.run("document.querySelectorAll('.wide > table').length") >= 1
        assert tab.run(cut % ".wide > table") == 0, name


def test_hostile_text_stays_text(site: Path, tab: Browser) -> None:
    """What models and questions say is shown, not run; a script of somebody else's is refused by the page's policy."""
    tab.open(site / "runs" / "nano-s17" / "report.html")
    assert tab.run("document.body.innerText.includes(\"<script>alert('x')</script>\")")
    assert tab.run("document.scripts.length") == 0
    tab.open(site / "index.html")
    tab.run("const s = document.createElement('script'); s.textContent = 'window.bad = 1'; document.body.append(s)")
    assert tab.run("window.bad === undefined")
    assert any("Content Security Policy" in text for text in tab.said)


def test_tables_sort_by_mouse_and_by_key(site: Path, tab: Browser) -> None:
    """Numbers by size, blanks last both ways; Enter sorts too; the direction is told to readers."""
    column = "[...document.querySelectorAll('table.sort')[0].tBodies[0].rows].map(r => r.cells[3].dataset.v)"
    head = "document.querySelectorAll('table.sort')[0].tHead.rows[0].cells[3]"
    tab.open(site / "index.html")
    before = tab.run(column)
    tab.run(f"{head}.click()")
    up = tab.run(column)
    known = [float(value) for value in up if value]
    assert known == sorted(known) and sorted(up) == sorted(before) and up != before
    assert tab.run(f"{head}.getAttribute('aria-sort')") == "ascending"
    tab.run(f"{head}.dispatchEvent(new KeyboardEvent('keydown', {{key: 'Enter', bubbles: true}}))")
    down = tab.run(column)
    assert [float(value) for value in down if value] == known[::-1] and down[-1] == up[-1] == ""
    assert tab.run(f"{head}.getAttribute('aria-sort')") == "descending"
