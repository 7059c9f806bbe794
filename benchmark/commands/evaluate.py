"""`benchmark evaluate`: scores of a finished run's student, or of embeddings in a file."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import HORIZONTALS
from rich.table import Table

from benchmark.commands.arrays import ArrayFile
from benchmark.errors import UserError, nearest
from benchmark.evaluation import TestSet
from benchmark.experiment.environment import choose_device
from benchmark.experiment.finished import FinishedRun
from benchmark.model.layers import FlipTTA
from benchmark.recipe import compose
from benchmark.registry import METHODS
from benchmark.retrieval import ApproximateScores, Embeddings, Protocol, Scores, evaluate, evaluate_approximately
from benchmark.retrieval.approximate import INDEXES, choose_index, require_approximable
from benchmark.utils.atomic import write_text
from benchmark.utils.console import Console, echo
from benchmark.utils.distributed import process_group
from benchmark.utils.variables import launch
from benchmark.utils.writable import require_output

GALLERIES = ("student", "teacher")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of `benchmark evaluate` for both runs and files."""

    data_root: Path
    """Folder of all datasets."""
    settings: Sequence[str] = ()
    """Changes of the recipe, as `key=value`."""
    device: str = "auto"
    index: str | None = None
    """Kind of faiss index to compare with the exact search; None for no comparison."""
    output: Path | None = None
    """JSON file for the scores of every query."""


def evaluate_file(file: Path, dataset: str, options: Options) -> None:
    """Score the embeddings in a .npz file by a dataset's protocol, and print the scores.

    The arrays are `query`, `query_ids`, `query_cams`, `gallery`, `gallery_ids`, `gallery_cams` and, if tracks are
    ranked, `gallery_tracks`. Protocols without a camera rule need no cameras, and those with `query_in_gallery` no
    gallery.

    Raises:
        UserError: The file cannot be read, its arrays do not match each other or the protocol, or the index cannot be
            used.
    """
    recipe = compose("none", dataset, None, options.settings)
    device = choose_device(options.device)
    test = TestSet.from_recipe(recipe, options.data_root, device)
    if test.dataset.protocol_from_data:  # without the images, it would be another one
        test.dataset.require()
    protocol = test.protocol
    _require_index(options.index, protocol)
    if options.output is not None:
        require_output(options.output)
    arrays = ArrayFile(file, protocol, dataset)
    query = arrays.embeddings("query").to(device)
    gallery = None if protocol.query_in_gallery else arrays.embeddings("gallery").to(device)
    try:
        comparison = _compare(lambda: evaluate(query, gallery, protocol), query, gallery, protocol, options.index)
    except (ValueError, UserError) as error:
        raise UserError(f"{file}: {error}") from error
    comparison.report(f"{file.name}, protocol of {dataset}", protocol, options.output)


def evaluate_run(
    run: Path, options: Options, *, dataset: str | None = None, gallery: str = "student", flip: bool = False
) -> None:
    """Score the student of a run, and print the scores.

    If started by `torchrun`, every process embeds its share of the images and searches the gallery for its queries.

    Args:
        run: Folder of a finished run.
        options: Options shared with `evaluate_file`.
        dataset: Name of the dataset to evaluate on; the dataset of the run if None.
        gallery: The network that embeds the gallery, "student" or "teacher".
        flip: Whether to average the embeddings of an image and its mirror image.

    Raises:
        UserError: The run, dataset or gallery does not exist, they do not match, or the index cannot be used.
    """
    if gallery not in GALLERIES:
        raise UserError(f"--gallery {gallery}: choose student or teacher{nearest(gallery, GALLERIES)}")
    finished = FinishedRun(run, options.data_root)
    device = choose_device(options.device)
    test = finished.test_set(dataset, options.settings, device)
    _require_index(options.index, test.protocol)
    if options.output is not None:
        require_output(options.output)
    student = finished.student(device)
    gallery_network = student if gallery == "student" else finished.teacher(test)
    if gallery_network.dim != student.dim:
        raise UserError(
            f"--gallery teacher: the embeddings of student ({student.dim}) and teacher ({gallery_network.dim}) differ "
            "in size and cannot be compared; use --gallery student"
        )
    networks = [FlipTTA(network) if flip else network for network in (student, gallery_network)]
    with process_group(device) as is_main_process:
        query_embeddings = test.embed(networks[0], "query")
        shared = test.protocol.query_in_gallery and gallery == "student"
        gallery_embeddings = query_embeddings if shared else test.embed(networks[1], "gallery")
        comparison = _compare(
            lambda: test.score(query_embeddings, gallery_embeddings),
            query_embeddings,
            gallery_embeddings,
            test.protocol,
            options.index,
        )
    if not is_main_process:
        return
    title = [f"{run} on {test.dataset.name}"]
    title += ["teacher gallery"] if gallery == "teacher" else []
    title += ["flip test-time augmentation"] if flip else []
    comparison.report(", ".join(title), test.protocol, options.output)
    method = METHODS.find(finished.recipe.method.name)(**finished.recipe.method.arguments)
    if gallery == "teacher" and not method.aligned:
        echo(
            f"{finished.recipe.method.name} does not align the embedding spaces of student and teacher: cross-model "
            "scores are not meaningful here"
        )


@dataclass(frozen=True, slots=True)
class _Comparison:
    """Exact scores and, if an index was requested, approximate ones."""

    exact: Scores
    exact_seconds: float
    approximate: ApproximateScores | None

    def report(self, title: str, protocol: Protocol, output: Path | None) -> None:
        """Print the mean scores, and write them and the scores of every query to a JSON file."""
        exact = self.exact
        means = {
            "mAP": exact.mAP,
            **{f"R@{k}": value for k, value in exact.recall.items()},
            "mINP": exact.mINP,
            "MAP@R": exact.mAP_at_R,
            "R-precision": exact.R_precision,
            **{f"P@{k}": value for k, value in exact.precision.items()},
        }
        table = Table(title=title, box=HORIZONTALS, show_header=False)
        table.add_column("metric")
        table.add_column("percent", justify="right")
        for name, value in means.items():
            table.add_row(name, f"{100 * value:.2f}")
        console = Console(highlight=False, soft_wrap=True)
        console.print(table)
        skipped = f", {exact.skipped:,} of them skipped because they have no correct match" if exact.skipped else ""
        console.print(f"{exact.queries:,} queries{skipped}; scores in percent")
        if self.approximate is not None:
            self._report_approximate(console, self.approximate)
        if output is not None:
            content = {
                "scores": means,
                "queries": exact.queries,
                "skipped": exact.skipped,
                "protocol": asdict(protocol),
                "per_query": {name: _to_json(getattr(exact, name).tolist()) for name in exact.per_query()},
            }
            if self.approximate is not None:
                content["approximate"] = self._approximate_content(self.approximate)
            write_text(output, json.dumps(content, indent=1) + "\n")
            console.print(f"scores of every query: {output}")

    def _report_approximate(self, console: Console, scores: ApproximateScores) -> None:
        name = f"{scores.index}, {scores.parameters}" if scores.parameters else scores.index
        table = Table(title=f"approximate search: {name}", box=HORIZONTALS)
        for column in ("", "exact", "approximate"):
            table.add_column(column, justify="right" if column else "left")
        table.add_row("mAP", f"{100 * self.exact.mAP:.2f}", f"{100 * scores.mAP:.2f}")
        for k, value in scores.recall.items():
            table.add_row(f"R@{k}", f"{100 * self.exact.recall[k]:.2f}", f"{100 * value:.2f}")
        table.add_row(f"recall of the {min(10, scores.k)} nearest", "100.00", f"{100 * scores.neighbor_recall:.2f}")
        table.add_row("seconds to build the index", "", f"{scores.build_seconds:.3f}")
        table.add_row("seconds to search and score", f"{self.exact_seconds:.3f}", f"{scores.search_seconds:.3f}")
        console.print(table)
        console.print(
            f"approximate scores are of the first {scores.k:,} entries of every ranked list; they can exceed the exact "
            "ones, because the index also misses negatives"
        )

    def _approximate_content(self, scores: ApproximateScores) -> dict[str, Any]:
        return {
            "index": scores.index,
            "parameters": scores.parameters,
            "k": scores.k,
            "neighbor_recall": scores.neighbor_recall,
            "scores": {"mAP": scores.mAP, **{f"R@{k}": value for k, value in scores.recall.items()}},
            "seconds": {
                "exact": self.exact_seconds,
                "build": scores.build_seconds,
                "search": scores.search_seconds,
            },
        }


def _compare(
    exact: Callable[[], Scores], query: Embeddings, gallery: Embeddings | None, protocol: Protocol, index: str | None
) -> _Comparison:
    """Evaluate embeddings exactly and, if a kind of index is given, approximately."""
    start = time.perf_counter()
    scores = exact()
    seconds = time.perf_counter() - start
    if index is None:
        return _Comparison(scores, seconds, None)
    vectors = (query if gallery is None else gallery).vectors
    try:
        factory, parameters = choose_index(index, *vectors.shape)
        approximate = evaluate_approximately(query, gallery, protocol, index=factory, parameters=parameters)
    except ValueError as error:
        raise UserError(f"--index {index}: {error}") from error
    return _Comparison(scores, seconds, approximate)


def _require_index(index: str | None, protocol: Protocol) -> None:
    """Check, before anything is embedded, that the index exists and can be used with the protocol."""
    if index is None:
        return
    if index not in INDEXES:
        raise UserError(f"--index {index}: choose {', '.join(INDEXES)}{nearest(index, INDEXES)}")
    if launch().processes > 1:
        raise UserError(f"--index {index}: only in a single process; start without torchrun")
    try:
        require_approximable(protocol)
    except (ImportError, ValueError) as error:
        raise UserError(f"--index {index}: {error}") from error


def _to_json(values: Any) -> Any:
    """Replace NaN by None in nested lists of numbers, because JSON has no NaN."""
    if isinstance(values, list):
        return [_to_json(value) for value in values]
    return None if values != values else values
