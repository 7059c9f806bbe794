"""Loaders of training and evaluation batches."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmark.data.batch import Batch
from benchmark.data.evaluation_images import EvaluationImages
from benchmark.data.images import Images
from benchmark.data.pk_batch_sampler import PKBatchSampler
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.data.sample import Sample
from benchmark.data.training_images import TrainingImages


def train_loader(
    dataset: RetrievalDataset,
    size: tuple[int, int],
    transform: Callable[[Tensor], Tensor],
    identities: int,
    images: int,
    seed: int,
    workers: int = 0,
    device: str | torch.device = "cpu",
) -> DataLoader[Batch]:
    """Augmented batches of `identities` x `images`; `loader.batch_sampler.set_epoch(e)` comes before each epoch.

    The batches are a pure function of (dataset, size, transform, identities, images, seed, epoch), bit for bit, with
    any number of workers.

    Args:
        dataset: Its training split is loaded.
        size: (height, width) to which images are resized before `transform`.
        transform: See `TrainingImages`.
        identities: P, the identities in a batch.
        images: K, the images of each.
        seed: The run's seed.
        workers: Processes that load; with 0, the caller's own.
        device: Where batches go next; for "cuda" they are put into pinned memory.

    Raises:
        UserError: The set is not there, or has fewer than P identities, or a file is broken.
    """
    training = TrainingImages(dataset, Images([sample.path for sample in dataset.train], size), transform)
    sampler = PKBatchSampler(training.labels.tolist(), identities, images, seed)
    return _loader(training, workers, device, batch_sampler=sampler)


def eval_loader(
    samples: Sequence[Sample],
    size: tuple[int, int],
    batch_size: int,
    workers: int = 0,
    device: str | torch.device = "cpu",
) -> DataLoader[Batch]:
    """All samples in order, resized; the labels of a batch are the dataset's own identity numbers.

    Args:
        samples: `dataset.query` or `dataset.gallery`.
        size: (height, width).
        batch_size: Images in a batch; the last one may have fewer.
        workers: Processes that load; with 0, the caller's own.
        device: Where batches go next; for "cuda" they are put into pinned memory.

    Raises:
        UserError: A file is broken.
    """
    evaluation = EvaluationImages(samples, Images([sample.path for sample in samples], size))
    return _loader(evaluation, workers, device, batch_size=batch_size)


def _loader(dataset: Dataset[Batch], workers: int, device: str | torch.device, **batches: Any) -> DataLoader[Batch]:
    return DataLoader(
        dataset,
        collate_fn=_whole,
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        pin_memory=torch.device(device).type == "cuda",
        # Without a generator of its own, a loader advances the process's random state at the start of every epoch.
        generator=torch.Generator(),
        **batches,
    )


def _whole(batch: Any) -> Batch:
    return batch  # `__getitems__` has made it already
