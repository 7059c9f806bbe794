"""The leaderboards' files: pure functions of the records, so that the same records give the same bytes."""

from collections.abc import Container, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from xml.etree import ElementTree

from filelock import FileLock

from benchmark.errors import UserError
from benchmark.results.board import OVERVIEW_CAPTION, Board, overview
from benchmark.results.export import boards_csv, boards_json
from benchmark.results.frontier import pareto_svg
from benchmark.results.html import boards_html, without_pictures
from benchmark.results.markdown import GENERATED, SUBMITTING, dataset_page
from benchmark.results.reported import GENERATED as GENERATED_FROM_REPORTED
from benchmark.results.reported import Reported, load_reported, reported_page
from benchmark.results.rows import Row, summarise
from benchmark.results.step_costs import StepCosts
from benchmark.results.store import load_records
from benchmark.utils.atomic import write_text

_MARKS = {GENERATED.encode(), GENERATED_FROM_REPORTED.encode()}
_COLUMNS = """\
- **teacher**, **student**: the networks. `none` is the student trained alone, without a teacher.
- **mAP**, **R@K**: mean average precision and Recall@K (CMC) in percent by the dataset's protocol, student
  queries against a gallery embedded by the student; exact, over the whole gallery.
- **asymmetric mAP**: student queries against a gallery embedded by the teacher, where both embeddings have one size.
  Only for methods that make the two spaces coincide: what compares logits or distances leaves them apart.
- **mean rank**: place by mAP, 1 for the best, averaged over the datasets; of the methods that are on all of them, among
  each other. Places next to each other may be chance: see the intervals on the datasets' pages.
- **parameters**, **MACs**, **FLOPs**: of the deployed network that makes the embedding (no classifier, batch-norm
  folded where it folds) at the dataset's test size. One multiply-accumulate is two operations: FLOPs = 2 x MACs. Most
  papers that say FLOPs print MACs.
- **saved**: percent of the teacher's parameters and MACs that the student does without.
- **ms**: latency, the median time of a batch of 1 and of 64 images in milliseconds on the device that the page names.
  Comparable only between rows with the same device.
- **training step**: time of a step, without loading, as a multiple of a step of `none`; of all methods in one run of
  `tools/step_cost.py`, at the start of the training.
- **seeds**: one record per seed. Where there are several, figures are mean ± sample standard deviation; a figure that
  is the same for all seeds stands alone."""

_FORMATS = (
    "All rows as [CSV](leaderboard.csv), as [JSON](leaderboard.json), and as a [web page](leaderboard.html) whose "
    "tables sort and filter."
)
_REPORTED = "- [Reported elsewhere](reported.md): what others published on these datasets; not measured here"


def generate(folder: Path) -> list[Path]:
    """Write the index, a page and a picture for every dataset, and all of them as CSV, JSON and HTML; return the paths.

    From `folder`/records, and where there are such, `folder`/steps with the cost of a training step and
    `folder`/reported with figures that others published. Pages of earlier records that are gone are removed.

    Raises:
        UserError: a record, or another file, cannot be used; nothing has been written then.
    """
    with _locked(folder):  # or an older state of the records could be written over a newer one
        texts = _texts(folder)
        for path, text in texts.items():
            write_text(path, text)
        for path in _stale(folder, texts):
            path.unlink()
    return list(texts)


def differing(folder: Path) -> list[Path]:
    """The files that are not there, or differ from what the records give; of pictures, only those that are no SVG.

    Pages of records that are not there are among them.

    Raises:
        UserError: A record is not valid, or the folder of the records cannot be locked.
    """
    with _locked(folder):  # or another process could be halfway through writing them
        texts = _texts(folder)
        return [path for path, text in texts.items() if not _agrees(path, text)] + _stale(folder, texts)


def _locked(folder: Path) -> AbstractContextManager[object]:
    """Until the context ends, no other process writes or checks the files."""
    lock = folder / "records" / ".lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(lock).acquire()
    except OSError as error:
        raise UserError(f"{lock}: cannot be locked ({error.strerror}); make the folder writable, or copy it") from error


def _stale(folder: Path, texts: Container[Path]) -> list[Path]:
    """The pages that an earlier state of the records gave and this does not, known by their mark; their pictures."""
    pages = [
        path
        for path in sorted([*folder.glob("[!.]*.md"), *folder.glob("[!.]*.html")])
        if path not in texts and path.is_file() and not _MARKS.isdisjoint(path.read_bytes().splitlines()[:2])
    ]
    pictures = [path.with_suffix(".svg") for path in pages]
    return pages + [path for path in pictures if path not in texts and path.is_file()]


def _agrees(path: Path, text: str) -> bool:
    """Whether the file holds what the records alone decide: a picture's bytes depend on the version of matplotlib."""
    try:
        found = path.read_text(encoding="utf-8")
        if path.suffix == ".svg":
            return ElementTree.fromstring(found).tag == "{http://www.w3.org/2000/svg}svg"
    except (FileNotFoundError, UnicodeDecodeError, ElementTree.ParseError):
        return False
    return without_pictures(found) == without_pictures(text)


def _texts(folder: Path) -> dict[Path, str]:
    """The content of every file."""
    rows = summarise(load_records(folder / "records"))
    datasets = [list(group) for _, group in groupby(rows, key=lambda row: row.board)]
    reported = load_reported(folder / "reported")
    texts = {folder / "README.md": index_page(datasets, reported)}
    if reported:
        texts[folder / "reported.md"] = reported_page(reported, {rows[0].board for rows in datasets})
    boards = [Board(rows, StepCosts.read(folder / "steps" / f"{rows[0].board}.json")) for rows in datasets]
    pictures = {board.name: pareto_svg(board.rows) for board in boards}
    for board in boards:
        texts[folder / f"{board.name}.md"] = dataset_page(board, reported.get(board.name))
        texts[folder / f"{board.name}.svg"] = pictures[board.name]
    if boards:
        texts[folder / "leaderboard.csv"] = boards_csv(boards)
        texts[folder / "leaderboard.json"] = boards_json(boards, reported)
        texts[folder / "leaderboard.html"] = boards_html(boards, pictures, reported)
    return texts


def index_page(datasets: Sequence[Sequence[Row]], reported: Mapping[str, Reported]) -> str:
    """Markdown of the index: the rows of every dataset in one table, the pages, the columns, how to add to them."""
    grid = overview(datasets)
    names = {rows[0].board for rows in datasets}
    linked = replace(grid, headers=[f"[{name}]({name}.md)" if name in names else name for name in grid.headers])
    parts = [
        GENERATED,
        "# Leaderboards",
        OVERVIEW_CAPTION,
        linked.markdown() if names else "There are no records yet.",
        _FORMATS if names else "",
        "## Pages" if names or reported else "",
        "\n".join([*(_page_line(rows) for rows in datasets), *([_REPORTED] if reported else [])]),
        "## Columns",
        _COLUMNS,
        SUBMITTING,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _page_line(rows: Sequence[Row]) -> str:
    name = rows[0].board
    records = sum(len(row.records) for row in rows)
    return f"- [{name}]({name}.md): {records} record{'' if records == 1 else 's'} in {len(rows)} rows"
