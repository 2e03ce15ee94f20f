"""HTML pages as text for reading: headings, lists and tables as Markdown, nothing that a browser does not show."""

from __future__ import annotations

import html.parser
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

_BLOCKS = frozenset(
    ("address", "article", "aside", "blockquote", "br", "caption", "dd", "div", "dl", "dt", "figcaption", "footer")
    + ("form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p", "pre", "section")
    + ("table", "tbody", "tfoot", "thead", "title", "tr", "ul")
)
_UNSEEN = frozenset(("script", "style", "template", "noscript", "iframe", "object", "svg"))
#: Elements that always have an end tag: only these can hide what is in them by an attribute. An open `<p hidden>`
#: would otherwise hide the rest of the page.
_CLOSED = frozenset(
    ("a", "article", "aside", "b", "blockquote", "button", "details", "div", "em", "footer", "form", "header", "i")
    + ("label", "main", "nav", "ol", "section", "span", "strong", "table", "ul")
)
_INVISIBLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden|font-size\s*:\s*0(?![.\d])", re.IGNORECASE)
#: Largest colspan and rowspan that are believed; a page may say a billion.
MAX_SPAN = 100
_EMPTY = re.compile(r"(?:#{1,6}|-)")
#: Browsers end a comment that never closes at the end of the page. html.parser looks for that end again at each
#: `<!`, in time that grows with the square of their number, hence they are taken out before it sees them.
_COMMENT = re.compile(r"<!--(?:-?>|.*?(?:--!?>|\Z))|<!\[CDATA\[|<[!?][^>]{0,4096}>?", re.DOTALL)
#: A tag that is still open after so many characters is text. A `<` that opens no tag is written as an entity.
_STRAY = re.compile(r"<(?!/?[A-Za-z][^<>]{0,65536}>)")

#: What may be long and hold anything, and what ends it.
_OPENED = re.compile(r"(?i)<!--|<(script|style)\b[^>]{0,4096}>")
_CLOSED_BY = {
    "--": re.compile(r"--!?>"),
    "script": re.compile(r"(?i)</script\s*>"),
    "style": re.compile(r"(?i)</style\s*>"),
}


@dataclass
class _Table:
    rows: list[list[str]] = field(default_factory=list)
    row: list[str] = field(default_factory=list)
    #: column -> (rows that the cell above still covers, its text)
    covered: dict[int, tuple[int, str]] = field(default_factory=dict)
    cell: list[str] | None = None
    spans: tuple[int, int] = (1, 1)

    def fill(self) -> None:
        """Repeat cells of earlier rows that cover the next columns of this one."""
        while len(self.row) in self.covered:
            rows, text = self.covered.pop(len(self.row))
            if rows > 1:
                self.covered[len(self.row)] = (rows - 1, text)
            self.row.append(text)

    def end_cell(self) -> None:
        if self.cell is None:
            return
        text = " ".join("".join(self.cell).split()).replace("|", "/")
        self.cell = None
        columns, rows = self.spans
        self.fill()
        for n in range(columns):
            # A wide cell's text stands once; the columns that it covers stay, so that those after it keep their place.
            shown = text if n == 0 else ""
            if rows > 1:
                self.covered[len(self.row)] = (rows - 1, shown)
            self.row.append(shown)

    def end_row(self) -> None:
        self.end_cell()
        if self.row:
            self.fill()
            self.rows.append(self.row)
        self.row = []

    def text(self) -> str:
        """Return a Markdown table; a table of one column, which is layout, as lines."""
        self.end_row()
        rows = [row for row in self.rows if any(row)]
        width = max((len(row) for row in rows), default=0)
        if width <= 1:
            return "\n".join(row[0] for row in rows)
        lines = ["| " + " | ".join([*row, *[""] * (width - len(row))]) + " |" for row in rows]
        return "\n".join([lines[0], "| " + " | ".join(["---"] * width) + " |", *lines[1:]])


class _Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.title: list[str] = []
        self._tables: list[_Table] = []
        self._verbatim = 0
        self._in_title = False
        #: The element that hides what is inside, and how many of its kind are open.
        self._hidden: tuple[str, int] | None = None

    def _put(self, text: str) -> None:
        if self._tables:
            cell = self._tables[-1].cell
            if cell is not None:
                cell.append(text)
            elif text.strip():
                # Text between rows is misplaced; browsers show it before the table.
                self.parts.append(text)
        else:
            self.parts.append(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._hidden is not None:
            if tag == self._hidden[0]:
                self._hidden = (tag, self._hidden[1] + 1)
            return
        values = dict(attrs)
        if tag in _UNSEEN or (
            tag in _CLOSED and ("hidden" in values or _INVISIBLE.search(values.get("style") or "") is not None)
        ):
            self._hidden = (tag, 1)
        elif tag == "title":
            self._in_title = True
        elif tag == "table":
            self._tables.append(_Table())
        elif self._tables and tag == "tr":
            self._tables[-1].end_row()
        elif self._tables and tag in ("td", "th"):
            table = self._tables[-1]
            table.end_cell()
            table.cell = []
            table.spans = (_span(values.get("colspan")), _span(values.get("rowspan")))
        elif self._tables:
            self._put(" " if tag in _BLOCKS else "")
        else:
            self._verbatim += tag == "pre"
            heading = re.fullmatch(r"h([1-6])", tag)
            before = f"\n\n{'#' * int(heading[1])} " if heading else "\n- " if tag == "li" else "\n"
            self.parts.append(before if tag in _BLOCKS else "")

    def handle_endtag(self, tag: str) -> None:
        if self._hidden is not None:
            if tag == self._hidden[0]:
                left = self._hidden[1] - 1
                self._hidden = (tag, left) if left else None
            return
        if tag == "title":
            self._in_title = False
        elif self._tables and tag == "table":
            self.end_table()
        elif self._tables and tag == "tr":
            self._tables[-1].end_row()
        elif self._tables and tag in ("td", "th"):
            self._tables[-1].end_cell()
        elif tag in _BLOCKS:
            self._verbatim = max(0, self._verbatim - (tag == "pre"))
            self._put(" " if self._tables else "\n")

    def end_table(self) -> None:
        text = self._tables.pop().text()
        # A table inside a cell is one line of that cell.
        self._put(f" {text} " if self._tables else f"\n\n{text}\n\n")

    def handle_data(self, data: str) -> None:
        if self._hidden is not None:
            return
        if self._in_title:
            self.title.append(data)
        elif self._verbatim and not self._tables:
            self.parts.append(data)
        else:
            # White space between words is one blank, as a browser shows it.
            lead, tail = (" " if data[:1].isspace() else ""), (" " if data[-1:].isspace() else "")
            self._put(lead + " ".join(data.split()) + tail if data.strip() else lead)

    def close(self) -> None:
        super().close()
        while self._tables:
            self.end_table()


def _span(value: str | None) -> int:
    return min(MAX_SPAN, max(1, int(value))) if value and value.isascii() and value.isdigit() and len(value) < 8 else 1


def html_page(source: str) -> tuple[str, str]:
    """Return (title, text) of an HTML page.

    The title is that of `<title>`, else the first heading, else "". The text holds what a browser would show: scripts,
    styles and hidden elements are dropped, headings become `# …`, list items `- …`, tables Markdown tables (cells of
    several columns or rows keep the others in their places), all else one line a block. Any input gives some text.
    """
    parser = _Page()
    parser.feed(_clean(source))
    parser.close()
    text = "\n".join(_shown("".join(parser.parts).split("\n"))).strip()
    title = " ".join("".join(parser.title).split())
    if not title:
        heading = re.search(r"^#{1,6} (.+)$", text, re.MULTILINE)
        title = heading[1] if heading else ""
    return title, text


def html_text(source: str) -> str:
    """Return the visible text of an HTML page (see html_page) under its title, where it has one."""
    title, text = html_page(source)
    return f"{title}\n{text}".strip() if _lacks(text, title) else text


def html_stream(pieces: Iterable[str], size: int = 1 << 20) -> Iterator[str]:
    """Yield the text of a page that comes in pieces: what html_text returns, of a page of any length.

    `size` characters of the source are looked at together; a table, a comment and a script are held whole. The title
    stands in front unless the beginning of the text has it, in as much as comes of the first `size` characters.
    """
    parser, lines, rest, title = _Page(), _Lines(), "", False

    def text(end: str) -> str:
        shown, parser.parts = lines.add("".join(parser.parts) + end), []
        return shown

    source, enough = "", size
    for piece in pieces:
        source += piece
        cut = _cut(source) if len(source) >= enough else 0
        if cut < size // 2:
            # Of a script that goes on and on, each piece must not mean another look at all of it.
            enough = max(enough, 2 * len(source) if len(source) >= enough else 0)
            continue
        enough = size
        parser.feed(_clean(source[:cut]))
        source = source[cut:]
        rest += text("")
        if not title and rest.strip():
            name, title = " ".join("".join(parser.title).split()), True
            rest = f"{name}\n{rest.lstrip()}" if _lacks(rest.lstrip(), name) else rest.lstrip()
        if title:
            # Blanks at the end may be the page's.
            shown = rest.rstrip()
            yield shown
            rest = rest[len(shown) :]
    parser.feed(_clean(source))
    parser.close()
    rest = (rest + text("\n")).rstrip()
    if not title:
        rest, name = rest.strip(), " ".join("".join(parser.title).split())
        rest = f"{name}\n{rest}".strip() if _lacks(rest, name) else rest
    yield rest


class _Lines:
    """Lines as html_page shows them, of a text that comes in pieces."""

    def __init__(self) -> None:
        self._open, self._blank = "", True

    def add(self, text: str) -> str:
        """Return the lines that end in `text`."""
        *ended, self._open = (self._open + text).split("\n")
        shown = list(_shown(ended, self._blank))
        self._blank = not shown[-1] if shown else self._blank
        return "".join(f"{line}\n" for line in shown)


def _shown(lines: Iterable[str], blank: bool = True) -> Iterator[str]:
    """Yield lines without blanks around them, of several blank ones the first; `blank`: one came before."""
    for line in lines:
        line = line.rstrip()
        if _EMPTY.fullmatch(line.strip()):
            continue
        if line.strip() or not blank:
            yield line if line.startswith("  ") else line.strip()
            blank = not line.strip()


def _lacks(text: str, title: str) -> bool:
    return bool(title) and not text.startswith(title) and f"# {title}\n" not in f"{text}\n"


def _clean(source: str) -> str:
    # Script bodies may hold anything; html.parser ends them at their end tag, and so must the cleaning before it.
    source = re.sub(r"(?is)<(script|style)\b[^>]{0,4096}>.*?(?:</\1\s*>|\Z)", " ", source)
    return _STRAY.sub("&lt;", _COMMENT.sub("", source))


def _cut(source: str) -> int:
    """Return where a page that goes on may be cut: before a tag, and not in a script, a style or a comment."""
    at = 0
    while opened := _OPENED.search(source, at):
        end = _CLOSED_BY[(opened[1] or "--").lower()].search(source, opened.end())
        if end is None:
            return opened.start()
        at = end.end()
    return max(source.rfind("<", at), at)
