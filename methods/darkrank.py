"""DarkRank."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from benchmark import METHODS, Batch, Features, Method, Range
from benchmark.losses import l2_normalize, pairwise_distance
from benchmark.utils.precision import upcast

Positive = Annotated[float, Field(gt=0)]


@METHODS.register_module("darkrank")
class DarkRank(Method):
    """DarkRank: rank the images of the batch by their distance to each anchor as the teacher does.

    Chen, Wang, Zhang: DarkRank, Accelerating Deep Metric Learning via Cross Sample Similarities Transfer. AAAI 2018.

    Equation:

        weight * mean over anchors of -log P

        P = prod_{i=1..L} exp(S_i) / sum_{j=i..L} exp(S_j),  S_i = -alpha * |s - s_i|^beta

    where s is the student's embedding of the anchor, and s_i its embedding of the image that is i-th nearest to the
    anchor in the teacher's space. The anchor itself is not in the list. Embedding sizes may differ.

    `form: hard`, the default, follows lenscloth's code: the list is the `top` nearest images, and every image is an
    anchor. `form: original` follows the authors' MXNet code: the list is the whole batch, and the anchors are its first
    half. Their score -(scale * |s - s_i|^2)^power corresponds to alpha = scale^power and beta = 2 * power.

    Implementation: the authors' log(P + 1e-12) has no gradient once the list is long (P is below 1e-12 with 24 images),
    and their backward pass omits the gradient of the anchor's own row. Here log P is a sum of log-sum-exps, and the
    gradient is complete.

    Defaults: alpha 3, beta 3 and 4 nearest images are the defaults of lenscloth's class, which does not normalize the
    embeddings (preset `lenscloth`); its command line has alpha 2. The authors' code normalizes them, and so does the
    default here: batch-normalized embeddings of 512 dimensions are about 30 apart, and the cube of that outweighs every
    other term. Weight 1 is the plain sum with the task loss. The list of the preset `original` is as long as the batch,
    hence its weight of 0.1.

    Args:
        weight: Weight of the loss term.
        form: Which images are ranked, and which are anchors.
        alpha: Factor of the score.
        beta: Exponent of the score.
        top: List length L of `form: hard`, at most the number of other images in the batch.
        normalize: Whether to L2-normalize the embeddings first.
    """

    kind: ClassVar[str] = "sample relations"
    search: ClassVar[Mapping[str, Range]] = {"weight": Range(0.1, 10), "alpha": Range(1, 10)}
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
        return {"darkrank": self.weight * self.anchor_losses(student.embedding, teacher.embedding).mean()}

    def anchor_losses(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute -log P of every anchor's list, (anchors,)."""
        prepare = l2_normalize if self.normalize else upcast
        d_s, d_t = pairwise_distance(prepare(student)), pairwise_distance(prepare(teacher))
        others = len(d_s) - 1
        if self.form == "original":
            d_s, d_t, length = d_s[: len(d_s) // 2], d_t[: len(d_s) // 2], others
        else:
            length = min(self.top, others)
        anchor = torch.eye(*d_t.shape, dtype=torch.bool, device=d_t.device)
        nearest = d_t.masked_fill(anchor, float("inf")).argsort(dim=1, stable=True)[:, :length]
        return permutation_nll(-self.alpha * d_s.gather(1, nearest) ** self.beta)


def permutation_nll(scores: Tensor) -> Tensor:
    """Compute the negative log-likelihood of ranking the items of a list in the given order (Plackett-Luce).

    Args:
        scores: (N, L) scores of the items, in the order whose likelihood is computed.

    Returns:
        (N,).
    """
    length = scores.shape[1]
    before = torch.ones(length, length, dtype=torch.bool, device=scores.device).tril(-1)
    remaining = scores[:, None, :].masked_fill(before, -float("inf")).logsumexp(dim=2)
    return (remaining - scores).sum(dim=1)
