"""The top of each query's ranked list."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """The K gallery entries most similar to each of Q queries, the most similar first.

    What the protocol ignores is among them, and marked.
    """

    columns: Tensor
    """(Q, K) int64 positions in the gallery (of tracks, where those are ranked)."""
    similarity: Tensor
    """(Q, K) float32; minus the distance where the list was re-ranked."""
    relation: Tensor
    """(Q, K) int8: 1 for a correct answer, 0 for a wrong one, -1 for what the protocol ignores."""

    def __post_init__(self) -> None:
        if not self.columns.shape == self.similarity.shape == self.relation.shape or self.columns.ndim != 2:
            raise ValueError("columns, similarity and relation of neighbours must be (Q, K) alike")
        if (self.similarity.diff(dim=1) > 0).any():
            raise ValueError("neighbours must come in the order of their similarity")
        if not torch.isin(self.relation, self.relation.new_tensor([-1, 0, 1])).all():
            raise ValueError("relation of neighbours must be -1, 0 or 1")

    def __len__(self) -> int:
        return len(self.columns)
