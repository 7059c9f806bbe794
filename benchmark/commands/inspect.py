"""`benchmark inspect`."""

from collections.abc import Sequence
from pathlib import Path

from benchmark.errors import UserError
from benchmark.evaluation import TestSet
from benchmark.experiment.environment import choose_device
from benchmark.experiment.finished import FinishedRun
from benchmark.inspection import inspect as select_queries
from benchmark.inspection import inspection_page, inspection_sheet
from benchmark.model.embedder import Embedder
from benchmark.retrieval import Embeddings, Scores, Tracks
from benchmark.utils.atomic import write_text
from benchmark.utils.console import echo
from benchmark.utils.writable import require_output


def inspect(
    run: Path,
    *,
    worst: int,
    neighbors: int,
    output: Path | None,
    dataset: str | None,
    settings: Sequence[str],
    data_root: Path,
    device: str,
) -> None:
    """Write a web page and a contact sheet of the queries with the lowest AP or the largest drop from the teacher.

    Args:
        run: Folder of a finished run.
        worst: Number of queries in each of the two selections.
        neighbors: Number of gallery images per ranked list.
        output: Path of the page; None for `inspect.html` in the run folder. The contact sheet is next to it.
        dataset: Name of the dataset to evaluate on; the dataset of the run if None.
        settings: Dataset options and evaluation settings to change, as `key=value`.
        data_root: Folder of all datasets.
        device: "auto", "cpu" or "cuda".

    Raises:
        UserError: The run or dataset does not exist, or `output` is not an HTML file name.
    """
    page = output or run / "inspect.html"
    if page.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--output {page}: the name of the page must end in .html")
    finished = FinishedRun(run, data_root)
    require_output(page)
    torch_device = choose_device(device)
    test = finished.test_set(dataset, settings, torch_device)
    student, embeddings = _search(test, finished.student(torch_device), neighbors)
    teacher = None
    if not finished.is_teacher:
        teacher, _ = _search(test, finished.teacher(test), neighbors)
    gallery = test.readable("gallery")
    if test.protocol.tracks:  # a track is shown by one of its images
        gallery = [gallery[index] for index in Tracks(embeddings).member.tolist()]
    inspection = select_queries(test.readable("query"), gallery, student=student, teacher=teacher, count=worst)
    method = "teacher" if finished.is_teacher else finished.recipe.method.name
    title = f"{method} on {test.dataset.name}"
    facts = {
        "Dataset": test.dataset.card.title,
        "Seed": str(finished.recipe.seed),
        "Run": "/".join(run.resolve().parts[-3:]),
    }
    write_text(page, inspection_page(inspection, title=title, facts=facts, names=test.dataset))
    sheet = page.with_suffix(".png")
    inspection_sheet(inspection, sheet, title=title, names=test.dataset)
    echo(f"{page}\n{sheet}")


def _search(test: TestSet, network: Embedder, neighbors: int) -> tuple[Scores, Embeddings]:
    """Return a network's scores, with the first `neighbors` of every ranked list, and its gallery embeddings."""
    query = test.embed(network, "query")
    gallery = query if test.protocol.query_in_gallery else test.embed(network, "gallery")
    return test.score(query, gallery, keep=neighbors), gallery
