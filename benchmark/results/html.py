"""The leaderboards as a self-contained web page whose tables sort and filter."""

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup

from benchmark.plots.web import render
from benchmark.results.board import (
    OVERVIEW_CAPTION,
    Board,
    agreement_text,
    caption,
    cost_range,
    equal_cost_caption,
    equal_cost_table,
    overview,
    plot_description,
)
from benchmark.results.budgets import BUDGETS_CAPTION, budgets_table
from benchmark.results.format import Table
from benchmark.results.markdown import GENERATED
from benchmark.results.pairs import PAIRS_CAPTION, pairs_table
from benchmark.results.reported import NOT_MEASURED, Reported, reported_table
from benchmark.results.runtimes import RUNTIMES_CAPTION, runtimes_table
from benchmark.results.tuned import TUNED_CAPTION, tuned_table
from benchmark.utils.escape import unescape_markdown


def leaderboard_html(boards: Sequence[Board], plots: Mapping[str, str], reported: Mapping[str, Reported]) -> str:
    """Return one HTML page that needs no other file and no network.

    Args:
        boards: Each has a section with its table and, if it has any, one with its groups of equal cost.
        plots: SVG of the plot of each board, by its name.
        reported: Published results by leaderboard. Their sections come after all measured results.
    """
    sections = [
        _Section(
            "all-datasets",
            "All datasets",
            f"{OVERVIEW_CAPTION} Columns sort by mAP.",
            overview([board.rows for board in boards]),
        ),
        *(section for board in boards for section in _board_sections(board, plots[board.name])),
        *(_reported_section(name, of_board) for name, of_board in reported.items()),
    ]
    return render(
        "benchmark.results",
        "leaderboard.html.j2",
        comment=Markup(GENERATED),
        sections=sections,
        spans=inline_spans,
        number=_number,
        zip=zip,
    )


def without_plots(page: str) -> str:
    """Return the page without the data of its plots, which depend on the version of matplotlib."""
    return re.sub(r"(data:image/svg\+xml;base64,)[A-Za-z0-9+/=]*", r"\1", page)


class _Limit(NamedTuple):
    """An upper limit of a cost: a field of the web page that filters the rows of a table."""

    label: str
    header: str
    """Header of the column with the cost."""
    unit: float = 1.0
    """Factor from the number in the field to the values of the column."""


_LIMITS = (
    _Limit("Million MACs", "MACs", 1e6),
    _Limit("bytes per image", "bytes per image"),
    _Limit("ms for one image", "ms, batch 1"),
)


@dataclass(frozen=True, slots=True)
class _Section:
    """A table with its title, caption, plot and notes.

    `page` is the Markdown page with the details, and `limits` are the filters of its rows.
    """

    id: str
    title: str
    caption: str
    table: Table
    page: str | None = None
    plot: str | None = None
    plot_text: str = ""
    notes: Sequence[str] = ()
    limits: Sequence[_Limit] = ()


def _board_sections(board: Board, plot: str) -> Iterator[_Section]:
    name = board.name
    yield _Section(
        name,
        name,
        caption(board),
        board.table,
        page=f"{name}.md",
        # An image rather than inline SVG: plots share the ids of their elements, and have a style sheet each.
        plot=base64.b64encode(plot.encode()).decode(),
        plot_text=unescape_markdown(plot_description(board)),
        notes=board.notes.texts,
        limits=_LIMITS,
    )
    if board.curves:
        yield _Section(f"{name}-budgets", f"{name} at each budget", BUDGETS_CAPTION, budgets_table(board.curves))
    if board.published:
        tuned = tuned_table(board.published, board.tuning_gains)
        yield _Section(f"{name}-tuned", f"{name} with published and tuned arguments", TUNED_CAPTION, tuned)
    if pairs := pairs_table(board.rows):
        yield _Section(f"{name}-pairs", f"{name}, authors and here", PAIRS_CAPTION, pairs)
    if board.groups:
        text, groups = equal_cost_caption(board.groups), equal_cost_table(board.groups)
        notes = [f"{cost_range(group)}: {note}" for group in board.groups if (note := agreement_text(group))]
        yield _Section(f"{name}-at-equal-cost", f"{name} at equal cost", text, groups, notes=notes)
    if runtimes := runtimes_table(board.rows):
        yield _Section(f"{name}-runtimes", f"{name} in other runtimes", RUNTIMES_CAPTION, runtimes)


def _reported_section(name: str, reported: Reported) -> _Section:
    anchor = re.sub(r"[^\w.+-]+", "_", f"{name}-reported")
    return _Section(anchor, f"{name}, reported elsewhere", NOT_MEASURED, reported_table(reported))


class Span(NamedTuple):
    """A part of inline Markdown: "text", "code", "strong", "break", or "link" with its target."""

    kind: str
    text: str
    target: str = ""


_INLINE = re.compile(
    r"\\(?P<escaped>[!-/:-@\[-`{-~])|(?P<fence>`+)(?P<code>.+?)(?<!`)(?P=fence)(?!`)|\*\*(?P<strong>[^*`\\]*)\*\*"
    r"|\[(?P<link>[^\]\\]*)\]\((?P<target>records/[^)]*)\)|(?P<break>\n)"
)


def inline_spans(markdown: str) -> Iterator[Span]:
    """Split inline Markdown (see `Cell.text`) into spans, so that the template escapes each of them."""
    position, text = 0, ""
    for match in _INLINE.finditer(markdown):
        text += markdown[position : match.start()] + (match["escaped"] or "")
        position = match.end()
        if match["escaped"]:
            continue
        yield Span("text", text)
        text = ""
        kind = next(name for name in ("code", "strong", "link", "break") if match[name] is not None)
        # A fence of several backticks is apart from its code by spaces.
        content = match[kind][1:-1] if kind == "code" and len(match["fence"]) > 1 else match[kind]
        yield Span(kind, content, match["target"] or "")
    yield Span("text", text + markdown[position:])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.9g}"
