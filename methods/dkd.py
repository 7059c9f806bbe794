"""Decoupled knowledge distillation."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.method import Method, Needs, Progress
from benchmark.model.embedder import Embedder
from benchmark.model.features import Features
from benchmark.model.surgery import ChannelSelection
from benchmark.registry import METHODS
from benchmark.utils.precision import upcast

Weight = Annotated[float, Field(ge=0)]


@METHODS.register_module("dkd")
class DKD(Method):
    """Decoupled knowledge distillation: the true class and the order of the others are weighted apart.

    Zhao, Cui, Song, Qiu, Liang: Decoupled Knowledge Distillation. CVPR 2022.

    Equation: w * T^2 / B * sum_b [alpha * KL(b_t || b_s) + beta * KL(q_t || q_s)], where B is the number of images in
    the batch and, with p = softmax(z / T), z the logits of an image and y its label, b = (p_y, 1 - p_y) and q is the
    softmax of z / T over the classes other than y; w = min(epoch / warmup, 1) with the running epoch counted from 1. KD
    is the case beta = 1 - p_t,y for every image. The released code (mdistiller) lowers z_y / T by 1000 to leave it out;
    here it is left out.

    No retrieval code has weights. The defaults are those for ImageNet, as mmrazor lists them, with a gradient of the
    size of the task loss's on glyphs. The preset `published` is mdistiller's for CIFAR-100 (beta is 6 for some of its
    pairs); it outweighs the task loss there.

    Args:
        temperature: T.
        alpha: Weight of the true class against the rest.
        beta: Weight of the distribution over the rest.
        warmup: Epochs over which both weights rise to their value; 0 for none.
    """

    kind: ClassVar[str] = "logits"
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
        self.register_buffer("epoch", torch.tensor(1.0))  # the running one

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        target, others = decoupled_divergences(student.logits, teacher.logits, batch.labels, self.temperature)
        rise = (self.epoch / self.warmup).clamp(max=1) if self.warmup else 1.0
        return {"dkd_target": self.alpha * rise * target, "dkd_others": self.beta * rise * others}

    def after_epoch(self, student: Embedder, progress: Progress) -> list[ChannelSelection]:
        self.epoch.fill_(progress.epoch + 1)
        return []


def decoupled_divergences(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """T^2 / B * sum_b of KL(b_t || b_s) and of KL(q_t || q_s), for logits (B, C) and labels (B,)."""
    classes = torch.arange(student.shape[1], device=student.device)
    own = labels[:, None] == classes
    scores = [upcast(logits) / temperature for logits in (student, teacher)]
    rest = [score.masked_fill(own, -float("inf")) for score in scores]
    # log (1 - p_y) from the other classes' scores: 1 - p_y itself is rounded to 0 where the network is sure.
    pairs = [
        torch.stack([score.masked_fill(~own, 0).sum(dim=1), other.logsumexp(dim=1)], dim=1)
        for score, other in zip(scores, rest, strict=True)
    ]
    binary = [pair.log_softmax(dim=1) for pair in pairs]
    # At the label both are set to the same number, or its share would be -inf - (-inf).
    apart = [other.log_softmax(dim=1).masked_fill(own, 0) for other in rest]
    factor = temperature**2
    target, others = (
        factor * F.kl_div(ours, theirs, reduction="batchmean", log_target=True) for ours, theirs in (binary, apart)
    )
    return target, others
