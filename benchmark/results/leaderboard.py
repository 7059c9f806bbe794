"""The files of the leaderboards. They are pure functions of the records: the same records give the same bytes."""

import gc
import os
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import groupby
from pathlib import Path
from xml.etree import ElementTree

from benchmark.errors import UserError, nearest
from benchmark.results.board import Board
from benchmark.results.export import leaderboard_csv
from benchmark.results.forest import FOREST, forest_gains, forest_svg
from benchmark.results.frontier import COSTS, frontier_svgs
from benchmark.results.html import leaderboard_html, without_plots
from benchmark.results.markdown import GENERATED, GENERATED_FROM_REPORTED, dataset_page, index_page, reported_page
from benchmark.results.record import Record
from benchmark.results.reported import load_reported
from benchmark.results.rows import group_records
from benchmark.results.step_costs import StepCosts
from benchmark.results.store import load_records
from benchmark.utils.atomic import write_text
from benchmark.utils.locks import locked

_GENERATED = {GENERATED.encode(), GENERATED_FROM_REPORTED.encode()}


def generate(folder: Path) -> list[Path]:
    """Write the index, a page and a plot per dataset, and all rows as CSV and HTML; return the paths.

    The content comes from `folder`/records, from `folder`/steps (measured costs of a training step) and from
    `folder`/reported (published results), if they exist. Generated pages whose records are gone are removed.

    Raises:
        UserError: A record or another file is not valid; no file has been written.
    """
    # Without the lock, pages of an older state of the records could replace newer ones.
    with _locked(folder), _without_collection():
        contents = _contents(folder, load_records(folder / "records"))
        for path, text in contents.items():
            write_text(path, text)
        for path in _stale(folder, contents):
            path.unlink()
    return list(contents)


def differing(folder: Path, load: Callable[[Path], list[Record]] = load_records) -> list[Path]:
    """Return the files that `generate` would add, change or remove.

    Plots need only be SVG files, because their bytes depend on the version of matplotlib.

    Args:
        folder: The folder of the leaderboards.
        load: Reads the records from their folder.

    Raises:
        UserError: A record is not valid, or the folder of the records cannot be locked.
    """
    # Another process could be halfway through writing them, unless the folder is read-only.
    lock = _locked(folder) if os.access(folder / "records", os.W_OK) else nullcontext()
    with lock, _without_collection():
        contents = _contents(folder, load(folder / "records"), draw=False)
        return [path for path, text in contents.items() if not _agrees(path, text)] + _stale(folder, contents)


def _contents(
    folder: Path,
    records: Iterable[Record],
    *,
    draw: bool = True,
) -> dict[Path, str]:
    """Return the content of every file.

    Args:
        folder: The folder of the leaderboards.
        records: All records.
        draw: Whether to draw the plots; if not, they are empty.
    """
    rows = group_records(records)
    datasets = [list(group) for _, group in groupby(rows, key=lambda row: row.board)]
    with ThreadPoolExecutor(1) as pool:  # many plots are drawn by other processes
        drawing = pool.submit(frontier_svgs, {rows[0].board: rows for rows in datasets} if draw else {})
        reported = load_reported(folder / "reported")
        contents = {folder / "README.md": index_page(datasets, reported)}
        if reported:
            contents[folder / "reported.md"] = reported_page(reported, {rows[0].board for rows in datasets})
        boards = [Board(rows, StepCosts.read(folder / "steps" / f"{rows[0].board}.json")) for rows in datasets]
        for board in boards:
            contents[folder / f"{board.name}.md"] = dataset_page(board, reported.get(board.name))
        if boards:
            contents[folder / "leaderboard.csv"] = leaderboard_csv(boards)
        plots = drawing.result()
    plots = plots if draw else dict.fromkeys((board.name for board in boards), "<svg/>")
    for board in boards:
        contents[folder / f"{board.name}.svg"] = plots[board.name]
        if gains := forest_gains(board):
            contents[folder / f"{board.name}{FOREST}"] = forest_svg(board.name, gains) if draw else "<svg/>"
    if boards:
        contents[folder / "leaderboard.html"] = leaderboard_html(boards, plots, reported)
    return contents


def plot_against(folder: Path, cost: str) -> list[Path]:
    """Write the plot of every leaderboard against another cost than MACs, and return the paths.

    Args:
        folder: The folder of the leaderboards.
        cost: A key of `COSTS`.

    Raises:
        UserError: A record is not valid, or the cost is not known.
    """
    if cost not in COSTS:
        raise UserError(f"--against {cost}: unknown cost{nearest(cost, COSTS)} Known: {', '.join(COSTS)}.")
    with _locked(folder):
        rows = group_records(load_records(folder / "records"))
    boards = {board: list(group) for board, group in groupby(rows, key=lambda row: row.board)}
    plots = {folder / f"{board}-against-{cost}.svg": svg for board, svg in frontier_svgs(boards, cost).items()}
    for path, svg in plots.items():
        write_text(path, svg)
    return list(plots)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Do not collect cyclic garbage, which would traverse all records time and again and find next to nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _locked(folder: Path) -> AbstractContextManager[None]:
    """Lock the leaderboards against other processes until the context ends."""
    records = folder / "records"
    try:
        records.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {records} cannot be created: {error.strerror}") from error
    return locked(records / ".lock", f"reads or writes {folder}")


def _stale(folder: Path, contents: Container[Path]) -> list[Path]:
    """Return the generated pages, recognized by their comment, and their plots, that are not in `contents`."""
    generated = [
        path
        for path in sorted([*folder.glob("[!.]*.md"), *folder.glob("[!.]*.html")])
        if path.is_file() and not _GENERATED.isdisjoint(path.read_bytes().splitlines()[:2])
    ]
    plots = [path.with_name(path.stem + ending) for path in generated for ending in (".svg", FOREST)]
    return [path for path in (*generated, *plots) if path not in contents and path.is_file()]


def _agrees(path: Path, text: str) -> bool:
    """Return whether the file has this content, plots aside."""
    try:
        content = path.read_text(encoding="utf-8")
        if path.suffix == ".svg":
            return ElementTree.fromstring(content).tag == "{http://www.w3.org/2000/svg}svg"
    except (FileNotFoundError, UnicodeDecodeError, ElementTree.ParseError):
        return False
    return without_plots(content) == without_plots(text)
