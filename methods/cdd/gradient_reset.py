"""CDD's retrieval-guided gradient resetting: which rows of the compactors stop learning from the objective."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.utils.precision import full_precision


class GradientReset(nn.Module):
    """Masks over compactor rows, from channels that matter to no image and none of its teacher neighbours.

    For every block, with s and t the pooled features of student (after the compactor) and teacher:

    1. t enters a first-in first-out queue of teacher features.
    2. The queue is searched with t: the `neighbours` nearest rows g of every image, itself normally among them.
    3. For each of these B * neighbours pairs, the floor(width * ratio) channels with the smallest |s_c * g_c| are
       listed; among equal products the lower channel comes first.
    4. A channel in all the lists is reset: its mask becomes 0.

    Masks are cumulative, as in the released code: an entry never returns to 1. `recompute` derives them from the
    current step alone. The released code sorts unstably, so that ties fall anyhow, and forgets on resume that its queue
    was full; nothing else differs. Xie et al., Capacity Dynamic Distillation for Efficient Image Retrieval, CVPR 2023.

    **Narrowed blocks.** `keep` follows a block whose compactor has lost rows. Retrieval is the teacher's and does not
    change. A removed channel has product 0 and heads every list, so the default `ratio_of="initial"` lists the lowest
    floor(width * ratio) - removed of the channels left: the very masks of a student whose rows are zero but still there
    (a living product of exactly 0 counts as higher than a removed one). Hence at most `ratio` of a block's channels can
    be reset by masks alone once they vanish as they are reset. `ratio_of="current"` lists floor(current width * ratio)
    channels and so goes on as the block shrinks.

    Nothing here waits for the device: where the queue stands is known to the host, and the state carries it.

    Args:
        widths: Channels of every block, teacher and un-narrowed student alike.
        queue_size: Teacher features remembered per block.
        neighbours: k, the image itself included.
        ratio: Share of a block's channels that each list holds.
        recompute: Forget earlier masks at every call.
        distance: Neighbours by cosine or by Euclidean distance.
        ratio_of: The width that `ratio` is a share of; see above.
    """

    def __init__(
        self,
        widths: Sequence[int],
        queue_size: int,
        neighbours: int = 2,
        ratio: float = 0.5,
        recompute: bool = False,
        distance: Literal["cosine", "l2"] = "cosine",
        ratio_of: Literal["initial", "current"] = "initial",
    ) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.queue_size, self.neighbours, self.ratio = queue_size, neighbours, ratio
        self.recompute, self.distance, self.ratio_of = recompute, distance, ratio_of
        self.pointer = 0
        self.filled = 0
        for i, width in enumerate(self.widths):
            # Unit rows for cosine: normalised once, on entry, and rows scaled by positive numbers give the same lists.
            self.register_buffer(f"queue{i}", torch.zeros(queue_size, width))
            self.register_buffer(f"mask{i}", torch.ones(width))
            self.register_buffer(f"kept{i}", torch.arange(width))

    @property
    def masks(self) -> list[Tensor]:
        """Per block (current width,) float32: 0 where the objective's gradient is reset. The buffers themselves."""
        return [self.get_buffer(f"mask{i}") for i in range(len(self.widths))]

    @torch.no_grad()
    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> list[Tensor]:
        """Take in one batch and update the masks.

        Args:
            student: Per block (B, current width): pooled output of the compactor.
            teacher: Per block (B, width).

        Returns:
            `masks`.

        Raises:
            UserError: The batch does not fit into the queue.
        """
        batch = len(teacher[0])
        if batch > self.queue_size:
            raise UserError(f"the queue of {self.queue_size} features is smaller than the batch of {batch}")
        end = self.pointer + batch
        self.filled = max(self.filled, min(end, self.queue_size))
        for i, (s, t) in enumerate(zip(student, teacher, strict=True)):
            mask, lowest = self.get_buffer(f"mask{i}"), self._lowest(i, s.float(), t.float())
            mask.copy_(~lowest) if self.recompute else mask.mul_(~lowest)
        self.pointer = end % self.queue_size
        return self.masks

    def keep(self, block: int, index: Tensor) -> None:
        """Follow a structural step: of the current channels of `block`, only `index`, ascending, remain."""
        for name in (f"mask{block}", f"kept{block}"):
            setattr(self, name, self.get_buffer(name)[index])

    def _lowest(self, block: int, student: Tensor, teacher: Tensor) -> Tensor:
        """(current width,) bool: the channels that are in the lists of all images and neighbours."""
        keys = F.normalize(teacher) if self.distance == "cosine" else teacher
        queue, kept = self.get_buffer(f"queue{block}"), self.get_buffer(f"kept{block}")
        head = min(len(keys), self.queue_size - self.pointer)
        queue[self.pointer : self.pointer + head] = keys[:head]
        queue[: len(keys) - head] = keys[head:]

        gallery = queue[: self.filled]
        neighbours = gallery[self._nearest(keys, gallery)]
        if len(kept) < self.widths[block]:
            neighbours = neighbours[:, :, kept]
        products = (student[:, None] * neighbours).abs().flatten(0, 1)
        return _in_all_lists(products, self._list_length(block, len(kept)))

    def _nearest(self, keys: Tensor, gallery: Tensor) -> Tensor:
        """(B, neighbours) rows of the gallery."""
        with full_precision(keys.device):
            if self.distance == "cosine":
                scores = keys @ gallery.T
            else:  # the order of -|t - g|^2 / 2, less what is constant per image
                scores = torch.addmm(gallery.square().sum(dim=1) / -2, keys, gallery.T)
        return scores.topk(self.neighbours, dim=1).indices

    def _list_length(self, block: int, width: int) -> int:
        if self.ratio_of == "current":
            return int(width * self.ratio)
        return max(0, int(self.widths[block] * self.ratio) - (self.widths[block] - width))

    def get_extra_state(self) -> Tensor:
        """Where the queues stand, on the host; a tensor, because checkpoints move every value to the CPU."""
        return torch.tensor([self.pointer, self.filled])

    def set_extra_state(self, state: Tensor) -> None:
        self.pointer, self.filled = state.tolist()


def _in_all_lists(products: Tensor, length: int) -> Tensor:
    """(width,) bool: the columns that are among the `length` lowest of every row of non-negative (rows, width)."""
    width = products.shape[1]
    if length == 0:
        return torch.zeros(width, dtype=torch.bool, device=products.device)
    # Bits of non-negative floats sort as the floats do. With the channel appended all keys of a row differ, so that the
    # lowest are well defined and need no stable sort.
    order = products.view(torch.int32).long() * width + torch.arange(width, device=products.device)
    last = order.topk(length, dim=1, largest=False, sorted=False).values.amax(dim=1, keepdim=True)
    return (order <= last).all(dim=0)
