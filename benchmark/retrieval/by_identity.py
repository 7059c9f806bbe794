"""Where the entries of an identity are in a list."""

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmark.retrieval.chunks import chunks

LABEL_BYTES = 256
"""What is made of an entry's label while labels are searched."""


class ByIdentity:
    """A list sorted by identity, as far as its identities are asked for.

    Takes eight bytes for each entry of an identity that is wanted, and 16 for each of these identities; nothing for
    other entries.

    Args:
        identities: (G,) int64.
        wanted: (U,) int64: those that are asked for, ascending. Not copied.
        count: (U,) int64: how many entries each of them has, by `count_wanted`. Not copied.
    """

    def __init__(self, identities: Tensor, wanted: Tensor, count: Tensor) -> None:
        self._wanted = wanted
        self._count = count
        self.positions = wanted.new_zeros(int(count.sum()) + 1)
        """(W + 1,) int64: entries of wanted identities by their position in the list, one identity after the other.

        After them stands the first of the list, for whoever reads where nothing was found.
        """
        self._end = count.cumsum(0).sub_(count)  # of what is already there
        for position, group in _found(identities, wanted):
            group, order = group.sort(stable=True)
            rank = torch.arange(len(group), device=group.device) - torch.searchsorted(group, group)
            self.positions[self._end[group] + rank] = position[order]
            self._end.index_add_(0, group, torch.ones_like(group))

    def find(self, identities: Tensor) -> tuple[Tensor, Tensor]:
        """Where in `positions` the entries of each of (N,) identities start, and how many there are: (N,) int64 both.

        None of an identity that is not wanted.
        """
        if not len(self._wanted):
            return torch.zeros_like(identities), torch.zeros_like(identities)
        group, known = _group(identities, self._wanted)
        count = self._count[group]
        return self._end[group] - count, count.masked_fill_(~known, 0)


def count_wanted(identities: Tensor, wanted: Tensor) -> Tensor:
    """How many of (G,) entries are of each of the (U,) int64 identities that are wanted, ascending: (U,) int64."""
    count = torch.zeros_like(wanted)
    for _, group in _found(identities, wanted):
        count.index_add_(0, group, torch.ones_like(group))
    return count


def _found(identities: Tensor, wanted: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """A part of the list at a time, entries of wanted identities: their positions, and which identity of those."""
    if not len(wanted):
        return
    for part in chunks(len(identities), LABEL_BYTES):
        group, known = _group(identities[part], wanted)
        position = known.nonzero().flatten()
        yield position + part.start, group[position]


def _group(identities: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Which of the wanted identities each is, and whether it is one."""
    group = torch.searchsorted(wanted, identities).clamp_max_(len(wanted) - 1)
    return group, wanted[group] == identities
