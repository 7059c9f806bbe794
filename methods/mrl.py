"""Matryoshka representation learning."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark import METHODS, Batch, Embedder, Features, Method, Needs, Plan, Range, RecipePlan, UserError
from benchmark.utils.precision import full_precision, upcast

SHORTEST = 8
"""Shortest of the default prefixes."""


@METHODS.register_module("mrl")
class MRL(Method):
    """Matryoshka representation learning: classify the first values of the embedding, for several lengths.

    Kusupati et al.: Matryoshka Representation Learning. NeurIPS 2022.

    Equation:

        weight * sum_k importance[k] * CE(W_k x[:n_k] + b_k, y)

    where x is the student's embedding, x[:n_k] are its first n_k values, CE is the cross-entropy with label smoothing,
    averaged over the batch, and y is the identity. Each length has a linear classifier W_k, b_k (MRL), or all share the
    first columns of one matrix, and its bias (MRL-E). The classifiers are used in training only.

    This is not a distillation, and needs no teacher: it trains embeddings that can be truncated, and is meant to be
    combined with one (`--method kd+mrl`). `benchmark evaluate --embedding matryoshka:64` measures the first 64 values,
    which are normalized again.

    Implementation: follows the authors' code. Prefixes are not normalized in training. The terms are added up, so the
    loss grows with the number of lengths; there, it replaces the task loss, and here it is added to it.

    Defaults: lengths, importance, bias and label smoothing are the authors', for ResNet-50 on ImageNet-1K.

    Args:
        lengths: Lengths n_k of the prefixes; none for 8, 16, 32 and so on, up to the whole embedding.
        importance: Factors of the lengths; none for 1 each.
        shared: Whether all lengths share one classifier (MRL-E).
        bias: Whether classifiers have a bias.
        label_smoothing: Probability that is distributed over all identities.
        weight: Weight of all terms.
    """

    kind: ClassVar[str] = "none"
    search: ClassVar[Mapping[str, Range]] = {"weight": Range(0.02, 2)}
    needs = Needs(teacher=False)

    def __init__(
        self,
        lengths: tuple[Annotated[int, Field(ge=1)], ...] = (),
        importance: tuple[Annotated[float, Field(ge=0)], ...] = (),
        shared: bool = False,
        bias: bool = True,
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        weight: Annotated[float, Field(ge=0)] = 1.0,
    ) -> None:
        super().__init__()
        self.lengths, self.importance, self.shared, self.bias = lengths, importance, shared, bias
        self.label_smoothing, self.weight = label_smoothing, weight

    def check(self, student: Embedder, teacher: Embedder | None, plan: RecipePlan) -> None:
        if max(self.lengths, default=0) > student.dim:
            raise UserError(
                f"method.lengths: {max(self.lengths)} is more than the {student.dim} values of the student's "
                "embedding; choose smaller lengths"
            )
        if len(set(self.lengths)) < len(self.lengths):
            raise UserError(
                f"method.lengths: {list(self.lengths)} repeats a length: name each once, and set method.importance"
            )
        count = len(self.lengths or default_lengths(student.dim))
        if self.importance and len(self.importance) != count:
            raise UserError(
                f"method.importance: {len(self.importance)} factors for {count} lengths; give one for each length"
            )

    def prepare(self, student: Embedder, teacher: Embedder | Any, plan: Plan) -> None:
        self.lengths = self.lengths or default_lengths(student.dim)
        sizes = [student.dim] if self.shared else self.lengths
        self.classifiers = nn.ModuleList(nn.Linear(size, plan.identities, bias=self.bias) for size in sizes)

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        embeddings = upcast(student.embedding)
        layers: Sequence[Any] = list(self.classifiers) * (len(self.lengths) if self.shared else 1)
        factors = self.importance or [1.0] * len(self.lengths)
        terms = {}
        for length, layer, factor in zip(self.lengths, layers, factors, strict=True):
            with full_precision(embeddings.device):
                logits = F.linear(embeddings[:, :length], layer.weight[:, :length], layer.bias)
            entropy = F.cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)
            terms[f"mrl_{length}"] = self.weight * factor * entropy
        return terms


def default_lengths(dim: int) -> tuple[int, ...]:
    """Return 8, 16, 32 and so on, up to the embedding size, which is the last."""
    lengths = [SHORTEST]
    while 2 * lengths[-1] < dim:
        lengths.append(2 * lengths[-1])
    return (*(length for length in lengths if length < dim), dim)
