"""The retrieval-guided gradient resetting of CDD: selects compactor rows that get no gradient from the loss."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark import UserError
from benchmark.utils.precision import full_precision

RatioOf = Literal["initial", "current"]


class GradientReset(nn.Module):
    """Masks of compactor rows: 0 for channels that are unimportant for all images and their nearest neighbors.

    Xie, Zhang, Xu, Zhu, He. Towards a Smaller Student: Capacity Dynamic Distillation for Efficient Image Retrieval.
    CVPR 2023.

    For every block, s are the student's pooled features after the compactor and t the teacher's pooled features:

    1. t is appended to a first-in first-out queue of teacher features.
    2. The `neighbors` nearest features g of every t are searched in the queue. Normally they include the feature of the
       image itself.
    3. For each of these B * neighbors pairs, the floor(width * ratio) channels c with the smallest |s_c * g_c| are
       listed. Ties are resolved in favor of the lower channel.
    4. A channel that is in all lists is reset: its mask becomes 0.

    Masks accumulate, as in the released code: a mask of 0 remains 0. With `recompute`, they depend only on the current
    batch. The released code differs in two details: its sort is not stable, so the order of equal products is
    arbitrary, and after a resume it treats a full queue as if it were not full.

    `keep` narrows a block after rows of its compactor were removed. The search does not change, because it uses only
    teacher features. With `ratio_of="initial"`, removed channels count as listed, because their product would be 0: the
    lists contain the floor(width * ratio) - removed lowest of the remaining channels. The masks are those of a student
    whose rows are zero but not removed, except that among products of exactly 0 those of removed channels come first.
    If rows vanish as soon as they are reset, at most the fraction `ratio` of a block's channels can be reset. With
    `ratio_of="current"`, the lists contain floor(current width * ratio) channels, and resetting continues as the block
    shrinks.

    The position in the queue is kept on the host, so no step waits for the device.

    The queues are not part of the state: with 24,000 features of every block of a ResNet-101, they would be two thirds
    of a checkpoint. `remember` fills them again.

    Args:
        widths: Number of channels of every block, in the teacher and in the student before it is narrowed.
        queue_size: Number of teacher features stored for each block.
        neighbors: Number of neighbors of an image, including the image itself.
        ratio: Fraction of a block's channels that each list contains.
        ratio_of: Whether `ratio` refers to the initial or the current width of a block.
        recompute: Discard earlier masks at every call.
        distance: Distance of the neighbor search: cosine or Euclidean (`l2`).
    """

    def __init__(
        self,
        widths: Sequence[int],
        queue_size: int,
        *,
        neighbors: int = 2,
        ratio: float = 0.5,
        ratio_of: RatioOf = "initial",
        recompute: bool = False,
        distance: Literal["cosine", "l2"] = "cosine",
    ) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.queue_size, self.neighbors, self.ratio = queue_size, neighbors, ratio
        self.recompute, self.distance, self.ratio_of = recompute, distance, ratio_of
        self.pointer = 0
        self.filled = 0
        for i, width in enumerate(self.widths):
            # For the cosine distance, features are normalized once, when they enter the queue. This does not change the
            # lists: scaling g by a positive number keeps the order of the products.
            self.register_buffer(f"queue{i}", torch.zeros(queue_size, width), persistent=False)
            self.register_buffer(f"mask{i}", torch.ones(width))
            self.register_buffer(f"kept{i}", torch.arange(width))

    @property
    def masks(self) -> list[Tensor]:
        """For each block (current width,) float32: 0 where the gradient of the loss is reset. These are the buffers."""
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

    @torch.no_grad()
    def remember(self, teacher: Sequence[Tensor], ago: int) -> None:
        """Write the teacher features of an earlier call to their place in the queues again.

        Args:
            teacher: For each block (B, width): what the call `ago` calls before has appended.
            ago: From 1, the latest call, to `remembered`.
        """
        start = (self.pointer - ago * len(teacher[0])) % self.queue_size
        for i, t in enumerate(teacher):
            self._write(i, self._stored(t.float()), start)

    def remembered(self, batch: int) -> int:
        """Return the number of calls, with batches of `batch` images, whose features are in the queues."""
        return -(-self.filled // batch)

    def keep(self, block: int, index: Tensor) -> None:
        """Narrow a block to its current channels `index` (int64, ascending)."""
        for name in (f"mask{block}", f"kept{block}"):
            setattr(self, name, self.get_buffer(name)[index])

    def _unimportant(self, block: int, student: Tensor, teacher: Tensor) -> Tensor:
        """Return (current width,) bool: the channels that are in the lists of all images and neighbors."""
        features, kept = self._stored(teacher), self.get_buffer(f"kept{block}")
        self._write(block, features, self.pointer)
        gallery = self.get_buffer(f"queue{block}")[: self.filled]
        neighbors = gallery[self._nearest(features, gallery)]
        if len(kept) < self.widths[block]:
            neighbors = neighbors[:, :, kept]
        products = (student[:, None] * neighbors).abs().flatten(0, 1)
        return _in_all_lists(products, _list_length(self.widths[block], len(kept), self.ratio, self.ratio_of))

    def _stored(self, teacher: Tensor) -> Tensor:
        """Return teacher features as the queues have them."""
        return F.normalize(teacher) if self.distance == "cosine" else teacher

    def _write(self, block: int, features: Tensor, start: int) -> None:
        """Write features to the queue of a block from a position on, which continues at the queue's beginning."""
        queue = self.get_buffer(f"queue{block}")
        head = min(len(features), self.queue_size - start)
        queue[start : start + head] = features[:head]
        queue[: len(features) - head] = features[head:]

    def _nearest(self, features: Tensor, gallery: Tensor) -> Tensor:
        """Return (B, neighbors) int64: the gallery rows nearest to each feature."""
        with full_precision(features.device):
            if self.distance == "cosine":
                scores = features @ gallery.T
            else:  # -|t - g|^2 / 2 without the term |t|^2, which does not change the order
                scores = torch.addmm(gallery.square().sum(dim=1) / -2, features, gallery.T)
        return scores.topk(self.neighbors, dim=1).indices

    def get_extra_state(self) -> Tensor:
        """Return the positions in the queues, as a tensor because checkpoints hold tensors."""
        return torch.tensor([self.pointer, self.filled])

    def set_extra_state(self, state: Tensor) -> None:
        self.pointer, self.filled = state.tolist()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        for i in range(len(self.widths)):
            state_dict.pop(f"{prefix}queue{i}", None)  # of earlier versions
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def least_width(initial: int, ratio: float, ratio_of: RatioOf) -> int:
    """Return the smallest width of a block that gradient resetting alone leads to.

    This supposes that rows vanish as soon as they are reset, and that the lasso removes no others. The largest row
    always remains.

    Args:
        initial: Width of the block before it is narrowed.
        ratio: See `GradientReset`.
        ratio_of: See `GradientReset`.
    """
    width = initial
    while length := _list_length(initial, width, ratio, ratio_of):
        width -= length
    return max(1, width)


def _list_length(initial: int, width: int, ratio: float, ratio_of: RatioOf) -> int:
    """Return the number of channels in a list of a block of which `width` of the `initial` channels remain."""
    if ratio_of == "current":
        return int(width * ratio)
    return max(0, int(initial * ratio) - (initial - width))


def _in_all_lists(products: Tensor, length: int) -> Tensor:
    """Return (width,) bool: the columns of non-negative (rows, width) that are among the `length` lowest of every row.

    Ties within a row are resolved in favor of the lower column.
    """
    width = products.shape[1]
    if length == 0:
        return torch.zeros(width, dtype=torch.bool, device=products.device)
    # The bit patterns of non-negative floats are ordered like the floats. With the column number appended, all keys of
    # a row differ, so the lowest keys are unique and no stable sort is needed.
    keys = products.view(torch.int32).long() * width + torch.arange(width, device=products.device)
    last = keys.topk(length, dim=1, largest=False, sorted=False).values.amax(dim=1, keepdim=True)
    return (keys <= last).all(dim=0)
