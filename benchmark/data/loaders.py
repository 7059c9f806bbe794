"""Loaders of training and test images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import BatchSampler

from benchmark.data.batch import Batch, Draw, PKBatchSampler, nothing_stored
from benchmark.data.batch_loader import BatchLoader
from benchmark.data.decode import WHITE, BrokenImage, Color
from benchmark.data.digests import hash_files
from benchmark.data.fixed_views import view_seeds
from benchmark.data.images import Images
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.data.row_file import RowFile
from benchmark.data.samples import Sample
from benchmark.errors import UserError
from benchmark.utils.distributed import part


@dataclass(frozen=True, slots=True)
class Loading:
    """Settings that all loaders of a run share."""

    size: tuple[int, int]
    """(height, width) of all images in pixels."""
    workers: int | None = 0
    """Number of loader worker processes; 0 loads in the main process, None chooses a number for this machine."""
    device: str | torch.device = "cpu"
    """Device that receives the batches; for "cuda", they are put into pinned memory."""
    cache: Path | None = None
    """Folder of packed images; None for no cache."""
    skip_broken: bool = False
    """Whether to leave out images that cannot be decoded instead of stopping at the first."""
    background: Color = WHITE
    """What shows through transparent pixels."""

    def images(
        self,
        samples: Sequence[Sample],
        name: str,
        contents: Callable[[Sequence[Path]], Sequence[str]] = hash_files,
    ) -> Images:
        """Return the images of samples.

        Args:
            samples: The samples.
            name: Prefix of the images' folder in the cache.
            contents: Function that returns the content hash of every file, for the cache.

        Raises:
            BrokenImage: A file cannot be decoded and `skip_broken` is false.
        """
        cache = None if self.cache is None else self.cache / name
        return Images(
            [sample.path for sample in samples],
            self.size,
            cache=cache,
            contents=contents,
            skip_broken=self.skip_broken,
            background=self.background,
        )


def train_loader(
    dataset: RetrievalDataset,
    transform: Callable[[Tensor], Tensor],
    *,
    identities: int,
    images: int,
    seed: int,
    loading: Loading,
    views: int = 1,
    fixed_views: int = 0,
) -> BatchLoader:
    """Return a loader of augmented training batches; call `batch_sampler.set_epoch` before each epoch.

    The batches are a pure function of (dataset, size, transform, identities, images, views, fixed views, seed, epoch),
    bit for bit, for any number of workers and any kind of cache. Several processes share each batch: the first one
    loads its first images, and so on.

    Args:
        dataset: The dataset whose training images are loaded.
        transform: Augments one image, see `TrainingImages`.
        identities: P, the number of identities in a batch.
        images: K, the number of images of each identity.
        seed: Seed of the run.
        loading: How images are read.
        views: Number of augmented views of each image.
        fixed_views: Number of fixed views of each image, see `view_seeds`; 0 if every view is new.

    Raises:
        UserError: The dataset is missing or has fewer than P identities, or an image is broken.
    """
    decoded = loading.images(dataset.train, f"{dataset.name}-train", dataset.contents)
    contents = dataset.contents([sample.path for sample in dataset.train]) if fixed_views else []
    training = TrainingImages(dataset, decoded, transform, view_seeds(contents, fixed_views) if fixed_views else None)
    batch = identities * images * views
    own = part(batch)
    sampler = PKBatchSampler(
        training.labels.tolist(), identities, images, seed=seed, views=views, fixed_views=fixed_views, part=own
    )
    return BatchLoader(
        training,
        sampler,
        batch_size=own.stop - own.start,
        workers=loading.workers,
        device=loading.device,
        persistent=True,
    )


def eval_loader(source: "EvaluationImages", positions: range, batch_size: int, loading: Loading) -> BatchLoader:
    """Return a loader of the images at `positions`, in order.

    Args:
        source: The images.
        positions: Positions in `source` to load.
        batch_size: Number of images in a batch; the last batch may be smaller.
        loading: How images are read.
    """
    return BatchLoader(
        source,
        BatchSampler(positions, batch_size, drop_last=False),
        batch_size=min(batch_size, len(positions)),
        workers=loading.workers,
        device=loading.device,
        persistent=False,
    )


class TrainingImages:
    """The training images of a dataset; indexing with a list of draws gives an augmented batch.

    The augmentation of an image depends only on the seed of its draw: not on the worker process, nor on what that
    process drew before. The random state of the process does not change.

    If `images.skip_broken` is true, a broken image is replaced by the next readable image of the same identity, or of
    any identity if there is none.

    Args:
        dataset: The dataset with the samples and labels.
        images: The images of `dataset.train`, in that order.
        transform: Augments one (3, H, W) uint8 image with random numbers of torch's default generator.
        view_seeds: (images, views) int64, the seeds of the augmentations of fixed views; None if every view is new.
    """

    def __init__(
        self,
        dataset: RetrievalDataset,
        images: Images,
        transform: Callable[[Tensor], Tensor],
        view_seeds: Tensor | None = None,
    ) -> None:
        self.images = images
        self.transform = transform
        self.view_seeds = view_seeds
        self.stored: RowFile | None = None
        """A row for every fixed view, image by image, which batches then contain."""
        self.labels = torch.tensor([dataset.labels[sample.identity] for sample in dataset.train])
        self.cameras = torch.tensor([sample.camera for sample in dataset.train])

    def __getitems__(self, draws: Sequence[Draw]) -> Batch:
        """Return the batch of these draws.

        Raises:
            UserError: An image is broken and `images.skip_broken` is false, or all images are broken.
        """
        with torch.random.fork_rng(devices=[]):
            positions, views = zip(*map(self._augmented, draws), strict=True)
        indices = torch.tensor(positions)
        stored = nothing_stored(len(draws))
        if self.stored is not None and self.view_seeds is not None:
            numbers = torch.tensor([draw.view for draw in draws])
            stored = self.stored.read(indices * self.view_seeds.shape[1] + numbers)
        return Batch(torch.stack(views), self.labels[indices], self.cameras[indices], indices, stored)

    def _augmented(self, draw: Draw) -> tuple[int, Tensor]:
        """Return the augmented image, and its position, which differs from the draw's if that image is broken."""
        for position in self._candidates(draw.position):
            try:
                image = self.images[position]
            except BrokenImage:
                if not self.images.skip_broken:
                    raise
            else:
                seed = draw.seed if self.view_seeds is None else int(self.view_seeds[position, draw.view])
                # Unlike torch.manual_seed, this leaves the generators of accelerators alone.
                torch.default_generator.manual_seed(seed)
                return position, self.transform(image)
        raise UserError("none of the training images can be read")

    def _candidates(self, position: int) -> Iterator[int]:
        """Yield the position, then its replacements: the following positions with the same label, then all others."""
        yield position
        following = torch.arange(position + 1, position + len(self.labels)) % len(self.labels)
        yield from following[self.labels[following] == self.labels[position]].tolist()
        yield from following.tolist()


class EvaluationImages:
    """Test images without augmentation; indexing with a list of positions gives a batch.

    The labels of a batch are the dataset's identity numbers. If `images.skip_broken` is true, a batch lacks the broken
    images.

    Args:
        samples: The samples to evaluate.
        images: Their images, in that order.
    """

    def __init__(self, samples: Sequence[Sample], images: Images) -> None:
        self.images = images
        self.identities = torch.tensor([sample.identity for sample in samples])
        self.cameras = torch.tensor([sample.camera for sample in samples])
        self.tracks = torch.tensor([sample.track for sample in samples])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return the batch of the images at these positions.

        Raises:
            BrokenImage: An image is broken and `images.skip_broken` is false.
        """
        images, readable = [], []
        for index in indices:
            try:
                images.append(self.images[index])
                readable.append(index)
            except BrokenImage:
                if not self.images.skip_broken:
                    raise
        positions = torch.tensor(readable, dtype=torch.int64)
        stacked = torch.stack(images) if images else torch.empty(0, *self.images.shape, dtype=torch.uint8)
        stored = nothing_stored(len(images))
        return Batch(stacked, self.identities[positions], self.cameras[positions], positions, stored)
