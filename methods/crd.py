"""Contrastive representation distillation."""

import math
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from benchmark.data.batch import Batch
from benchmark.losses import l2_normalize
from benchmark.method import Method, Needs, Plan
from benchmark.model.embedder import Embedder
from benchmark.model.features import Features
from benchmark.registry import METHODS
from benchmark.utils.precision import full_precision, upcast

Positive = Annotated[float, Field(gt=0)]


@METHODS.register_module("crd")
class CRD(Method):
    """Contrastive representation distillation: an image's two embeddings find each other among many.

    Tian, Krishnan, Isola: Contrastive Representation Distillation. ICLR 2020.

    Equation: weight * [L(v_s, M_t) + L(v_t, M_s)], v the embeddings after a learned linear layer each and L2
    normalisation, M what v was for each of the N training images when last seen, and for an anchor v of image y

        L(v, M) = -log(o_y / (o_y + c)) - sum_{k=1..K} log((K / N) / (o_k + c)),  o_i = exp(<v, M_i> / tau) / Z,

    c = K / N + 1e-7, averaged over the B images in the batch. The K negatives k are drawn anew at every step, with
    replacement, from the images of other identities. Z is N times the mean of exp over the first batch, and then
    constant. After the loss, M_y <- n(m * M_y + (1 - m) * v), n the L2 normalisation; an image that is several times in
    the batch enters with its first view. Embedding sizes may differ.

    As in the authors' code, except: memories start in random directions of length 1 (theirs: uniform components, of
    length 1 on average); o is computed as a logarithm, so that a small tau cannot overflow; scores are computed for all
    N images and counted as often as drawn, which gives the same sum without a gathered (B, K, dim) tensor. It needs O(B
    N) memory. All defaults are the authors' (RepDistiller), for classification; v is normalised, so that they depend on
    no scale of the features. K beyond the number of images only draws some of them again.

    Args:
        weight: Factor of the term.
        dim: Size of v.
        negatives: K.
        temperature: tau.
        momentum: m.
    """

    kind: ClassVar[str] = "embeddings"
    needs = Needs(sample_index=True)
    memory_student: Tensor
    memory_teacher: Tensor
    log_z: Tensor
    by_identity: Tensor
    first: Tensor
    siblings: Tensor

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
        self.register_buffer("log_z", torch.full((2,), float("nan")))  # of the student's anchors, of the teacher's
        # Images sorted by identity, and for each image where its identity's begin and how many they are.
        labels = torch.from_numpy(plan.labels)
        sizes = labels.bincount(minlength=plan.identities)
        self.register_buffer("by_identity", labels.argsort(stable=True), persistent=False)
        self.register_buffer("first", (sizes.cumsum(0) - sizes)[labels], persistent=False)
        self.register_buffer("siblings", sizes[labels], persistent=False)
        self.seed, self.draws = int(torch.randint(1 << 31, ())), 0

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        negatives = self.draw(batch.indices)
        return {"crd": self.weight * self.contrast(student.embedding, teacher.embedding, batch.indices, negatives)}

    def draw(self, indices: Tensor) -> Tensor:
        """(B,) images -> (B, K): images of other identities, all with the same probability."""
        # Seeded for every step, so that what was drawn is known from a count that the state carries.
        generator = torch.Generator(indices.device).manual_seed(self.seed + self.draws)
        self.draws += 1
        shape = len(indices), self.negatives
        number = torch.randint(1 << 62, shape, generator=generator, device=indices.device)
        first, siblings = self.first[indices, None], self.siblings[indices, None]
        place = number % (len(self.by_identity) - siblings)
        return self.by_identity[place + siblings * (place >= first)]

    def contrast(self, student: Tensor, teacher: Tensor, indices: Tensor, negatives: Tensor) -> Tensor:
        """The loss of images `indices`, (B,), against images `negatives`, (B, K); then the memories are updated."""
        with full_precision(student.device):
            v_s = l2_normalize(self.embed_student(upcast(student)))
            v_t = l2_normalize(self.embed_teacher(upcast(teacher)))
            found = [self._scores(v_s, self.memory_teacher, indices), self._scores(v_t, self.memory_student, indices)]
        drawn = torch.zeros_like(found[0][1]).scatter_add_(1, negatives, v_s.new_ones(negatives.shape))
        with torch.no_grad():
            fresh = torch.stack([self._log_mean(*scores, drawn) for scores in found])
            self.log_z = torch.where(self.log_z.isnan(), fresh + math.log(len(self.memory_student)), self.log_z)
            self.memory_student = self._updated(self.memory_student, indices, v_s)
            self.memory_teacher = self._updated(self.memory_teacher, indices, v_t)
        sides = [self._side(*scores, drawn, log_z) for scores, log_z in zip(found, self.log_z, strict=True)]
        return torch.stack(sides).sum()

    def _scores(self, anchors: Tensor, memory: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """<v, M_i> / tau of the anchors' own images, (B,), and of all, (B, N)."""
        own = (anchors * memory[indices]).sum(dim=1)
        return own / self.temperature, anchors @ memory.T / self.temperature

    def _log_mean(self, own: Tensor, scores: Tensor, drawn: Tensor) -> Tensor:
        """log of the mean of exp over the batch's own images and negatives."""
        terms = torch.cat([own, (scores + drawn.log()).flatten()])
        return terms.logsumexp(dim=0) - math.log(len(own) * (1 + self.negatives))

    def _side(self, own: Tensor, scores: Tensor, drawn: Tensor, log_z: Tensor) -> Tensor:
        share = self.negatives / len(self.memory_student)
        log_c = math.log(share + 1e-7)
        found = F.logsigmoid(own - log_z - log_c)
        refused = F.logsigmoid(log_c + log_z - scores) + (math.log(share) - log_c)
        return -(found.sum() + (drawn * refused).sum()) / len(own)

    def _updated(self, memory: Tensor, indices: Tensor, fresh: Tensor) -> Tensor:
        """A new tensor: backward still reads the old one."""
        rows = l2_normalize(self.momentum * memory[indices] + (1 - self.momentum) * fresh)
        earliest = (indices[:, None] == indices).int().argmax(dim=1)
        return memory.index_copy(0, indices, rows[earliest])

    def get_extra_state(self) -> Tensor:
        """Where the sequence of draws stands; a tensor, because checkpoints hold nothing else."""
        return torch.tensor([self.seed, self.draws])

    def set_extra_state(self, state: Tensor) -> None:
        self.seed, self.draws = state.tolist()
