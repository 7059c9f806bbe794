"""Neuron selectivity transfer."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from benchmark import METHODS, Batch, Features, Method, Range
from benchmark.losses import match_size
from benchmark.model.features import Stages
from benchmark.utils.precision import full_precision


@METHODS.register_module("nst")
class NST(Method):
    """Neuron selectivity transfer: match the distribution of the channels' activation patterns.

    Huang, Wang: Like What You Like: Knowledge Distill via Neuron Selectivity Transfer. arXiv 2017.

    Equation:

        weight * sum over stages of mean_b [mean k(t, t') + mean k(s, s') - 2 mean k(s, t)],  k(x, y) = <x, y>^2

    where s and t are the maps of single channels of an image b in student and teacher, each L2-normalized over its
    positions. The means run over all pairs of channels, a channel with itself included. The term is the squared maximum
    mean discrepancy (MMD) of the channels under the kernel k. Channel counts may differ.

    Implementation: as in RepDistiller. Where map sizes differ, the larger map is average-pooled to the smaller one's
    (h, w); RepDistiller pools to a square (h, h).

    Defaults: no weight for retrieval is known. The default makes the term about as large as the task loss at the start
    of training, when the networks are far apart. Maps are normalized, so it holds for other scales of features.

    Args:
        weight: Weight of the loss term.
        stages: Stages whose outputs are compared.
    """

    kind: ClassVar[str] = "feature maps"
    maps_per_image = True
    search: ClassVar[Mapping[str, Range]] = {"weight": Range(5, 500)}

    def __init__(
        self,
        weight: Annotated[float, Field(ge=0)] = 50.0,
        stages: Stages = (1, 2, 3, 4),
    ) -> None:
        super().__init__()
        self.weight = weight
        self.student_taps = self.teacher_taps = [f"stage{stage}" for stage in stages]

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        terms = [squared_mmd(*match_size(student.taps[tap], teacher.taps[tap])) for tap in self.student_taps]
        return {"nst": self.weight * torch.stack(terms).sum()}


def squared_mmd(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the squared maximum mean discrepancy of `NST`, averaged over the batch.

    Args:
        student: (B, C, H, W).
        teacher: (B, C', H, W).

    Returns:
        A scalar.
    """
    s, t = (F.normalize(maps.flatten(2), dim=2) for maps in (student, teacher))
    # With the channels as the rows of S, sum <s, s'>^2 = ||S S^T||_F^2 = ||S^T S||_F^2 and sum <s, t>^2 =
    # <S^T S, T^T T>, so the result equals ||S^T S / C - T^T T / C'||_F^2. The smaller products are computed: between
    # channels, or between positions.
    with full_precision(s.device):
        if s.shape[2] <= max(s.shape[1], t.shape[1]):
            return (s.mT @ s / s.shape[1] - t.mT @ t / t.shape[1]).square().sum(dim=(1, 2)).mean()
        return _kernel(s, s) + _kernel(t, t) - 2 * _kernel(s, t)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.mT).square().mean()
