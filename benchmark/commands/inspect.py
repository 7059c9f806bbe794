"""`benchmark inspect`."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from benchmark.data.decode import decode, eval_transform
from benchmark.data.samples import Sample
from benchmark.errors import UserError, nearest
from benchmark.evaluation import TestSet
from benchmark.experiment.environment import choose_device
from benchmark.experiment.finished import FinishedRun
from benchmark.inspection import InspectedQuery, Saliency, inspection_page, inspection_sheet, map_embeddings, saliency
from benchmark.inspection import inspect as select_queries
from benchmark.inspection.embedding_map import METHODS
from benchmark.model.embedder import Embedder
from benchmark.retrieval import Embeddings, Scores, Tracks
from benchmark.utils.atomic import write_text
from benchmark.utils.console import echo, progress
from benchmark.utils.writable import require_output


def inspect(
    run: Path,
    *,
    worst: int,
    neighbors: int,
    projection: str,
    explained: int,
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
        projection: Projection of the map of embeddings, a key of `embedding_map.METHODS`, or "none".
        explained: Number of queries in each of the two selections whose similarity to rank 1 is explained.
        output: Path of the page; None for `inspect.html` in the run folder. The contact sheet is next to it.
        dataset: Name of the dataset to evaluate on; the dataset of the run if None.
        settings: Dataset options and evaluation settings to change, as `key=value`.
        data_root: Folder of all datasets.
        device: See `choose_device`.

    Raises:
        UserError: The run or dataset does not exist, or `output` is not an HTML file name.
    """
    if projection not in (*METHODS, "none"):
        raise UserError(f"--map {projection}: choose {', '.join(METHODS)} or none{nearest(projection, METHODS)}")
    page = output or run / "inspect.html"
    if page.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--output {page}: the name of the page must end in .html")
    finished = FinishedRun(run, data_root)
    require_output(page)
    torch_device = choose_device(device)
    test = finished.test_set(dataset, settings, torch_device)
    network = finished.student(torch_device)
    student = _search(test, network, neighbors)
    teacher = None if finished.is_teacher else _search(test, finished.teacher(test), neighbors).scores
    query, gallery = test.readable("query"), test.readable("gallery")
    images = query if test.protocol.query_in_gallery else [*query, *gallery]
    if test.protocol.tracks:  # a track is shown by one of its images
        gallery = [gallery[index] for index in Tracks(student.gallery).member.tolist()]
    inspection = select_queries(query, gallery, student=student.scores, teacher=teacher, count=worst)
    method = "teacher" if finished.is_teacher else finished.recipe.method.name
    title = f"{method} on {test.dataset.name}"
    facts = {
        "Dataset": test.dataset.card.title,
        "Seed": str(finished.recipe.seed),
        "Run": "/".join(run.resolve().parts[-3:]),
    }
    text = inspection_page(
        inspection,
        title=title,
        facts=facts,
        names=test.dataset,
        embedding_map=None
        if projection == "none"
        else map_embeddings(
            student.query,
            None if test.protocol.query_in_gallery else student.gallery,
            images,
            method=projection,
            identities=[each.sample.identity for each in inspection.worst],
        ),
        saliencies=_explain(test, network, [*inspection.worst[:explained], *inspection.drops[:explained]]),
    )
    write_text(page, text)
    sheet = page.with_suffix(".png")
    inspection_sheet(inspection, sheet, title=title, names=test.dataset)
    echo(f"{page}\n{sheet}")


class _Searched(NamedTuple):
    """A network's embeddings, and its scores with the top of every ranked list."""

    scores: Scores
    query: Embeddings
    gallery: Embeddings


def _search(test: TestSet, network: Embedder, neighbors: int) -> _Searched:
    """Search the gallery, and keep the first `neighbors` of every ranked list."""
    query = test.embed(network, "query")
    gallery = query if test.protocol.query_in_gallery else test.embed(network, "gallery")
    scores = test.score(*test.stored(test.embedding, network, query, gallery), keep=neighbors)
    return _Searched(scores, query, gallery)


def _explain(test: TestSet, network: Embedder, queries: Sequence[InspectedQuery]) -> dict[tuple[Path, Path], Saliency]:
    """Return what makes the image at rank 1 similar to each query, by the paths of both."""
    resize = eval_transform(test.loading.size)

    def load(sample: Sample) -> Tensor:
        image: Tensor = resize(decode(sample.path, test.loading.size, test.loading.background))
        return image.to(test.loading.device)

    pairs = {
        (query.sample.path, first.sample.path): (query.sample, first.sample)
        for query in queries
        if (first := query.student.first) is not None
    }
    return {
        paths: saliency(network, *map(load, samples)) for paths, samples in progress(pairs.items(), "comparing images")
    }
