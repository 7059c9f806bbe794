"""Test images of a dataset: embedding them with a network, and scoring the embeddings."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor

from benchmark.data.batch_loader import BatchLoader
from benchmark.data.loaders import EvaluationImages, Loading, eval_loader
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.data.samples import Sample
from benchmark.errors import UserError
from benchmark.recipe import Recipe
from benchmark.registry import DATASETS
from benchmark.retrieval import EmbeddingFormat, Embeddings, Protocol, Scores, evaluate, evaluate_sharded
from benchmark.retrieval.embedding_format import FLOAT32
from benchmark.utils.console import progress
from benchmark.utils.distributed import share
from benchmark.utils.memory import explain_shortage
from benchmark.utils.paths import user_path
from benchmark.utils.precision import full_precision


class TestSet:
    """Query and gallery images of a dataset, to be embedded by one or more networks.

    Args:
        dataset: Dataset with query and gallery splits.
        loading: Image size, worker processes, device and cache.
        batch_size: Number of images embedded at a time.
        protocol: Evaluation settings; the dataset's protocol if None.
        held_out: Whether to take the dataset's validation images instead of its test images; each searches all others
            (leave-one-out), without re-ranking.
        embedding: Format in which the gallery is stored; see `stored`.
    """

    def __init__(
        self,
        dataset: RetrievalDataset,
        loading: Loading,
        batch_size: int,
        protocol: Protocol | None = None,
        *,
        held_out: bool = False,
        embedding: EmbeddingFormat = FLOAT32,
    ) -> None:
        protocol = protocol or dataset.protocol
        self.dataset = dataset
        self.loading = loading
        self.batch_size = batch_size
        self.held_out = held_out
        self.embedding = embedding
        self.protocol = protocol.for_validation() if held_out else protocol

    @classmethod
    def from_recipe(
        cls, recipe: Recipe, data_root: Path, device: torch.device, image_size: tuple[int, int] | None = None
    ) -> Self:
        """Build the test set that a recipe describes, with the recipe's evaluation settings.

        A dataset option named `seed` that is None takes the run's seed.

        Args:
            recipe: Names the dataset, its options, the evaluation settings and how images are loaded.
            data_root: Folder of all datasets.
            device: Device on which images are embedded.
            image_size: (height, width) of the images in pixels; `recipe.image_size` if None.

        Raises:
            UserError: The dataset is unknown, an option is invalid, or the evaluation settings exclude each other.
        """
        options = with_seed(recipe.dataset.arguments, recipe.seed)
        dataset: RetrievalDataset = DATASETS.find(recipe.dataset.name)(data_root, **options)
        runtime = recipe.runtime
        loading = Loading(
            image_size or recipe.image_size,
            runtime.workers,
            device,
            None if runtime.cache is None else user_path(runtime.cache),
            runtime.skip_broken,
            dataset.background_color,
        )
        evaluate = recipe.evaluate
        return cls(
            dataset,
            loading,
            evaluate.batch_size,
            evaluate.protocol(dataset.protocol),
            held_out=evaluate.images == "validation",
            embedding=evaluate.embedding_format,
        )

    def validation(self) -> "TestSet":
        """Return the dataset's validation images as a test set."""
        return TestSet(self.dataset, self.loading, self.batch_size, self.protocol, held_out=True)

    @property
    def query(self) -> tuple[Sample, ...]:
        """The query images."""
        return self.dataset.held_out if self.held_out else self.dataset.query

    @property
    def gallery(self) -> tuple[Sample, ...]:
        """The gallery images; the query images if the protocol has `query_in_gallery`."""
        return self.query if self.protocol.query_in_gallery else self.dataset.gallery

    @cached_property
    def images(self) -> EvaluationImages:
        """The query images, then the gallery images; only the query images if the protocol has `query_in_gallery`."""
        samples = self.query if self.protocol.query_in_gallery else (*self.query, *self.gallery)
        name = f"{self.dataset.name}-{'validation' if self.held_out else 'test'}"
        return EvaluationImages(samples, self.loading.images(samples, name, self.dataset.contents))

    def loader(self, split: str | None = None) -> BatchLoader:
        """Return a loader of the test images in order. `Batch.indices` are positions in `images`.

        Args:
            split: "query" or "gallery"; of several processes (see `process_group`), each loads its share. None for all
                test images, on every process.
        """
        positions = range(len(self.images.images))
        if split is not None and not self.protocol.query_in_gallery:
            queries = len(self.query)
            positions = positions[:queries] if split == "query" else positions[queries:]
        if split is not None:
            positions = share(positions)
        return eval_loader(self.images, positions, self.batch_size, self.loading)

    def readable(self, split: str) -> list[Sample]:
        """Return the samples of "query" or "gallery" in order, without the images found to be broken so far."""
        samples = self.query if split == "query" else self.gallery
        broken = set(self.images.images.broken())
        return [sample for sample in samples if sample.path not in broken]

    def embed(self, network: Callable[[Tensor], Tensor], split: str) -> Embeddings:
        """Embed the images of "query" or "gallery", or this process's share of them.

        Args:
            network: Maps (B, 3, H, W) uint8 images to (B, D) embeddings.
            split: "query" or "gallery".

        Returns:
            float32 embeddings on the device.

        Raises:
            UserError: An image is broken without `skip_broken`, all images are broken, or an embedding is not finite.
        """
        return self._with_labels(*self._embed(network, self.loader(split), split))

    def embed_training(self, network: Callable[[Tensor], Tensor]) -> Tensor:
        """Embed the training images, without augmentation.

        Args:
            network: Maps (B, 3, H, W) uint8 images to (B, D) embeddings.

        Returns:
            (N, D) float32 embeddings on the device, of all images on every process.

        Raises:
            UserError: An image is broken without `skip_broken`, or all images are broken.
        """
        return self._embed(network, self._training_loader(step=1), "training")[0]

    def training_images(self, count: int) -> Tensor:
        """Return about `count` training images, evenly spaced and without augmentation.

        Returns:
            (N, 3, H, W) uint8 on the device; N is at most `count`.

        Raises:
            UserError: An image is broken without `skip_broken`, or all images are broken.
        """
        loader = self._training_loader(step=-(-len(self.dataset.train) // count))
        images = [batch.images for batch in loader if len(batch.images)]
        if not images:
            raise self._unreadable("training")
        return torch.cat(images).to(self.loading.device)

    def _training_loader(self, step: int) -> BatchLoader:
        """Return a loader of every `step`-th training image, in order."""
        samples = self.dataset.train
        decoded = self.loading.images(samples, f"{self.dataset.name}-train", self.dataset.contents)
        positions = range(0, len(samples), step)
        return eval_loader(EvaluationImages(samples, decoded), positions, self.batch_size, self.loading)

    def _embed(self, network: Callable[[Tensor], Tensor], loader: BatchLoader, split: str) -> tuple[Tensor, Tensor]:
        """Return (N, D) float32 embeddings of the images of a loader, and their (N,) positions."""
        vectors, positions = [], []
        device = torch.device(self.loading.device)

        def explain() -> str:
            return out_of_memory(self.batch_size, self.loading.size, device)

        with explain_shortage(explain), torch.inference_mode(), full_precision(device):
            for batch in progress(loader, f"embedding {split}"):
                vectors.append(network(batch.images.to(self.loading.device, non_blocking=True)).float())
                positions.append(batch.indices)
        if not vectors:
            raise self._unreadable(split)
        return torch.cat(vectors), torch.cat(positions)

    def stored(
        self,
        embedding: EmbeddingFormat,
        network: Callable[[Tensor], Tensor],
        query: Embeddings,
        gallery: Embeddings,
    ) -> tuple[Embeddings, Embeddings]:
        """Return queries and gallery as they are compared if the gallery is stored in a format.

        Args:
            embedding: The format. What it learns is learned on the training images.
            network: The network that embedded the gallery.
            query: Queries, as embedded.
            gallery: Gallery, as embedded.

        Raises:
            UserError: The format cannot store these embeddings, or there are too few training images.
        """
        if embedding == FLOAT32:
            return query, gallery
        training = self.embed_training(network) if embedding.learned else None
        try:
            codec = embedding.fit(gallery.vectors.shape[1], training)
        except (ImportError, ValueError) as error:
            raise UserError(f"evaluate.embedding: {embedding}: {error}") from error
        return codec.query(query), codec.gallery(gallery)

    def score(self, query: Embeddings, gallery: Embeddings | None, keep: int = 0) -> Scores:
        """Score embeddings by the protocol.

        Args:
            query: Queries, or this process's share of them.
            gallery: Gallery, or this process's share of it; see `evaluate`.
            keep: Number of top-ranked entries of every ranked list to return in `Scores.neighbors`.

        Returns:
            Scores of the queries of all processes.

        Raises:
            UserError: No query has a correct match, for example because all matching images are broken.
        """
        try:
            return (evaluate_sharded if dist.is_initialized() else evaluate)(query, gallery, self.protocol, keep=keep)
        except ValueError as error:
            raise UserError(f"{self.dataset.folder}: {error}") from error

    def score_all(self, vectors: Tensor, positions: Tensor) -> Scores:
        """Score embeddings of test images by the protocol.

        Args:
            vectors: (N, D) embeddings of query and gallery images.
            positions: (N,) int64 positions of the images in `images`, ascending.
        """
        if self.protocol.query_in_gallery:
            return self.score(self._with_labels(vectors, positions), None)
        queries = int((positions < len(self.query)).sum())
        query, gallery = (
            self._with_labels(vectors[part], positions[part]) for part in (slice(None, queries), slice(queries, None))
        )
        return self.score(query, gallery)

    def first_queries(self, count: int) -> Tensor:
        """Return the first `count` query images, at most a batch: (N, 3, H, W) uint8, on the device.

        Raises:
            UserError: No query image can be read.
        """
        batch = next(iter(self.loader("query")), None)
        if batch is None:
            raise self._unreadable("query")
        return batch.images[:count].to(self.loading.device)

    def _with_labels(self, vectors: Tensor, positions: Tensor) -> Embeddings:
        labels: Sequence[Tensor] = (self.images.identities, self.images.cameras)
        if self.protocol.tracks:
            labels = (*labels, self.images.tracks)
        try:
            return Embeddings(vectors, *(label[positions].to(vectors.device) for label in labels))
        except ValueError as error:  # no vectors, or vectors that are not finite
            raise UserError(f"{self.dataset.folder}: {error}") from error

    def _unreadable(self, split: str) -> UserError:
        return UserError(
            f"{self.dataset.folder}: none of the {split} images can be read: restore them from the archive"
        )


def out_of_memory(batch_size: int, size: tuple[int, int], device: torch.device) -> str:
    """Return the message if the memory does not suffice for embedding test images.

    Args:
        batch_size: Number of images in a batch.
        size: (height, width) of the images in pixels.
        device: The device of the network.
    """
    return (
        f"out of memory on {device} with batches of {batch_size} test images, of {size[0]}x{size[1]} pixels, in "
        "float32: lower evaluate.batch_size, which does not change the result, or free "
        "memory; a run continues with --resume"
    )


def with_seed(options: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return a dataset's options; an option `seed` that is None is replaced by the run's seed."""
    return options | {"seed": seed} if options.get("seed", seed) is None else options
