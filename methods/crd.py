"""Contrastive representation distillation."""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from benchmark import METHODS, Batch, Embedder, Features, Method, Needs, Plan, Range
from benchmark.losses import l2_normalize
from benchmark.utils.precision import full_precision, upcast

Positive = Annotated[float, Field(gt=0)]


@METHODS.register_module("crd")
class CRD(Method):
    """Contrastive representation distillation: contrast an image's two embeddings with those of other images.

    Tian, Krishnan, Isola: Contrastive Representation Distillation. ICLR 2020.

    Equation:

        weight * [L(v_s, M_t) + L(v_t, M_s)], averaged over the B images in the batch

        L(v, M) = -log(o[y] / (o[y] + c)) - sum_{k=1..K} log((K / N) / (o[k] + c))
        o[i] = exp(<v, M[i]> / tau) / Z,  c = K / N + 1e-7

    where v_s and v_t are the embeddings of student and teacher, each after a learned linear layer and L2 normalization;
    M is a memory of v for each of the N training images; and y is the index of the anchor's own image. The K negatives
    k are drawn at every step, with replacement, from the images of other identities. Z is N times the mean of the
    exponential over the first batch and constant from then on. After the loss, M[y] <- n(m * M[y] + (1 - m) * v), where
    n is L2 normalization; an image that occurs several times in the batch is updated with its first view. Embedding
    sizes may differ.

    Implementation: follows the authors' code with three exceptions. Memories start as random unit vectors (authors:
    uniform components, of length 1 on average). o is computed as a logarithm, so that a small tau cannot overflow.
    Scores are computed for all N images and counted as often as each image was drawn, which gives the same sum without
    a gathered (B, K, dim) tensor and needs O(B N) memory.

    Defaults: the authors' (RepDistiller), for classification. v is normalized, so they do not depend on the scale of
    the features. A K above the number of images draws some images more than once.

    Args:
        weight: Weight of the loss term.
        dim: Size of v.
        negatives: Number K of negatives per anchor.
        temperature: Temperature tau.
        momentum: Momentum m of the memory update.
    """

    kind: ClassVar[str] = "embeddings"
    search: ClassVar[Mapping[str, Range]] = {"weight": Range(0.08, 8), "temperature": Range(0.02, 0.3)}
    needs = Needs(sample_index=True)
    memory_student: Tensor
    memory_teacher: Tensor
    log_z: Tensor
    sorted_images: Tensor
    block_start: Tensor
    block_size: Tensor

    def __init__(
        self,
        weight: Annotated[float, Field(ge=0)] = 0.8,
        dim: Annotated[int, Field(ge=1)] = 128,
        negatives: Annotated[int, Field(ge=1)] = 16384,
        temperature: Positive = 0.07,
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5,
    ) -> None:
        super().__init__()
        self.weight, self.dim, self.negatives = weight, dim, negatives
        self.temperature, self.momentum = temperature, momentum

    def prepare(self, student: Embedder, teacher: Embedder, plan: Plan) -> None:
        self.embed_student = nn.Linear(student.dim, self.dim)
        self.embed_teacher = nn.Linear(teacher.dim, self.dim)
        for name in ("memory_student", "memory_teacher"):
            self.register_buffer(name, l2_normalize(torch.randn(plan.images, self.dim)))
        self.register_buffer("log_z", torch.full((2,), float("nan")))  # for student anchors, for teacher anchors
        # Images sorted by identity; for each image, where its identity's block starts and how long it is.
        labels = torch.from_numpy(plan.labels)
        sizes = labels.bincount(minlength=plan.identities)
        self.register_buffer("sorted_images", labels.argsort(stable=True), persistent=False)
        self.register_buffer("block_start", (sizes.cumsum(0) - sizes)[labels], persistent=False)
        self.register_buffer("block_size", sizes[labels], persistent=False)
        self.seed, self.draws = int(torch.randint(1 << 31, ())), 0

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        negatives = self.draw(batch.indices)
        return {"crd": self.weight * self.contrast(student.embedding, teacher.embedding, batch.indices, negatives)}

    def draw(self, indices: Tensor) -> Tensor:
        """Draw (B, K) negatives for the (B,) images `indices`, uniformly among the images of other identities."""
        # Seeded for every step, so that a resumed run draws the same negatives: the state holds seed and step count.
        generator = torch.Generator(indices.device).manual_seed(self.seed + self.draws)
        self.draws += 1
        shape = len(indices), self.negatives
        number = torch.randint(1 << 62, shape, generator=generator, device=indices.device)
        start, size = self.block_start[indices, None], self.block_size[indices, None]
        position = number % (len(self.sorted_images) - size)
        return self.sorted_images[position + size * (position >= start)]  # skips the block of the own identity

    def contrast(self, student: Tensor, teacher: Tensor, indices: Tensor, negatives: Tensor) -> Tensor:
        """Compute the unweighted loss and update the memories.

        Args:
            student: (B, D) embeddings.
            teacher: (B, D') embeddings.
            indices: (B,) training images that the embeddings belong to.
            negatives: (B, K) training images they are contrasted with.
        """
        with full_precision(student.device):
            v_s = l2_normalize(self.embed_student(upcast(student)))
            v_t = l2_normalize(self.embed_teacher(upcast(teacher)))
            sides = [self._scores(v_s, self.memory_teacher, indices), self._scores(v_t, self.memory_student, indices)]
        counts = torch.zeros_like(sides[0][1]).scatter_add_(1, negatives, v_s.new_ones(negatives.shape))
        with torch.no_grad():
            log_means = torch.stack([self._log_mean(*scores, counts) for scores in sides])
            self.log_z = torch.where(self.log_z.isnan(), log_means + math.log(len(self.memory_student)), self.log_z)
            self.memory_student = self._updated(self.memory_student, indices, v_s)
            self.memory_teacher = self._updated(self.memory_teacher, indices, v_t)
        terms = [self._term(*scores, counts, log_z) for scores, log_z in zip(sides, self.log_z, strict=True)]
        return torch.stack(terms).sum()

    def _scores(self, anchors: Tensor, memory: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Compute <v, M[i]> / tau for the anchors' own images, (B,), and for all images, (B, N)."""
        own = (anchors * memory[indices]).sum(dim=1)
        return own / self.temperature, anchors @ memory.T / self.temperature

    def _log_mean(self, own: Tensor, scores: Tensor, counts: Tensor) -> Tensor:
        """Compute the log of the mean exponential over the batch's own images and negatives."""
        terms = torch.cat([own, (scores + counts.log()).flatten()])
        return terms.logsumexp(dim=0) - math.log(len(own) * (1 + self.negatives))

    def _term(self, own: Tensor, scores: Tensor, counts: Tensor, log_z: Tensor) -> Tensor:
        ratio = self.negatives / len(self.memory_student)
        log_c = math.log(ratio + 1e-7)
        positive = F.logsigmoid(own - log_z - log_c)
        negative = F.logsigmoid(log_c + log_z - scores) + (math.log(ratio) - log_c)
        return -(positive.sum() + (counts * negative).sum()) / len(own)

    def _updated(self, memory: Tensor, indices: Tensor, embeddings: Tensor) -> Tensor:
        """Return the updated memory as a new tensor, because backward still reads the old one."""
        rows = l2_normalize(self.momentum * memory[indices] + (1 - self.momentum) * embeddings)
        first_view = (indices[:, None] == indices).int().argmax(dim=1)
        return memory.index_copy(0, indices, rows[first_view])

    def get_extra_state(self) -> Tensor:
        """Return seed and step count of the negatives' random draws, as a tensor for the checkpoint."""
        return torch.tensor([self.seed, self.draws])

    def set_extra_state(self, state: Tensor) -> None:
        self.seed, self.draws = state.tolist()
