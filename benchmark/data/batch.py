"""Batches of images, and the sampler of training batches."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from benchmark.errors import UserError

_NOTHING_STORED = torch.empty(0, 0, dtype=torch.uint8)


class Batch(NamedTuple):
    """Images and their labels. A NamedTuple, so that loaders can pin and move it as a whole."""

    images: Tensor
    """(B, 3, H, W) uint8."""
    labels: Tensor
    """(B,) int64: 0 .. identities - 1 in training, the dataset's identity numbers in evaluation."""
    cameras: Tensor
    """(B,) int64."""
    indices: Tensor
    """(B,) int64: positions in the list of samples, which methods with a memory bank need."""
    stored: Tensor = _NOTHING_STORED
    """(B, bytes) uint8: the teacher's outputs for the images, if they were stored before the training; else (B, 0)."""


def nothing_stored(images: int) -> Tensor:
    """Return `Batch.stored` of a number of images for which nothing is stored."""
    return torch.empty(images, 0, dtype=torch.uint8)


class Draw(NamedTuple):
    """One image of a batch and the seed of its augmentation."""

    position: int
    """Position of the image in the training list."""
    seed: int
    view: int = 0
    """Number of the view, if the views of each image are fixed; the seed is then without effect."""


class PKBatchSampler(Sampler[list[Draw]]):
    """Batches of P distinct identities with K images each, for triplet and similar losses.

    An epoch has N // (P * K) batches for N images, and at least one. Each of the V = P * batches places for an identity
    is called a visit. An identity with n images is visited V * n / N times, rounded up or down at random. Because an
    identity is at most once in a batch, one with more than 1/P of all images is visited once per batch, and the others
    share the remaining visits in proportion to their images.

    Each visit takes the next K images of the identity, in an order that is shuffled every epoch and starts over at its
    end. If n >= K, no image repeats within a visit. An image is drawn again in an epoch only after all images of its
    identity have been drawn. Identities with n < K repeat their images as evenly as possible.

    Draws and augmentation seeds are a pure function of (labels, seed, epoch).

    Args:
        labels: Identity of each training image.
        identities: P, the number of identities in a batch.
        images: K, the number of images of each identity.
        seed: Seed of the run.
        views: Number of augmented views of each image. They are consecutive in a batch, which then has P * K * views
            entries.
        fixed_views: Number of fixed views of each image, of which each draw has one; 0 if every view is new. The views
            of one image in a batch differ if there are enough.
        part: The entries of each batch to yield, which several processes share; all by default.

    Raises:
        UserError: There are fewer than P identities, or P or K is less than 1.
    """

    def __init__(
        self,
        labels: Sequence[int],
        identities: int,
        images: int,
        *,
        seed: int,
        views: int = 1,
        fixed_views: int = 0,
        part: slice = slice(None),
    ) -> None:
        unique, self._labels, self._counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
        if identities < 1 or images < 1:
            raise UserError(f"a batch needs at least 1 identity and 1 image of each, not {identities} and {images}")
        if len(unique) < identities:
            raise UserError(
                f"a batch of {identities} identities cannot be drawn from a training set of {len(unique)}: "
                f"set train.sampler.identities to {len(unique)} or fewer"
            )
        self.identities = identities
        self.images = images
        self.seed = seed
        self.views = views
        self.fixed_views = fixed_views
        self.part = part
        self.epoch = 0
        self.batches = slice(None)
        self._batches = max(1, len(self._labels) // (identities * images))

    def set_epoch(self, epoch: int, batches: slice = slice(None)) -> None:
        """Set the epoch that the next iteration draws, and the batches of it that are yielded."""
        self.epoch, self.batches = epoch, batches

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self._batches

    def __iter__(self) -> Iterator[list[Draw]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        visits = self._identity_visits(rng)
        batches = self._assign_to_batches(visits, rng)
        shape = (len(self), self.identities * self.images)
        indices = self._image_indices(visits, rng)[batches].reshape(shape).repeat(self.views, axis=1)
        seeds = rng.integers(2**63, size=indices.shape)
        numbers = (indices, seeds, self._view_numbers(seeds))
        for rows in zip(*(each[self.batches].tolist() for each in numbers), strict=True):
            yield [Draw(*each) for each in zip(*(row[self.part] for row in rows), strict=True)]

    def _view_numbers(self, seeds: np.ndarray) -> np.ndarray:
        """Return the (batches, entries) numbers of the fixed views, chosen by the random `seeds`."""
        if not self.fixed_views:
            return np.zeros_like(seeds)
        first = (seeds[:, :: self.views] % self.fixed_views).repeat(self.views, axis=1)
        return (first + np.arange(seeds.shape[1]) % self.views) % self.fixed_views

    def _identity_visits(self, rng: np.random.Generator) -> np.ndarray:
        """Return the (V,) identity of each visit. Visits to one identity are consecutive, at most one per batch."""
        # Systematic sampling: the identities, in random order, divide a line in proportion to their images, and V
        # equidistant points select them. Integers, so that rounding cannot break the limit of one visit per batch.
        order = rng.permutation(len(self._counts))
        ends = np.cumsum(_capped_shares(self._counts, self.identities)[order])
        step = int(ends[-1])
        visits = self.identities * len(self)
        points = rng.integers(step) + step * np.arange(visits)
        return order[np.searchsorted(ends * visits, points, side="right")]

    def _assign_to_batches(self, visits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the (batches, P) positions in `visits` that form each batch."""
        # As a (P, batches) array, each row of `visits` gives one identity to every batch, in random order. Only an
        # identity whose visits continue from one row to the next could be in a batch twice. Its visits in the second
        # row go to batches that do not contain it yet.
        rows = np.arange(len(visits)).reshape(self.identities, len(self))
        placed = np.empty_like(rows)
        batches = np.arange(0)
        for row, (positions, identities) in enumerate(zip(rows, visits[rows], strict=True)):
            carried = np.count_nonzero(identities == visits[positions[0] - 1]) if row else 0
            taken = batches[visits[positions - len(self)] == identities[0]] if carried else batches[:0]
            order = rng.permutation(len(self))
            first = order[~np.isin(order, taken)][:carried]
            batches = np.concatenate([first, order[~np.isin(order, first)]])
            placed[row, batches] = positions
        return placed.T

    def _image_indices(self, visits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the (V, K) image indices of each visit."""
        shuffled = np.lexsort((rng.random(len(self._labels)), self._labels))
        starts = np.cumsum(self._counts) - self._counts
        begins = np.flatnonzero(np.diff(visits, prepend=-1))
        ordinal = np.arange(len(visits)) - np.repeat(begins, np.diff(begins, append=len(visits)))
        turn = ordinal[:, None] * self.images + np.arange(self.images)
        return shuffled[starts[visits][:, None] + turn % self._counts[visits][:, None]]


def _capped_shares(counts: np.ndarray, identities: int) -> np.ndarray:
    """Return integers in proportion to `counts`, capped so that none exceeds 1/`identities` of their sum."""
    descending = np.sort(counts)[::-1]
    rests = counts.sum() - np.cumsum(descending) + descending  # sum of each count and all smaller ones
    slots = identities - np.arange(identities)
    capped = int(np.argmax(descending[:identities] * slots <= rests[:identities]))
    return np.minimum(counts * slots[capped], rests[capped])
