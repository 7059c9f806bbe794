"""The leaderboards as a web page."""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from html import escape

from benchmark.results.board import Board
from benchmark.results.board_script import BOARD_SCRIPT
from benchmark.results.board_style import BOARD_STYLE
from benchmark.results.gain import Gain
from benchmark.results.page import GENERATED, caption, picture_text
from benchmark.results.statistic import Statistic

_PICTURE = "data:image/svg+xml;base64,"


def boards_html(boards: Sequence[Board], pictures: Mapping[str, str]) -> str:
    """One HTML page that needs no other file and no network; its tables sort and filter.

    Args:
        boards: Each becomes a section.
        pictures: SVG by the boards' names.
    """
    links = "".join(f'<a href="#{board.name}">{board.name}</a>' for board in boards)
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
<p>The same rows as <a href="README.md">the Markdown pages</a>, which define the columns. A click on a header sorts.</p>
<nav aria-label="Boards">{links}</nav>
<main>
{"".join(_section(board, pictures[board.name]) for board in boards)}\
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


def _section(board: Board, picture: str) -> str:
    name = board.name
    return f"""\
<section id="{name}" aria-labelledby="{name}-title">
<h2 id="{name}-title">{name}</h2>
<p class="pale">{_inline(caption(board))} <a href="{name}.md">Data and commands</a>.</p>
<div class="box" tabindex="0" role="region" aria-label="Picture of {name}">{_image(board, picture)}</div>
<label>Filter methods <input type="search" autocomplete="off"></label><output></output>
<div class="box" tabindex="0" role="region" aria-label="Table of {name}">
{_table(board)}
</div>
<ol>{"".join(f"<li>{_inline(text)}</li>" for text in board.notes.texts)}</ol>
</section>
"""


def _image(board: Board, picture: str) -> str:
    """An image and not elements of the page: pictures share the names of their parts, and bring a style sheet."""
    data = base64.b64encode(picture.encode()).decode()
    return f'<img src="{_PICTURE}{data}" alt="{escape(picture_text(board))}">'


def _table(board: Board) -> str:
    values = _values(board)
    heads = "".join(
        f'<th scope="col"{_class(header in values)}><button type="button">{_inline(header)}</button></th>'
        for header in board.headers
    )
    rows = []
    for index, (row, texts) in enumerate(zip(board.rows, board.cells, strict=True)):
        cells = [f'<th scope="row">{_inline(texts[0])}</th>']
        for header, text in list(zip(board.headers, texts, strict=True))[1:]:
            value = f' data-value="{_plain(values[header][index])}"' if header in values else ""
            cells.append(f"<td{_class(header in values)}{value}>{_inline(text)}</td>")
        rows.append(f'<tr data-method="{escape(row.method)}">{"".join(cells)}</tr>')
    body = "\n".join(rows)
    return f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _values(board: Board) -> dict[str, list[float | None]]:
    """The numbers of the rows by which columns sort, by header."""
    values: dict[str, list[float | None]] = {}
    for figure in board.figures:
        if figure.header is not None:
            values[figure.header] = [_mean(figure.of(row)) for row in board.rows]
    for method in board.compared:
        values[board.gain_header(method)] = [_mean(gain) for gain in board.gains[method]]
    return values


def _mean(value: Statistic | Gain | None) -> float | None:
    return None if value is None else value.mean


def _class(is_number: bool) -> str:
    return ' class="number"' if is_number else ""


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.9g}"


def _inline(markdown: str) -> str:
    """HTML of the little Markdown in cells and notes; all else is text."""
    text = escape(markdown.replace(r"\|", "|"))
    text = re.sub(r"`([^`]*)`", r"<code>\1</code>", text)
    text = re.sub(r"\[([^\]]*)\]\((records/[^)]*)\)", r'<a href="\2">\1</a>', text)
    return re.sub(r"&lt;(br|/?sup)&gt;", r"<\1>", text)
