"""`benchmark inspect`."""

from collections.abc import Sequence
from pathlib import Path

import typer

from benchmark.errors import UserError
from benchmark.evaluation import TestSet
from benchmark.experiment.environment import choose_device
from benchmark.experiment.finished import FinishedRun
from benchmark.inspection import inspect as choose
from benchmark.inspection import inspection_page, inspection_sheet
from benchmark.model.embedder import Embedder
from benchmark.retrieval import Embeddings, Scores
from benchmark.retrieval._tracks import Tracks
from benchmark.utils.atomic import write_text


def inspect(
    run: Path,
    worst: int,
    neighbours: int,
    output: Path | None,
    dataset: str | None,
    settings: Sequence[str],
    root: Path,
    device: str,
) -> None:
    """Write a page, and a picture, of the queries that the run's student answers worst, and its teacher's answers.

    Raises:
        UserError: There is no such run or dataset, or the page cannot be written there.
    """
    target = output or run / "inspect.html"
    if target.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--output {target}: the page's name ends in .html")
    finished = FinishedRun(run, root)
    chosen = choose_device(device)
    test = finished.test_set(dataset, settings, chosen)
    networks = {"student": finished.student(chosen)}
    if not finished.is_teacher:
        networks["teacher"] = finished.teacher(chosen)
    found = {name: _search(test, network, neighbours) for name, network in networks.items()}
    scores, gallery = found["student"]
    teacher, _ = found.get("teacher", (None, None))
    queries = test.readable("query")
    images = test.readable("gallery")
    shown = [images[index] for index in Tracks(gallery).member.tolist()] if test.protocol.tracks else images
    inspection = choose(queries, shown, scores, teacher, worst)
    name = "teacher" if finished.is_teacher else finished.recipe.method.name
    title = f"{name} on {test.dataset.name}"
    facts = {"Dataset": test.dataset.card.title, "Seed": str(finished.recipe.seed), "Run": str(run)}
    write_text(target, inspection_page(inspection, title, facts, test.dataset))
    inspection_sheet(inspection, title, test.dataset, target.with_suffix(".png"))
    typer.echo(f"{target}\n{target.with_suffix('.png')}")


def _search(test: TestSet, network: Embedder, neighbours: int) -> tuple[Scores, Embeddings]:
    """What a network finds, and the gallery it searched."""
    query = test.embed(network, "query")
    gallery = query if test.protocol.query_in_gallery else test.embed(network, "gallery")
    return test.score(query, gallery, keep=neighbours), gallery
