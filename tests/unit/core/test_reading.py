"""HTML as a reader sees it, JSON of unknown origin."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenlong.core.html_pages import html_page, html_stream, html_text
from qwenlong.core.reading import Refused, load_json


def test_headings_lists_and_tables_are_markdown() -> None:
    page = (
        "<html><head><title>My  page</title></head><body><h1>Head</h1><p>a <b>c</b>d</p><ul><li>one<li>two</ul>"
        "<h3></h3><table><caption>t</caption><tr><th>A<th colspan=2>B<tr><td rowspan=2>1<td>2<td>3<tr><td>x|y<td>z"
        "</table><pre>  keep\n    this</pre></body>"
    )
    title, text = html_page(page)
    assert title == "My page"
    assert text == (
        "# Head\n\na cd\n\n- one\n- two\n\nt\n\n| A | B |  |\n| --- | --- | --- |\n| 1 | 2 | 3 |\n| 1 | x/y | z |\n\n"
        "  keep\n    this"
    )
    assert html_text(page).startswith("My page\n# Head")


def test_the_title_is_else_the_first_heading_and_stands_once() -> None:
    assert html_page("<p>x</p><h2>Part</h2>")[0] == "Part"
    assert html_text("<title>T</title><h1>T</h1><p>x") == "# T\n\nx"


def test_layout_tables_are_lines_and_tables_in_cells_one_line() -> None:
    assert html_page("<table><tr><td>a</td></tr><tr><td>b</td></tr></table>")[1] == "a\nb"
    inner = "<table><tr><td>x</td><td>y</td></tr></table>"
    text = html_page(f"<table><tr><td>a {inner}</td><td>b</td></tr></table>")[1]
    assert len(text.splitlines()) == 2 and "x" in text and text.endswith("| --- | --- |")


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("5 < 6 and <end", "5 < 6 and <end"),
        ("a<!-- x -->b<!-->c<!-- y --!>d<!-- never", "abcd"),
        ("<p hidden>shown, for no end tag is needed<p>more", "shown, for no end tag is needed\nmore"),
        ("<div hidden><div>a</div>b</div>c", "c"),
        ("<span style='Display : NONE'>a</span>b", "b"),
        ("<p>&lt;script&gt; &amp; &#65;</p>", "<script> & A"),
        ("<td colspan=999999999999>a</td>", "a"),
    ],
)
def test_odd_pages(page: str, expected: str) -> None:
    assert html_page(page)[1].replace("\n\n", "\n") == expected


@given(
    st.lists(st.sampled_from(["<", ">", "<p>", "<table>", "<tr>", "<td rowspan=3>", "</td>", "</table>", "a", "<!--"]))
)
def test_any_page_gives_text(parts: list[str]) -> None:
    title, text = html_page("".join(parts))
    assert isinstance(title, str) and text == text.strip()


@pytest.mark.parametrize(
    "part", ["<!--", "<a ", "<", "<![CDATA[", "</", "<!DOCTYPE ", "<table>", "<script>", "<a href='"]
)
def test_broken_markup_costs_linear_time(part: str) -> None:
    """html.parser alone takes minutes for some of these."""
    start = time.process_time()
    html_page(part * 50_000)
    assert time.process_time() - start < 5


def test_json_depth_is_counted_in_containers() -> None:
    assert load_json("[[1]]", 2) == [[1]]
    with pytest.raises(Refused, match="more than 1 levels deep") as caught:
        load_json("[[1]]", 1)
    assert caught.value.reason == "too_deep"
    assert load_json("1", 1) == 1


_MARKUP = (
    "<p>",
    "</p>",
    "<h2>",
    "</h2>",
    "<table>",
    "<tr>",
    "<td>",
    "</table>",
    "<pre>",
    "</pre>",
    "<div hidden>",
    "</div>",
)
_ODD = (
    "<!-- a <b> -->",
    "<script>if (a<b) {}</script>",
    "<STYLE>p{}</Style >",
    " a b ",
    "\n\n",
    "&amp;",
    "5 < 6",
    "<br>",
)


@given(st.lists(st.sampled_from(_MARKUP + _ODD), max_size=60), st.integers(1, 40), st.integers(1, 300))
def test_a_page_in_pieces_is_the_same_page(parts: list[str], length: int, size: int) -> None:
    """Whatever is looked at together, down to a character."""
    source = "<title>The title</title>" + "".join(parts)
    cut = [source[at : at + length] for at in range(0, len(source), length)]
    expected = html_text(source)
    shown = "".join(html_stream(cut, size))
    if size < 40:
        # The title alone may have been looked at first.
        expected, shown = expected.removeprefix("The title").strip(), shown.removeprefix("The title").strip()
    assert shown == expected
    assert "".join(html_stream(cut)) == html_text(source)


def test_a_page_of_any_length_is_streamed() -> None:
    """Little is held; a script that never ends is looked at a few times, not once a piece."""
    import tracemalloc

    def page(n: int):
        yield "<title>T</title>"
        for number in range(n):
            yield f"<p>Paragraph {number} of the page.</p><!-- {number} -->" * 100

    peaks = []
    for n in (100, 400):
        tracemalloc.start()
        length = sum(len(piece) for piece in html_stream(page(n), 1 << 16))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert length > n * 2_000
    assert peaks[1] < 1.2 * peaks[0]
    began = time.process_time()
    assert "".join(html_stream(["<p>a<script>", *["x" * 4096] * 4000])) == "a"
    assert time.process_time() - began < 20
