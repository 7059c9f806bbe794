"""DarkRank."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.losses import l2_normalize, pairwise_distance
from benchmark.method import Method
from benchmark.model.features import Features
from benchmark.registry import METHODS
from benchmark.utils.precision import upcast

Positive = Annotated[float, Field(gt=0)]


@METHODS.register_module("darkrank")
class DarkRank(Method):
    """DarkRank: each image ranks the others of the batch as the teacher does.

    Chen, Wang, Zhang: DarkRank, Accelerating Deep Metric Learning via Cross Sample Similarities Transfer. AAAI 2018.

    Equation: weight * mean over anchors of -log P, P = prod_{i=1..L} exp(S_i) / sum_{j=i..L} exp(S_j), where S_i =
    -alpha * |s - s_i|^beta is the student's score of the sample that is i-th nearest to the anchor in the teacher's
    embedding (the anchor itself is not in the list). Embedding sizes may differ.

    `form` hard, as in lenscloth's code: the list is the `top` nearest, every image is an anchor. `form` original, as in
    the authors' MXNet code: the list is the whole batch, the anchors are its first half. Their score
    -(scale * |s - s_i|^2)^power is alpha = scale^power and beta = 2 * power. Their log(P + 1e-12) has no slope left
    once the list is long (P is below 1e-12 with 24 images), and their backward pass leaves out the gradient of the
    anchor's own row; here log P is a sum of log-sum-exps and the gradient is whole.

    alpha 3, beta 3 and 4 nearest are the defaults of lenscloth's class, the preset `lenscloth`, which takes rows as
    they come; its command line has alpha 2. The original normalises rows, and so does the default here: 512
    batch-normalised dimensions lie about 30 apart, and the cube of that drowns every other term. Weight 1 is the plain
    sum with the task loss. The list of the preset `original` is as long as the batch, hence its weight of 0.1.

    Args:
        weight: Factor of the term.
        form: See above.
        alpha: Factor in the score.
        beta: Power in the score.
        top: L of the hard form; no more than the batch has others.
        normalize: Whether the embeddings are L2-normalised first.
    """

    kind: ClassVar[str] = "sample relations"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "lenscloth": {"alpha": 3.0, "beta": 3.0, "top": 4, "normalize": False},
        "original": {"weight": 0.1, "form": "original", "alpha": 1.0, "beta": 2.0},
    }

    def __init__(
        self,
        weight: Annotated[float, Field(ge=0)] = 1.0,
        form: Literal["hard", "original"] = "hard",
        alpha: Positive = 3.0,
        beta: Positive = 3.0,
        top: Annotated[int, Field(ge=2)] = 4,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        self.weight, self.form = weight, form
        self.alpha, self.beta = alpha, beta
        self.top, self.normalize = top, normalize

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        return {"darkrank": self.weight * self.costs(student.embedding, teacher.embedding).mean()}

    def costs(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(anchors,): -log P of every anchor's list."""
        prepared = l2_normalize if self.normalize else upcast
        ours, theirs = pairwise_distance(prepared(student)), pairwise_distance(prepared(teacher))
        others = len(ours) - 1
        if self.form == "original":
            ours, theirs, length = ours[: len(ours) // 2], theirs[: len(ours) // 2], others
        else:
            length = min(self.top, others)
        own = torch.eye(*theirs.shape, dtype=torch.bool, device=theirs.device)
        nearest = theirs.masked_fill(own, float("inf")).argsort(dim=1, stable=True)[:, :length]
        return list_costs(-self.alpha * ours.gather(1, nearest) ** self.beta)


def list_costs(scores: Tensor) -> Tensor:
    """(N, L) scores in the order that is wanted -> (N,): -log of the likelihood of that order."""
    length = scores.shape[1]
    before = torch.ones(length, length, dtype=torch.bool, device=scores.device).tril(-1)
    remaining = scores[:, None, :].masked_fill(before, -float("inf")).logsumexp(dim=2)
    return (remaining - scores).sum(dim=1)
