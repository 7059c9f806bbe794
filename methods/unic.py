"""UNIC: matching of features standardized by running statistics."""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from benchmark import METHODS, Batch, Embedder, Features, Method, Needs, Plan, Range
from benchmark.losses import l2_normalize
from benchmark.method import as_tuple
from benchmark.utils.precision import full_precision, upcast

Weight = Annotated[float, Field(ge=0)]
EPSILON = 1e-6
"""Added to standard deviations, when they are updated and when they divide."""
LEAST_MOMENTUM = 1e-3
"""Momentum of the running statistics at the end of the training."""


@METHODS.register_module("unic")
class UNIC(Method):
    """UNIC: match standardized teacher embeddings by cosine and smooth L1 distance, through a head.

    Sariyildiz, Weinzaepfel, Lucas, Larlus, Kalantidis: UNIC: Universal Classification Models via Multi-teacher
    Distillation. ECCV 2024.

    Equation:

        weight * sum_jb keep[j, b] * l[j, b] / sum_jb keep[j, b]

        l[j, b] = cosine_weight * (1 - cos(h_j(s_b), y_jb)) + smooth_l1_weight * mean_d smoothL1(h_j(s_b) - y_jb)
        y_jb = (t_jb - m_j) / (d_j + 1e-6)

    where s are the embeddings of the student and t_j those of teacher j, h_j is a learned layer with GELU and a linear
    layer, used in training only, b runs over the images in the batch, and smoothL1 has the threshold 1. m_j and d_j are
    the running mean and standard deviation of each channel. They are updated after they are used, with a momentum that
    falls from 1 to 0.001 along a cosine over the training, so the first batch is not standardized. Of several teachers,
    the one with the largest l[j, b] is kept for image b, and each other one is left out with a probability.

    Implementation: follows the authors' code, which matches class tokens and patch tokens of vision transformers, with
    one more head for each block of the student; here, the embedding takes the place of the class token, and there are
    no other tokens. A single teacher is always kept.

    Defaults: weights and probability are the authors', without a task loss. Their heads have 768 hidden channels in all
    blocks but the last.

    Args:
        cosine_weight: Weight of the cosine distance.
        smooth_l1_weight: Weight of the smooth L1 distance.
        weight: Weight of the loss term.
        hidden: Number of hidden channels of each head.
        drop_probability: Probability with which a teacher other than that with the largest loss is left out.
    """

    kind: ClassVar[str] = "embeddings"
    needs = Needs(several_teachers=True)
    search: ClassVar[Mapping[str, Range]] = {"weight": Range(0.1, 10)}
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        cosine_weight: Weight = 0.5,
        smooth_l1_weight: Weight = 0.5,
        weight: Weight = 1.0,
        hidden: Annotated[int, Field(ge=1)] = 768,
        drop_probability: Annotated[float, Field(ge=0, le=1)] = 0.5,
    ) -> None:
        super().__init__()
        self.cosine_weight, self.smooth_l1_weight, self.weight = cosine_weight, smooth_l1_weight, weight
        self.hidden, self.drop_probability = hidden, drop_probability

    def prepare(self, student: Embedder, teacher: Embedder | tuple[Embedder, ...], plan: Plan) -> None:
        self.sizes = [each.dim for each in as_tuple(teacher)]
        self.head, *others = (self._head(student.dim, size) for size in self.sizes)
        self.more_heads = nn.ModuleList(others)
        # The teachers are side by side.
        self.register_buffer("mean", torch.zeros(sum(self.sizes)))
        self.register_buffer("std", torch.ones(sum(self.sizes)))
        self.steps = plan.steps
        self.seed, self.step = int(torch.randint(1 << 31, ())), 0

    def _head(self, size: int, teacher_size: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(size, self.hidden), nn.GELU(), nn.Linear(self.hidden, teacher_size))

    def loss(self, student: Features, teacher: Features | tuple[Features, ...], batch: Batch) -> dict[str, Tensor]:
        momentum = LEAST_MOMENTUM + (1 - LEAST_MOMENTUM) * (1 + math.cos(math.pi * self.step / self.steps)) / 2
        embeddings = upcast(torch.cat([each.embedding for each in as_tuple(teacher)], dim=1))
        target, self.mean, self.std = standardize(embeddings, self.mean, self.std, momentum)
        with full_precision(target.device):
            outputs = [head(upcast(student.embedding)) for head in (self.head, *self.more_heads)]
        weights = self.cosine_weight, self.smooth_l1_weight
        of_teachers = zip(outputs, target.split(self.sizes, dim=1), strict=True)
        losses = torch.stack([image_losses(output, part, *weights) for output, part in of_teachers])
        # Seeded for every step, so that a resumed run draws the same numbers.
        generator = torch.Generator(losses.device).manual_seed(self.seed + self.step)
        keep = kept_teachers(losses.detach(), self.drop_probability, generator)
        self.step += 1
        return {"unic": self.weight * kept_mean(losses, keep)}

    def get_extra_state(self) -> Tensor:
        """Return seed and step count, as a tensor for the checkpoint."""
        return torch.tensor([self.seed, self.step])

    def set_extra_state(self, state: Tensor) -> None:
        self.seed, self.step = state.tolist()


def standardize(features: Tensor, mean: Tensor, std: Tensor, momentum: float) -> tuple[Tensor, Tensor, Tensor]:
    """Standardize a teacher's features by running statistics, and update these afterwards.

    Args:
        features: (B, ..., D).
        mean: Running mean, with one value per channel in its last dimension.
        std: Running standard deviation, of the same shape.
        momentum: Weight of the batch's statistics in the update.

    Returns:
        The standardized features, and the updated mean and standard deviation.
    """
    rows = features.flatten(0, -2)
    new = rows.mean(dim=0), rows.std(dim=0) + EPSILON
    updated = [(1 - momentum) * old + momentum * of_batch for old, of_batch in zip((mean, std), new, strict=True)]
    return (features - mean) / (std + EPSILON), updated[0], updated[1]


def image_losses(student: Tensor, teacher: Tensor, cosine_weight: float, smooth_l1_weight: float) -> Tensor:
    """Compute the loss of every image for one teacher.

    Args:
        student: (B, D) or (B, tokens, D): outputs of the head.
        teacher: The same shape.
        cosine_weight: Weight of the cosine distance.
        smooth_l1_weight: Weight of the smooth L1 distance.

    Returns:
        (B,), averaged over tokens.
    """
    cosines = (l2_normalize(student) * l2_normalize(teacher)).sum(dim=-1)
    distances = F.smooth_l1_loss(student, teacher, reduction="none").mean(dim=-1)
    losses = cosine_weight * (1 - cosines) + smooth_l1_weight * distances
    return losses.flatten(1).mean(dim=1) if losses.dim() > 1 else losses


def kept_teachers(losses: Tensor, drop_probability: float, generator: torch.Generator) -> Tensor:
    """Draw the teachers that each image keeps: that with the largest loss, and others at random.

    Args:
        losses: (teachers, B).
        drop_probability: Probability with which another teacher is left out.
        generator: Source of random numbers, on the device of `losses`.

    Returns:
        (teachers, B) bool.
    """
    largest = torch.zeros_like(losses, dtype=torch.bool).scatter_(0, losses.argmax(dim=0, keepdim=True), True)
    return largest | (torch.rand(losses.shape, generator=generator, device=losses.device) >= drop_probability)


def kept_mean(losses: Tensor, keep: Tensor) -> Tensor:
    """Compute the mean of the (teachers, B) losses that are kept. An image with more teachers has more weight."""
    return (losses * keep).sum() / keep.sum()
