"""Neuron selectivity transfer."""

from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.losses import match_size
from benchmark.method import Method
from benchmark.model.embedder import Stages
from benchmark.model.features import Features
from benchmark.registry import METHODS
from benchmark.utils.precision import full_precision


@METHODS.register_module("nst")
class NST(Method):
    """Neuron selectivity transfer: the distribution of a stage's channels over the image approaches the teacher's.

    Huang, Wang: Like What You Like: Knowledge Distill via Neuron Selectivity Transfer. arXiv 2017.

    Equation: weight * sum over stages of mean_b [mean k(t, t') + mean k(s, s') - 2 mean k(s, t)], the squared maximum
    mean discrepancy of the channels' maps s and t of an image, each L2-normalised over its positions, under the kernel
    k(x, y) = <x, y>^2; the means run over all pairs of channels, a channel with itself included. As in RepDistiller.
    Widths may differ; the larger of two maps is averaged down to the smaller's (h, w), in RepDistiller to a square
    (h, h).

    No weight for retrieval is known. The default puts the term at the size of the task loss when training starts and
    the networks are far apart. Maps are normalised, so it holds for other scales of features.

    Args:
        weight: Factor of the term.
        stages: Where maps are compared.
    """

    kind: ClassVar[str] = "feature maps"

    def __init__(
        self,
        weight: Annotated[float, Field(ge=0)] = 50.0,
        stages: Stages = (1, 2, 3, 4),
    ) -> None:
        super().__init__()
        self.weight = weight
        self.student_taps = self.teacher_taps = [f"stage{stage}" for stage in stages]

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        terms = [discrepancy(*match_size(student.taps[tap], teacher.taps[tap])) for tap in self.student_taps]
        return {"nst": self.weight * torch.stack(terms).sum()}


def discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    """mean_b of the squared discrepancy of (B, C, H, W) and (B, C', H, W), as the equation of `NST` has it.

    With the channels as the rows of S, sum <s, s'>^2 = ||S S^T||_F^2 = ||S^T S||_F^2 and sum <s, t>^2 =
    <S^T S, T^T T>, so that the discrepancy is also ||S^T S / C - T^T T / C'||_F^2. Whichever products are smaller are
    computed: between channels, or between positions.
    """
    s, t = (F.normalize(maps.flatten(2), dim=2) for maps in (student, teacher))
    with full_precision(s.device):
        if s.shape[2] <= max(s.shape[1], t.shape[1]):
            return (s.mT @ s / s.shape[1] - t.mT @ t / t.shape[1]).square().sum(dim=(1, 2)).mean()
        return _kernel(s, s) + _kernel(t, t) - 2 * _kernel(s, t)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.mT).square().mean()
