"""Decoupled knowledge distillation."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from benchmark import METHODS, Batch, ChannelSelection, Embedder, Features, Method, Needs, Progress, Range
from benchmark.utils.precision import upcast

Weight = Annotated[float, Field(ge=0)]


@METHODS.register_module("dkd")
class DKD(Method):
    """Decoupled knowledge distillation: separate weights for the true class and for the other classes.

    Zhao, Cui, Song, Qiu, Liang: Decoupled Knowledge Distillation. CVPR 2022.

    Equation:

        w * T^2 / B * sum_i [alpha * KL(b_t || b_s) + beta * KL(q_t || q_s)]

        b = (p[y], 1 - p[y]),  w = min(epoch / warmup, 1)

    where i runs over the B images in the batch, p = softmax(z / T) with the image's logits z of student (s) or teacher
    (t), y is its label, and q is the softmax of z / T over the classes other than y. Epochs are counted from 1. KD is
    the case beta = 1 - p_t[y] for every image.

    Implementation: the released code (mdistiller) excludes the label from q by lowering z[y] / T by 1000; here it is
    left out.

    Defaults: those for ImageNet as listed by mmrazor, with a gradient about as large as the task loss's on glyphs. No
    retrieval code gives weights for this loss. The preset `published` is mdistiller's for CIFAR-100 (beta is 6 for some
    of its pairs); it outweighs the task loss on glyphs.

    Args:
        temperature: Temperature T.
        alpha: Weight of the true class against the rest.
        beta: Weight of the distribution over the other classes.
        warmup: Number of epochs over which both weights rise linearly; 0 disables it.
    """

    kind: ClassVar[str] = "logits"
    search: ClassVar[Mapping[str, Range]] = {
        "temperature": Range(1, 8),
        "alpha": Range(0.1, 10),
        "beta": Range(0.05, 10),
    }
    needs = Needs(classifier=True)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "published": {"temperature": 4.0, "alpha": 1.0, "beta": 8.0, "warmup": 20}
    }
    epoch: Tensor

    def __init__(
        self,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
        alpha: Weight = 1.0,
        beta: Weight = 0.5,
        warmup: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.alpha, self.beta = alpha, beta
        self.warmup = warmup
        self.register_buffer("epoch", torch.tensor(1.0))  # the current epoch, from 1

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        target, others = decoupled_divergences(student.logits, teacher.logits, batch.labels, self.temperature)
        ramp = (self.epoch / self.warmup).clamp(max=1) if self.warmup else 1.0
        return {"dkd_target": self.alpha * ramp * target, "dkd_others": self.beta * ramp * others}

    def after_epoch(self, student: Embedder, progress: Progress) -> list[ChannelSelection]:
        self.epoch.fill_(progress.epoch + 1)
        return []


def decoupled_divergences(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Compute the two terms of `DKD` without their weights: the true class against the rest, and within the rest.

    Args:
        student: (B, C) logits.
        teacher: (B, C) logits.
        labels: (B,) int64 in 0 .. C - 1.
        temperature: Temperature T.

    Returns:
        T^2 / B * sum_i KL(b_t || b_s) and T^2 / B * sum_i KL(q_t || q_s).
    """
    classes = torch.arange(student.shape[1], device=student.device)
    is_label = labels[:, None] == classes
    scores = [upcast(logits) / temperature for logits in (student, teacher)]
    rest = [score.masked_fill(is_label, -float("inf")) for score in scores]
    # log(1 - p[y]) from the other classes' scores: 1 - p[y] itself is rounded to 0 where the network is certain.
    pairs = [
        torch.stack([score.masked_fill(~is_label, 0).sum(dim=1), other.logsumexp(dim=1)], dim=1)
        for score, other in zip(scores, rest, strict=True)
    ]
    binary = [pair.log_softmax(dim=1) for pair in pairs]
    # At the label both are set to the same number; otherwise the divergence would contain -inf - (-inf).
    conditional = [other.log_softmax(dim=1).masked_fill(is_label, 0) for other in rest]
    factor = temperature**2
    target, others = (
        factor * F.kl_div(log_s, log_t, reduction="batchmean", log_target=True)
        for log_s, log_t in (binary, conditional)
    )
    return target, others
