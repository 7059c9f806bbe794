"""PHI-S: matching of standardized features."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from benchmark import METHODS, Batch, Embedder, Features, Needs, Plan, Range
from benchmark.fitted_method import FittedMethod
from benchmark.method import as_tuple
from benchmark.utils.precision import full_precision, upcast


@METHODS.register_module("phi_s")
class PHIS(FittedMethod):
    """PHI-S: regress the teacher's embeddings after a rotation and one factor that give every channel unit variance.

    Ranzinger, Barker, Heinrich, Molchanov, Catanzaro, Tao: PHI-S: Distribution Balancing for Label-Free Multi-Teacher
    Distillation. arXiv 2410.01680, 2024.

    Equation:

        weight * mean (h(s) - y)^2,  y = R (t - m),  R = a H U^T

    where s and t are the embeddings of student and teacher, the mean runs over all values, and h is a learned linear
    layer. m is the mean of the teacher's embeddings, U holds the eigenvectors of their covariance, H is an orthogonal
    Hadamard matrix, whose entries are 1 / sqrt(D) and -1 / sqrt(D), and a is the mean eigenvalue to the power of -1/2.
    Distances of embeddings keep their proportions. Embedding sizes may differ. Several teachers have a layer and a
    standardization each, and the losses are added up.

    With `head: false`, h(s) = R (s - m), and the student is trained into the embedding space of its only teacher. As R
    is orthogonal up to a, the loss is then a^2 times the mean squared difference of the embeddings.

    Implementation: the authors published the standardization, but no training code; the squared error is what the paper
    pairs with it. Mean and covariance are computed from the first training images that are drawn, augmented as in
    training. The method has no loss term until these embeddings are collected. If no Hadamard matrix is known for the
    embedding size D, H is a random orthogonal matrix and variances are only roughly equal. Known sizes are powers of
    two, and a power of two times the sizes of Paley's first construction, such as 384, 768, 1152 and 1280.

    Defaults: the weight is a guess, as there is no code; targets have unit variance.

    Args:
        weight: Weight of the loss term.
        head: Whether a learned linear layer follows the student's embedding.
        fit_images: Number of embeddings that statistics are computed from; at most one epoch of them.
    """

    kind: ClassVar[str] = "embeddings"
    needs = Needs(several_teachers=True)
    search: ClassVar[Mapping[str, Range]] = {"weight": Range(0.1, 10)}
    mean: Tensor
    rotation: Tensor

    def __init__(
        self,
        weight: Annotated[float, Field(ge=0)] = 1.0,
        head: bool = True,
        fit_images: Annotated[int, Field(ge=2)] = 10_000,
    ) -> None:
        super().__init__()
        self.weight, self.fit_images = weight, fit_images
        self.has_head = head
        self.more_heads = nn.ModuleList()
        """Of several teachers, the layers of all but the first."""
        self.aligned = not head
        self.needs = Needs(equal_embeddings=not head, several_teachers=head)

    def prepare(self, student: Embedder, teacher: Embedder | tuple[Embedder, ...], plan: Plan) -> None:
        super().prepare(student, teacher, plan)
        self.sizes = [each.dim for each in as_tuple(teacher)]
        # The teachers are side by side, so the rotations are blocks on a diagonal.
        self.register_buffer("mean", torch.zeros(sum(self.sizes)))
        self.register_buffer("rotation", torch.zeros(sum(self.sizes), sum(self.sizes)))
        if self.has_head:
            self.head, *others = (nn.Linear(student.dim, size) for size in self.sizes)
            self.more_heads.extend(others)
        self.seed = int(torch.randint(1 << 31, ()))

    def fit(self, embeddings: Tensor) -> dict[str, Tensor]:
        parts = (standardization(part, self.seed) for part in embeddings.split(self.sizes, dim=1))
        means, rotations = zip(*parts, strict=True)
        return {"mean": torch.cat(means), "rotation": torch.block_diag(*rotations)}

    def distill(self, student: Features, teacher: Features | tuple[Features, ...], batch: Batch) -> dict[str, Tensor]:
        s, embeddings = upcast(student.embedding), [upcast(each.embedding) for each in as_tuple(teacher)]
        with full_precision(s.device):
            targets = self.standardize(torch.cat(embeddings, dim=1)).split([t.shape[1] for t in embeddings], dim=1)
            heads = (self.head, *self.more_heads) if self.has_head else (self.standardize,)
            losses = [F.mse_loss(head(s), y) for head, y in zip(heads, targets, strict=True)]
            return {"phi_s": self.weight * torch.stack(losses).sum()}

    def standardize(self, embeddings: Tensor) -> Tensor:
        """Return y of (B, D) embeddings, of several teachers side by side."""
        return (embeddings - self.mean) @ self.rotation.T


def standardization(embeddings: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Compute m and R of embeddings, in float64.

    Args:
        embeddings: (N, D), N above 1.
        seed: Seed of the orthogonal matrix that replaces an unknown Hadamard matrix.

    Returns:
        (D,) and (D, D).
    """
    rows = embeddings.double()
    eigenvalues, eigenvectors = torch.linalg.eigh(rows.T.cov())
    # A teacher whose embeddings are all equal has no variance to scale.
    scale = eigenvalues.clamp(min=0).mean().clamp(min=torch.finfo(torch.float64).tiny).rsqrt()
    return rows.mean(dim=0), scale * orthogonal(rows.shape[1], seed) @ eigenvectors.T


def orthogonal(size: int, seed: int) -> Tensor:
    """Return a (size, size) Hadamard matrix, scaled to be orthogonal; a random orthogonal matrix if none is known."""
    matrix = hadamard(size)
    if matrix is None:
        generator = torch.Generator().manual_seed(seed)
        return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    return matrix / size**0.5


def hadamard(size: int) -> Tensor | None:
    """Return a (size, size) matrix with entries 1 and -1 and orthogonal rows; None if none is known."""
    if size == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    prime = size - 1
    if prime % 4 == 3 and all(prime % factor for factor in range(2, int(prime**0.5) + 1)):
        return _paley(prime)
    half = hadamard(size // 2) if size % 2 == 0 else None
    return None if half is None else torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64), half)


def _paley(prime: int) -> Tensor:
    """Return Paley's first Hadamard matrix, of size prime + 1, for a prime with remainder 3 modulo 4."""
    numbers = torch.arange(prime)
    character = -torch.ones(prime, dtype=torch.float64)  # 1 for squares modulo the prime, -1 for other numbers
    character[numbers.square() % prime] = 1
    character[0] = 0
    skew = torch.zeros(prime + 1, prime + 1, dtype=torch.float64)
    skew[0, 1:], skew[1:, 0] = 1, -1
    skew[1:, 1:] = character[(numbers[:, None] - numbers) % prime]
    return skew + torch.eye(prime + 1, dtype=torch.float64)
