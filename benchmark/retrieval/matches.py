"""The gallery entries that can be correct answers."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """Gallery entries with the identity of each of Q queries.

    Whatever a protocol ignores (same identity and camera, the query itself) shares the query's identity. So these
    entries are the positives and the ignored ones, and every other gallery entry is a negative.
    """

    columns: Tensor
    """(Q, M) int64 positions in the gallery. Rows with fewer than M entries are padded by repeating one."""
    positive: Tensor
    """(Q, M) bool: a correct answer; false where ignored and for padding."""
