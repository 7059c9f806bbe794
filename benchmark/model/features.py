"""Outputs of a network and the names of its stages."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Features:
    """Everything a method may read from one forward pass of teacher or student."""

    pooled: Tensor
    """(B, C): globally pooled output of the backbone."""
    embedding: Tensor
    """(B, D): output of the neck; what is compared at test time. Not normalised."""
    logits: Tensor
    """(B, identities): output of the classifier head, used in training only; (B, 0) from a teacher without one."""
    taps: Mapping[str, Tensor] = field(default_factory=dict)
    """Intermediate outputs by the stage or module name under which they were requested."""
