"""Loaders of training and evaluation batches."""

from collections.abc import Callable

from torch import Tensor

from benchmark.data.batch_loader import BatchLoader
from benchmark.data.evaluation_images import EvaluationImages
from benchmark.data.loading import Loading
from benchmark.data.pk_batch_sampler import PKBatchSampler
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.data.training_images import TrainingImages


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
