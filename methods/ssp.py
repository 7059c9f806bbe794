"""Structure similarity preservation."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from benchmark import METHODS, Batch, Embedder, Features, Needs, Plan, Range, RecipePlan, UserError
from benchmark.fitted_method import FittedMethod
from benchmark.losses import kl_divergence, l2_normalize
from benchmark.utils.precision import full_precision

Count = Annotated[int, Field(ge=1)]
KMEANS: Mapping[str, Any] = {"init": "random", "max_iter": 10, "n_init": 2}
"""Initial centroids, iterations and restarts of k-means, as in product quantizers."""


@METHODS.register_module("ssp")
class SSP(FittedMethod):
    """SSP: match each embedding's similarities to anchors, which are centroids of the teacher's embeddings.

    Wu, Wang, Zhou, Li: Structure Similarity Preservation Learning for Asymmetric Image Retrieval. arXiv 2403.00648,
    2024.

    Equation:

        weight / (B M) * sum_b sum_m KL(p_t[b, m] || p_s[b, m])

        p[b, m] = softmax_n(cos(f[b, m], c[m, n]) / T)

    where the embeddings f of student (s) and teacher (t) for the B images in the batch are cut into M blocks of D / M
    consecutive values, f[b, m] is such a block, and c[m, n] are the N centroids of block m. The cosine normalizes every
    block, so the loss does not depend on the lengths of embeddings and of their blocks. There is no factor T^2.

    Implementation: follows the authors' code. Its anchors come from a product quantizer of another image set; here,
    they are centroids of k-means over each block of the teacher's L2-normalized embeddings of the first training images
    that are drawn, augmented as in training. The method has no loss term until these embeddings are collected. With
    fewer embeddings than centroids, centroids repeat.

    Defaults: T, the number of centroids and k-means (10 iterations, the better of two) are the authors', who train
    without a task loss. They cut 2048 values into 32 blocks, of 64 values each; so do 8 blocks with 512 values.

    Args:
        blocks: Number M of blocks; a divisor of the embedding size.
        centroids: Number N of centroids of a block.
        temperature: Temperature T, the same for both networks.
        weight: Weight of the loss term.
        fit_images: Number of embeddings that centroids are fitted to; at most one epoch of them.
    """

    kind: ClassVar[str] = "embeddings"
    search: ClassVar[Mapping[str, Range]] = {"weight": Range(0.1, 10), "temperature": Range(0.03, 0.3)}
    needs = Needs(equal_embeddings=True)
    aligned = True
    anchors: Tensor

    def __init__(
        self,
        blocks: Count = 8,
        centroids: Annotated[int, Field(ge=2)] = 256,
        temperature: Annotated[float, Field(gt=0)] = 0.1,
        weight: Annotated[float, Field(ge=0)] = 1.0,
        fit_images: Count = 10_000,
    ) -> None:
        super().__init__()
        self.blocks, self.centroids, self.temperature, self.weight = blocks, centroids, temperature, weight
        self.fit_images = fit_images

    def check(self, student: Embedder, teacher: Embedder, plan: RecipePlan) -> None:
        if teacher.dim % self.blocks or teacher.dim == self.blocks:  # a normalized block of one value is a sign
            raise UserError(
                f"method.blocks: {self.blocks} blocks of equal size, of two values or more, cannot be cut from "
                f"embeddings of {teacher.dim} values; choose a smaller divisor of {teacher.dim}"
            )

    def prepare(self, student: Embedder, teacher: Embedder, plan: Plan) -> None:
        super().prepare(student, teacher, plan)
        self.register_buffer("anchors", torch.zeros(self.blocks, self.centroids, teacher.dim // self.blocks))
        self.seed = int(torch.randint(1 << 31, ()))

    def fit(self, embeddings: Tensor) -> dict[str, Tensor]:
        blocks = l2_normalize(embeddings).unflatten(1, (self.blocks, -1)).movedim(1, 0)
        return {"anchors": torch.stack([centroids(block, self.centroids, self.seed) for block in blocks])}

    def distill(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        of_student, of_teacher = (
            anchor_similarities(features.embedding, self.anchors) / self.temperature for features in (student, teacher)
        )
        return {"ssp": self.weight * kl_divergence(of_student, of_teacher, 1.0)}


def anchor_similarities(embeddings: Tensor, anchors: Tensor) -> Tensor:
    """Compute the cosines of the blocks of embeddings with the anchors of each block.

    Args:
        embeddings: (B, D).
        anchors: (M, N, D / M).

    Returns:
        (B M, N).
    """
    blocks = l2_normalize(embeddings.unflatten(1, (len(anchors), -1)))
    with full_precision(embeddings.device):
        return torch.einsum("bmd,mnd->bmn", blocks, l2_normalize(anchors)).flatten(0, 1)


def centroids(rows: Tensor, count: int, seed: int) -> Tensor:
    """Return (count, D) centroids of (N, D) rows by k-means; they repeat if there are fewer rows."""
    from sklearn.cluster import KMeans  # slow to import
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # several threads add up in any order, so that results would differ in the last bits
        found = KMeans(min(count, len(rows)), **KMEANS, random_state=seed).fit(rows.numpy()).cluster_centers_
    return torch.from_numpy(found)[torch.arange(count) % len(found)]
