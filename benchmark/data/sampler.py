"""P x K batch sampling."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from benchmark.errors import UserError


class Draw(NamedTuple):
    """One image of a batch, with the randomness of its augmentation."""

    position: int
    """Of the image in the training list."""
    seed: int
    """Seeds the augmentation of this one draw."""


class PKBatchSampler(Sampler[list[Draw]]):
    """Full batches of P distinct identities with K images of each: the batches of triplet-like losses.

    Each image comes in `views` augmentations, which follow each other; of what is said below, P * K counts images.

    An epoch has images // (P * K) batches, at least one, and so a fixed number V = P * batches of visits to identities.
    An identity with n of all N images is visited V * n / N times, rounded down or up at random. No identity can be in
    a batch twice, so what one with more than a P-th of all images would have in excess goes to the others. Each
    visit takes the next K of the identity's images in an order shuffled anew for the epoch, and starts over at its
    end: no image repeats within a visit where n >= K, and none is drawn again in an epoch before all n have been.
    Identities with n < K are repeated as evenly as possible.

    The draws are a pure function of (labels, seed, epoch), and so is the augmentation seed that comes with each.

    Args:
        labels: Identity of each training image.
        identities: P, the identities in a batch.
        images: K, the images of each.
        seed: The run's seed.
        views: Augmentations of each image.

    Raises:
        UserError: There are fewer than P identities.
    """

    def __init__(self, labels: Sequence[int], identities: int, images: int, seed: int, views: int = 1) -> None:
        names, self._owner, self._counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
        if identities < 1 or images < 1:
            raise UserError(f"a batch needs at least 1 identity and 1 image of each, not {identities} and {images}")
        if len(names) < identities:
            raise UserError(f"a batch of {identities} identities cannot be drawn from a training set of {len(names)}")
        self.identities = identities
        self.images = images
        self.seed = seed
        self.views = views
        self.epoch = 0
        self._batches = max(1, len(self._owner) // (identities * images))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self._batches

    def __iter__(self) -> Iterator[list[Draw]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        visitors = self._visitors(rng)
        batches = self._columns(visitors, rng)
        shape = (len(self), self.identities * self.images)
        indices = self._indices(visitors, rng)[batches].reshape(shape).repeat(self.views, axis=1)
        seeds = rng.integers(2**63, size=indices.shape)
        for row, row_seeds in zip(indices.tolist(), seeds.tolist(), strict=True):
            yield [Draw(position, seed) for position, seed in zip(row, row_seeds, strict=True)]

    def _visitors(self, rng: np.random.Generator) -> np.ndarray:
        """(V,): the identity of each visit; an identity's visits are neighbours, and at most one per batch.

        Systematic sampling: the identities, in random order, divide a line in proportion to their images, and V
        equidistant points choose. All in integers, so that no rounding breaks the limit of one per batch.
        """
        order = rng.permutation(len(self._counts))
        ends = np.cumsum(_shares(self._counts, self.identities)[order])
        step = int(ends[-1])
        visits = self.identities * len(self)
        points = rng.integers(step) + step * np.arange(visits)
        return order[np.searchsorted(ends * visits, points, side="right")]

    def _columns(self, visitors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(batches, P): positions in `visitors` that form each batch.

        Row p of `visitors`, as (P, batches), gives one identity to each batch, in random order. Only the identity that
        goes on from one row into the next could come into a batch twice; there it gets batches that it is not in yet.
        """
        rows = np.arange(len(visitors)).reshape(self.identities, len(self))
        placed = np.empty_like(rows)
        batches = np.arange(0)
        for row, (positions, identities) in enumerate(zip(rows, visitors[rows], strict=True)):
            carried = np.count_nonzero(identities == visitors[positions[0] - 1]) if row else 0
            taken = batches[visitors[positions - len(self)] == identities[0]] if carried else batches[:0]
            order = rng.permutation(len(self))
            first = order[~np.isin(order, taken)][:carried]
            batches = np.concatenate([first, order[~np.isin(order, first)]])
            placed[row, batches] = positions
        return placed.T

    def _indices(self, visitors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(V, K): the images of each visit."""
        shuffled = np.lexsort((rng.random(len(self._owner)), self._owner))
        starts = np.cumsum(self._counts) - self._counts
        begins = np.flatnonzero(np.diff(visitors, prepend=-1))
        ordinal = np.arange(len(visitors)) - np.repeat(begins, np.diff(begins, append=len(visitors)))
        turn = ordinal[:, None] * self.images + np.arange(self.images)
        return shuffled[starts[visitors][:, None] + turn % self._counts[visitors][:, None]]


def _shares(counts: np.ndarray, identities: int) -> np.ndarray:
    """Integers in proportion to `counts`, save that none exceeds a P-th of their sum."""
    descending = np.sort(counts)[::-1]
    rests = counts.sum() - np.cumsum(descending) + descending  # without the identities before each
    slots = identities - np.arange(identities)
    capped = int(np.argmax(descending[:identities] * slots <= rests[:identities]))
    return np.minimum(counts * slots[capped], rests[capped])
