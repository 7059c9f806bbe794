"""Training images as whole, augmented batches."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from benchmark.data.batch import Batch
from benchmark.data.draw import Draw
from benchmark.data.images import Images
from benchmark.data.retrieval_dataset import RetrievalDataset


class TrainingImages(Dataset[Batch]):
    """The training split; `dataset[draws]` is one batch.

    The augmentation of an image depends on nothing but its draw's seed: not on the process that does it, nor on what
    that process drew before. The process's own random state stays as it is.

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

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, draws: Sequence[Draw]) -> Batch:
        """The batch of these draws: images (B, 3, H, W) uint8 and labels, cameras, indices (B,) int64."""
        with torch.random.fork_rng(devices=[]):
            images = torch.stack([self._augmented(draw) for draw in draws])
        indices = torch.tensor([draw.position for draw in draws])
        return Batch(images, self.labels[indices], self.cameras[indices], indices)

    def _augmented(self, draw: Draw) -> Tensor:
        # Unlike torch.manual_seed, this leaves the generators of accelerators alone.
        torch.default_generator.manual_seed(draw.seed)
        return self.transform(self.images[draw.position])
