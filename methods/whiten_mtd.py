"""Whitened multi-teacher distillation."""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from benchmark import METHODS, Batch, Embedder, Features, Needs, Plan, Range, RecipePlan, UserError
from benchmark.fitted_method import FittedMethod
from benchmark.losses import kl_divergence, l2_normalize
from benchmark.method import as_tuple
from benchmark.utils.precision import full_precision, upcast

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Strategy = Literal["maxmin", "maxmean", "mean"]
EIGENVALUE_FLOOR = 1e-5
"""Lower bound of eigenvalues, as a fraction of the largest."""


@METHODS.register_module("whiten_mtd")
class WhitenMTD(FittedMethod):
    """Whiten-MTD: match the similarities of whitened teacher embeddings across pairs of images.

    Ma, Dong, Ji, Liu, Zhang, Wang, He, Qian, Zhang, Yang: Let All be Whitened: Multi-teacher Distillation for Efficient
    Visual Retrieval. AAAI 2024.

    Equation:

        weight / B * sum_i [KL(P(F / T_t)_i || P(S / T_s)_i) + KL(P(F^T / T_t)_i || P(S^T / T_s)_i)]

        S[i, j] = cos(s_i, s'_j),  F = fusion over teachers of cos(w(t_i), w(t'_j))
        w(t) = [<v_k, n(t) - m> / sqrt(lambda_k)]_k

    where s_i and s'_i are the student's embeddings of the two images of pair i of B pairs, t_i and t'_i are those of a
    teacher, P is the softmax of each row, n is L2 normalization, m is the mean of the teacher's normalized embeddings,
    and v_k and lambda_k are the eigenvectors and eigenvalues of their covariance, largest first. Eigenvalues are at
    least 1e-5 of the largest. Embedding sizes may differ.

    Implementation: follows the authors' code for landmarks, in which a pair is two images of one landmark. Here, the
    batch is divided into pairs of images of the same identity; an image without a partner is left out. With one
    teacher, all strategies of the fusion are the same. The whitening is fitted to the first training images that are
    drawn, augmented as in training (authors: before the training, to 10,000 images). The method has no loss term until
    these embeddings are collected. The loss is not multiplied by the number of processes.

    Defaults: the authors', for landmarks, with teachers of 2048 values, Adam, and no task loss; except the weight.
    Their weight 1 outweighs the task loss with SGD: a short training on glyphs2 failed with it, and worked with 0.1.
    The weight was not tuned beyond that.

    Args:
        dim: Number of components of the whitening of each teacher; at most the size of its embedding.
        strategy: Fusion of several teachers' similarities: the largest for pairs, and for other images the smallest
            (`maxmin`) or the mean (`maxmean`); or the `mean` for all.
        student_temperature: Temperature T_s.
        teacher_temperature: Temperature T_t.
        whiten: Whether teacher embeddings are whitened; otherwise, w(t) = t.
        weight: Weight of the loss term.
        fit_images: Number of embeddings that the whitening is fitted to; at most one epoch of them.
    """

    kind: ClassVar[str] = "sample relations"
    needs = Needs(several_teachers=True)
    search: ClassVar[Mapping[str, Range]] = {
        "weight": Range(0.01, 1),
        "student_temperature": Range(0.01, 0.5),
        "teacher_temperature": Range(0.01, 0.5),
    }
    mean: Tensor
    components: Tensor

    def __init__(
        self,
        dim: Count = 512,
        strategy: Strategy = "maxmin",
        student_temperature: Positive = 0.05,
        teacher_temperature: Positive = 0.05,
        whiten: bool = True,
        weight: Annotated[float, Field(ge=0)] = 0.1,
        fit_images: Annotated[int, Field(ge=2)] = 10_000,
    ) -> None:
        super().__init__()
        self.dim, self.strategy, self.whiten, self.weight = dim, strategy, whiten, weight
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature
        self.fit_images = fit_images

    def check(self, student: Embedder, teacher: Embedder | tuple[Embedder, ...], plan: RecipePlan) -> None:
        if plan.images_per_identity < 2:
            raise UserError(
                "train.sampler.images: 1: a batch has no two images of an identity, which whiten_mtd compares; set it "
                "to 2 or more"
            )

    def prepare(self, student: Embedder, teacher: Embedder | tuple[Embedder, ...], plan: Plan) -> None:
        if not self.whiten:
            self.fitted = True
            return
        super().prepare(student, teacher, plan)
        self.sizes = [each.dim for each in as_tuple(teacher)]
        self.whitened_sizes = [min(self.dim, size) for size in self.sizes]
        # The teachers are side by side, so the components are blocks on a diagonal.
        self.register_buffer("mean", torch.zeros(sum(self.sizes)))
        self.register_buffer("components", torch.zeros(sum(self.whitened_sizes), sum(self.sizes)))

    def fit(self, embeddings: Tensor) -> dict[str, Tensor]:
        means, components = zip(*(whitening(part, self.dim) for part in embeddings.split(self.sizes, 1)), strict=True)
        return {"mean": torch.cat(means), "components": torch.block_diag(*components)}

    def distill(self, student: Features, teacher: Features | tuple[Features, ...], batch: Batch) -> dict[str, Tensor]:
        first, second = pairs(batch.labels)
        with full_precision(student.embedding.device):
            rows = tuple(l2_normalize(each.embedding) for each in as_tuple(teacher))
            if self.whiten:
                rows = ((torch.cat(rows, dim=1) - self.mean) @ self.components.T).split(self.whitened_sizes, dim=1)
            fused = fuse_similarities([similarities(t[first], t[second]) for t in rows], self.strategy)
            own = similarities(student.embedding[first], student.embedding[second])
        return {"whiten_mtd": self.weight * matching(own, fused, self.student_temperature, self.teacher_temperature)}


def whitening(embeddings: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Fit a whitening to (N, D) embeddings.

    Returns:
        The mean of the normalized embeddings, (D,), and the components v_k / sqrt(lambda_k), (min(dim, D), D); both in
        float64.
    """
    rows = l2_normalize(embeddings.double())
    eigenvalues, eigenvectors = torch.linalg.eigh(rows.T.cov(correction=0))
    floor = EIGENVALUE_FLOOR * eigenvalues[-1].clamp(min=torch.finfo(torch.float64).eps)
    components = eigenvectors * eigenvalues.clamp(min=floor).rsqrt()
    return rows.mean(dim=0), components.T.flip(0)[:dim]


def pairs(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Divide a batch into pairs of images of the same identity.

    Args:
        labels: (B,) identities.

    Returns:
        The positions of the first and the second images of the pairs, each position at most once.
    """
    order = labels.argsort(stable=True)
    ordered = labels[order]
    rank = torch.arange(len(labels), device=labels.device) - torch.searchsorted(ordered, ordered)
    first = (rank[:-1] % 2 == 0) & (ordered[:-1] == ordered[1:])
    return order[:-1][first], order[1:][first]


def similarities(first: Tensor, second: Tensor) -> Tensor:
    """Compute the (B, B) cosines of (B, D) rows of first and second images."""
    return l2_normalize(upcast(first)) @ l2_normalize(upcast(second)).T


def fuse_similarities(teachers: Sequence[Tensor], strategy: Strategy) -> Tensor:
    """Fuse the (B, B) similarities of teachers; the diagonal has those of pairs."""
    stacked = torch.stack(list(teachers))
    if strategy == "mean":
        return stacked.mean(dim=0)
    others = stacked.amin(dim=0) if strategy == "maxmin" else stacked.mean(dim=0)
    diagonal = torch.eye(len(others), dtype=torch.bool, device=others.device)
    return torch.where(diagonal, stacked.amax(dim=0), others)


def matching(student: Tensor, teacher: Tensor, student_temperature: float, teacher_temperature: float) -> Tensor:
    """Compute the divergences of the rows and of the columns of (B, B) similarities, and add them up."""
    s, t = student / student_temperature, teacher / teacher_temperature
    return kl_divergence(s, t, 1.0) + kl_divergence(s.T, t.T, 1.0)
