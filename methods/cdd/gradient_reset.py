"""The retrieval-guided gradient resetting of CDD: which rows of the compactors get no gradient from the loss."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark import UserError
from benchmark.utils.precision import full_precision


class GradientReset(nn.Module):
    """Masks of the compactor rows whose channels are unimportant for all images and their nearest neighbors.

    Xie, Zhang, Xu, Zhu, He. Capacity Dynamic Distillation for Efficient Image Retrieval. CVPR 2023.

    For every block, with s the pooled features of the student behind the compactor and t those of the teacher:

    1. t is appended to a first-in first-out queue of teacher features.
    2. The `neighbours` nearest features g of every t are searched in the queue. The image itself is normally one of
       them.
    3. For each of these B * neighbours pairs, the floor(width * ratio) channels c with the smallest |s_c * g_c| are
       listed. Among equal products, the lower channel comes first.
    4. A channel that is in all lists is reset: its mask becomes 0.

    Masks accumulate, as in the released code: a mask of 0 remains 0. With `recompute`, they depend on the current batch
    only. The released code differs in two details: its sort is not stable, so the order of equal products is
    arbitrary, and after a resume it does not know that its queue was full.

    `keep` narrows a block after its compactor has lost rows. The search is not affected, because it uses teacher
    features only. A removed channel has product 0 and would be the first in every list. Therefore, with
    `ratio_of="initial"` the lists contain the floor(width * ratio) - removed lowest of the remaining channels. This
    gives the same masks as a student whose rows are zero but not removed, except that among products of exactly 0 those
    of removed channels come first. At most the share `ratio` of a block's channels can
    then be reset if rows vanish as soon as they are reset. With `ratio_of="current"`, lists contain
    floor(current width * ratio) channels, so that resetting continues as the block shrinks.

    The state of the queue is kept on the host, so that no step waits for the device.

    Args:
        widths: Number of channels of every block, in the teacher and in the student before it is narrowed.
        queue_size: Number of teacher features stored for each block.
        neighbours: Number of neighbors of an image, including the image itself.
        ratio: Share of a block's channels that each list contains.
        ratio_of: The width that `ratio` refers to.
        recompute: Discard earlier masks at every call.
        distance: Distance of the neighbor search: cosine or Euclidean (`l2`).
    """

    def __init__(
        self,
        widths: Sequence[int],
        queue_size: int,
        *,
        neighbours: int = 2,
        ratio: float = 0.5,
        ratio_of: Literal["initial", "current"] = "initial",
        recompute: bool = False,
        distance: Literal["cosine", "l2"] = "cosine",
    ) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.queue_size, self.neighbours, self.ratio = queue_size, neighbours, ratio
        self.recompute, self.distance, self.ratio_of = recompute, distance, ratio_of
        self.pointer = 0
        self.filled = 0
        for i, width in enumerate(self.widths):
            # For the cosine distance, features are normalized once, when they enter the queue. This does not change the
            # lists: scaling g by a positive number keeps the order of the products.
            self.register_buffer(f"queue{i}", torch.zeros(queue_size, width))
            self.register_buffer(f"mask{i}", torch.ones(width))
            self.register_buffer(f"kept{i}", torch.arange(width))

    @property
    def masks(self) -> list[Tensor]:
        """For each block (current width,) float32, 0 where the gradient of the loss is reset. The buffers, no copy."""
        return [self.get_buffer(f"mask{i}") for i in range(len(self.widths))]

    @torch.no_grad()
    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> list[Tensor]:
        """Append a batch to the queues and update the masks.

        Args:
            student: For each block (B, current width): pooled output of the compactor.
            teacher: For each block (B, width): pooled features of the teacher.

        Returns:
            `masks`.

        Raises:
            UserError: The batch is larger than the queue.
        """
        batch = len(teacher[0])
        if batch > self.queue_size:
            raise UserError(f"the queue of {self.queue_size} features is smaller than the batch of {batch}")
        end = self.pointer + batch
        self.filled = max(self.filled, min(end, self.queue_size))
        for i, (s, t) in enumerate(zip(student, teacher, strict=True)):
            mask, unimportant = self.get_buffer(f"mask{i}"), self._unimportant(i, s.float(), t.float())
            mask.copy_(~unimportant) if self.recompute else mask.mul_(~unimportant)
        self.pointer = end % self.queue_size
        return self.masks

    def keep(self, block: int, index: Tensor) -> None:
        """Narrow a block to the channels `index` (int64, ascending) of its current ones."""
        for name in (f"mask{block}", f"kept{block}"):
            setattr(self, name, self.get_buffer(name)[index])

    def _unimportant(self, block: int, student: Tensor, teacher: Tensor) -> Tensor:
        """Return (current width,) bool: the channels that are in the lists of all images and neighbors."""
        features = F.normalize(teacher) if self.distance == "cosine" else teacher
        queue, kept = self.get_buffer(f"queue{block}"), self.get_buffer(f"kept{block}")
        head = min(len(features), self.queue_size - self.pointer)
        queue[self.pointer : self.pointer + head] = features[:head]
        queue[: len(features) - head] = features[head:]

        gallery = queue[: self.filled]
        neighbours = gallery[self._nearest(features, gallery)]
        if len(kept) < self.widths[block]:
            neighbours = neighbours[:, :, kept]
        products = (student[:, None] * neighbours).abs().flatten(0, 1)
        return _in_all_lists(products, self._list_length(block, len(kept)))

    def _nearest(self, features: Tensor, gallery: Tensor) -> Tensor:
        """Return (B, neighbours) int64: rows of the gallery."""
        with full_precision(features.device):
            if self.distance == "cosine":
                scores = features @ gallery.T
            else:  # has the order of -|t - g|^2 / 2, without the term that is constant for an image
                scores = torch.addmm(gallery.square().sum(dim=1) / -2, features, gallery.T)
        return scores.topk(self.neighbours, dim=1).indices

    def _list_length(self, block: int, width: int) -> int:
        if self.ratio_of == "current":
            return int(width * self.ratio)
        return max(0, int(self.widths[block] * self.ratio) - (self.widths[block] - width))

    def get_extra_state(self) -> Tensor:
        """Return the state of the queues. A tensor, because a checkpoint holds tensors only."""
        return torch.tensor([self.pointer, self.filled])

    def set_extra_state(self, state: Tensor) -> None:
        self.pointer, self.filled = state.tolist()


def _in_all_lists(products: Tensor, length: int) -> Tensor:
    """Return (width,) bool: the columns of non-negative (rows, width) that are among the `length` lowest of every row.

    Among equal values of a row, the lower column comes first.
    """
    width = products.shape[1]
    if length == 0:
        return torch.zeros(width, dtype=torch.bool, device=products.device)
    # The bit patterns of non-negative floats have the order of the floats. With the column number appended, all keys of
    # a row differ, so the lowest are unique and no stable sort is needed.
    keys = products.view(torch.int32).long() * width + torch.arange(width, device=products.device)
    last = keys.topk(length, dim=1, largest=False, sorted=False).values.amax(dim=1, keepdim=True)
    return (keys <= last).all(dim=0)
