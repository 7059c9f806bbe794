"""Loaders of training and test images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmark.data.batch import Batch
from benchmark.data.decode import BrokenImage
from benchmark.data.images import Images
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.data.sampler import Draw, PKBatchSampler
from benchmark.data.samples import Sample
from benchmark.errors import UserError
from benchmark.utils.parallel import cores


@dataclass(frozen=True, slots=True)
class Loading:
    """What all loaders of a run share."""

    size: tuple[int, int]
    """(height, width) of all images."""
    workers: int | None = 0
    """Processes that load; 0 is the caller's own, None as many as suit the machine."""
    device: str | torch.device = "cpu"
    """Where batches go next; for "cuda" they are put into pinned memory."""
    cache: Path | None = None
    """Where packed images are kept; None for nowhere."""
    skip_broken: bool = False
    """Leave out images that cannot be decoded instead of stopping at the first."""

    def images(self, samples: Sequence[Sample], name: str) -> Images:
        """The images of these samples; `name` says what they are, in the cache.

        Raises:
            BrokenImage: A file cannot be decoded, and broken ones are not to be skipped.
        """
        target = None if self.cache is None else self.cache / name
        return Images([sample.path for sample in samples], self.size, cache=target, skip_broken=self.skip_broken)


class TrainingImages:
    """The training split; `dataset[draws]` is one batch.

    The augmentation of an image depends on nothing but its draw's seed: not on the process that does it, nor on what
    that process drew before. The process's own random state stays as it is.

    Where `images.skip_broken` is true, the next image of the same identity that is not broken takes the place of a
    broken one, or else the next one in the list.

    Args:
        dataset: Where the samples and labels come from.
        images: The images of `dataset.train`, in that order.
        transform: Augments one (3, H, W) uint8 image, drawing from torch's default generator.
    """

    def __init__(self, dataset: RetrievalDataset, images: Images, transform: Callable[[Tensor], Tensor]) -> None:
        self.images = images
        self.transform = transform
        self.labels = torch.tensor([dataset.labels[sample.identity] for sample in dataset.train])
        self.cameras = torch.tensor([sample.camera for sample in dataset.train])

    def __getitems__(self, draws: Sequence[Draw]) -> Batch:
        """The batch of these draws: images (B, 3, H, W) uint8 and labels, cameras, indices (B,) int64."""
        with torch.random.fork_rng(devices=[]):
            positions, views = zip(*map(self._view, draws), strict=True)
        indices = torch.tensor(positions)
        return Batch(torch.stack(views), self.labels[indices], self.cameras[indices], indices)

    def _view(self, draw: Draw) -> tuple[int, Tensor]:
        """The position of the image that is shown, and how it is shown."""
        for position in self._candidates(draw.position):
            try:
                image = self.images[position]
            except BrokenImage:
                if not self.images.skip_broken:
                    raise
            else:
                # Unlike torch.manual_seed, this leaves the generators of accelerators alone.
                torch.default_generator.manual_seed(draw.seed)
                return position, self.transform(image)
        raise UserError("none of the training images can be read")

    def _candidates(self, position: int) -> Iterator[int]:
        """The position; then, in the order of the list and starting over at its end, those with its label, then all."""
        yield position
        following = torch.arange(position + 1, position + len(self.labels)) % len(self.labels)
        yield from following[self.labels[following] == self.labels[position]].tolist()
        yield from following.tolist()


class EvaluationImages:
    """Samples as they are; the labels are the dataset's own identity numbers, since test identities have no others.

    Where `images.skip_broken` is true, a batch lacks the images that are broken.

    Args:
        samples: What to evaluate.
        images: Their images, in that order.
    """

    def __init__(self, samples: Sequence[Sample], images: Images) -> None:
        self.images = images
        self.identities = torch.tensor([sample.identity for sample in samples])
        self.cameras = torch.tensor([sample.camera for sample in samples])
        self.tracks = torch.tensor([sample.track for sample in samples])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The batch of these positions: images (B, 3, H, W) uint8 and identities, cameras, indices (B,) int64."""
        images, readable = [], []
        for index in indices:
            try:
                images.append(self.images[index])
                readable.append(index)
            except BrokenImage:
                if not self.images.skip_broken:
                    raise
        chosen = torch.tensor(readable, dtype=torch.int64)
        stacked = torch.stack(images) if images else torch.empty(0, *self.images.shape, dtype=torch.uint8)
        return Batch(stacked, self.identities[chosen], self.cameras[chosen], chosen)


MOST_WORKERS = 8
"""Of those that are started when nobody has said how many."""


class Batches(Protocol):
    """Images that come as whole batches."""

    images: Images

    def __getitems__(self, indices: Sequence[Any]) -> Batch: ...


class BatchLoader(DataLoader[Batch]):
    """Batches of training or evaluation, loaded by worker processes; none is empty.

    A `UserError` in a worker is raised as it is: torch would put the worker's traceback into its message.

    Args:
        source: Where batches come from.
        workers: Processes that load; 0 is the caller's own. With None, one per core but no more than 8, and none where
            images are kept or there is a single core.
        device: Where batches go next; for "cuda" they are put into pinned memory.
        persistent: Keep the workers from one pass to the next.
        batches: How `DataLoader` is to sample.
    """

    def __init__(
        self, source: Batches, workers: int | None, device: str | torch.device, persistent: bool, **batches: Any
    ) -> None:
        if workers is None:
            workers = 0 if source.images.kept or cores() == 1 else min(cores(), MOST_WORKERS)
        self.source = source
        super().__init__(
            _Guarded(source),
            collate_fn=_whole,
            num_workers=workers,
            persistent_workers=persistent and workers > 0,
            prefetch_factor=4 if workers else None,
            pin_memory=torch.device(device).type == "cuda",
            # Without a generator of its own, a loader advances the process's random state at the start of every epoch.
            generator=torch.Generator(),
            **batches,
        )

    # torch promises its own class of iterator, of which nothing but the iteration is used.
    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        for batch in super().__iter__():
            if isinstance(batch, UserError):
                raise batch
            if len(batch.images):  # or all of them are broken
                yield batch


class _Guarded(Dataset[Any]):
    """A dataset that hands mistakes over like batches."""

    def __init__(self, source: Batches) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source.images)

    def __getitems__(self, indices: Sequence[Any]) -> Any:
        try:
            return self.source.__getitems__(indices)
        except UserError as error:
            return error


def _whole(batch: Any) -> Any:
    return batch  # `__getitems__` has made it already


def train_loader(
    dataset: RetrievalDataset,
    transform: Callable[[Tensor], Tensor],
    identities: int,
    images: int,
    seed: int,
    loading: Loading,
    views: int = 1,
) -> BatchLoader:
    """Augmented batches of `identities` x `images` x `views`; `batch_sampler.set_epoch(e)` comes before each epoch.

    The batches are a pure function of (dataset, size, transform, identities, images, views, seed, epoch), bit for bit,
    however they are loaded.

    Args:
        dataset: Its training split is loaded.
        transform: See `TrainingImages`; images have been resized before.
        identities: P, the identities in a batch.
        images: K, the images of each.
        seed: The run's seed.
        loading: How images are read.
        views: Augmentations of each image.

    Raises:
        UserError: The set is not there, or has fewer than P identities, or a file is broken.
    """
    training = TrainingImages(dataset, loading.images(dataset.train, f"{dataset.name}-train"), transform)
    sampler = PKBatchSampler(training.labels.tolist(), identities, images, seed, views)
    return BatchLoader(training, loading.workers, loading.device, persistent=True, batch_sampler=sampler)


def eval_loader(source: EvaluationImages, positions: range, batch_size: int, loading: Loading) -> BatchLoader:
    """The images at these positions in order; the labels of a batch are the dataset's own identity numbers.

    Args:
        source: The images.
        positions: Which of them.
        batch_size: Images in a batch; the last one may have fewer.
        loading: How images are read.
    """
    return BatchLoader(
        source, loading.workers, loading.device, persistent=False, sampler=positions, batch_size=batch_size
    )
