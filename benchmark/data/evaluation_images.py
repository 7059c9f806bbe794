"""Query or gallery images as whole batches."""

from collections.abc import Sequence

import torch
from torch.utils.data import Dataset

from benchmark.data.batch import Batch
from benchmark.data.images import Images
from benchmark.data.sample import Sample


class EvaluationImages(Dataset[Batch]):
    """Samples as they are; the labels are the dataset's own identity numbers, since test identities have no others.

    Args:
        samples: What to evaluate.
        images: Their images, in that order.
    """

    def __init__(self, samples: Sequence[Sample], images: Images) -> None:
        self.images = images
        self.identities = torch.tensor([sample.identity for sample in samples])
        self.cameras = torch.tensor([sample.camera for sample in samples])

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The batch of these positions: images (B, 3, H, W) uint8 and identities, cameras, indices (B,) int64."""
        chosen = torch.tensor(indices)
        images = torch.stack([self.images[index] for index in indices])
        return Batch(images, self.identities[chosen], self.cameras[chosen], chosen)
