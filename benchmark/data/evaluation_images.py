"""Query or gallery images as whole batches."""

from collections.abc import Sequence

import torch

from benchmark.data.batch import Batch
from benchmark.data.decode import BrokenImage
from benchmark.data.images import Images
from benchmark.data.sample import Sample


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
