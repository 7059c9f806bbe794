"""The leaderboards as a web page."""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from benchmark.plots.web import WEB_STYLE
from benchmark.results.board import OVERVIEW_CAPTION, Board, overview
from benchmark.results.equal_cost import equal_cost_caption, equal_cost_grid
from benchmark.results.format import Grid
from benchmark.results.markdown import GENERATED, caption, picture_text
from benchmark.results.reported import NOT_MEASURED, Reported, reported_grid

BOARD_SCRIPT = """
"use strict";
const texts = new Intl.Collator("en", { numeric: true });

function key(row, column) {
  const cell = row.cells[column];
  const value = cell.dataset.value ?? cell.textContent;
  return value === "" || value === "-" ? null : value;
}

function compare(first, second, isNumber) {
  return isNumber ? first - second : texts.compare(first, second);
}

for (const section of document.querySelectorAll("section")) {
  const body = section.querySelector("tbody");
  const rows = [...body.rows];
  const headers = [...section.querySelectorAll("thead th")];
  headers.forEach((header, column) => header.querySelector("button").addEventListener("click", () => {
    const direction = header.ariaSort === "ascending" ? -1 : 1;
    headers.forEach((other) => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    const isNumber = header.classList.contains("number");
    body.append(...[...rows].sort((one, other) => {
      const [first, second] = [key(one, column), key(other, column)];
      if (first === null || second === null) return (first === null) - (second === null);  // last in either order
      return direction * compare(first, second, isNumber);
    }));
  }));
  const filter = section.querySelector("input");
  const count = section.querySelector("output");
  function show() {
    const wanted = filter.value.trim().toLowerCase();
    for (const row of rows) row.hidden = !row.dataset.method.toLowerCase().includes(wanted);
    count.value = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
  }
  filter.addEventListener("input", show);
  show();  // a browser that goes back to the page keeps what was typed
}
"""
"""Columns sort by `data-value` where cells have it, in the order of the leaderboard where equal."""


BOARD_STYLE = f"""\
{WEB_STYLE}
nav{{display:flex;flex-wrap:wrap;gap:.25rem 1.5rem;margin:1rem 0}}
.box{{overflow-x:auto;scrollbar-width:thin;margin:1rem 0}}
.box:focus-visible{{outline-offset:-2px}}
img{{display:block;width:100%;min-width:36rem;max-width:46rem;height:auto}}
input{{font:inherit;color:inherit;background:var(--paper);border:1px solid var(--pale);border-radius:4px;
padding:.25rem .5rem;margin:0 .5rem;max-width:9rem}}
table{{border-spacing:0;overflow-wrap:normal}}
th,td{{padding:.3rem .75rem;text-align:left;vertical-align:top;border-top:1px solid var(--line)}}
td{{min-width:9rem}}
.number{{min-width:0;text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}}
th:first-child{{position:sticky;left:0;background:var(--paper);font-weight:400;white-space:nowrap}}
thead th{{vertical-align:bottom;padding:.3rem;border:0}}
thead th.number{{white-space:normal}}
button{{font:inherit;font-weight:600;text-align:inherit;color:inherit;background:none;border:0;border-radius:4px;
padding:.15rem .45rem;cursor:pointer}}
button:hover{{background:var(--blank)}}
button::after{{content:"\\2195";margin-left:.3em;color:var(--pale);font-weight:400}}
[aria-sort=ascending] button::after{{content:"\\2191";color:inherit}}
[aria-sort=descending] button::after{{content:"\\2193";color:inherit}}
sup{{line-height:0}}
code{{font:.95em ui-monospace,monospace}}
ol{{margin:.5rem 0;padding-left:1.75rem;max-width:75rem}}"""


_PICTURE = "data:image/svg+xml;base64,"


def boards_html(boards: Sequence[Board], pictures: Mapping[str, str], reported: Mapping[str, Reported]) -> str:
    """One HTML page that needs no other file and no network; its tables sort and filter.

    Args:
        boards: Each becomes a section, and so do its groups of equal cost.
        pictures: SVG by the boards' names.
        reported: What others published; a section for each of their tables, after all that was measured.
    """
    sections = [_overview(boards)]
    for board in boards:
        sections.append(_board(board, pictures[board.name]))
        if board.groups:
            sections.append(_equal_cost(board))
    sections += [_reported(name, of_board) for name, of_board in reported.items()]
    links = "".join(f'<a href="#{section.id}">{section.title}</a>' for section in sections)
    return f"""\
<!DOCTYPE html>
{GENERATED}
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:; \
script-src '{_hash(BOARD_SCRIPT)}'">
<title>Leaderboards</title>
<style>
{BOARD_STYLE}
</style>
</head>
<body>
<h1>Leaderboards</h1>
<p>The same tables as <a href="README.md">the Markdown pages</a>, which define the columns. A click on a header
sorts.</p>
<nav aria-label="Tables">{links}</nav>
<main>
{"".join(section.html() for section in sections)}\
</main>
<script>{BOARD_SCRIPT}</script>
</body>
</html>
"""


def without_pictures(page: str) -> str:
    """The page but for the data of its pictures, whose bytes are matplotlib's."""
    return re.sub(f"({re.escape(_PICTURE)})[A-Za-z0-9+/=]*", r"\1", page)


def _hash(script: str) -> str:
    """By which the page's policy knows the only script that may run."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


class _Section(NamedTuple):
    """A table, and what stands around it, in HTML."""

    id: str
    title: str
    caption: str
    grid: Grid
    picture: str = ""
    notes: str = ""

    def html(self) -> str:
        return f"""\
<section id="{self.id}" aria-labelledby="{self.id}-title">
<h2 id="{self.id}-title">{self.title}</h2>
<p class="pale">{self.caption}</p>
{self.picture}\
<label>Filter methods <input type="search" autocomplete="off"></label><output></output>
<div class="box" tabindex="0" role="region" aria-label="Table of {self.title}">
{_table(self.grid)}
</div>
{self.notes}\
</section>
"""


def _overview(boards: Sequence[Board]) -> _Section:
    grid = overview([board.rows for board in boards])
    return _Section("all-datasets", "All datasets", f"{_inline(OVERVIEW_CAPTION)} Columns sort by mAP.", grid)


def _board(board: Board, picture: str) -> _Section:
    name = board.name
    says = f'{_inline(caption(board))} <a href="{name}.md">Data and commands</a>.'
    image = _image(board, picture)
    box = f'<div class="box" tabindex="0" role="region" aria-label="Picture of {name}">{image}</div>\n'
    notes = f"<ol>{''.join(f'<li>{_inline(text)}</li>' for text in board.notes.texts)}</ol>\n"
    return _Section(name, name, says, board.grid, box, notes)


def _equal_cost(board: Board) -> _Section:
    says = _inline(equal_cost_caption(board.groups))
    return _Section(f"{board.name}-at-equal-cost", f"{board.name} at equal cost", says, equal_cost_grid(board.groups))


def _reported(name: str, reported: Reported) -> _Section:
    title = escape(f"{name}, reported elsewhere")
    return _Section(
        re.sub(r"[^\w.+-]+", "_", f"{name}-reported"), title, _inline(NOT_MEASURED), reported_grid(reported)
    )


def _image(board: Board, picture: str) -> str:
    """An image and not elements of the page: pictures share the names of their parts, and bring a style sheet."""
    data = base64.b64encode(picture.encode()).decode()
    return f'<img src="{_PICTURE}{data}" alt="{escape(picture_text(board))}">'


def _table(grid: Grid) -> str:
    numbers = grid.numbers
    heads = "".join(
        f'<th scope="col"{_class(header in numbers)}><button type="button">{_inline(header)}</button></th>'
        for header in grid.headers
    )
    rows = []
    for index, (method, texts) in enumerate(zip(grid.methods, grid.cells, strict=True)):
        cells = [f'<th scope="row">{_inline(texts[0])}</th>']
        for header, text in list(zip(grid.headers, texts, strict=True))[1:]:
            value = f' data-value="{_plain(numbers[header][index])}"' if header in numbers else ""
            cells.append(f"<td{_class(header in numbers)}{value}>{_inline(text)}</td>")
        rows.append(f'<tr data-method="{escape(method)}">{"".join(cells)}</tr>')
    body = "\n".join(rows)
    return f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _class(is_number: bool) -> str:
    return ' class="number"' if is_number else ""


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.9g}"


def _code_or_strong(found: re.Match[str]) -> str:
    return f"<code>{found[1]}</code>" if found[2] is None else f"<strong>{found[2]}</strong>"


def _inline(markdown: str) -> str:
    """HTML of the little Markdown in cells and notes; all else is text."""
    text = escape(markdown.replace(r"\|", "|"))
    text = re.sub(r"`([^`]*)`|\*\*([^*`]*)\*\*", _code_or_strong, text)
    text = re.sub(r"\[([^\]]*)\]\((records/[^)]*)\)", r'<a href="\2">\1</a>', text)
    return re.sub(r"&lt;(br|/?sup)&gt;", r"<\1>", text)
