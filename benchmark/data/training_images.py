"""Training images as whole, augmented batches."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.data.decode import BrokenImage
from benchmark.data.draw import Draw
from benchmark.data.images import Images
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.errors import UserError


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
