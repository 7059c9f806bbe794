"""`benchmark evaluate`: scores of a finished run's student, or of embeddings in a file."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.commands.arrays import ArrayFile, read_training
from benchmark.commands.evaluated import Evaluated, report
from benchmark.errors import UserError, nearest
from benchmark.evaluation import TestSet
from benchmark.experiment.environment import choose_device
from benchmark.experiment.finished import FinishedRun
from benchmark.model.layers import FlipTTA
from benchmark.recipe import compose
from benchmark.registry import METHODS
from benchmark.retrieval import (
    ApproximateScores,
    EmbeddingFormat,
    Embeddings,
    Protocol,
    Scores,
    clustering_scores,
    evaluate,
    evaluate_approximately,
)
from benchmark.retrieval.approximate import INDEXES, choose_index, require_approximable
from benchmark.retrieval.embedding_format import FLOAT32
from benchmark.utils.console import echo
from benchmark.utils.distributed import process_group
from benchmark.utils.launch import launch
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
    embedding: Sequence[str] = ()
    """Formats in which the gallery is stored, such as "int8", or several with commas between them; none for the format
    of the recipe."""
    index: str | None = None
    """Kind of faiss index to compare with the exact search; None for no comparison."""
    clustering: bool = False
    """Whether to cluster the gallery, too."""
    output: Path | None = None
    """JSON file for the scores of every query."""


def evaluate_file(file: Path, dataset: str, options: Options, *, training: Path | None = None) -> None:
    """Score the embeddings in a .npz file by a dataset's protocol, and print the scores.

    The arrays are `query`, `query_ids`, `query_cams`, `gallery`, `gallery_ids`, `gallery_cams` and, if tracks are
    ranked, `gallery_tracks`. Protocols without a camera rule need no cameras, and those with `query_in_gallery` no
    gallery. `train` holds embeddings of training images, from which some formats are learned.

    Args:
        file: The file.
        dataset: Name of the dataset that has the protocol.
        options: Options shared with `evaluate_run`.
        training: A .npz file with the embeddings of training images; None if they are in `file`, or not needed.

    Raises:
        UserError: The file cannot be read, its arrays do not match each other or the protocol, or the index or a
            format cannot be used.
    """
    recipe = compose("none", dataset, None, options.settings)
    device = choose_device(options.device)
    test = TestSet.from_recipe(recipe, options.data_root, device)
    if test.dataset.protocol_from_data:  # without the images, it would be another one
        test.dataset.require()
    protocol = test.protocol
    formats = _formats(options, test.embedding)
    _require_usable(options, formats, protocol)
    learned = [each for each in formats if each.learned]
    if training is not None and not learned:
        raise UserError(f"--train-embeddings {training}: {formats[0]} is not learned: leave the option out")
    arrays = ArrayFile(file, protocol, dataset, training=bool(learned) and training is None)
    vectors = arrays.training if training is None else read_training(training)
    if learned and vectors is None:
        raise UserError(
            f"--embedding {learned[0]}: it is learned from embeddings of training images, and {file} has none: give "
            "them with --train-embeddings FILE, or add them to the file as the array 'train'"
        )
    query = arrays.embeddings("query").to(device)
    gallery = None if protocol.query_in_gallery else arrays.embeddings("gallery").to(device)
    try:
        evaluation = _Evaluation(protocol, options, lambda queries, entries: evaluate(queries, entries, protocol))
        results = [evaluation.of(each, query, gallery, vectors) for each in formats]
    except (ValueError, UserError) as error:
        raise UserError(f"{file}: {error}") from error
    report(results, f"{file.name}, protocol of {dataset}", protocol, options.output)


def evaluate_run(
    run: Path, options: Options, *, dataset: str | None = None, gallery: str = "student", flip: bool = False
) -> None:
    """Score the student of a run, and print the scores.

    If started by `torchrun`, every process embeds its share of the images and searches the gallery for its queries.

    Args:
        run: Folder of a finished run.
        options: Options shared with `evaluate_file`.
        dataset: Name of the dataset to evaluate on; the dataset of the run if None. Formats of embeddings are always
            learned on the run's own training images.
        gallery: The network that embeds the gallery, "student" or "teacher".
        flip: Whether to average the embeddings of an image and its mirror image.

    Raises:
        UserError: The run, dataset or gallery does not exist, they do not match, or the index or a format cannot be
            used.
    """
    if gallery not in GALLERIES:
        raise UserError(f"--gallery {gallery}: choose student or teacher{nearest(gallery, GALLERIES)}")
    finished = FinishedRun(run, options.data_root)
    device = choose_device(options.device)
    test = finished.test_set(dataset, options.settings, device)
    formats = _formats(options, test.embedding)
    _require_usable(options, formats, test.protocol)
    student = finished.student(device)
    gallery_network = student if gallery == "student" else finished.teacher(test)
    if gallery_network.dim != student.dim:
        raise UserError(
            f"--gallery teacher: the embeddings of student ({student.dim}) and teacher ({gallery_network.dim}) differ "
            "in size and cannot be compared; use --gallery student"
        )
    _require_dim(formats, student.dim)
    networks = [FlipTTA(network) if flip else network for network in (student, gallery_network)]
    with process_group(device) as is_main_process:
        training = None
        if any(each.learned for each in formats):
            changed = dataset is not None or options.settings
            own = finished.test_set(None, (), device) if changed else test
            training = own.embed_training(networks[1])
        query_embeddings = test.embed(networks[0], "query")
        shared = test.protocol.query_in_gallery and gallery == "student"
        gallery_embeddings = query_embeddings if shared else test.embed(networks[1], "gallery")
        evaluation = _Evaluation(test.protocol, options, test.score)
        results = [evaluation.of(each, query_embeddings, gallery_embeddings, training) for each in formats]
    if not is_main_process:
        return
    title = [f"{run} on {test.dataset.name}"]
    title += ["teacher gallery"] if gallery == "teacher" else []
    title += ["flip test-time augmentation"] if flip else []
    report(results, ", ".join(title), test.protocol, options.output)
    method = METHODS.find(finished.recipe.method.name)(**finished.recipe.method.arguments)
    if gallery == "teacher" and not method.aligned:
        echo(
            f"{finished.recipe.method.name} does not align the embedding spaces of student and teacher: cross-model "
            "scores are not meaningful here"
        )


@dataclass(frozen=True, slots=True)
class _Evaluation:
    """What the evaluations of several formats have in common."""

    protocol: Protocol
    options: Options
    score: Callable[[Embeddings, Embeddings | None], Scores]
    """Scores queries on a gallery."""

    def of(self, embedding: EmbeddingFormat, query: Embeddings, gallery: Embeddings | None, training: Any) -> Evaluated:
        """Evaluate embeddings whose gallery is stored in a format.

        Args:
            embedding: The format.
            query: Query images, as embedded.
            gallery: Gallery images, as embedded; None if they are the queries.
            training: (N, D) embeddings of training images; None if no format is learned.

        Raises:
            UserError: The format or the index cannot be used.
            ValueError: The lists do not match each other or the protocol.
        """
        dim = query.vectors.shape[1]
        if embedding != FLOAT32:
            _require_dim([embedding], dim)
            try:
                codec = embedding.fit(dim, training)
            except (ImportError, ValueError) as error:
                raise UserError(f"--embedding {embedding}: {error}") from error
            query, gallery = codec.query(query), codec.gallery(query if gallery is None else gallery)
        start = time.perf_counter()
        scores = self.score(query, gallery)
        seconds = time.perf_counter() - start
        return Evaluated(
            embedding=embedding,
            bytes_per_image=embedding.bytes_per_image(dim),
            exact=scores,
            exact_seconds=seconds,
            approximate=None if self.options.index is None else self._approximate(self.options.index, query, gallery),
            clustering=clustering_scores(query if gallery is None else gallery, self.protocol)
            if self.options.clustering
            else None,
        )

    def _approximate(self, index: str, query: Embeddings, gallery: Embeddings | None) -> ApproximateScores:
        vectors = (query if gallery is None else gallery).vectors
        try:
            factory, parameters = choose_index(index, *vectors.shape)
            return evaluate_approximately(query, gallery, self.protocol, index=factory, parameters=parameters)
        except ValueError as error:
            raise UserError(f"--index {index}: {error}") from error


def _formats(options: Options, default: EmbeddingFormat) -> list[EmbeddingFormat]:
    """Return the formats to evaluate, each once."""
    formats = []
    for name in (name.strip() for text in options.embedding for name in text.split(",")):
        try:
            formats.append(EmbeddingFormat.parse(name))
        except ValueError as error:
            raise UserError(f"--embedding {name}: {error}") from error
    return list(dict.fromkeys(formats)) or [default]


def _require_dim(formats: Sequence[EmbeddingFormat], dim: int) -> None:
    for each in formats:
        try:
            each.require(dim)
        except ValueError as error:
            raise UserError(f"--embedding {each}: {error}") from error


def _require_usable(options: Options, formats: Sequence[EmbeddingFormat], protocol: Protocol) -> None:
    """Check, before anything is embedded, that the options can be used with each other and with the protocol."""
    if options.output is not None:
        require_output(options.output)
    single = [f"--embedding {each}" for each in formats if each.learned] + ["--clustering"] * options.clustering
    if (index := options.index) is not None:
        if index not in INDEXES:
            raise UserError(f"--index {index}: choose {', '.join(INDEXES)}{nearest(index, INDEXES)}")
        if others := [each for each in formats if each != FLOAT32]:
            raise UserError(f"--index {index}: it has its own format of embeddings: leave out --embedding {others[0]}")
        try:
            require_approximable(protocol)
        except (ImportError, ValueError) as error:
            raise UserError(f"--index {index}: {error}") from error
        single.append(f"--index {index}")
    if single and launch().processes > 1:
        raise UserError(f"{single[0]}: only in a single process; start without torchrun")
